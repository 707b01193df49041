//! Small ways into `serde_json::Value`.

use anyhow::{Context as _, Result};
use serde_json::Value;

/// Reads a number written as decimal or, with `0x`, hexadecimal text.
pub(crate) fn number(text: &str) -> Result<u64> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse::<u64>().or_else(|error| {
            // GDB prints some registers as signed.
            text.parse::<i64>()
                .map(i64::cast_unsigned)
                .map_err(|_| error)
        }),
    };
    parsed.with_context(|| format!("'{text}' is no number"))
}

/// Returns the text at `key`.
pub(crate) fn text<'a>(value: &'a Value, key: &str) -> Result<&'a str> {
    value
        .get(key)
        .and_then(Value::as_str)
        .with_context(|| format!("no text '{key}' in {value}"))
}

/// Returns the number at `key`, given as a number or as text.
pub(crate) fn number_at(value: &Value, key: &str) -> Result<u64> {
    match value.get(key) {
        Some(Value::String(text)) => number(text),
        Some(found) => found
            .as_u64()
            .with_context(|| format!("'{key}' is no number in {value}")),
        None => anyhow::bail!("no '{key}' in {value}"),
    }
}

/// Returns the list at `key`; none at all counts as an empty one.
pub(crate) fn list<'a>(value: &'a Value, key: &str) -> &'a [Value] {
    value
        .get(key)
        .and_then(Value::as_array)
        .map_or(&[], Vec::as_slice)
}

/// Reads bytes written as pairs of hexadecimal digits.
pub(crate) fn bytes(digits: &str) -> Result<Vec<u8>> {
    trapline_rsp::client::decode_hex(digits.as_bytes())
        .map_err(|error| anyhow::anyhow!("{error}: {digits}"))
}

/// Writes bytes as pairs of hexadecimal digits.
pub(crate) fn digits(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
