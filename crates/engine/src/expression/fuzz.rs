//! What the fuzz target `expression` does with one input.

use trapline_arch::Gva;

use super::{Environment, EvaluateError, Expression, OPERATION_LIMIT};

/// Parses `data` as bytecode and evaluates it twice in an environment made from `data`.
///
/// # Panics
///
/// If the parser or the evaluation breaks a promise: the same program gives the same result twice,
/// asks for no more than [`OPERATION_LIMIT`] registers and memory ranges, and fails for a register
/// or memory exactly when the environment refused it.
pub fn exercise(data: &[u8]) {
    let Ok(expression) = Expression::parse(data) else {
        return;
    };
    let mut first = Scripted::new(data);
    let mut second = Scripted::new(data);
    let result = expression.evaluate(&mut first);
    assert_eq!(
        result,
        expression.evaluate(&mut second),
        "an evaluation depends on its past"
    );
    assert_eq!(
        first.request_count, second.request_count,
        "an evaluation depends on its past"
    );
    assert!(
        first.request_count <= OPERATION_LIMIT,
        "{} requests",
        first.request_count
    );
    let is_refusal = |error: &EvaluateError| {
        matches!(
            error,
            EvaluateError::Memory { .. } | EvaluateError::Register { .. }
        )
    };
    assert_eq!(
        result.err().filter(is_refusal),
        first.refused,
        "a refusal got lost or made up"
    );
}

/// An environment that answers from a byte string and refuses some requests.
struct Scripted<'a> {
    bytes: &'a [u8],
    request_count: u32,
    refused: Option<EvaluateError>,
}

impl<'a> Scripted<'a> {
    fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            request_count: 0,
            refused: None,
        }
    }

    fn byte(&self, index: u64) -> u8 {
        let index = usize::try_from(index).unwrap_or(usize::MAX);
        let index = index.checked_rem(self.bytes.len()).unwrap_or(0);
        self.bytes.get(index).copied().unwrap_or(0)
    }
}

impl Environment for Scripted<'_> {
    fn register(&mut self, number: u16) -> Option<u64> {
        self.request_count = self.request_count.saturating_add(1);
        let byte = self.byte(number.into());
        if number > 0x8000 {
            self.refused = Some(EvaluateError::Register { number });
            return None;
        }
        Some(u64::from(byte).wrapping_mul(0x0101_0101_0101_0101))
    }

    fn read_memory(&mut self, address: Gva, buffer: &mut [u8]) -> bool {
        self.request_count = self.request_count.saturating_add(1);
        assert!(
            matches!(buffer.len(), 1 | 2 | 4 | 8),
            "a read of {} bytes",
            buffer.len()
        );
        let mut next = address;
        for byte in buffer {
            *byte = self.byte(next.0);
            next = next.wrapping_add(1);
        }
        if address.0 > u64::MAX / 2 {
            self.refused = Some(EvaluateError::Memory { address });
            return false;
        }
        true
    }

    fn big_endian(&self) -> bool {
        self.bytes.len() & 1 == 1
    }
}
