//! Header lines.

use std::fmt;

/// The headers of a message, in their order. Names are looked up without regard to case.
#[derive(Clone, Default)]
pub struct Headers(Vec<(String, String)>);

impl Headers {
    pub(crate) fn parsed(headers: &[httparse::Header]) -> Self {
        let text = |value| String::from_utf8_lossy(value).into_owned();
        Self(headers.iter().map(|header| (header.name.to_owned(), text(header.value))).collect())
    }

    /// Adds a header after the others.
    pub fn push(&mut self, name: &str, value: impl Into<String>) {
        self.0.push((name.to_owned(), value.into()));
    }

    /// The first value of that name.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.all(name).first().copied()
    }

    /// Every value of that name.
    pub fn all(&self, name: &str) -> Vec<&str> {
        self.iter().filter(|header| header.0.eq_ignore_ascii_case(name)).map(|h| h.1).collect()
    }

    /// Names and values.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, value)| (name.as_str(), value.as_str()))
    }
}

impl fmt::Debug for Headers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.iter().try_for_each(|(name, value)| writeln!(f, "{name}: {value}"))
    }
}
