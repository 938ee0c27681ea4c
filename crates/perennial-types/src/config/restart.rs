//! The value of `restart-strategy.type`.

use super::ConfigValue;

/// Which restart strategy a job has. Flink's names and their aliases.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RestartStrategyType {
    /// `none`, `off`, `disable`.
    None,
    /// `fixed-delay`, `fixeddelay`.
    FixedDelay,
    /// `failure-rate`, `failurerate`.
    FailureRate,
    /// `exponential-delay`, `exponentialdelay`.
    ExponentialDelay,
}

impl ConfigValue for RestartStrategyType {
    const EXPECTED: &'static str = "`none`, `fixed-delay`, `failure-rate` or `exponential-delay`";
    fn parse(text: &str) -> Option<Self> {
        match text.trim().to_ascii_lowercase().as_str() {
            "none" | "off" | "disable" => Some(Self::None),
            "fixed-delay" | "fixeddelay" => Some(Self::FixedDelay),
            "failure-rate" | "failurerate" => Some(Self::FailureRate),
            "exponential-delay" | "exponentialdelay" => Some(Self::ExponentialDelay),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_aliases_are_flinks() {
        for (text, expected) in [
            ("none", RestartStrategyType::None),
            ("off", RestartStrategyType::None),
            ("disable", RestartStrategyType::None),
            ("fixed-delay", RestartStrategyType::FixedDelay),
            ("fixeddelay", RestartStrategyType::FixedDelay),
            ("failure-rate", RestartStrategyType::FailureRate),
            ("failurerate", RestartStrategyType::FailureRate),
            ("Exponential-Delay", RestartStrategyType::ExponentialDelay),
            ("exponentialdelay", RestartStrategyType::ExponentialDelay),
        ] {
            assert_eq!(RestartStrategyType::parse(text), Some(expected), "{text}");
        }
        assert_eq!(RestartStrategyType::parse("sometimes"), None);
    }
}
