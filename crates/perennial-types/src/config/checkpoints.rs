//! The value of `execution.checkpointing.mode`.

use super::ConfigValue;

/// What a checkpoint guarantees: `execution.checkpointing.mode`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum CheckpointingMode {
    /// Each record takes effect once in state that is restored.
    #[default]
    ExactlyOnce,
    /// Some may take effect twice; no task ever waits for a barrier.
    AtLeastOnce,
}

impl ConfigValue for CheckpointingMode {
    const EXPECTED: &'static str = "`EXACTLY_ONCE` or `AT_LEAST_ONCE`";
    fn parse(text: &str) -> Option<Self> {
        match word(text).as_str() {
            "EXACTLY_ONCE" => Some(Self::ExactlyOnce),
            "AT_LEAST_ONCE" => Some(Self::AtLeastOnce),
            _ => None,
        }
    }
}

/// Flink takes `at-least-once` for `AT_LEAST_ONCE`.
fn word(text: &str) -> String {
    text.trim().to_ascii_uppercase().replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_flinks_in_any_case() {
        assert_eq!(CheckpointingMode::parse("exactly-once"), Some(CheckpointingMode::ExactlyOnce));
        assert_eq!(CheckpointingMode::parse("AT_LEAST_ONCE"), Some(CheckpointingMode::AtLeastOnce));
        assert_eq!(CheckpointingMode::parse("AT_MOST_ONCE"), None);
    }
}
