//! An editor's session with the server, over pipes.

#![allow(clippy::unwrap_used)]

use std::io::{BufReader, PipeReader, PipeWriter, Write};
use std::thread::JoinHandle;

use fleet_lsp::ServeError;
use lsp_server::{Message, Notification, Request, Response, ResponseError};
use serde_json::{Value, json};

const ENTERPRISE: &str = include_str!("../../tests/samples/enterprise.fleet");
const SMALL: &str = "let n = 4\nlan office = 10.1.0.0/24\nvm pc[i in 0..n] { on office at 20 + i }\n";

struct Editor {
    to: Option<PipeWriter>,
    from: BufReader<PipeReader>,
    server: JoinHandle<Result<(), ServeError>>,
    number: i32,
}

impl Editor {
    /// A server that nothing was said to.
    fn silent() -> Editor {
        let (server_in, to) = std::io::pipe().unwrap();
        let (from, server_out) = std::io::pipe().unwrap();
        let server = std::thread::spawn(move || fleet_lsp::serve(server_in, server_out));
        Editor { to: Some(to), from: BufReader::new(from), server, number: 0 }
    }

    fn new() -> Editor {
        let mut editor = Editor::silent();
        let greeting =
            editor.ask("initialize", json!({ "processId": null, "rootUri": null, "capabilities": {} })).unwrap();
        assert_eq!(greeting["capabilities"]["positionEncoding"], "utf-16");
        editor.tell("initialized", json!({}));
        editor
    }

    fn write(&mut self, message: impl Into<Message>) {
        message.into().write(self.to.as_mut().unwrap()).unwrap();
    }

    fn raw(&mut self, bytes: &[u8]) {
        self.to.as_mut().unwrap().write_all(bytes).unwrap();
    }

    fn body(&mut self, body: &str) {
        self.raw(format!("Content-Length: {}\r\n\r\n{body}", body.len()).as_bytes());
    }

    fn tell(&mut self, method: &str, params: Value) {
        self.write(Notification::new(method.into(), params));
    }

    fn read(&mut self) -> Message {
        Message::read(&mut self.from).unwrap().unwrap()
    }

    /// Asks, and reads until the answer.
    fn ask(&mut self, method: &str, params: Value) -> Result<Value, ResponseError> {
        self.number += 1;
        let id = self.number;
        self.write(Request::new(id.into(), method.into(), params));
        loop {
            if let Message::Response(Response { id: of, response_result }) = self.read() {
                assert_eq!(of, id.into());
                return response_result;
            }
        }
    }

    /// Reads the next diagnostics: version and list.
    fn diagnostics(&mut self) -> (i64, Vec<Value>) {
        loop {
            if let Message::Notification(note) = self.read() {
                assert_eq!(note.method, "textDocument/publishDiagnostics");
                let version = note.params["version"].as_i64().unwrap_or(-1);
                return (version, note.params["diagnostics"].as_array().unwrap().clone());
            }
        }
    }

    fn open(&mut self, uri: &str, text: &str) -> Vec<Value> {
        let document = json!({ "uri": uri, "languageId": "fleet", "version": 1, "text": text });
        self.tell("textDocument/didOpen", json!({ "textDocument": document }));
        self.diagnostics().1
    }

    fn change(&mut self, uri: &str, version: i32, change: Value) {
        let document = json!({ "uri": uri, "version": version });
        self.tell("textDocument/didChange", json!({ "textDocument": document, "contentChanges": [change] }));
    }

    /// Asks about a place.
    fn at(&mut self, method: &str, uri: &str, place: &Value, more: Value) -> Result<Value, ResponseError> {
        let mut params = json!({ "textDocument": { "uri": uri }, "position": place });
        params.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.ask(&format!("textDocument/{method}"), params)
    }

    fn end(mut self) {
        assert_eq!(self.ask("shutdown", Value::Null).unwrap(), Value::Null);
        self.tell("exit", Value::Null);
        self.server.join().unwrap().unwrap();
    }
}

