//! The file as a tree in which every node knows where it stands.
//!
//! YAML has features whose effect cannot be seen where they are used: a later key that replaces an
//! earlier one, anchors and merge keys that act at a distance, tags that change what a value is,
//! further documents that nobody reads. A file that decides who may pass has none of them: they are
//! refused here, before anything gives the file a meaning.

use std::collections::HashMap;
use std::ops::Range;

use granit_parser::{Event, Parser, ScalarStyle, Span, Tag};

use super::problem::Findings;

/// Nesting allowed; the deepest sensible file needs eight.
const DEPTH_MAX: usize = 64;

/// One value and where it stands, in bytes.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) span: Range<usize>,
    pub(super) kind: Kind,
    /// Something within was reported and taken out, so what seems to be missing may have been there.
    pub(super) damaged: bool,
}

/// What a value is.
#[derive(Clone, Debug)]
pub(super) enum Kind {
    Scalar {
        text: String,
        /// Written without quotes, so that it may be something else than text.
        plain: bool,
    },
    Sequence(Vec<Node>),
    Mapping(Vec<Entry>),
    /// Reported already, and silent from then on.
    Broken,
}

/// One key of a mapping with its value.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) key: String,
    pub(super) key_span: Range<usize>,
    pub(super) value: Node,
}

/// What a scalar means (YAML 1.2.2 §10.3, the core schema).
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Scalar<'a> {
    Null,
    Bool(bool),
    Integer(serde_yaml::Number),
    Float(serde_yaml::Number),
    Text(&'a str),
}

impl Node {
    pub(super) fn new(span: Range<usize>, kind: Kind) -> Self {
        Self { span, kind, damaged: false }
    }

    /// The value of a key, if this is a mapping that has it.
    pub(super) fn get(&self, key: &str) -> Option<&Entry> {
        match &self.kind {
            Kind::Mapping(entries) => entries.iter().find(|entry| entry.key == key),
            _ => None,
        }
    }

    /// What a scalar means; `None` for anything else.
    pub(super) fn scalar(&self) -> Option<Scalar<'_>> {
        match &self.kind {
            Kind::Scalar { text, plain: true } => Some(plain(text)),
            Kind::Scalar { text, plain: false } => Some(Scalar::Text(text)),
            _ => None,
        }
    }

    /// The same value without places.
    pub(super) fn to_yaml(&self) -> serde_yaml::Value {
        use serde_yaml::Value;
        match &self.kind {
            Kind::Sequence(items) => items.iter().map(Self::to_yaml).collect(),
            Kind::Mapping(entries) => Value::Mapping(
                entries.iter().map(|entry| (Value::String(entry.key.clone()), entry.value.to_yaml())).collect(),
            ),
            Kind::Scalar { .. } | Kind::Broken => match self.scalar() {
                Some(Scalar::Bool(value)) => Value::Bool(value),
                Some(Scalar::Integer(number) | Scalar::Float(number)) => Value::Number(number),
                Some(Scalar::Text(text)) => Value::String(text.to_owned()),
                Some(Scalar::Null) | None => Value::Null,
            },
        }
    }

    /// A value that is not in the file, standing for the place `span`.
    pub(super) fn from_json(value: &serde_json::Value, span: &Range<usize>) -> Self {
        use serde_json::Value;
        let kind = match value {
            Value::Null => Kind::Broken,
            Value::Bool(_) | Value::Number(_) => Kind::Scalar { text: value.to_string(), plain: true },
            Value::String(text) => Kind::Scalar { text: text.clone(), plain: false },
            Value::Array(items) => Kind::Sequence(items.iter().map(|item| Self::from_json(item, span)).collect()),
            Value::Object(members) => Kind::Mapping(
                members
                    .iter()
                    .map(|(key, value)| Entry {
                        key: key.clone(),
                        key_span: span.clone(),
                        value: Self::from_json(value, span),
                    })
                    .collect(),
            ),
        };
        Self::new(span.clone(), kind)
    }
}

/// What an unquoted scalar means. `yes`, `off`, `0644` and `1_000` are text: they mean something else
/// to each generation of YAML readers, and where a number or a switch is wanted they are refused.
fn plain(text: &str) -> Scalar<'_> {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Scalar::Null,
        "true" | "True" | "TRUE" => return Scalar::Bool(true),
        "false" | "False" | "FALSE" => return Scalar::Bool(false),
        _ => {}
    }
    let digits = text.strip_prefix('-').unwrap_or(text);
    let leading_zero = digits.len() > 1 && digits.starts_with('0') && digits.as_bytes()[1].is_ascii_digit();
    let numeric = digits.starts_with(|first: char| first.is_ascii_digit())
        && digits.chars().all(|c| c.is_ascii_digit() || matches!(c, '.' | 'e' | 'E' | '+' | '-'));
    if leading_zero || !numeric {
        return Scalar::Text(text);
    }
    if let Ok(number) = text.parse::<u64>() {
        return Scalar::Integer(number.into());
    }
    if let Ok(number) = text.parse::<i64>() {
        return Scalar::Integer(number.into());
    }
    match text.parse::<f64>() {
        Ok(number) if number.is_finite() => Scalar::Float(number.into()),
        _ => Scalar::Text(text),
    }
}

