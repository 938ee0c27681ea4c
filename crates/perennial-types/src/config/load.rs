//! Puts a configuration together: defaults, then the file, then the environment, then `-D` flags; later ones win.
//!
//! Pure: the caller reads the file and the environment. All that is wrong is found in one go and listed together.

mod expand;
mod yaml;

use std::collections::BTreeMap;

use super::{Configuration, Origin, SetError, flink, options};

/// The variable that holds several options as YAML, as in Flink's images.
const PROPERTIES_VARIABLE: &str = "FLINK_PROPERTIES";

/// Variables of Flink's images that hold one option.
const IMAGE_VARIABLES: [(&str, &str); 2] = [
    ("JOB_MANAGER_RPC_ADDRESS", "jobmanager.rpc.address"),
    ("TASK_MANAGER_NUMBER_OF_TASK_SLOTS", "taskmanager.numberOfTaskSlots"),
];

/// What `PERENNIAL__TASKMANAGER__NUMBER_OF_TASK_SLOTS` and its like begin with.
const VARIABLE_PREFIX: &str = "PERENNIAL__";

/// A configuration and what should be told about it.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The effective values.
    pub config: Configuration,
    /// One sentence for each option that was ignored.
    pub warnings: Vec<String>,
}

/// One thing that is wrong with a configuration.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    /// An option was refused.
    #[error(transparent)]
    Set(#[from] SetError),
    /// The text is not YAML.
    #[error("{origin} is not valid YAML: {problem}")]
    Yaml {
        /// The place.
        origin: Origin,
        /// What the parser says.
        problem: String,
    },
    /// The text is YAML, but not a map of options.
    #[error("{origin}: expected `key: value` lines, found {found}")]
    NotOptions {
        /// The place.
        origin: Origin,
        /// What is there.
        found: &'static str,
    },
    /// One source sets an option twice.
    #[error("`{key}` is set twice ({first} and {second}); keep one")]
    Duplicate {
        /// The key.
        key: String,
        /// The first place.
        first: Origin,
        /// The second.
        second: Origin,
    },
    /// A value is a map where the option takes one value.
    #[error("`{key}` takes one value or a list, not a map inside a list ({origin})")]
    NestedList {
        /// The key.
        key: String,
        /// The place.
        origin: Origin,
    },
    /// A flag is not `key=value`.
    #[error("`{flag}` is not an option: expected -D key=value")]
    Flag {
        /// The flag as it was written.
        flag: String,
    },
    /// A variable of ours names no option.
    #[error("environment variable {variable} names no option{}", nearest.map(|key| format!("; did you mean {} for `{key}`?", variable_of(key))).unwrap_or_default())]
    UnknownVariable {
        /// The variable.
        variable: String,
        /// The option that looks most like it.
        nearest: Option<&'static str>,
    },
}

/// All that is wrong with a configuration, in the order of the sources.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .errors.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
pub struct LoadErrors {
    /// At least one.
    pub errors: Vec<LoadError>,
}

/// Collects the sources of a configuration. The order of calls does not matter.
#[derive(Debug, Default)]
pub struct Loader {
    config: Configuration,
    warnings: Vec<String>,
    errors: Vec<LoadError>,
}

impl Loader {
    /// Only defaults so far.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the options of a file: YAML with flat keys, nested ones, or both. `path` names it in errors.
    pub fn file(&mut self, path: &str, text: &str) {
        self.properties(text, |line| Origin::File { path: path.to_owned(), line }, |value| value);
    }

