//! Whether the file has the shape the schema describes, and what is said where the file says nothing.
//!
//! A generic walk of tree and schema side by side. What does not fit is reported and taken out of the
//! tree, so that everything else is still looked at; what is left out gets the schema's `default`. So
//! the lowering that follows never sees a shape it does not know, and no default is written twice.

use std::ops::Range;

use serde_json::{Map, Value};

use super::problem::{Findings, did_you_mean, nearest};
use super::tree::{Entry, Kind, Node, Scalar};

/// Keys that the design has and this release has not: a clearer answer than "unknown".
const LATER: [(&str, &str); 4] =
    [("Root", "cluster"), ("Listener", "tls"), ("Reissue", "rotation"), ("Session", "max_per_subject")];

/// Words in the name of an unknown key whose value may be a secret, and so is not shown.
const SECRETIVE: [&str; 6] = ["credential", "key", "pass", "pwd", "secret", "token"];

/// Makes the tree fit the schema, and reports what had to go.
pub(super) fn conform(root: &mut Node, schema: &Value, findings: &mut Findings) {
    let mut check = Check { schema, findings };
    let top = root.span.clone();
    if !check.node(root, schema, &Where { path: String::new(), span: top }) {
        root.kind = Kind::Broken;
    }
}

struct Check<'a> {
    schema: &'a Value,
    findings: &'a mut Findings,
}

/// The place of a node, for messages.
struct Where {
    /// `issuers.accounts.keys`; empty for the whole file.
    path: String,
    /// What to point at for something that is missing here.
    span: Range<usize>,
}

impl Where {
    fn key(&self, entry: &Entry) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        Self { path: format!("{}{dot}{}", self.path, entry.key), span: entry.key_span.clone() }
    }

    fn item(&self, index: usize, node: &Node) -> Self {
        Self { path: format!("{}[{index}]", self.path), span: node.span.clone() }
    }

    /// "`path`", or "the file".
    fn name(&self) -> String {
        if self.path.is_empty() { "the file".to_owned() } else { format!("`{}`", self.path) }
    }

    /// " in `path`", or nothing at the top.
    fn within(&self) -> String {
        if self.path.is_empty() { String::new() } else { format!(" in `{}`", self.path) }
    }
}

/// One shape that a value may have.
struct Alternative<'a> {
    /// The name of its definition.
    name: &'a str,
    shape: &'a Map<String, Value>,
}

impl<'a> Check<'a> {
    /// Whether the node may stay.
    fn node(&mut self, node: &mut Node, schema: &'a Value, place: &Where) -> bool {
        if matches!(node.kind, Kind::Broken) {
            return false;
        }
        if matches!(node.scalar(), Some(Scalar::Null)) {
            let at = if node.span.is_empty() { place.span.clone() } else { node.span.clone() };
            let label = "to get the default, leave the key out; for empty text, write \"\"";
            self.findings.error(at, format!("{} has no value", place.name()), label);
            return false;
        }
        if schema == &Value::Bool(true) {
            return true;
        }
        let mut alternatives = Vec::new();
        self.alternatives("Root", schema, &mut alternatives);
        let kind = kind_of(node);
        let mut fitting = alternatives
            .iter()
            .filter(|alternative| alternative.shape.get("type").is_none_or(|wanted| wanted == kind))
            .peekable();
        match (fitting.peek(), &mut node.kind) {
            (None, _) => {
                self.wrong_type(node, &alternatives, place);
                false
            }
            (Some(alternative), Kind::Mapping(entries)) => {
                let before = entries.len();
                self.mapping(entries, alternative, place);
                node.damaged = entries.len() < before;
                self.say_the_rest(entries, alternative.shape, place);
                true
            }
            (Some(alternative), Kind::Sequence(items)) => {
                let before = items.len();
                self.sequence(items, alternative.shape, place);
                node.damaged = items.len() < before;
                true
            }
            (Some(_), _) => {
                let fitting: Vec<_> = fitting.collect();
                self.scalar(node, &fitting, place)
            }
        }
    }