/// Reads the text; `None` when there is no usable tree, which is then among the findings.
pub(super) fn read(text: &str, findings: &mut Findings) -> Option<Node> {
    let options = granit_parser::options! {
        emit_anchor_events: true,
        emit_unresolved_aliases: true,
        disallow_directives: true,
        block_nesting_limit: 2 * DEPTH_MAX,
        flow_nesting_limit: 2 * DEPTH_MAX,
    };
    let mut builder = Builder { findings, stack: Vec::new(), root: None };
    let mut documents = 0;
    for step in Parser::new_from_str_with_options(text, options) {
        let (event, span) = match step {
            Ok(step) => step,
            Err(error) => {
                let at = error.marker().byte_offset().unwrap_or(text.len());
                builder.findings.error(at..at + 1, format!("not valid YAML: {}", error.info()), "");
                return None;
            }
        };
        if let Event::DocumentStart(..) = event {
            documents += 1;
            if documents > 1 {
                builder.findings.error(bytes(&span), "a second document", "a configuration is one document");
                break;
            }
        }
        builder.event(event, &span);
        if builder.stack.len() > DEPTH_MAX {
            builder.findings.error(bytes(&span), format!("more than {DEPTH_MAX} levels of nesting"), "");
            return None;
        }
    }
    match builder.root {
        Some(root) if !matches!(root.scalar(), Some(Scalar::Null)) => Some(root),
        _ => {
            findings.error(0..0, "the file is empty", "").help("`config/quickstart.yaml` is a short working example");
            None
        }
    }
}

/// Puts events together to nodes.
struct Builder<'a> {
    findings: &'a mut Findings,
    stack: Vec<Frame>,
    root: Option<Node>,
}

/// A mapping or sequence whose end has not come.
enum Frame {
    Mapping { span: Range<usize>, entries: Vec<Entry>, first: HashMap<String, Range<usize>>, key: Key },
    Sequence { span: Range<usize>, items: Vec<Node> },
}

/// What the next node of a mapping is.
enum Key {
    /// A key.
    Awaited,
    /// The value of this key.
    Of(String, Range<usize>),
    /// The value of a key that is refused.
    Refused,
}

impl Builder<'_> {
    fn event(&mut self, event: Event<'_>, span: &Span) {
        let at = bytes(span);
        match event {
            Event::Scalar(text, style, _, tag) => {
                let kind = if self.refuse_tag(tag.as_deref(), span) {
                    Kind::Broken
                } else {
                    Kind::Scalar { text: text.into_owned(), plain: style == ScalarStyle::Plain }
                };
                self.node(Node::new(at, kind));
            }
            Event::MappingStart(_, _, tag) => {
                self.refuse_tag(tag.as_deref(), span);
                let (entries, first) = (Vec::new(), HashMap::new());
                self.stack.push(Frame::Mapping { span: at, entries, first, key: Key::Awaited });
            }
            Event::SequenceStart(_, _, tag) => {
                self.refuse_tag(tag.as_deref(), span);
                self.stack.push(Frame::Sequence { span: at, items: Vec::new() });
            }
            Event::MappingEnd | Event::SequenceEnd => match self.stack.pop() {
                Some(Frame::Mapping { span, entries, .. }) => {
                    // A block mapping has no sign of its own: its first key stands for it.
                    let span = match entries.first() {
                        Some(entry) if span.is_empty() => entry.key_span.clone(),
                        _ => span,
                    };
                    self.node(Node::new(span, Kind::Mapping(entries)));
                }
                Some(Frame::Sequence { span, items }) => self.node(Node::new(span, Kind::Sequence(items))),
                None => {}
            },
            Event::Anchor(..) => {
                self.findings.error(at, "anchors are not supported", "write the value out where it is needed");
            }
            Event::Alias(_) | Event::UnresolvedAlias(_) => {
                self.findings.error(at.clone(), "aliases are not supported", "write the value out");
                self.node(Node::new(at, Kind::Broken));
            }
            _ => {}
        }
    }

    /// Whether there is a tag, which is refused.
    fn refuse_tag(&mut self, tag: Option<&Tag>, span: &Span) -> bool {
        if tag.is_none() {
            return false;
        }
        let at = span.tag_span().map_or_else(|| bytes(span), |tag| bytes(&tag));
        self.findings.error(at, "tags are not supported", "leave the tag out");
        true
    }

    /// Hands a finished node to what contains it.
    fn node(&mut self, node: Node) {
        match self.stack.last_mut() {
            None => self.root = Some(node),
            Some(Frame::Sequence { items, .. }) => items.push(node),
            Some(Frame::Mapping { entries, first, key, .. }) => match std::mem::replace(key, Key::Awaited) {
                Key::Of(name, key_span) => entries.push(Entry { key: name, key_span, value: node }),
                Key::Refused => {}
                Key::Awaited => *key = judge_key(node, first, self.findings),
            },
        }
    }
}

