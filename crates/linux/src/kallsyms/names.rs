//! Reading compressed names, some at a time.

use alloc::vec::Vec;

use trapline_arch::Gva;

use super::load::{KallsymsError, STEP_NAMES, unreadable};
use super::tokens::TokenTable;
use super::{BLOCK_SYMBOLS, Block, LengthEncoding, MAX_NAME_BYTES, MAX_NAMES_BYTES, Symbol};
use crate::memory::VirtualMemory;

/// How much of the names is read at a time, in bytes.
const NAMES_CHUNK_BYTES: usize = 64 << 10;

/// Reads compressed names of which only the number is known.
///
/// `bytes[..position]` are whole entries; what is behind them was read ahead.
pub(super) struct NameReader {
    table: Gva,
    lengths: LengthEncoding,
    pub(super) tokens: TokenTable,
    pub(super) bytes: Vec<u8>,
    position: usize,
    pub(super) blocks: Vec<Block>,
    pub(super) total: Block,
    /// The plain length of the name that each code stands for.
    token_bytes: [u16; 256],
    /// How many names were read.
    done: u32,
}

impl NameReader {
    pub(super) fn new(
        table: Gva,
        lengths: LengthEncoding,
        tokens: TokenTable,
        count: u32,
    ) -> Result<Self, KallsymsError> {
        let mut blocks = Vec::new();
        blocks
            .try_reserve_exact((count as usize).div_ceil(BLOCK_SYMBOLS))
            .map_err(|_| KallsymsError::OutOfMemory)?;
        let mut token_bytes = [0; 256];
        for (code, len_bytes) in (0_u8..=255).zip(token_bytes.iter_mut()) {
            *len_bytes = u16::try_from(tokens.token(code).len()).unwrap_or(u16::MAX);
        }
        Ok(Self {
            table,
            lengths,
            tokens,
            bytes: Vec::new(),
            position: 0,
            blocks,
            total: Block::default(),
            token_bytes,
            done: 0,
        })
    }

    /// Reads some more of `count` names. Returns whether they are all read.
    pub(super) fn read(
        &mut self,
        memory: &dyn VirtualMemory,
        count: u32,
    ) -> Result<bool, KallsymsError> {
        let end = self.done.saturating_add(STEP_NAMES).min(count);
        for index in self.done..end {
            if (index as usize).is_multiple_of(BLOCK_SYMBOLS) {
                self.total.names_bytes =
                    u32::try_from(self.position).map_err(|_| KallsymsError::NamesTooLong)?;
                self.blocks.push(self.total);
            }
            self.read_name(memory, index)?;
        }
        self.done = end;
        if end < count {
            return Ok(false);
        }
        self.bytes.truncate(self.position);
        Ok(true)
    }

    fn read_name(&mut self, memory: &dyn VirtualMemory, index: u32) -> Result<(), KallsymsError> {
        loop {
            let rest = self.bytes.get(self.position..).unwrap_or_default();
            if let Some((codes, entry_bytes)) = self.lengths.split(rest) {
                let (name_bytes, is_local) =
                    self.measure(codes).ok_or(KallsymsError::BadName(index))?;
                self.position = self.position.saturating_add(entry_bytes);
                self.total.text_bytes = self.total.text_bytes.saturating_add(name_bytes);
                self.total.local_count = self.total.local_count.saturating_add(is_local.into());
                return Ok(());
            }
            // Two bytes of length say at most 32 KiB, so that the memory is always read ahead of
            // a name by less than a chunk.
            if rest.len() > MAX_NAME_BYTES.saturating_add(2) {
                return Err(KallsymsError::BadName(index));
            }
            self.read_ahead(memory)?;
        }
    }

    /// Returns how long the name is with a NUL in place of its type letter, and whether it is
    /// local, or `None` if it is no name.
    fn measure(&self, codes: &[u8]) -> Option<(u32, bool)> {
        let letter = *self.tokens.token(*codes.first()?).first()?;
        let is_letter = letter.is_ascii_alphabetic() || matches!(letter, b'?' | b'-');
        if !is_letter || codes.len() > MAX_NAME_BYTES {
            return None;
        }
        let lengths = codes
            .iter()
            .filter_map(|code| self.token_bytes.get(usize::from(*code)));
        let len_bytes = lengths.fold(0_u32, |sum, len| sum.saturating_add(u32::from(*len)));
        let fits = len_bytes as usize <= MAX_NAME_BYTES;
        fits.then(|| (len_bytes, Symbol::is_local_letter(letter)))
    }

    fn read_ahead(&mut self, memory: &dyn VirtualMemory) -> Result<(), KallsymsError> {
        let error = unreadable("kallsyms_names", self.table);
        let len_bytes = self.bytes.len();
        if len_bytes >= MAX_NAMES_BYTES {
            return Err(KallsymsError::NamesTooLong);
        }
        let place = self.table.checked_add(len_bytes as u64).ok_or(error)?;
        self.bytes
            .try_reserve_exact(NAMES_CHUNK_BYTES)
            .map_err(|_| KallsymsError::OutOfMemory)?;
        self.bytes
            .resize(len_bytes.saturating_add(NAMES_CHUNK_BYTES), 0);
        let chunk = self.bytes.get_mut(len_bytes..).unwrap_or_default();
        // The tables may end at the end of mapped memory, so a short read is right.
        let count = memory.read_virtual(place, chunk).min(chunk.len());
        self.bytes.truncate(len_bytes.saturating_add(count));
        if count == 0 { Err(error) } else { Ok(()) }
    }
}
