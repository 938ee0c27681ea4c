//! `perennial config show`.

use perennial_types::Configuration;
use serde_json::json;

use crate::args::Format;
use crate::failure::Failure;
use crate::output;

/// Prints every option with its effective value; as a table in the syntax of a configuration file.
pub(crate) fn show(config: &Configuration, origin: bool, format: Format) -> Result<(), Failure> {
    match format {
        Format::Json => {
            let options = config.effective().map(|(option, value, from)| {
                let mut entry = json!({ "key": option.key, "value": value });
                if let Some(entry) = entry.as_object_mut().filter(|_| origin) {
                    entry.insert("origin".to_owned(), json!(from.to_string()));
                }
                entry
            });
            output::json(&options.collect::<Vec<_>>())
        }
        Format::Table => {
            let lines: Vec<(String, String)> = config
                .effective()
                .map(|(option, value, from)| (format!("{}: {}", option.key, written(value)), from.to_string()))
                .collect();
            let width = lines.iter().map(|(line, _)| line.chars().count()).max().unwrap_or_default();
            for (line, from) in lines {
                match origin {
                    true => output::line(format_args!("{line:width$}  # {from}"))?,
                    false => output::line(line)?,
                }
            }
            Ok(())
        }
    }
}

/// A value as a configuration file has to hold it.
fn written(value: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || " ./_-+,;=:".contains(c);
    let safe = value.chars().all(plain)
        && value.trim_start_matches('-').starts_with(|c: char| c.is_ascii_alphanumeric() || c == '/')
        && !value.contains(": ")
        && !value.contains(" #")
        && !value.ends_with([':', ' ']);
    match value {
        "" => "~".to_owned(),
        value if safe => value.to_owned(),
        value => format!("'{}'", value.replace('\'', "''")),
    }
}

#[cfg(test)]
mod tests {
    use perennial_types::config::Origin;
    use perennial_types::config::load::Loader;

    use super::*;

    /// What is shown is a configuration file with the same values.
    #[test]
    fn shown_values_can_be_loaded_again() {
        let mut config = Configuration::new();
        for value in
            ["plain", "a b", "it's", "a: b", "x #y", "", "- no list", "{no: map}", "a:1,b:2", "1.20", "*", "true"]
        {
            config.set("pipeline.name", value, Origin::Flag(String::new())).unwrap();
            let mut loader = Loader::new();
            loader.file("shown", &format!("pipeline.name: {}\n", written(value)));
            let loaded = loader.finish().unwrap_or_else(|error| panic!("{value:?}: {error}")).config;
            let shown = |config: &Configuration| {
                config.effective().find(|(option, ..)| option.key == "pipeline.name").unwrap().1.to_owned()
            };
            assert_eq!(shown(&loaded), shown(&config), "{value:?}");
        }
    }
}
