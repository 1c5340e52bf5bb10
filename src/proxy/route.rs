//! Which route a request takes: the first that matches.

use http::Method;

use crate::config::{PathMatch, Route};

/// The routes in their order.
#[derive(Debug)]
pub(super) struct RouteTable(Vec<Entry>);

#[derive(Debug)]
struct Entry {
    hosts: Vec<Host>,
    path: Matcher,
    methods: Vec<Method>,
}

#[derive(Debug)]
enum Host {
    Exact(String),
    /// What follows the `*` of `*.example.com`, dot included.
    Below(String),
}

#[derive(Debug)]
enum Matcher {
    /// A prefix without its last slash.
    Prefix(String),
    /// Segments of a pattern; `None` is any one segment.
    Pattern { segments: Vec<Option<String>>, open: bool },
}

impl RouteTable {
    /// A table of `routes`; what it finds is an index into them.
    #[must_use]
    pub(super) fn new(routes: &[Route]) -> Self {
        Self(
            routes
                .iter()
                .map(|route| Entry {
                    hosts: route.hosts.iter().map(|host| Host::new(host)).collect(),
                    path: Matcher::new(&route.path),
                    methods: route.methods.clone(),
                })
                .collect(),
        )
    }

    /// The first route for this host (lower case, without port or final dot), normal path and method.
    #[must_use]
    pub(super) fn find(&self, host: &str, path: &str, method: &Method) -> Option<usize> {
        self.0.iter().position(|entry| {
            entry.path.covers(path)
                && (entry.hosts.is_empty() || entry.hosts.iter().any(|covered| covered.covers(host)))
                && (entry.methods.is_empty() || entry.methods.contains(method))
        })
    }
}

impl Host {
    fn new(host: &str) -> Self {
        match host.strip_prefix('*') {
            Some(below) => Self::Below(below.to_owned()),
            None => Self::Exact(host.to_owned()),
        }
    }

    fn covers(&self, host: &str) -> bool {
        match self {
            Self::Exact(covered) => covered == host,
            Self::Below(suffix) => host.len() > suffix.len() && host.ends_with(suffix.as_str()),
        }
    }
}

impl Matcher {
    fn new(path: &PathMatch) -> Self {
        match path {
            PathMatch::Prefix(prefix) => Self::Prefix(prefix.strip_suffix('/').unwrap_or(prefix).to_owned()),
            PathMatch::Pattern(pattern) => {
                let mut segments: Vec<_> = pattern.split('/').skip(1).collect();
                let open = segments.last().is_some_and(|last| last.starts_with("{*"));
                if open {
                    segments.pop();
                }
                let segments = segments
                    .into_iter()
                    .map(|segment| (!segment.starts_with('{')).then(|| segment.to_owned()))
                    .collect();
                Self::Pattern { segments, open }
            }
        }
    }

    fn covers(&self, path: &str) -> bool {
        match self {
            Self::Prefix(prefix) => match path.strip_prefix(prefix.as_str()) {
                Some(rest) => rest.is_empty() || rest.starts_with('/'),
                None => false,
            },
            Self::Pattern { segments, open } => {
                let mut given = path.split('/').skip(1);
                for wanted in segments {
                    match (given.next(), wanted) {
                        (Some(segment), Some(literal)) if segment == literal => {}
                        (Some(segment), None) if !segment.is_empty() => {}
                        _ => return false,
                    }
                }
                // `{*rest}` is at least one segment, even an empty one.
                if *open { given.next().is_some() } else { given.next().is_none() }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn covers(path: PathMatch, given: &str) -> bool {
        Matcher::new(&path).covers(given)
    }

    #[test]
    fn prefixes_are_whole_segments() {
        let admin = || PathMatch::Prefix("/admin/".to_owned());
        for (path, wanted) in
            [("/admin", true), ("/admin/", true), ("/admin/users", true), ("/administrator", false), ("/", false)]
        {
            assert_eq!(covers(admin(), path), wanted, "{path}");
        }
        assert!(covers(PathMatch::Prefix("/".to_owned()), "/anything"));
        assert!(covers(PathMatch::Prefix("/a".to_owned()), "/a/b"));
    }

    #[test]
    fn patterns_take_one_segment_a_name_and_the_rest_at_the_end() {
        let one = || PathMatch::Pattern("/users/{id}/orders".to_owned());
        let rest = || PathMatch::Pattern("/files/{*path}".to_owned());
        for (path, wanted) in
            [("/users/7/orders", true), ("/users/7", false), ("/users//orders", false), ("/users/7/orders/1", false)]
        {
            assert_eq!(covers(one(), path), wanted, "{path}");
        }
        for (path, wanted) in [("/files/a", true), ("/files/a/b", true), ("/files/", true), ("/files", false)] {
            assert_eq!(covers(rest(), path), wanted, "{path}");
        }
    }

    #[test]
    fn a_star_covers_the_labels_below_a_host_and_not_the_host() {
        let below = Host::new("*.example.com");
        for (host, wanted) in
            [("a.example.com", true), ("a.b.example.com", true), ("example.com", false), ("badexample.com", false)]
        {
            assert_eq!(below.covers(host), wanted, "{host}");
        }
    }
}
