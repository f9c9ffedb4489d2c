//! The open documents, each with its newest text and, once somebody asked, its analysis.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};

use gen_lsp_types::{TextDocumentContentChangeEvent as Change, Uri};
use netlang::ide::{Analysis, Position, Positions};
use netlang::{Lock, Source};

/// Name of the file, beside the network files, that keeps addresses where they are.
const LOCK_FILE: &str = "fleet.lock";

/// An open document.
pub(crate) struct Document {
    pub(crate) version: i32,
    text: String,
    /// Experiment name: the file's stem.
    name: String,
    lock_path: Option<PathBuf>,
    analysis: Option<Analyzed>,
}

/// A document worked out.
struct Analyzed {
    analysis: Analysis,
    /// Why the lock beside the file was not used.
    lock_error: Option<String>,
}

impl Document {
    fn new(uri: &Uri, version: i32, text: String) -> Document {
        let path = uri.to_file_path().ok();
        let last = uri.path_segments().and_then(|mut s| s.next_back()).unwrap_or("").to_owned();
        let stem = path.as_deref().unwrap_or(Path::new(&last)).file_stem();
        let name = stem.map(|s| s.to_string_lossy().into_owned()).unwrap_or_default();
        Document { version, text, name, lock_path: path.map(|p| p.with_file_name(LOCK_FILE)), analysis: None }
    }

    fn change(&mut self, change: Change) {
        match change {
            Change::TextDocumentContentChangeWholeDocument(whole) => self.text = whole.text,
            Change::TextDocumentContentChangePartial(part) => {
                let positions = Positions::new(&self.text);
                let at = |p: gen_lsp_types::Position| {
                    positions.offset(&self.text, Position { line: p.line, column: p.character }) as usize
                };
                let (start, end) = (at(part.range.start), at(part.range.end));
                self.text.replace_range(start.min(end)..end.max(start), &part.text);
            }
        }
    }

    /// The document worked out, and why its lock was not used, if it was not.
    pub(crate) fn analysis(&mut self) -> (&Analysis, Option<&str>) {
        let Document { text, name, lock_path, analysis, .. } = self;
        let it = analysis.get_or_insert_with(|| {
            let (lock, lock_error) = match lock_path.as_deref().map(read_lock).unwrap_or(Ok(Lock::default())) {
                Ok(lock) => (lock, None),
                Err(error) => (Lock::default(), Some(error)),
            };
            Analyzed { analysis: Analysis::new(Source::new(name.clone(), text.clone()), &lock), lock_error }
        });
        (&it.analysis, it.lock_error.as_deref())
    }
}

/// Reads a lock; one that is not there is empty.
fn read_lock(path: &Path) -> Result<Lock, String> {
    match std::fs::read_to_string(path) {
        Ok(text) => Lock::parse(&text).map_err(|error| format!("{LOCK_FILE} is damaged: {error}")),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Lock::default()),
        Err(error) => Err(format!("cannot read {LOCK_FILE}: {error}")),
    }
}

/// All open documents.
#[derive(Default)]
pub(crate) struct Documents {
    open: HashMap<Uri, Document>,
    /// Those whose diagnostics are to be published.
    stale: BTreeSet<Uri>,
}

impl Documents {
    pub(crate) fn open(&mut self, uri: Uri, version: i32, text: String) {
        self.open.insert(uri.clone(), Document::new(&uri, version, text));
        self.stale.insert(uri);
    }

    pub(crate) fn change(&mut self, uri: &Uri, version: i32, changes: Vec<Change>) {
        let Some(document) = self.open.get_mut(uri) else { return };
        document.version = version;
        changes.into_iter().for_each(|change| document.change(change));
        self.touch(uri);
    }

    pub(crate) fn close(&mut self, uri: &Uri) {
        self.open.remove(uri);
        self.stale.remove(uri);
    }

    /// Has a document worked out again.
    pub(crate) fn touch(&mut self, uri: &Uri) {
        if let Some(document) = self.open.get_mut(uri) {
            document.analysis = None;
            self.stale.insert(uri.clone());
        }
    }

    /// Has all documents worked out again.
    pub(crate) fn touch_all(&mut self) {
        for uri in self.open.keys().cloned().collect::<BTreeSet<Uri>>() {
            self.touch(&uri);
        }
    }

    pub(crate) fn get(&mut self, uri: &Uri) -> Option<&mut Document> {
        self.open.get_mut(uri)
    }

    /// Takes one of the documents whose diagnostics are to be published.
    pub(crate) fn next_stale(&mut self) -> Option<Uri> {
        self.stale.pop_first()
    }
}
