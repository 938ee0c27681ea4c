//! Options: one registry of typed keys under Flink's flat names, with their defaults and what they mean.

mod checkpoints;
mod flink;
pub mod load;
pub mod options;
mod restart;

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;
use std::time::Duration;

use crate::{ByteSize, parse_duration};

pub use checkpoints::CheckpointingMode;
pub use restart::RestartStrategyType;

/// A value an option can have.
pub trait ConfigValue: Sized {
    /// The form to name in an error, such as `an integer`.
    const EXPECTED: &'static str;

    /// Reads the text of a value; `None` when it is not of the form.
    fn parse(text: &str) -> Option<Self>;
}

/// One option: its key, its default and what it means.
///
/// The default is text of the same form a user writes; a test reads all of them.
#[derive(Debug, Clone, Copy)]
pub struct ConfigOption<T> {
    /// Flink's flat key.
    pub key: &'static str,
    /// What holds when nobody says otherwise; empty for an `Option` that is `None`.
    pub default: &'static str,
    /// What it means, in a sentence.
    pub doc: &'static str,
    value: PhantomData<fn() -> T>,
}

impl<T: ConfigValue> ConfigOption<T> {
    /// An option.
    pub const fn new(key: &'static str, default: &'static str, doc: &'static str) -> Self {
        Self { key, default, doc, value: PhantomData }
    }

    /// The same without its type, for listing and validation.
    pub const fn erased(&self) -> AnyOption {
        AnyOption {
            key: self.key,
            default: self.default,
            doc: self.doc,
            expected: T::EXPECTED,
            accepts: |text| T::parse(text).is_some(),
        }
    }
}

/// An option whose type is known only to its check.
#[derive(Debug, Clone, Copy)]
pub struct AnyOption {
    /// Flink's flat key.
    pub key: &'static str,
    /// Text of the default.
    pub default: &'static str,
    /// What it means.
    pub doc: &'static str,
    /// The form of a value.
    pub expected: &'static str,
    /// Whether a text has that form.
    pub accepts: fn(&str) -> bool,
}

/// Where a value came from. Later variants win.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The registry.
    Default,
    /// A line of a file.
    File {
        /// Path as it was given.
        path: String,
        /// Line, from 1.
        line: u32,
    },
    /// An environment variable, and the line in it when it holds several options.
    Environment {
        /// Name of the variable.
        variable: String,
        /// Line, from 1; 0 when the variable holds one value.
        line: u32,
    },
    /// The command line, as it was written.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Environment { variable, line: 0 } => write!(f, "environment {variable}"),
            Self::Environment { variable, line } => write!(f, "environment {variable}, line {line}"),
            Self::Flag(flag) => write!(f, "{flag}"),
        }
    }
}

/// Why an option was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SetError {
    /// No option has this key.
    #[error("unknown key `{key}` ({origin}){}", nearest.map(|near| format!("; did you mean `{near}`?")).unwrap_or_default())]
    UnknownKey {
        /// The key as it was written.
        key: String,
        /// The place.
        origin: Origin,
        /// The known key that looks most like it.
        nearest: Option<&'static str>,
    },
    /// The value is not of the option's form.
    #[error("bad value `{value}` for `{key}` ({origin}): expected {expected}")]
    BadValue {
        /// The key.
        key: &'static str,
        /// The value as it was written.
        value: String,
        /// The place.
        origin: Origin,
        /// The form it should have.
        expected: &'static str,
    },
}

/// Effective values. Every value in it has been checked, so reading one cannot fail.
#[derive(Debug, Clone, Default)]
pub struct Configuration {
    values: BTreeMap<&'static str, (String, Origin)>,
}

impl Configuration {
    /// Only defaults.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets an option, if nothing that wins over `origin` has set it before.
    pub fn set(&mut self, key: &str, value: &str, origin: Origin) -> Result<(), SetError> {
        let Some(option) = options::find(key) else {
            return Err(SetError::UnknownKey { key: key.to_owned(), nearest: options::nearest(key), origin });
        };
        if !(option.accepts)(value) {
            let (value, expected) = (value.to_owned(), option.expected);
            return Err(SetError::BadValue { key: option.key, value, origin, expected });
        }
        match self.values.get(option.key) {
            Some((_, earlier)) if rank(earlier) > rank(&origin) => {}
            _ => {
                self.values.insert(option.key, (value.to_owned(), origin));
            }
        }
        Ok(())
    }

    /// The effective value.
    pub fn get<T: ConfigValue>(&self, option: &ConfigOption<T>) -> T {
        let text = self.values.get(option.key).map_or(option.default, |(text, _)| text.as_str());
        T::parse(text).expect("values were checked when they were set, defaults by a test")
    }

