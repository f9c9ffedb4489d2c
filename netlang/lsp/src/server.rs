//! The loop: takes messages from the queue, answers, and publishes diagnostics when nothing waits.

use std::io::{self, BufRead, Write};
use std::sync::mpsc::{Receiver, TryRecvError, sync_channel};

use gen_lsp_types::{
    DidChangeTextDocumentNotification, DidChangeWatchedFilesNotification, DidCloseTextDocumentNotification,
    DidOpenTextDocumentNotification, DidSaveTextDocumentNotification, Notification as _,
    PublishDiagnosticsNotification, PublishDiagnosticsParams, Uri,
};
use lsp_server::{ErrorCode, Message, Notification, Request, Response};

use crate::documents::Documents;
use crate::wire::{self, Incoming};
use crate::{answers, convert};

/// Messages that wait at most; then the editor has to.
const QUEUE: usize = 64;

/// Why the server ended.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The editor sent what cannot be understood as messages.
    #[error("the editor does not speak the language server protocol: {0}; is this run by an editor?")]
    Protocol(io::Error),
    /// The editor cannot be written to.
    #[error("cannot write to the editor: {0}")]
    Output(#[from] io::Error),
    /// The editor said `exit` before `shutdown`.
    #[error("the editor left without `shutdown`")]
    NoShutdown,
}

/// How far the session is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Fresh,
    Running,
    ShutDown,
}

struct Server<W> {
    output: W,
    state: State,
    documents: Documents,
}

/// Runs a session.
pub(crate) fn run(mut input: impl BufRead + Send + 'static, output: impl Write) -> Result<(), ServeError> {
    let (sender, queue) = sync_channel(QUEUE);
    // The thread ends with the editor's pipe, or with the queue.
    std::thread::spawn(move || {
        loop {
            let incoming = wire::read(&mut input);
            let last = matches!(incoming, Incoming::Closed | Incoming::Broken(_));
            if sender.send(incoming).is_err() || last {
                return;
            }
        }
    });
    Server { output, state: State::Fresh, documents: Documents::default() }.serve(&queue)
}

impl<W: Write> Server<W> {
    fn serve(&mut self, queue: &Receiver<Incoming>) -> Result<(), ServeError> {
        loop {
            let incoming = match queue.try_recv() {
                Ok(incoming) => incoming,
                Err(TryRecvError::Empty) => {
                    self.publish()?;
                    queue.recv().unwrap_or(Incoming::Closed)
                }
                Err(TryRecvError::Disconnected) => Incoming::Closed,
            };
            match incoming {
                Incoming::Message(Message::Request(request)) => {
                    let response = self.answer(request);
                    wire::write(&mut self.output, response)?;
                }
                Incoming::Message(Message::Notification(note)) if note.method == "exit" => {
                    return if self.state == State::ShutDown { Ok(()) } else { Err(ServeError::NoShutdown) };
                }
                Incoming::Message(Message::Notification(note)) if self.state == State::Running => self.note(note)?,
                // The server asks nothing, so answers are to nobody.
                Incoming::Message(_) => {}
                Incoming::Malformed(code, message) => wire::write_malformed(&mut self.output, code, &message)?,
                Incoming::Broken(error) => {
                    wire::write_malformed(&mut self.output, ErrorCode::ParseError, &error.to_string())?;
                    return Err(ServeError::Protocol(error));
                }
                Incoming::Closed => return Ok(()),
            }
        }
    }

    fn answer(&mut self, request: Request) -> Response {
        let refuse =
            |code: ErrorCode, message: &str| Response::new_err(request.id.clone(), code as i32, message.into());
        match (self.state, request.method.as_str()) {
            (State::Fresh, "initialize") => {
                self.state = State::Running;
                Response::new_ok(request.id, convert::greeting())
            }
            (State::Fresh, _) => refuse(ErrorCode::ServerNotInitialized, "`initialize` comes first"),
            (State::Running, "initialize") => refuse(ErrorCode::InvalidRequest, "this session is initialized"),
            (State::Running, "shutdown") => {
                self.state = State::ShutDown;
                Response::new_ok(request.id, ())
            }
            (State::Running, _) => answers::answer(&mut self.documents, request),
            (State::ShutDown, _) => refuse(ErrorCode::InvalidRequest, "the session is shut down"),
        }
    }

    /// Takes a notification. What is not known, or has wrong parameters, is ignored: there is nobody to answer.
    fn note(&mut self, note: Notification) -> io::Result<()> {
        if let Some(it) = params::<DidOpenTextDocumentNotification>(&note) {
            self.documents.open(it.text_document.uri, it.text_document.version, it.text_document.text);
        } else if let Some(it) = params::<DidChangeTextDocumentNotification>(&note) {
            let id = it.text_document;
            self.documents.change(&id.text_document_identifier.uri, id.version, it.content_changes);
        } else if let Some(it) = params::<DidSaveTextDocumentNotification>(&note) {
            // `fleet up` may have written the lock since.
            self.documents.touch(&it.text_document.uri);
        } else if params::<DidChangeWatchedFilesNotification>(&note).is_some() {
            self.documents.touch_all();
        } else if let Some(it) = params::<DidCloseTextDocumentNotification>(&note) {
            self.documents.close(&it.text_document.uri);
            self.send_diagnostics(it.text_document.uri, None, Vec::new())?;
        }
        Ok(())
    }

    /// Publishes the diagnostics of every document that changed since.
    fn publish(&mut self) -> io::Result<()> {
        while let Some(uri) = self.documents.next_stale() {
            let Some(document) = self.documents.get(&uri) else { continue };
            let (version, diagnostics) = (document.version, convert::diagnostics(&uri, document));
            self.send_diagnostics(uri, Some(version), diagnostics)?;
        }
        Ok(())
    }

    fn send_diagnostics(
        &mut self,
        uri: Uri,
        version: Option<i32>,
        diagnostics: Vec<gen_lsp_types::Diagnostic>,
    ) -> io::Result<()> {
        let params = PublishDiagnosticsParams { uri, version, diagnostics };
        let method = PublishDiagnosticsNotification::METHOD.as_str().to_owned();
        wire::write(&mut self.output, Notification::new(method, params))
    }
}

/// The parameters of a notification, if it is of this kind and they are right.
fn params<N: gen_lsp_types::Notification>(note: &Notification) -> Option<N::Params> {
    if note.method != N::METHOD.as_str() {
        return None;
    }
    serde_json::from_value(note.params.clone()).ok()
}
