//! The program's own arguments.

use std::fmt::Display;
use std::str::FromStr;

use crate::JobError;

/// The arguments of a job: what follows `--` in `perennial run ARTIFACT -- ...`. Flink's `ParameterTool`.
///
/// `--key value` and `--key=value` are values, `--key` before another `--key` or at the end is a flag, everything else
/// is positional. When a key is given twice the last one holds.
#[derive(Debug, Clone, Default)]
pub struct Args {
    raw: Vec<String>,
    values: Vec<(String, Option<String>)>,
    positional: Vec<String>,
}

impl Args {
    /// Reads arguments.
    pub fn new(raw: Vec<String>) -> Self {
        let (mut values, mut positional) = (Vec::new(), Vec::new());
        let mut rest = raw.iter().peekable();
        while let Some(argument) = rest.next() {
            match argument.strip_prefix("--").filter(|key| !key.is_empty()) {
                Some(key) => match key.split_once('=') {
                    Some((key, value)) => values.push((key.to_owned(), Some(value.to_owned()))),
                    None => {
                        let value = rest.next_if(|next| !next.starts_with("--")).cloned();
                        values.push((key.to_owned(), value));
                    }
                },
                None => positional.push(argument.clone()),
            }
        }
        Self { raw, values, positional }
    }

    /// The value of `--name`.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.values.iter().rev().find(|(key, _)| key == name).and_then(|(_, value)| value.as_deref())
    }

    /// The value of `--name`, or an error that says it is missing.
    pub fn require(&self, name: &str) -> Result<&str, JobError> {
        self.get(name).ok_or_else(|| {
            let problem = if self.has(name) { "needs a value" } else { "is missing" };
            JobError::Argument { name: name.to_owned(), problem: problem.to_owned() }
        })
    }

    /// The value of `--name` read as a `V`, `None` when it is not given.
    pub fn parse<V: FromStr>(&self, name: &str) -> Result<Option<V>, JobError>
    where
        V::Err: Display,
    {
        if !self.has(name) {
            return Ok(None);
        }
        let text = self.require(name)?;
        text.parse().map(Some).map_err(|error| JobError::Argument {
            name: name.to_owned(),
            problem: format!("has the bad value `{text}`: {error}"),
        })
    }

    /// The value of `--name` read as a `V`, or `default` when it is not given.
    pub fn parse_or<V: FromStr>(&self, name: &str, default: V) -> Result<V, JobError>
    where
        V::Err: Display,
    {
        Ok(self.parse(name)?.unwrap_or(default))
    }

    /// Whether `--name` is given, with a value or without.
    pub fn has(&self, name: &str) -> bool {
        self.values.iter().any(|(key, _)| key == name)
    }

    /// Arguments that belong to no `--key`.
    pub fn positional(&self) -> &[String] {
        &self.positional
    }

    /// All arguments as they were given, for a parser of the user's own.
    pub fn raw(&self) -> &[String] {
        &self.raw
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(line: &str) -> Args {
        Args::new(line.split_whitespace().map(str::to_owned).collect())
    }

    #[test]
    fn values_flags_and_positional_arguments() {
        let args = args("first --input a.txt --count=7 --final --rate -5 --count=8 --last");
        assert_eq!(args.get("input"), Some("a.txt"));
        assert_eq!(args.parse::<u64>("count").unwrap(), Some(8));
        assert!(args.has("final") && args.get("final").is_none() && args.has("last"));
        assert_eq!(args.parse_or("rate", 0i32).unwrap(), -5);
        assert_eq!(args.parse_or("other", 3u8).unwrap(), 3);
        assert_eq!(args.positional(), ["first"]);
    }

    #[test]
    fn errors_name_the_argument() {
        let args = args("--n x --flag");
        assert_eq!(args.require("input").unwrap_err().to_string(), "argument `--input` is missing");
        assert_eq!(args.require("flag").unwrap_err().to_string(), "argument `--flag` needs a value");
        let error = args.parse::<u32>("n").unwrap_err().to_string();
        assert!(error.starts_with("argument `--n` has the bad value `x`: "), "{error}");
    }
}
