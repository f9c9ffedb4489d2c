//! The responder: one session, one storage, files in one folder.
//!
//! A container is a length, a kind (command, data, response), a code, and the number of the transaction, then parameters or
//! data. A command is answered by data, if it has some, and a response. For a command with data from the host the
//! response comes after its data; what is refused is refused then, as the D7000 does it for uploads.

use bytes::Bytes;

use crate::container::Container;
use crate::dataset::Dataset;

/// Bytes of a container's head.
const HEAD: usize = 12;
/// A host's data beyond this is not stored; there is nothing here that takes as much.
const MAX_FROM_HOST: usize = 1 << 20;
const STORAGE: u32 = 0x0001_0001;
/// Formats: a folder, a JPEG.
const FOLDER: u16 = 0x3001;
const JPEG: u16 = 0x3801;

/// Kinds of containers.
const COMMAND: u16 = 1;
const DATA: u16 = 2;
const RESPONSE: u16 = 3;

/// Operations.
const GET_DEVICE_INFO: u16 = 0x1001;
const OPEN_SESSION: u16 = 0x1002;
const CLOSE_SESSION: u16 = 0x1003;
const GET_STORAGE_IDS: u16 = 0x1004;
const GET_STORAGE_INFO: u16 = 0x1005;
const GET_OBJECT_HANDLES: u16 = 0x1007;
const GET_OBJECT_INFO: u16 = 0x1008;
const GET_OBJECT: u16 = 0x1009;
const DELETE_OBJECT: u16 = 0x100b;
const SEND_OBJECT_INFO: u16 = 0x100c;
const SEND_OBJECT: u16 = 0x100d;
const SET_PROPERTY: u16 = 0x1016;
const GET_PARTIAL_OBJECT: u16 = 0x101b;
const OPERATIONS: &[u16] = &[
    GET_DEVICE_INFO,
    OPEN_SESSION,
    CLOSE_SESSION,
    GET_STORAGE_IDS,
    GET_STORAGE_INFO,
    GET_OBJECT_HANDLES,
    GET_OBJECT_INFO,
    GET_OBJECT,
    DELETE_OBJECT,
    SEND_OBJECT_INFO,
    SEND_OBJECT,
    SET_PROPERTY,
    GET_PARTIAL_OBJECT,
];

/// Responses.
const OK: u16 = 0x2001;
const NO_SESSION: u16 = 0x2003;
const NOT_SUPPORTED: u16 = 0x2005;
const BAD_STORAGE: u16 = 0x2008;
const BAD_HANDLE: u16 = 0x2009;
const ACCESS_DENIED: u16 = 0x200f;
const BAD_PARAMETER: u16 = 0x201d;
const SESSION_ALREADY_OPEN: u16 = 0x201e;

/// Bytes that are no containers of PTP, or not in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotPtp;

/// A picture on the card.
#[derive(Debug, Clone)]
pub struct File {
    /// Its name, as `DSC_0001.JPG`.
    pub name: String,
    /// What is in it.
    pub bytes: Bytes,
}

/// What the camera refuses, by Access Denied.
#[derive(Debug, Clone, Copy, Default)]
pub struct Policy {
    /// Whether settings may be changed. Uploads and removals never may.
    pub settings: bool,
}

/// A camera's end of PTP.
#[derive(Debug)]
pub struct Responder {
    serial: String,
    files: Vec<File>,
    policy: Policy,
    session: bool,
    /// A command whose data the host has to send, and its transaction.
    awaits: Option<(u16, u32)>,
    input: Vec<u8>,
    denied: u64,
}

impl Responder {
    /// A camera with these files; their handles are 2, 3, … in this order, and 1 is their folder.
    pub fn new(serial: &str, files: Vec<File>, policy: Policy) -> Self {
        Self { serial: serial.to_owned(), files, policy, session: false, awaits: None, input: Vec::new(), denied: 0 }
    }

    /// Forgets a session and half a container, as a reset of the device does.
    pub fn reset(&mut self) {
        (self.session, self.awaits, self.input) = (false, None, Vec::new());
    }

    /// How often it has answered Access Denied.
    pub fn denied(&self) -> u64 {
        self.denied
    }

    /// Takes bytes of the host; gives the containers that answer, in order.
    ///
    /// # Errors
    /// When the bytes are no PTP. A real camera halts its endpoint then, until [`Responder::reset`].
    pub fn take(&mut self, bytes: &[u8]) -> Result<Vec<Container>, NotPtp> {
        self.input.extend_from_slice(bytes);
        let mut answers = Vec::new();
        while let Some(head) = self.input.get(..HEAD) {
            let length = usize::try_from(word(head, 0)).unwrap_or(usize::MAX);
            if !(HEAD..=HEAD + MAX_FROM_HOST).contains(&length) {
                return Err(NotPtp);
            }
            if self.input.len() < length {
                break;
            }
            let rest = self.input.split_off(length);
            let container = std::mem::replace(&mut self.input, rest);
            self.container(&container, &mut answers)?;
        }
        Ok(answers)
    }

