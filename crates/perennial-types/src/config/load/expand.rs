//! Variables in the values of `FLINK_PROPERTIES`, which Flink's images pass through `envsubst`.

use std::collections::BTreeMap;

/// The value with `$NAME` and `${NAME}` replaced. A variable that is not set leaves nothing; any other `$` stays.
pub(super) fn expanded(value: &str, variables: &BTreeMap<String, String>) -> String {
    let mut expanded = String::new();
    let mut rest = value;
    while let Some((before, after)) = rest.split_once('$') {
        expanded.push_str(before);
        rest = match reference(after) {
            Some((name, after)) => {
                expanded.push_str(variables.get(name).map_or("", String::as_str));
                after
            }
            None => {
                expanded.push('$');
                after
            }
        };
    }
    expanded + rest
}

/// The name that a text begins with, braced or not, and what follows it.
fn reference(text: &str) -> Option<(&str, &str)> {
    let in_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let (name, after) = match text.strip_prefix('{') {
        Some(braced) => braced.split_once('}')?,
        None => text.split_at(text.find(|c| !in_name(c)).unwrap_or(text.len())),
    };
    let is_name = name.starts_with(|c: char| in_name(c) && !c.is_ascii_digit()) && name.chars().all(in_name);
    is_name.then_some((name, after))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_replaced_and_any_other_dollar_stays() {
        let variables = BTreeMap::from([("A".to_owned(), "one".to_owned()), ("A_2".to_owned(), "$A".to_owned())]);
        for (value, expect) in [
            ("plain", "plain"),
            ("$A", "one"),
            ("x${A}y $A-z", "xoney one-z"),
            ("$A_2", "$A"),
            ("${NOT_SET}|$NOT_SET|", "||"),
            ("5$ $5 ${5} ${A ${A-b} $$A $", "5$ $5 ${5} ${A ${A-b} $one $"),
        ] {
            assert_eq!(expanded(value, &variables), expect, "{value}");
        }
    }
}
