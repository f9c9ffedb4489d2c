//! Messages on the wire: a header with the length, then JSON.
//!
//! Reading is not left to `lsp-server`, because its reader allots whatever length a header claims, and ends at the
//! first body that is no message. Here a length has a limit, and a bad body leaves the next message readable.

use std::io::{self, BufRead, Read, Write};

use lsp_server::{ErrorCode, Message};

/// Largest message, in bytes: a network file of that size has some millions of statements.
const MAX_MESSAGE: usize = 64 << 20;
/// Longest header line, in bytes.
const MAX_HEADER: u64 = 4096;

/// Something read from the wire.
#[derive(Debug)]
pub(crate) enum Incoming {
    Message(Message),
    /// A body that is no message; the next one can be read.
    Malformed(ErrorCode, String),
    /// Where the next message starts is not known any more.
    Broken(io::Error),
    /// The editor is gone.
    Closed,
}

/// Reads one message.
pub(crate) fn read(input: &mut impl BufRead) -> Incoming {
    match read_body(input) {
        Ok(None) => Incoming::Closed,
        Err(error) => Incoming::Broken(error),
        Ok(Some(body)) => match serde_json::from_slice::<serde_json::Value>(&body) {
            Err(error) => Incoming::Malformed(ErrorCode::ParseError, error.to_string()),
            Ok(value) => match serde_json::from_value(value) {
                Ok(message) => Incoming::Message(message),
                Err(_) => Incoming::Malformed(ErrorCode::InvalidRequest, "no request, answer or notification".into()),
            },
        },
    }
}

fn invalid(what: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, what.into())
}

fn read_body(input: &mut impl BufRead) -> io::Result<Option<Vec<u8>>> {
    let mut length = None;
    let mut line = Vec::new();
    loop {
        line.clear();
        if input.by_ref().take(MAX_HEADER).read_until(b'\n', &mut line)? == 0 {
            return Ok(None);
        }
        let text = std::str::from_utf8(&line).ok().and_then(|l| l.strip_suffix("\r\n"));
        let Some(text) = text else { return Err(invalid("a header line that does not end, or is no text")) };
        if text.is_empty() {
            break;
        }
        let (name, value) = text.split_once(':').ok_or_else(|| invalid("a header line without a colon"))?;
        if name.eq_ignore_ascii_case("content-length") {
            length = Some(value.trim().parse::<usize>().map_err(|_| invalid("a length that is no number"))?);
        }
    }
    let length = length.ok_or_else(|| invalid("a header without a length"))?;
    if length > MAX_MESSAGE {
        return Err(invalid(format!("a message of {length} bytes; the most is {MAX_MESSAGE}")));
    }
    let mut body = vec![0; length];
    input.read_exact(&mut body)?;
    Ok(Some(body))
}

/// Writes one message.
pub(crate) fn write(output: &mut impl Write, message: impl Into<Message>) -> io::Result<()> {
    message.into().write(output)
}

/// Answers what was no message: such an answer has no id, which `lsp-server` does not know.
pub(crate) fn write_malformed(output: &mut impl Write, code: ErrorCode, message: &str) -> io::Result<()> {
    let error = serde_json::json!({ "code": code as i32, "message": message });
    let body = serde_json::json!({ "jsonrpc": "2.0", "id": null, "error": error }).to_string();
    write!(output, "Content-Length: {}\r\n\r\n{body}", body.len())?;
    output.flush()
}
