//! How long a keystroke takes, measured from outside like an editor sees it.

use std::io::{self, BufReader, Write};
use std::time::{Duration, Instant};

use lsp_server::{Message, Notification, Request};
use serde_json::json;

/// Keystrokes that are measured.
const KEYSTROKES: usize = 100;

/// A network file of so many lines: offices as in a company, with groups, routers, links and checks.
pub fn file(lines: usize) -> String {
    let mut text = String::from("# a company\nlet corp = 10.0.0.0/8\npool link 172.16.0.0/12 each /31\n");
    let mut office = 0;
    while text.lines().count() + 10 <= lines {
        text.push_str(&format!(
            "lan users{office} = corp.sub(/24, {office}) {{ gateway gw{office} }}\n\
             vm pc{office}[i in 0..100] {{\n  on users{office} at 20 + i\n  cpu 1\n  mem 32MiB\n}}\n\
             router gw{office} {{ on users{office} at 1 }}\n"
        ));
        if office > 0 {
            text.push_str(&format!("link gw{office} -- gw0 {{ cost 5 }}\n"));
            text.push_str(&format!("check pc{office}[0] reaches pc0[0]\n"));
        }
        office += 1;
    }
    while text.lines().count() < lines {
        text.push_str("# and so on\n");
    }
    text
}

/// Opens a file of so many lines in a server of its own and types characters into it: the times from sending each
/// change to having read its diagnostics, sorted.
///
/// # Errors
/// When the server does not answer.
pub fn keystrokes(lines: usize) -> io::Result<Vec<Duration>> {
    let text = file(lines);
    let (server_input, mut to_server) = io::pipe()?;
    let (from_server, server_output) = io::pipe()?;
    let server = std::thread::spawn(move || crate::serve(server_input, server_output));
    let mut from_server = BufReader::new(from_server);
    let uri = "untitled:company.fleet";
    let mut send = |message: Message| message.write(&mut to_server);
    let note = |method: &str, params| Message::Notification(Notification::new(method.to_owned(), params));
    send(Request::new(0.into(), "initialize".into(), json!({ "capabilities": {} })).into())?;
    Message::read(&mut from_server)?;
    let document = json!({ "uri": uri, "languageId": "fleet", "version": 0, "text": text });
    send(note("textDocument/didOpen", json!({ "textDocument": document })))?;
    Message::read(&mut from_server)?;
    // At the end of a line in the middle of the file: a comment grows, letter by letter.
    let line = lines / 2;
    let column = text.lines().nth(line).map_or(0, |l| l.encode_utf16().count());
    let mut times = Vec::with_capacity(KEYSTROKES);
    for number in 0..KEYSTROKES {
        let letter = if number == 0 { " # " } else { "x" };
        let at = if number == 0 { column } else { column + 2 + number };
        let place = json!({ "line": line, "character": at });
        let change = json!({ "range": { "start": place, "end": place }, "text": letter });
        let document = json!({ "uri": uri, "version": number + 1 });
        let start = Instant::now();
        send(note("textDocument/didChange", json!({ "textDocument": document, "contentChanges": [change] })))?;
        Message::read(&mut from_server)?.ok_or_else(|| io::Error::other("the server ended"))?;
        times.push(start.elapsed());
    }
    to_server.flush()?;
    drop(to_server);
    server.join().map_err(|_| io::Error::other("the server died"))?.map_err(io::Error::other)?;
    times.sort();
    Ok(times)
}
