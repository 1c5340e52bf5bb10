//! Where a value stands: a walk through the tree beside the walk through the raw shapes.

use std::ops::Range;

use crate::config::tree::{Kind, Node};

/// A value of the file: its node if there is one, what to point at, and its path for messages.
#[derive(Clone)]
pub(super) struct Place<'n> {
    node: Option<&'n Node>,
    /// The value itself if it is a scalar, else the key it belongs to.
    pub(super) span: Range<usize>,
    /// The key, or the item.
    pub(super) key: Range<usize>,
    /// `routes[2].match.path`
    pub(super) path: String,
}

impl<'n> Place<'n> {
    pub(super) fn root(node: &'n Node) -> Self {
        Self { node: Some(node), span: node.span.clone(), key: node.span.clone(), path: String::new() }
    }

    /// The value of a key; where there is none, the place of what lacks it.
    pub(super) fn key(&self, key: &str) -> Self {
        let dot = if self.path.is_empty() { "" } else { "." };
        let path = format!("{}{dot}{key}", self.path);
        match self.node.and_then(|node| node.get(key)) {
            Some(entry) => Self::of(&entry.value, &entry.key_span, path),
            None => Self { node: None, span: self.key.clone(), key: self.key.clone(), path },
        }
    }

    /// An item of a list.
    pub(super) fn item(&self, index: usize) -> Self {
        let path = format!("{}[{index}]", self.path);
        match self.node.map(|node| &node.kind) {
            Some(Kind::Sequence(items)) if index < items.len() => Self::of(&items[index], &items[index].span, path),
            _ => Self { node: None, span: self.span.clone(), key: self.key.clone(), path },
        }
    }

    /// The keys of a mapping in file order, each with its place.
    pub(super) fn entries(&self) -> Vec<(&'n str, Self)> {
        let Some(Kind::Mapping(entries)) = self.node.map(|node| &node.kind) else { return Vec::new() };
        entries
            .iter()
            .map(|entry| {
                let path = format!("{}.{}", self.path, entry.key);
                (entry.key.as_str(), Self::of(&entry.value, &entry.key_span, path))
            })
            .collect()
    }

    /// The same place, pointing at the key.
    pub(super) fn at_key(&self) -> Self {
        Self { span: self.key.clone(), ..self.clone() }
    }

    /// Whether something here was reported already and taken out.
    pub(super) fn is_damaged(&self) -> bool {
        self.node.is_some_and(|node| node.damaged)
    }

    fn of(node: &'n Node, key: &Range<usize>, path: String) -> Self {
        let span = if let Kind::Scalar { .. } = node.kind { node.span.clone() } else { key.clone() };
        Self { node: Some(node), span, key: key.clone(), path }
    }
}