/// Position of a word, and some characters more.
fn place(text: &str, word: &str, skip: usize) -> Value {
    let at = text.find(word).unwrap() + skip;
    let line = text[..at].matches('\n').count();
    let start = text[..at].rfind('\n').map_or(0, |n| n + 1);
    json!({ "line": line, "character": text[start..at].encode_utf16().count() })
}

/// A text after the edits of a workspace edit or of formatting.
fn edited(text: &str, edits: &Value) -> String {
    let offset = |p: &Value| {
        let (line, column) = (p["line"].as_u64().unwrap() as usize, p["character"].as_u64().unwrap() as usize);
        text.split_inclusive('\n').take(line).map(str::len).sum::<usize>() + column
    };
    let mut out = text.to_owned();
    for edit in edits.as_array().unwrap().iter().rev() {
        let range = offset(&edit["range"]["start"])..offset(&edit["range"]["end"]);
        out.replace_range(range, edit["newText"].as_str().unwrap());
    }
    out
}

fn labels(list: &Value) -> Vec<&str> {
    list.as_array().unwrap().iter().map(|i| i["label"].as_str().unwrap()).collect()
}

const URI: &str = "untitled:enterprise.fleet";

#[test]
fn a_session_from_greeting_to_exit() {
    let mut editor = Editor::new();
    let broken = ENTERPRISE.replace("{ on users dhcp }", "{ on usres dhcp }");
    let found = editor.open(URI, &broken);
    let error = found.iter().find(|d| d["code"] == "E0102").unwrap();
    assert_eq!(error["range"]["start"], place(&broken, "usres", 0));
    assert_eq!(error["severity"], 1);
    assert!(error["message"].as_str().unwrap().contains("did you mean `users`?"));
    assert_eq!(error["relatedInformation"][0]["location"]["range"]["start"], place(&broken, "users  = net", 0));

    let range = json!({ "start": error["range"]["start"], "end": error["range"]["start"] });
    let asked = json!({ "textDocument": { "uri": URI }, "range": range, "context": { "diagnostics": [error] } });
    let actions = editor.ask("textDocument/codeAction", asked).unwrap();
    assert_eq!(actions[0]["title"], "Replace `usres` by `users`");
    assert_eq!(edited(&broken, &actions[0]["edit"]["changes"][URI]), ENTERPRISE);

    editor.change(URI, 2, json!({ "range": error["range"], "text": "users" }));
    let (version, found) = editor.diagnostics();
    assert_eq!(version, 2);
    assert!(found.iter().all(|d| d["code"] != "E0102"), "{found:?}");

    let inside = place(ENTERPRISE, "image web; on front", 0);
    let offered = editor.at("completion", URI, &inside, json!({})).unwrap();
    assert!(labels(&offered).contains(&"hypervisor") && !labels(&offered).contains(&"mem"), "{offered}");
    let router = place(ENTERPRISE, "hq.gw     --", 3);
    let definition = editor.at("definition", URI, &router, json!({})).unwrap();
    assert_eq!(definition["range"]["start"], place(ENTERPRISE, "router gw", 7));
    let all = editor.at("references", URI, &router, json!({ "context": { "includeDeclaration": true } })).unwrap();
    assert!(all.as_array().unwrap().len() >= 5, "{all}");

    let ready = editor.at("prepareRename", URI, &router, json!({})).unwrap();
    assert_eq!(ready["placeholder"], "gw");
    let edit = editor.at("rename", URI, &router, json!({ "newName": "door" })).unwrap();
    let renamed = edited(ENTERPRISE, &edit["changes"][URI]);
    assert!(renamed.contains("router door {") && renamed.contains("link hq.door     -- dc.gw as fibre"), "{renamed}");
    let refused = editor.at("rename", URI, &router, json!({ "newName": "users" })).unwrap_err();
    assert!(refused.message.contains("`users` is taken"), "{}", refused.message);

    let symbols = editor.ask("textDocument/documentSymbol", json!({ "textDocument": { "uri": URI } })).unwrap();
    assert!(symbols.as_array().unwrap().iter().any(|s| s["name"] == "office" && s["children"][0]["name"] == "id"));
    let folds = editor.ask("textDocument/foldingRange", json!({ "textDocument": { "uri": URI } })).unwrap();
    assert!(folds.as_array().unwrap().len() > 4);
    editor.end();
}

