//! Reads YAML as a flat list of options with their lines.
//!
//! Values are taken as they are written: `1.20` stays `1.20`. Numbers and booleans come out of the parser already
//! read, so their text is cut from the source.

use serde::de::{Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::Spanned;

/// One option of a text.
#[derive(Debug)]
pub(super) struct Entry {
    /// Flat key.
    pub(super) key: String,
    /// Line of its key, from 1.
    pub(super) line: u32,
    /// What it is set to.
    pub(super) value: Value,
}

/// What an option is set to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Value {
    /// Nothing: `null`, `~`, or nothing written.
    Unset,
    /// A scalar, or a list joined by commas.
    Text(String),
    /// A list with lists or maps inside.
    Nested,
}

/// Why a text is no list of options.
#[derive(Debug)]
pub(super) enum YamlError {
    /// Not YAML.
    Invalid { line: u32, problem: String },
    /// YAML, but not a map.
    NotAMap { line: u32, found: &'static str },
}

/// The options in a text; none in an empty one.
pub(super) fn entries(text: &str) -> Result<Vec<Entry>, YamlError> {
    if text.lines().all(|line| line.trim().is_empty() || line.trim_start().starts_with('#')) {
        return Ok(Vec::new());
    }
    let root: Spanned<Node> = serde_saphyr::from_str(text).map_err(|error| {
        let line = error.location().map_or(0, |location| location.line());
        let problem = error.without_snippet().to_string();
        YamlError::Invalid { line: line_number(line), problem: problem.lines().next().unwrap_or_default().to_owned() }
    })?;
    let line = line_number(root.referenced.line());
    let mut found = Vec::new();
    match root.value {
        Node::Null => {}
        Node::Map(children) => flatten(text, "", children, &mut found),
        Node::List(_) => return Err(YamlError::NotAMap { line, found: "a list" }),
        Node::Text(_) | Node::Number => return Err(YamlError::NotAMap { line, found: "a text" }),
    }
    Ok(found)
}

fn flatten(text: &str, prefix: &str, children: Vec<(Spanned<String>, Spanned<Node>)>, found: &mut Vec<Entry>) {
    for (name, node) in children {
        let line = line_number(name.referenced.line());
        let key = if prefix.is_empty() { name.value } else { format!("{prefix}.{}", name.value) };
        let value = match node.value {
            Node::Map(children) => {
                flatten(text, &key, children, found);
                continue;
            }
            Node::List(items) => list(text, items),
            _ => scalar(text, node),
        };
        found.push(Entry { key, line, value });
    }
}

fn list(text: &str, items: Vec<Spanned<Node>>) -> Value {
    let mut joined = Vec::new();
    for item in items {
        match scalar(text, item) {
            Value::Text(item) => joined.push(item),
            Value::Unset => {}
            Value::Nested => return Value::Nested,
        }
    }
    Value::Text(joined.join(","))
}

fn scalar(text: &str, node: Spanned<Node>) -> Value {
    match node.value {
        Node::Null => Value::Unset,
        Node::Text(text) => Value::Text(text),
        Node::Number => {
            let span = node.defined.span();
            let written = span.byte_offset().zip(span.byte_len()).and_then(|(from, length)| {
                let from = usize::try_from(from).ok()?;
                text.get(from..from.checked_add(usize::try_from(length).ok()?)?)
            });
            Value::Text(written.unwrap_or_default().trim().to_owned())
        }
        Node::List(_) | Node::Map(_) => Value::Nested,
    }
}

fn line_number(line: u64) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

/// A YAML node.
enum Node {
    Null,
    Text(String),
    /// A number or a boolean, whose text is in the source.
    Number,
    List(Vec<Spanned<Node>>),
    Map(Vec<(Spanned<String>, Spanned<Node>)>),
}

impl<'de> Deserialize<'de> for Node {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct NodeVisitor;

        impl<'de> Visitor<'de> for NodeVisitor {
            type Value = Node;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("options")
            }

            fn visit_unit<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }

            fn visit_none<E>(self) -> Result<Node, E> {
                Ok(Node::Null)
            }

            fn visit_bool<E>(self, _: bool) -> Result<Node, E> {
                Ok(Node::Number)
            }

            fn visit_i64<E>(self, _: i64) -> Result<Node, E> {
                Ok(Node::Number)
            }

            fn visit_u64<E>(self, _: u64) -> Result<Node, E> {
                Ok(Node::Number)
            }

            fn visit_i128<E>(self, _: i128) -> Result<Node, E> {
                Ok(Node::Number)
            }

            fn visit_u128<E>(self, _: u128) -> Result<Node, E> {
                Ok(Node::Number)
            }

            fn visit_f64<E>(self, _: f64) -> Result<Node, E> {
                Ok(Node::Number)
            }

            fn visit_str<E>(self, text: &str) -> Result<Node, E> {
                Ok(Node::Text(text.to_owned()))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Node, A::Error> {
                let mut list = Vec::new();
                while let Some(item) = items.next_element()? {
                    list.push(item);
                }
                Ok(Node::List(list))
            }

            fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Node, A::Error> {
                let mut map = Vec::new();
                while let Some(entry) = entries.next_entry()? {
                    map.push(entry);
                }
                Ok(Node::Map(map))
            }
        }

        deserializer.deserialize_any(NodeVisitor)
    }
}