    /// Takes the options among these environment variables, the general ones first: Flink's single variables, then
    /// `FLINK_PROPERTIES`, whose values may name others as `${NAME}`, then `PERENNIAL__…`.
    pub fn environment(&mut self, variables: impl IntoIterator<Item = (String, String)>) {
        let variables: BTreeMap<String, String> = variables.into_iter().collect();
        for (variable, key) in IMAGE_VARIABLES {
            if let Some(value) = variables.get(variable) {
                self.set(key, value, Origin::Environment { variable: variable.to_owned(), line: 0 });
            }
        }
        if let Some(text) = variables.get(PROPERTIES_VARIABLE) {
            let origin = |line| Origin::Environment { variable: PROPERTIES_VARIABLE.to_owned(), line };
            self.properties(text, origin, |value| expand::expanded(&value, &variables));
        }
        for (variable, value) in &variables {
            let Some(name) = variable.strip_prefix(VARIABLE_PREFIX) else { continue };
            match options::all().find(|option| letters(option.key) == letters(name)) {
                Some(option) => {
                    self.set(option.key, value, Origin::Environment { variable: variable.clone(), line: 0 });
                }
                None => {
                    let dotted = name.to_ascii_lowercase().replace("__", ".").replace('_', "-");
                    let nearest = options::nearest(&dotted);
                    self.errors.push(LoadError::UnknownVariable { variable: variable.clone(), nearest });
                }
            }
        }
    }

    /// Takes one `key=value` of the command line.
    pub fn flag(&mut self, assignment: &str) {
        match assignment.split_once('=') {
            Some((key, value)) if !key.trim().is_empty() => {
                let (key, value) = (key.trim(), value.trim());
                self.set(key, value, Origin::Flag(format!("-D {key}={value}")));
            }
            _ => self.errors.push(LoadError::Flag { flag: format!("-D {assignment}") }),
        }
    }

    /// The configuration, or everything that is wrong with it.
    pub fn finish(self) -> Result<Loaded, LoadErrors> {
        if self.errors.is_empty() {
            Ok(Loaded { config: self.config, warnings: self.warnings })
        } else {
            Err(LoadErrors { errors: self.errors })
        }
    }

    fn properties(&mut self, text: &str, origin: impl Fn(u32) -> Origin, expand: impl Fn(String) -> String) {
        let entries = match yaml::entries(text) {
            Ok(entries) => entries,
            Err(yaml::YamlError::Invalid { line, problem }) => {
                self.errors.push(LoadError::Yaml { origin: origin(line), problem });
                return;
            }
            Err(yaml::YamlError::NotAMap { line, found }) => {
                self.errors.push(LoadError::NotOptions { origin: origin(line), found });
                return;
            }
        };
        let mut seen = BTreeMap::<String, u32>::new();
        for yaml::Entry { key, line, value } in entries {
            if let Some(first) = seen.insert(key.clone(), line) {
                self.errors.push(LoadError::Duplicate { key, first: origin(first), second: origin(line) });
                continue;
            }
            match value {
                yaml::Value::Unset => {}
                yaml::Value::Text(text) => self.set(&key, &expand(text), origin(line)),
                yaml::Value::Nested => self.errors.push(LoadError::NestedList { key, origin: origin(line) }),
            }
        }
    }

    fn set(&mut self, key: &str, value: &str, origin: Origin) {
        let key = flink::todays_name(key);
        if options::find(key).is_none() && flink::is_meaningless_here(key) {
            self.warnings.push(format!("`{key}` ({origin}) is an option of Flink that means nothing here; ignored"));
            return;
        }
        if let Err(error) = self.config.set(key, value, origin) {
            self.errors.push(error.into());
        }
    }
}

/// A key or variable name without case and separators.
fn letters(name: &str) -> String {
    name.chars().filter(|c| c.is_ascii_alphanumeric()).map(|c| c.to_ascii_lowercase()).collect()
}

/// The variable for an option, in the spelling we show: `PERENNIAL__TASKMANAGER__NUMBER_OF_TASK_SLOTS`.
fn variable_of(key: &str) -> String {
    let mut name = String::from(VARIABLE_PREFIX);
    for c in key.chars() {
        match c {
            '.' => name.push_str("__"),
            '-' => name.push('_'),
            c if c.is_ascii_uppercase() => name.extend(['_', c]),
            c => name.push(c.to_ascii_uppercase()),
        }
    }
    name
}

#[cfg(test)]
mod tests;
