//! The files that a server hands out, and documents read in pieces.
//!
//! Source: GDB manual, "General Query Packets" (`qXfer`), "Host I/O Packets".

use trapline_rsp::hex;

use super::Client;
use super::error::ClientError;

/// How much is asked for at a time. Escapes may double it in the reply, which has to fit a packet.
const PIECE_BYTES: usize = 0xf000;

/// The longest document and file that are taken from a server.
const MAX_DOCUMENT_BYTES: usize = 1 << 20;
const MAX_FILE_BYTES: usize = 1 << 30;

impl Client {
    /// Returns the path of the guest's executable, by which its symbols can be read, or why there
    /// is none.
    ///
    /// # Errors
    /// As [`ClientError`] says; [`ClientError::Refused`] if the server does not know it.
    pub(crate) fn exec_file(&mut self) -> Result<String, ClientError> {
        const REQUEST: &str = "qXfer:exec-file";
        let mut document = Vec::new();
        while document.len() < MAX_DOCUMENT_BYTES {
            let payload = format!("{REQUEST}:read::{:x},{PIECE_BYTES:x}", document.len());
            let reply = self.ask(payload.as_bytes(), REQUEST)?;
            let (piece, is_last) = match reply.split_first() {
                Some((b'l', piece)) => (piece, true),
                Some((b'm', piece)) if !piece.is_empty() => (piece, false),
                _ => return Err(ClientError::malformed(REQUEST, &reply)),
            };
            document.extend_from_slice(piece);
            if is_last {
                break;
            }
        }
        String::from_utf8(document)
            .map_err(|error| ClientError::malformed(REQUEST, error.as_bytes()))
    }

    /// Reads a whole file of the server's.
    ///
    /// # Errors
    /// As [`ClientError`] says; [`ClientError::Refused`] if the server has no such file.
    pub(crate) fn read_file(&mut self, path: &str) -> Result<Vec<u8>, ClientError> {
        let mut open = b"vFile:open:".to_vec();
        hex::append(path.as_bytes(), &mut open);
        open.extend_from_slice(b",0,0");
        let (fd, _) = self.file_request(&open, "vFile:open")?;
        let mut content = Vec::new();
        while content.len() < MAX_FILE_BYTES {
            let read = format!("vFile:pread:{fd:x},{PIECE_BYTES:x},{:x}", content.len());
            let (len, piece) = self.file_request(read.as_bytes(), "vFile:pread")?;
            if usize::try_from(len) != Ok(piece.len()) {
                return Err(ClientError::malformed("vFile:pread", &piece));
            }
            if piece.is_empty() {
                break;
            }
            content.extend_from_slice(&piece);
        }
        self.file_request(format!("vFile:close:{fd:x}").as_bytes(), "vFile:close")?;
        Ok(content)
    }

    /// Sends a file request and returns its result and its data.
    fn file_request(
        &mut self,
        payload: &[u8],
        request: &'static str,
    ) -> Result<(u64, Vec<u8>), ClientError> {
        let reply = self.ask(payload, request)?;
        let malformed = || ClientError::malformed(request, &reply);
        let rest = reply.strip_prefix(b"F").ok_or_else(malformed)?;
        if let Some(error) = rest.strip_prefix(b"-1,") {
            let text = format!("{request}: error {} of the server", error.escape_ascii());
            return Err(ClientError::Refused { text });
        }
        let end = rest.iter().position(|&byte| byte == b';');
        let (result, data) = match end.and_then(|end| rest.split_at_checked(end)) {
            Some((result, data)) => (result, data.get(1..).unwrap_or_default()),
            None => (rest, &[][..]),
        };
        let result = hex::parse_u64(result).map_err(|_| malformed())?;
        Ok((result, data.to_vec()))
    }

    /// Sends a request that must not be refused.
    fn ask(&mut self, payload: &[u8], request: &'static str) -> Result<Vec<u8>, ClientError> {
        let reply = self.request(payload, &mut |_| {})?;
        if reply.is_empty() {
            return Err(ClientError::Unsupported {
                address: self.address.clone(),
                request,
            });
        }
        match super::refusal(&reply) {
            Some(text) => Err(ClientError::Refused { text }),
            None => Ok(reply),
        }
    }
}