#[test]
fn hover_shows_addresses_of_the_lock_beside_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("my net.fleet");
    let text = "lan office\nvm alice { on office }\n";
    let first = netlang::compile(
        &netlang::Source::new("my net", "lan early\nlan office\nvm alice { on office }\n"),
        &netlang::Lock::default(),
    );
    std::fs::write(folder.path().join("fleet.lock"), first.lock.to_string()).unwrap();
    let plan = first.plan.unwrap();
    let address = plan.vm(plan.find_group("alice").unwrap(), 0).unwrap().nics[0].ip.to_string();

    let uri = format!("file://{}", path.display()).replace(' ', "%20");
    let mut editor = Editor::new();
    assert_eq!(editor.open(&uri, text), Vec::<Value>::new());
    let hover = editor.at("hover", &uri, &place(text, "alice", 1), json!({})).unwrap();
    assert_eq!(hover["contents"]["kind"], "markdown");
    assert!(hover["contents"]["value"].as_str().unwrap().contains(&format!("{address}/")), "{address}: {hover}");

    std::fs::write(folder.path().join("fleet.lock"), "no lock at all").unwrap();
    editor.tell("textDocument/didSave", json!({ "textDocument": { "uri": uri } }));
    let (_, found) = editor.diagnostics();
    assert!(found[0]["message"].as_str().unwrap().contains("fleet.lock is damaged"), "{found:?}");
    editor.tell("textDocument/didClose", json!({ "textDocument": { "uri": uri } }));
    assert_eq!(editor.diagnostics().1, Vec::<Value>::new());
    editor.end();
}

#[test]
fn formatting_is_that_of_fmt_and_leaves_broken_text_alone() {
    let mut editor = Editor::new();
    let untidy = "lan a\n\n# é\nvm   x {   on a }\nvm y { on a }\n";
    editor.open(URI, untidy);
    let options = json!({ "textDocument": { "uri": URI }, "options": { "tabSize": 8, "insertSpaces": false } });
    let edits = editor.ask("textDocument/formatting", options.clone()).unwrap();
    assert_eq!(edits.as_array().unwrap().len(), 1);
    assert_eq!(edits[0]["range"]["start"]["line"], 3);
    assert_eq!(edited(untidy, &edits), netlang::format(untidy).unwrap());
    editor.change(URI, 2, json!({ "text": netlang::format(untidy).unwrap() }));
    assert_eq!(editor.ask("textDocument/formatting", options.clone()).unwrap(), json!([]));
    editor.change(URI, 3, json!({ "text": "vm x {  on" }));
    assert_eq!(editor.ask("textDocument/formatting", options).unwrap(), Value::Null);
    editor.end();
}

#[test]
fn columns_are_utf16() {
    let mut editor = Editor::new();
    let text = "lan a # 𝄞é\nvm x { on a } # 𝄞\n";
    editor.open(URI, text);
    // Behind the clef of the second line: two units.
    let end = json!({ "line": 1, "character": 18 });
    editor.change(URI, 2, json!({ "range": { "start": end, "end": end }, "text": "\nvm y { on b }" }));
    let (_, found) = editor.diagnostics();
    assert_eq!(
        found[0]["range"],
        json!({ "start": { "line": 2, "character": 10 }, "end": { "line": 2, "character": 11 } })
    );
    editor.end();
}

#[test]
fn a_fast_writer_is_told_about_the_newest_text() {
    let mut editor = Editor::new();
    editor.open(URI, SMALL);
    for version in 2..200 {
        let end = json!({ "line": 3, "character": 0 });
        editor.change(URI, version, json!({ "range": { "start": end, "end": end }, "text": "#" }));
    }
    let last = json!({ "line": 3, "character": 0 });
    editor.change(URI, 200, json!({ "range": { "start": last, "end": last }, "text": "frob\n" }));
    let mut before = 0;
    loop {
        let (version, found) = editor.diagnostics();
        assert!(version > before, "{version} after {before}");
        before = version;
        if version == 200 {
            assert_eq!(found[0]["code"], "E0101");
            break;
        }
    }
    editor.end();
}

