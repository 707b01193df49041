//! A symbol's name, still compressed.

use core::fmt;

use super::tokens::TokenTable;

/// The name of a symbol: printable ASCII characters, at most 511 of them.
///
/// It compares with `str`, and its `Display` writes it.
#[derive(Clone, Copy)]
pub struct Name<'a> {
    tokens: &'a TokenTable,
    codes: &'a [u8],
}

/// How a name and a text are related.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Comparison {
    Equal,
    /// The name begins with the text and is longer.
    Longer,
    Different,
}

impl<'a> Name<'a> {
    /// Splits the type letter off a compressed entry, whose first token must not be empty.
    pub(super) fn split(tokens: &'a TokenTable, codes: &'a [u8]) -> Option<(u8, Self)> {
        let letter = *tokens.token(*codes.first()?).first()?;
        Some((letter, Self { tokens, codes }))
    }

    /// Returns the parts that the name consists of.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let tokens = self.tokens;
        let (first, rest) = self
            .codes
            .split_first()
            .map_or((None, self.codes), |(first, rest)| {
                (tokens.token(*first).get(1..), rest)
            });
        first
            .into_iter()
            .chain(rest.iter().map(move |code| tokens.token(*code)))
    }

    /// Returns the bytes of the name.
    pub fn bytes(&self) -> impl Iterator<Item = u8> + use<'a> {
        self.parts().flatten().copied()
    }

    /// Returns the length of the name in bytes.
    #[must_use]
    pub fn len_bytes(&self) -> usize {
        self.parts().map(<[u8]>::len).fold(0, usize::saturating_add)
    }

    /// Copies the name to the start of `buffer`, cut where that ends, and returns what it copied.
    pub fn copy_to<'b>(&self, buffer: &'b mut [u8]) -> &'b [u8] {
        let mut end = 0_usize;
        for (byte, place) in self.bytes().zip(buffer.iter_mut()) {
            *place = byte;
            end = end.saturating_add(1);
        }
        buffer.get(..end).unwrap_or_default()
    }

    pub(crate) fn compare(&self, text: &[u8]) -> Comparison {
        let mut rest = text;
        for part in self.parts() {
            match rest.strip_prefix(part) {
                Some(behind) => rest = behind,
                None if part.starts_with(rest) => return Comparison::Longer,
                None => return Comparison::Different,
            }
        }
        if rest.is_empty() {
            Comparison::Equal
        } else {
            Comparison::Different
        }
    }
}

impl PartialEq<str> for Name<'_> {
    fn eq(&self, other: &str) -> bool {
        self.compare(other.as_bytes()) == Comparison::Equal
    }
}

impl PartialEq<&str> for Name<'_> {
    fn eq(&self, other: &&str) -> bool {
        *self == **other
    }
}

impl fmt::Display for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Tokens were checked to be ASCII.
        self.parts()
            .try_for_each(|part| f.write_str(str::from_utf8(part).unwrap_or_default()))
    }
}

impl fmt::Debug for Name<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}