    /// The shapes that a schema allows, references followed.
    fn alternatives(&self, name: &'a str, schema: &'a Value, found: &mut Vec<Alternative<'a>>) {
        let Value::Object(shape) = schema else {
            return;
        };
        if let Some(Value::String(reference)) = shape.get("$ref") {
            let target = reference.strip_prefix('#').and_then(|pointer| self.schema.pointer(pointer));
            let name = reference.rsplit('/').next().unwrap_or(name);
            if let Some(target) = target {
                self.alternatives(name, target, found);
            }
            return;
        }
        match shape.get("anyOf").or_else(|| shape.get("oneOf")) {
            Some(Value::Array(all)) => all.iter().for_each(|one| self.alternatives(name, one, found)),
            _ => found.push(Alternative { name, shape }),
        }
    }

    fn mapping(&mut self, entries: &mut Vec<Entry>, alternative: &Alternative<'a>, place: &Where) {
        let shape = alternative.shape;
        if let Some(members @ Value::Object(_)) = shape.get("additionalProperties") {
            self.names(entries, alternative.name, members, place);
        }
        if let Some(properties) = shape.get("properties").and_then(Value::as_object) {
            let mut meant = Vec::new();
            entries.retain_mut(|entry| {
                let Some(schema) = properties.get(&entry.key) else {
                    meant.extend(self.unknown_key(entry, alternative.name, properties, place));
                    return false;
                };
                let place = place.key(entry);
                // A key whose value had to go is there all the same.
                meant.extend(properties.get_key_value(&entry.key).map(|(key, _)| key.as_str()));
                self.node(&mut entry.value, schema, &place)
            });
            self.required(shape, &meant, place);
        }
        let least = shape.get("minProperties").and_then(Value::as_u64).unwrap_or(0);
        if (entries.len() as u64) < least {
            self.findings.error(place.span.clone(), format!("{} is empty", place.name()), "at least one is needed");
        }
    }

    /// A mapping whose keys are names that the file gives.
    fn names(&mut self, entries: &mut Vec<Entry>, owner: &'a str, members: &'a Value, place: &Where) {
        let mut shapes = Vec::new();
        self.alternatives(owner, members, &mut shapes);
        let mappings = shapes.iter().all(|one| one.shape.get("type").is_some_and(|name| name == "object"));
        entries.retain_mut(|entry| {
            let place = place.key(entry);
            let stays = self.node(&mut entry.value, members, &place);
            if !stays && mappings {
                // The name stays known, so that what refers to it is not reported as well.
                entry.value.kind = Kind::Mapping(Vec::new());
                entry.value.damaged = true;
            }
            stays || mappings
        });
    }

    /// Asks for keys that are neither there nor what an unknown one was meant to be.
    fn required(&mut self, shape: &Map<String, Value>, there: &[&str], place: &Where) {
        let required = shape.get("required").and_then(Value::as_array);
        for key in required.into_iter().flatten().filter_map(Value::as_str) {
            if !there.contains(&key) {
                let message = format!("{} lacks the key `{key}`", place.name());
                self.findings.error(place.span.clone(), message, format!("`{key}` is missing"));
            }
        }
    }

    /// Says what the file left unsaid.
    fn say_the_rest(&mut self, entries: &mut Vec<Entry>, shape: &'a Map<String, Value>, place: &Where) {
        for (key, schema) in shape.get("properties").and_then(Value::as_object).into_iter().flatten() {
            let Some(default) = schema.get("default") else { continue };
            if entries.iter().any(|entry| entry.key == *key) {
                continue;
            }
            let value = Node::from_json(default, &place.span);
            let mut entry = Entry { key: key.clone(), key_span: place.span.clone(), value };
            let place = place.key(&entry);
            self.node(&mut entry.value, schema, &place);
            entries.push(entry);
        }
    }

