//! The 256 tokens that the codes of compressed names stand for.

use alloc::vec;
use alloc::vec::Vec;

use trapline_arch::Gva;

use super::load::KallsymsError;
use crate::memory::{VirtualMemory, read_exact};

/// How many tokens there are.
pub(super) const TOKEN_COUNT: usize = 256;
/// The size of the index: a 16-bit offset for each.
pub(super) const INDEX_BYTES: usize = 512;
/// The longest token, with its NUL.
const MAX_TOKEN_BYTES: usize = 512;

/// The token table and its index.
///
/// Every token is printable ASCII, and `offsets[n]..offsets[n + 1]` is token `n` with its NUL.
pub(super) struct TokenTable {
    text: Vec<u8>,
    offsets: [u32; TOKEN_COUNT + 1],
}

impl TokenTable {
    /// Reads the table and checks that index and table agree.
    pub(super) fn load(
        memory: &dyn VirtualMemory,
        table: Gva,
        index: Gva,
    ) -> Result<Self, KallsymsError> {
        let mut index_bytes = [0; INDEX_BYTES];
        if !read_exact(memory, index, &mut index_bytes) {
            return Err(KallsymsError::Unreadable {
                table: "kallsyms_token_index",
                address: index,
            });
        }
        let mut offsets = [0; TOKEN_COUNT + 1];
        for (offset, bytes) in offsets.iter_mut().zip(index_bytes.as_chunks::<2>().0) {
            *offset = u32::from(u16::from_le_bytes(*bytes));
        }
        let last = offsets
            .get(TOKEN_COUNT - 1)
            .map_or(0, |offset| *offset as usize);
        let mut text = vec![0; last.saturating_add(1)];
        if !read_exact(memory, table, &mut text) {
            return Err(KallsymsError::Unreadable {
                table: "kallsyms_token_table",
                address: table,
            });
        }
        // The last token's end is not in the index.
        while text.last() != Some(&0) {
            let mut next = [0];
            let place = table.checked_add(text.len() as u64);
            let short = text.len() < last.saturating_add(MAX_TOKEN_BYTES);
            if !short || !place.is_some_and(|place| read_exact(memory, place, &mut next)) {
                return Err(KallsymsError::Tokens);
            }
            text.extend_from_slice(&next);
        }
        if let Some(end) = offsets.last_mut() {
            *end = u32::try_from(text.len()).map_err(|_| KallsymsError::Tokens)?;
        }
        let tokens = Self { text, offsets };
        if tokens.is_consistent() {
            Ok(tokens)
        } else {
            Err(KallsymsError::Tokens)
        }
    }

    fn is_consistent(&self) -> bool {
        let starts_at_zero = self.offsets.first() == Some(&0);
        starts_at_zero
            && self.offsets.array_windows().all(|[start, end]| {
                let token = self.text.get(*start as usize..*end as usize);
                token
                    .and_then(<[u8]>::split_last)
                    .is_some_and(|(nul, token)| *nul == 0 && token.iter().all(u8::is_ascii_graphic))
            })
    }

    /// Returns the token of a code, which is empty for a code that is not used.
    pub(super) fn token(&self, code: u8) -> &[u8] {
        let code = usize::from(code);
        let bounds = self
            .offsets
            .get(code)
            .zip(self.offsets.get(code.saturating_add(1)));
        bounds
            .and_then(|(start, end)| self.text.get(*start as usize..*end as usize))
            .and_then(|token| token.split_last())
            .map_or(&[], |(_, token)| token)
    }

    pub(super) fn resident_bytes(&self) -> usize {
        size_of::<Self>().saturating_add(self.text.capacity())
    }
}