#[test]
fn a_question_is_answered_on_the_newest_text() {
    let mut editor = Editor::new();
    editor.open(URI, SMALL);
    editor.change(URI, 2, json!({ "text": SMALL.replace("10.1.0.0", "10.9.0.0") }));
    let hover = editor.at("hover", URI, &place(SMALL, "pc[", 0), json!({})).unwrap();
    let text = hover["contents"]["value"].as_str().unwrap();
    assert!(text.contains("`pc[0..4]` eth0: 10.9.0.20/24 to 10.9.0.23/24, MAC 02:"), "{text}");
    editor.end();
}

#[test]
fn what_is_no_message_is_answered_and_the_session_goes_on() {
    let mut editor = Editor::new();
    for (body, code) in [("{ not json", -32700), ("[1, 2]", -32600), ("{\"id\": 7}", -32600), ("\u{0}", -32700)] {
        editor.body(body);
        // Its id is null, so it is no message of the library.
        let mut header = String::new();
        std::io::BufRead::read_line(&mut editor.from, &mut header).unwrap();
        std::io::BufRead::read_line(&mut editor.from, &mut String::new()).unwrap();
        let length = header.trim().rsplit(' ').next().unwrap().parse().unwrap();
        let mut answer = vec![0; length];
        std::io::Read::read_exact(&mut editor.from, &mut answer).unwrap();
        let answer: Value = serde_json::from_slice(&answer).unwrap();
        assert_eq!((answer["error"]["code"].clone(), answer["id"].clone()), (json!(code), Value::Null), "{body}");
    }
    let unknown = editor.ask("textDocument/frob", json!({})).unwrap_err();
    assert_eq!(unknown.code, -32601);
    let wrong = editor.ask("textDocument/hover", json!({ "position": 3 })).unwrap_err();
    assert_eq!(wrong.code, -32602);
    let closed = editor.at("hover", "untitled:other", &json!({ "line": 0, "character": 0 }), json!({})).unwrap_err();
    assert!(closed.message.contains("not open"));
    // Nobody to answer: ignored.
    editor.tell("textDocument/didChange", json!("frob"));
    editor.tell("$/setTrace", json!({ "value": "off" }));
    editor.change("untitled:other", 3, json!({ "text": "" }));
    editor.end();
}

#[test]
fn a_stream_that_is_no_protocol_ends_the_server() {
    for bytes in
        ["hello\n", "Content-Length: x\r\n\r\n", "Content-Length: 99999999999\r\n\r\n", "A: b\r\n\r\n", "\u{ff}\r\n"]
    {
        let mut editor = Editor::silent();
        editor.raw(bytes.as_bytes());
        assert!(matches!(editor.server.join().unwrap(), Err(ServeError::Protocol(_))), "{bytes}");
    }
}

#[test]
fn the_order_of_a_session_is_kept() {
    let mut editor = Editor::silent();
    assert_eq!(editor.ask("textDocument/hover", json!({})).unwrap_err().code, -32002);
    editor.ask("initialize", json!({ "capabilities": {} })).unwrap();
    assert_eq!(editor.ask("initialize", json!({ "capabilities": {} })).unwrap_err().code, -32600);
    editor.ask("shutdown", Value::Null).unwrap();
    assert_eq!(editor.ask("textDocument/hover", json!({})).unwrap_err().code, -32600);
    editor.tell("exit", Value::Null);
    editor.server.join().unwrap().unwrap();

    let mut rude = Editor::new();
    rude.tell("exit", Value::Null);
    assert!(matches!(rude.server.join().unwrap(), Err(ServeError::NoShutdown)));

    let mut gone = Editor::new();
    gone.to = None;
    gone.server.join().unwrap().unwrap();
}

#[test]
fn the_measured_file_is_right_and_as_long_as_asked() {
    let text = fleet_lsp::bench::file(2_000);
    assert_eq!(text.lines().count(), 2_000);
    let compilation = netlang::compile(&netlang::Source::new("company", text), &netlang::Lock::default());
    assert_eq!(compilation.diagnostics, []);
    assert!(fleet_lsp::bench::keystrokes(50).unwrap().len() > 10);
}