/// Whether a node can be the next key of a mapping.
fn judge_key(node: Node, first: &mut HashMap<String, Range<usize>>, findings: &mut Findings) -> Key {
    match node.kind {
        Kind::Scalar { text, plain: true } if text == "<<" => {
            findings.error(node.span, "merge keys are not supported", "write the keys out");
            Key::Refused
        }
        Kind::Scalar { text, .. } => {
            if let Some(earlier) = first.get(&text) {
                findings
                    .error(node.span, format!("duplicate key `{text}`"), "given again here")
                    .also(earlier.clone(), "first given here");
                return Key::Refused;
            }
            first.insert(text.clone(), node.span.clone());
            Key::Of(text, node.span)
        }
        Kind::Broken => Key::Refused,
        Kind::Mapping(_) | Kind::Sequence(_) => {
            findings.error(node.span, "a key must be text", "");
            Key::Refused
        }
    }
}

fn bytes(span: &Span) -> Range<usize> {
    span.byte_range().unwrap_or(0..0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> Vec<String> {
        let mut findings = Findings::default();
        read(text, &mut findings);
        match findings.conclude(text, "x") {
            Ok(_) => Vec::new(),
            Err(all) => all.iter().map(|one| format!("{}:{} {}", one.line, one.column, one.message)).collect(),
        }
    }

    #[test]
    fn what_acts_at_a_distance_is_refused_where_it_stands() {
        for (text, wanted) in [
            ("a: 1\nb: 2\na: 3\n", "3:1 duplicate key `a`"),
            ("k: {a: 1, \"a\": 2}\n", "1:11 duplicate key `a`"),
            ("a: !include x\n", "1:4 tags are not supported"),
            ("a: !!map\n  b: 1\n", "1:4 tags are not supported"),
            ("a: &x 1\n", "1:4 anchors are not supported"),
            ("a: *x\n", "1:4 aliases are not supported"),
            ("<<: {a: 1}\n", "1:1 merge keys are not supported"),
            ("a: 1\n---\nb: 1\n", "2:1 a second document"),
            ("[a]: 1\n", "1:1 a key must be text"),
            ("", "1:1 the file is empty"),
            ("# nothing\n", "1:1 the file is empty"),
            ("~\n", "1:1 the file is empty"),
        ] {
            assert_eq!(problems(text), [wanted], "{text:?}");
        }
    }

    #[test]
    fn broken_yaml_has_a_place() {
        for (text, place) in
            [("a: [1, 2\n", "1:4 not valid YAML: unclosed"), ("a: 1\n b: 2\n", "2:"), ("a: 'x\n", "1:4 not valid YAML")]
        {
            let found = problems(text);
            assert!(found.len() == 1 && found[0].starts_with(place), "{text:?}: {found:?}");
        }
    }

    #[test]
    fn nesting_is_bounded() {
        let nested = |depth: usize| format!("a: {}{}", "[".repeat(depth), "]".repeat(depth));
        assert_eq!(problems(&nested(DEPTH_MAX - 1)), [""; 0]);
        assert_eq!(problems(&nested(DEPTH_MAX)), [format!("1:{} more than 64 levels of nesting", 3 + DEPTH_MAX)]);
        assert_eq!(problems(&nested(100_000)).len(), 1);
    }

    #[test]
    fn every_node_knows_its_place() {
        let text = "a:\n  - b: one\n    c: [2]\n";
        let root = read(text, &mut Findings::default()).unwrap();
        let Kind::Sequence(items) = &root.get("a").unwrap().value.kind else { panic!("not a list") };
        assert_eq!(&text[items[0].get("b").unwrap().value.span.clone()], "one");
        assert_eq!(&text[items[0].get("c").unwrap().key_span.clone()], "c");
        assert_eq!(&text[items[0].span.clone()], "b");
    }

    #[test]
    fn plain_scalars_mean_what_the_core_schema_says() {
        for (text, wanted) in [
            ("null", Scalar::Null),
            ("", Scalar::Null),
            ("true", Scalar::Bool(true)),
            ("42", Scalar::Integer(42.into())),
            ("-7", Scalar::Integer((-7).into())),
            ("1.5", Scalar::Float(1.5.into())),
            ("yes", Scalar::Text("yes")),
            ("off", Scalar::Text("off")),
            ("0644", Scalar::Text("0644")),
            ("1_000", Scalar::Text("1_000")),
            ("30s", Scalar::Text("30s")),
            ("1e999", Scalar::Text("1e999")),
            ("127.0.0.1", Scalar::Text("127.0.0.1")),
            ("nan", Scalar::Text("nan")),
        ] {
            assert_eq!(plain(text), wanted, "{text}");
        }
    }
}
