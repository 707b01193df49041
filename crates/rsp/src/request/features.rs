//! `qSupported`.
//!
//! ```text
//! qSupported [:name+;name-;name?;name=value;…]
//!              └ rest
//! ```
//! Source: GDB manual, "General Query Packets", `qSupported`.

use super::{ParseError, Request, fields};

/// What the client says of one feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Feature<'a> {
    /// The feature's name.
    pub name: &'a str,
    /// What is said.
    pub value: FeatureValue<'a>,
}

/// The four ways to speak of a feature.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FeatureValue<'a> {
    /// `name+`
    Supported,
    /// `name-`
    Unsupported,
    /// `name?`: perhaps; to be found out by use.
    Query,
    /// `name=value`
    Value(&'a str),
}

/// The features of a `qSupported`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Features<'a>(&'a str);

impl<'a> Features<'a> {
    /// Yields the features in order. An item in none of the four forms is left out, for a client
    /// newer than this server must not be refused as a whole.
    pub fn iter(self) -> impl Iterator<Item = Feature<'a>> {
        self.0.split(';').filter_map(feature)
    }

    /// Tells whether the client says `name+`.
    #[must_use]
    pub fn supports(self, name: &str) -> bool {
        self.iter()
            .any(|feature| feature.name == name && matches!(feature.value, FeatureValue::Supported))
    }
}

pub(super) fn parse(rest: &[u8]) -> Result<Request<'_>, ParseError> {
    fields::text(rest).map(Features).map(Request::Supported)
}

fn feature(item: &str) -> Option<Feature<'_>> {
    // A value may end in any character, so it is looked for first.
    let (name, value) = if let Some((name, value)) = item.split_once('=') {
        (name, FeatureValue::Value(value))
    } else if let Some(name) = item.strip_suffix('+') {
        (name, FeatureValue::Supported)
    } else if let Some(name) = item.strip_suffix('-') {
        (name, FeatureValue::Unsupported)
    } else {
        (item.strip_suffix('?')?, FeatureValue::Query)
    };
    (!name.is_empty()).then_some(Feature { name, value })
}