    /// Reports a key, and gives the one that was probably meant.
    fn unknown_key(
        &mut self,
        entry: &Entry,
        owner: &str,
        known: &'a Map<String, Value>,
        place: &Where,
    ) -> Option<&'a str> {
        let (key, at) = (&entry.key, entry.key_span.clone());
        let lower = key.to_lowercase();
        if owner == "Secret" || SECRETIVE.iter().any(|word| lower.contains(word)) {
            self.hide(&entry.value);
        }
        let keys: Vec<&str> = known.keys().map(String::as_str).collect();
        let help = format!("the keys here are {}", keys.join(", "));
        if LATER.contains(&(owner, key)) {
            let message = format!("`{key}`{} is not supported yet", place.within());
            self.findings.error(at, message, "this release does not have it").help(help);
            return None;
        }
        let meant = nearest(key, keys);
        let message = format!("unknown key `{}`{}", key.escape_debug(), place.within());
        match meant {
            Some(meant) => self.findings.error(at, message, format!("did you mean `{meant}`?")),
            None => self.findings.error(at, message, "").help(help),
        };
        meant
    }

    fn sequence(&mut self, items: &mut Vec<Node>, shape: &'a Map<String, Value>, place: &Where) {
        if let Some(least) = shape.get("minItems").and_then(Value::as_u64)
            && (items.len() as u64) < least
        {
            self.findings.error(place.span.clone(), format!("{} is empty", place.name()), "at least one is needed");
        }
        if let Some(schema) = shape.get("items") {
            let mut index = 0;
            items.retain_mut(|item| {
                let place = place.item(index, item);
                index += 1;
                self.node(item, schema, &place)
            });
        }
    }

    /// Whether a scalar of the right type has a value that is allowed.
    fn scalar(&mut self, node: &Node, fitting: &[&Alternative<'a>], place: &Where) -> bool {
        match node.scalar() {
            Some(Scalar::Text(text)) => self.text(node, text, fitting, place),
            Some(Scalar::Integer(number)) => {
                let shape = fitting[0].shape;
                let bound = |name| shape.get(name).and_then(Value::as_i64);
                let value = number.as_i64().unwrap_or(i64::MAX);
                let label = match (bound("minimum"), bound("maximum")) {
                    (Some(least), _) if value < least => format!("at least {least}"),
                    (_, Some(most)) if value > most => format!("at most {most}"),
                    _ => return true,
                };
                self.findings.error(node.span.clone(), format!("{} is out of range", place.name()), label);
                false
            }
            _ => true,
        }
    }

    fn text(&mut self, node: &Node, text: &str, fitting: &[&Alternative<'a>], place: &Where) -> bool {
        let words: Vec<&str> = fitting.iter().flat_map(|alternative| words(alternative.shape)).collect();
        if !words.is_empty() {
            if words.contains(&text) {
                return true;
            }
            let message = format!("{} cannot be `{text}`", place.name());
            let label = did_you_mean(text, words.iter().copied()).unwrap_or_default();
            self.findings.error(node.span.clone(), message, label).help(format!("one of {}", words.join(", ")));
            return false;
        }
        let least = fitting.iter().filter_map(|alternative| alternative.shape.get("minLength")?.as_u64()).max();
        if least.is_some_and(|least| (text.len() as u64) < least) {
            self.findings.error(node.span.clone(), format!("{} is empty", place.name()), "a value is needed");
            return false;
        }
        true
    }

    /// Keeps every scalar within from being shown.
    fn hide(&mut self, node: &Node) {
        match &node.kind {
            Kind::Scalar { .. } | Kind::Broken => self.findings.hide(node.span.clone()),
            Kind::Sequence(items) => items.iter().for_each(|item| self.hide(item)),
            Kind::Mapping(entries) => entries.iter().for_each(|entry| self.hide(&entry.value)),
        }
    }

    fn wrong_type(&mut self, node: &Node, alternatives: &[Alternative<'a>], place: &Where) {
        let is = |wanted: &str| alternatives.iter().any(|one| one.shape.get("type").is_some_and(|name| name == wanted));
        let named = |wanted: &str| alternatives.iter().any(|one| one.name == wanted);
        if named("Secret") || named("Keys") && node.scalar().is_some() {
            self.hide(node);
            let message = format!("{} is written into the file", place.name());
            let label = "write `{ file: PATH }` or `{ env: NAME }`";
            self.findings.error(node.span.clone(), message, label).help("a secret is never in the configuration");
            return;
        }
        let words = words_of(alternatives);
        let fits = |text: &str| words.is_empty() || words.contains(&text);
        let label = match (node.scalar(), &node.kind) {
            (Some(Scalar::Integer(number)), _) if named("Duration") => {
                format!("a bare number has no unit: write `{number}s`, `{number}ms`, …")
            }
            (Some(Scalar::Integer(number) | Scalar::Float(number)), _) if is("string") && fits(&number.to_string()) => {
                format!("a number where text is wanted: write \"{number}\"")
            }
            (Some(Scalar::Bool(value)), _) if is("string") && words_of(alternatives).is_empty() => {
                format!("a switch where text is wanted: write \"{value}\"")
            }
            (Some(Scalar::Text(text)), _) if is("boolean") => {
                let value = nearest(text, ["true", "yes", "on"]).is_some();
                format!("write `{}`", if value { "true" } else { "false" })
            }
            (Some(Scalar::Text(text)), _) if is("integer") && text.parse::<f64>().is_ok() => {
                "text where a number is wanted: leave out the quotes".to_owned()
            }
            (Some(Scalar::Text(text)), _) if is("array") && text.len() <= 64 => {
                format!("text where a list is wanted: write `[{text}]`")
            }
            (_, Kind::Mapping(_)) if is("array") => "a mapping where a list is wanted: put `- ` before it".to_owned(),
            _ => format!("{} here", what_it_is(node)),
        };
        let wanted = wanted(alternatives);
        self.findings.error(node.span.clone(), format!("{} must be {wanted}", place.name()), label);
    }
}

/// The JSON Schema type of a node.
fn kind_of(node: &Node) -> &'static str {
    match (&node.kind, node.scalar()) {
        (Kind::Mapping(_), _) => "object",
        (Kind::Sequence(_), _) => "array",
        (_, Some(Scalar::Bool(_))) => "boolean",
        (_, Some(Scalar::Integer(_))) => "integer",
        (_, Some(Scalar::Float(_))) => "number",
        (_, Some(Scalar::Text(_))) => "string",
        (_, Some(Scalar::Null) | None) => "null",
    }
}

fn what_it_is(node: &Node) -> &'static str {
    match kind_of(node) {
        "object" => "a mapping",
        "array" => "a list",
        "boolean" => "a switch",
        "integer" => "a whole number",
        "number" => "a number",
        _ => "text",
    }
}