    /// Text and origin of every option, set or not, in order of key.
    pub fn effective(&self) -> impl Iterator<Item = (&'static AnyOption, &str, &Origin)> {
        options::all().map(|option| match self.values.get(option.key) {
            Some((text, origin)) => (option, text.as_str(), origin),
            None => (option, option.default, &Origin::Default),
        })
    }

    /// What was set, as key and text: the form that travels with a job.
    pub fn overrides(&self) -> BTreeMap<String, String> {
        self.values.iter().map(|(key, (text, _))| ((*key).to_owned(), text.clone())).collect()
    }
}

fn rank(origin: &Origin) -> u8 {
    match origin {
        Origin::Default => 0,
        Origin::File { .. } => 1,
        Origin::Environment { .. } => 2,
        Origin::Flag(_) => 3,
    }
}

impl ConfigValue for String {
    const EXPECTED: &'static str = "a text";
    fn parse(text: &str) -> Option<Self> {
        Some(text.to_owned())
    }
}

impl ConfigValue for bool {
    const EXPECTED: &'static str = "`true` or `false`";
    fn parse(text: &str) -> Option<Self> {
        match text.to_ascii_lowercase().as_str() {
            "true" => Some(true),
            "false" => Some(false),
            _ => None,
        }
    }
}

macro_rules! integer {
    ($($type:ty, $expected:literal;)*) => { $(
        impl ConfigValue for $type {
            const EXPECTED: &'static str = $expected;
            fn parse(text: &str) -> Option<Self> {
                text.trim().parse().ok()
            }
        }
    )* };
}
integer! {
    u16, "a port, 0 to 65535";
    u32, "a whole number";
    u64, "a whole number";
    i32, "a whole number, -1 for none";
}

impl ConfigValue for f64 {
    const EXPECTED: &'static str = "a number such as `1.5`, not negative";
    fn parse(text: &str) -> Option<Self> {
        text.trim().parse().ok().filter(|number: &f64| number.is_finite() && *number >= 0.0)
    }
}

impl ConfigValue for std::num::NonZeroU32 {
    const EXPECTED: &'static str = "a whole number, at least 1";
    fn parse(text: &str) -> Option<Self> {
        text.trim().parse().ok()
    }
}

impl ConfigValue for Duration {
    const EXPECTED: &'static str = "a duration such as `100 ms`, `10 s`, `5 min`";
    fn parse(text: &str) -> Option<Self> {
        parse_duration(text).ok()
    }
}

impl ConfigValue for ByteSize {
    const EXPECTED: &'static str = "a size such as `32 kb`, `64 mb`, `1 g`";
    fn parse(text: &str) -> Option<Self> {
        text.parse().ok()
    }
}

/// A list: `a,b,c` or Flink's `a;b;c`, or YAML's `[a, b]` which the loader writes as the former.
impl ConfigValue for Vec<String> {
    const EXPECTED: &'static str = "a list such as `a,b,c`";
    fn parse(text: &str) -> Option<Self> {
        Some(text.split([',', ';']).map(str::trim).filter(|item| !item.is_empty()).map(str::to_owned).collect())
    }
}

/// No text is no value.
impl<T: ConfigValue> ConfigValue for Option<T> {
    const EXPECTED: &'static str = T::EXPECTED;
    fn parse(text: &str) -> Option<Self> {
        if text.is_empty() { Some(None) } else { T::parse(text).map(Some) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_has_the_form_of_its_option_and_keys_are_unique() {
        let mut keys = std::collections::BTreeSet::new();
        for option in options::all() {
            assert!((option.accepts)(option.default), "default of {}", option.key);
            assert!(keys.insert(option.key), "{} is registered twice", option.key);
            assert!(!option.doc.is_empty(), "{} is not documented", option.key);
        }
    }

    #[test]
    fn flags_win_over_environment_over_file_whatever_the_order() {
        let file = Origin::File { path: "config.yaml".to_owned(), line: 3 };
        let flag = Origin::Flag("-D parallelism.default=7".to_owned());
        let mut config = Configuration::new();
        config.set("parallelism.default", "7", flag).unwrap();
        config.set("parallelism.default", "2", file).unwrap();
        assert_eq!(config.get(&options::PARALLELISM_DEFAULT).get(), 7);
    }

    #[test]
    fn refusals_name_key_value_form_and_place() {
        let mut config = Configuration::new();
        let place = Origin::File { path: "config.yaml".to_owned(), line: 3 };
        let error = config.set("taskmanager.numberOfTaskSlot", "2", place.clone()).unwrap_err();
        assert_eq!(
            error.to_string(),
            "unknown key `taskmanager.numberOfTaskSlot` (config.yaml:3); did you mean `taskmanager.numberOfTaskSlots`?"
        );
        let error = config.set("taskmanager.numberOfTaskSlots", "zero", place).unwrap_err();
        assert_eq!(
            error.to_string(),
            "bad value `zero` for `taskmanager.numberOfTaskSlots` (config.yaml:3): expected a whole number, at least 1"
        );
    }
}