    fn container(&mut self, container: &[u8], answers: &mut Vec<Container>) -> Result<(), NotPtp> {
        let (kind, code, transaction) = (half(container, 4), half(container, 6), word(container, 8));
        match (kind, self.awaits.take()) {
            (COMMAND, _) if matches!(code, SEND_OBJECT_INFO | SEND_OBJECT | SET_PROPERTY) => {
                self.awaits = Some((code, transaction));
            }
            (COMMAND, _) => {
                let parameters = [word(container, 12), word(container, 16), word(container, 20)];
                let (response, data) = match self.answer(code, parameters) {
                    Ok(data) => (OK, data),
                    Err(response) => (response, None),
                };
                if let Some(data) = data {
                    answers.push(frame(DATA, code, transaction, data));
                }
                answers.push(self.respond(response, transaction));
            }
            (DATA, Some((waited, number))) if (waited, number) == (code, transaction) => {
                let allowed = code == SET_PROPERTY && self.policy.settings;
                let response = if !self.session {
                    NO_SESSION
                } else if allowed {
                    OK
                } else {
                    ACCESS_DENIED
                };
                answers.push(self.respond(response, transaction));
            }
            _ => return Err(NotPtp),
        }
        Ok(())
    }

    fn respond(&mut self, response: u16, transaction: u32) -> Container {
        self.denied += u64::from(response == ACCESS_DENIED);
        frame(RESPONSE, response, transaction, Bytes::new())
    }

    fn answer(&mut self, code: u16, [first, second, third]: [u32; 3]) -> Result<Option<Bytes>, u16> {
        match code {
            GET_DEVICE_INFO => return Ok(Some(self.device_info().into())),
            OPEN_SESSION if self.session => return Err(SESSION_ALREADY_OPEN),
            OPEN_SESSION if first == 0 => return Err(BAD_PARAMETER),
            OPEN_SESSION => {
                self.session = true;
                return Ok(None);
            }
            _ if !OPERATIONS.contains(&code) => return Err(NOT_SUPPORTED),
            _ if !self.session => return Err(NO_SESSION),
            _ => {}
        }
        let data: Vec<u8> = match code {
            CLOSE_SESSION => {
                self.session = false;
                return Ok(None);
            }
            GET_STORAGE_IDS => Dataset::default().handles(&[STORAGE]).0,
            GET_STORAGE_INFO if first == STORAGE => storage_info(),
            GET_STORAGE_INFO => return Err(BAD_STORAGE),
            GET_OBJECT_HANDLES if first == STORAGE || first == u32::MAX => {
                Dataset::default().handles(&self.handles(third)?).0
            }
            GET_OBJECT_HANDLES => return Err(BAD_STORAGE),
            GET_OBJECT_INFO => self.object_info(first)?,
            GET_OBJECT => return Ok(Some(self.file(first)?.bytes.clone())),
            GET_PARTIAL_OBJECT => {
                let bytes = &self.file(first)?.bytes;
                let at = |number: u32| usize::try_from(number).unwrap_or(usize::MAX).min(bytes.len());
                let from = at(second);
                return Ok(Some(bytes.slice(from..at(second.saturating_add(third)).max(from))));
            }
            DELETE_OBJECT => return Err(ACCESS_DENIED),
            _ => return Err(NOT_SUPPORTED),
        };
        Ok(Some(data.into()))
    }

    /// All objects (parent 0), those at the top (the highest number), or those of a folder.
    fn handles(&self, parent: u32) -> Result<Vec<u32>, u16> {
        let files = (2u32..).take(self.files.len());
        match parent {
            0 => Ok([1].into_iter().chain(files).collect()),
            u32::MAX => Ok(vec![1]),
            1 => Ok(files.collect()),
            _ => Err(BAD_HANDLE),
        }
    }

    fn file(&self, handle: u32) -> Result<&File, u16> {
        let index = handle.checked_sub(2).and_then(|index| usize::try_from(index).ok());
        index.and_then(|index| self.files.get(index)).ok_or(BAD_HANDLE)
    }

    fn object_info(&self, handle: u32) -> Result<Vec<u8>, u16> {
        let folder = (FOLDER, 0, "100NIKON", 0, 1);
        let (format, size, name, parent, association) = if handle == 1 {
            folder
        } else {
            let file = self.file(handle)?;
            (JPEG, u32::try_from(file.bytes.len()).unwrap_or(u32::MAX), file.name.as_str(), 1, 0)
        };
        let data = Dataset::default().u32(STORAGE).u16(format).u16(0).u32(size);
        // No thumbnail, and no size in pixels.
        let data = data.u16(0).u32(0).u32(0).u32(0).u32(0).u32(0).u32(0);
        let data = data.u32(parent).u16(association).u32(0).u32(0).text(name);
        Ok(data.text("20261124T120000").text("20261124T120000").text("").0)
    }

    fn device_info(&self) -> Vec<u8> {
        // Version 1.00; no vendor's extension.
        let data = Dataset::default().u16(100).u32(0).u16(0).text("").u16(0).codes(OPERATIONS);
        // No events, no properties, no captures; pictures are JPEGs.
        let data = data.codes(&[]).codes(&[]).codes(&[]).codes(&[JPEG, FOLDER]);
        data.text("Nikon Corporation").text("D7000").text("V1.04").text(&self.serial).0
    }
}

/// A card of 8 GB that may be read only, with a file system in folders.
fn storage_info() -> Vec<u8> {
    let data = Dataset::default().u16(4).u16(3).u16(1).u64(8 << 30).u64(4 << 30).u32(u32::MAX);
    data.text("Card").text("").0
}

fn frame(kind: u16, code: u16, transaction: u32, data: Bytes) -> Container {
    let length = u32::try_from(HEAD + data.len()).unwrap_or(u32::MAX);
    Container::closed(Dataset::default().u32(length).u16(kind).u16(code).u32(transaction).0, data)
}

/// A number, zero where the container ends before it: parameters that are not sent are zero.
fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).and_then(|bytes| bytes.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).and_then(|bytes| bytes.try_into().ok()).map_or(0, u16::from_le_bytes)
}