/// The words that a shape is limited to, if it is.
fn words(shape: &Map<String, Value>) -> Vec<&str> {
    let list = shape.get("enum").and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    shape.get("const").into_iter().chain(list).filter_map(Value::as_str).collect()
}

fn words_of<'a>(alternatives: &[Alternative<'a>]) -> Vec<&'a str> {
    alternatives.iter().flat_map(|alternative| words(alternative.shape)).collect()
}

/// What is wanted, in words.
fn wanted(alternatives: &[Alternative<'_>]) -> String {
    let mut names: Vec<String> = Vec::new();
    for alternative in alternatives {
        let shape = alternative.shape;
        let choice = words(shape);
        let name = match shape.get("type").and_then(Value::as_str) {
            _ if alternative.name == "Duration" => "a time span such as `30s`".to_owned(),
            _ if !choice.is_empty() => choice.iter().map(|word| format!("`{word}`")).collect::<Vec<_>>().join(", "),
            Some("object") => "a mapping".to_owned(),
            Some("array") => "a list".to_owned(),
            Some("boolean") => "`true` or `false`".to_owned(),
            Some("integer") => "a whole number".to_owned(),
            Some("string") => match shape.get("examples").and_then(|all| all.get(0)).and_then(Value::as_str) {
                Some(example) => format!("text such as `{example}`"),
                None => "text".to_owned(),
            },
            _ => "a value".to_owned(),
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    match names.split_last() {
        Some((last, rest)) if !rest.is_empty() => format!("{} or {last}", rest.join(", ")),
        _ => names.concat(),
    }
}
