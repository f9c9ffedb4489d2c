//! Mass storage, bulk only: a small disk that may only be read, behind as many SCSI commands as a host needs to mount it.
//!
//! A command block of 31 bytes comes, then data in its direction, then a status block of 13 bytes goes back. The disk is a
//! FAT file system with a label and no files.

use bytes::Bytes;

use crate::container::Container;

/// Bytes of a block.
const BLOCK: usize = 512;
/// Blocks of the disk: 1 MiB.
const BLOCKS: u32 = 2048;
/// Signatures of the two blocks.
const COMMAND: [u8; 4] = *b"USBC";
const STATUS: [u8; 4] = *b"USBS";
const COMMAND_LENGTH: usize = 31;

/// SCSI commands.
const TEST_UNIT_READY: u8 = 0x00;
const REQUEST_SENSE: u8 = 0x03;
const INQUIRY: u8 = 0x12;
const MODE_SENSE_6: u8 = 0x1a;
const START_STOP: u8 = 0x1b;
const PREVENT_REMOVAL: u8 = 0x1e;
const READ_CAPACITY: u8 = 0x25;
const READ_10: u8 = 0x28;
const WRITE_10: u8 = 0x2a;

/// Sense: key, and code with qualifier.
type Sense = (u8, u16);
const NO_SENSE: Sense = (0, 0);
const INVALID_COMMAND: Sense = (5, 0x2000);
const OUT_OF_RANGE: Sense = (5, 0x2100);
const WRITE_PROTECTED: Sense = (7, 0x2700);

/// Bytes that are no command block where one is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct NoCommand;

/// The disk and where its conversation is.
#[derive(Debug)]
pub(crate) struct Storage {
    disk: Bytes,
    sense: Sense,
    /// Data that the host still sends, and the status for its end.
    awaits: Option<(usize, Container)>,
}

impl Storage {
    pub(crate) fn new() -> Self {
        Self { disk: disk().into(), sense: NO_SENSE, awaits: None }
    }

    pub(crate) fn reset(&mut self) {
        (self.sense, self.awaits) = (NO_SENSE, None);
    }

    /// Takes one transfer of the host; gives what answers it.
    pub(crate) fn take(&mut self, bytes: &[u8]) -> Result<Vec<Container>, NoCommand> {
        if let Some((left, status)) = self.awaits.take() {
            if bytes.len() < left {
                self.awaits = Some((left - bytes.len(), status));
                return Ok(Vec::new());
            }
            return Ok(vec![status]);
        }
        let (Ok(block), true) = (<&[u8; COMMAND_LENGTH]>::try_from(bytes), bytes.starts_with(&COMMAND)) else {
            return Err(NoCommand);
        };
        let tag = [block[4], block[5], block[6], block[7]];
        let wanted = u32::from_le_bytes([block[8], block[9], block[10], block[11]]);
        let to_host = block[12] & 0x80 != 0;
        let answer = self.run(&block[15..]);
        self.sense =
            if block[15] == REQUEST_SENSE { NO_SENSE } else { answer.as_ref().err().copied().unwrap_or(NO_SENSE) };
        let failed = answer.is_err();
        let mut data = answer.unwrap_or_default();
        data.truncate(usize::try_from(wanted).unwrap_or(usize::MAX));
        let moved = u32::try_from(data.len()).unwrap_or(0);
        let mut status = [STATUS, tag, (wanted - moved).to_le_bytes()].concat();
        status.push(u8::from(failed));
        let status = Container::open(status.into());
        Ok(match (to_host, wanted) {
            (_, 0) => vec![status],
            // Less than was asked for ends with a short packet, an empty one if need be.
            (true, _) if moved < wanted => vec![Container::closed(Vec::new(), data), status],
            (true, _) => vec![Container::open(data), status],
            (false, _) => {
                self.awaits = Some((usize::try_from(wanted).unwrap_or(usize::MAX), status));
                Vec::new()
            }
        })
    }

    fn run(&self, command: &[u8]) -> Result<Bytes, Sense> {
        let byte = |at: usize| command.get(at).copied().unwrap_or(0);
        match byte(0) {
            TEST_UNIT_READY | START_STOP | PREVENT_REMOVAL => Ok(Bytes::new()),
            REQUEST_SENSE => {
                let (key, code) = self.sense;
                let [code, qualifier] = code.to_be_bytes();
                Ok(vec![0x70, 0, key, 0, 0, 0, 0, 10, 0, 0, 0, 0, code, qualifier, 0, 0, 0, 0].into())
            }
            INQUIRY if byte(1) & 1 == 0 => {
                let mut answer = vec![0, 0x80, 2, 2, 31, 0, 0, 0];
                answer.extend(b"NIKON   DSC D7000       1.00");
                Ok(answer.into())
            }
            // The bit says that it is write protected.
            MODE_SENSE_6 => Ok(Bytes::from_static(&[3, 0, 0x80, 0])),
            READ_CAPACITY => {
                let block = u32::try_from(BLOCK).unwrap_or(0);
                Ok([(BLOCKS - 1).to_be_bytes(), block.to_be_bytes()].concat().into())
            }
            READ_10 => {
                let from = u32::from_be_bytes([byte(2), byte(3), byte(4), byte(5)]);
                let end = from.saturating_add(u16::from_be_bytes([byte(7), byte(8)]).into());
                if end > BLOCKS {
                    return Err(OUT_OF_RANGE);
                }
                let at = |block: u32| usize::try_from(block).unwrap_or(usize::MAX).saturating_mul(BLOCK);
                Ok(self.disk.slice(at(from)..at(end)))
            }
            WRITE_10 => Err(WRITE_PROTECTED),
            _ => Err(INVALID_COMMAND),
        }
    }
}

/// FAT12: a boot sector, two tables of six blocks, a root folder of 32 blocks with a label in it.
fn disk() -> Vec<u8> {
    const TABLE: usize = 6;
    let mut disk = vec![0; BLOCK * BLOCKS as usize];
    let mut put = |at: usize, bytes: &[u8]| disk[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, &[0xeb, 0x3c, 0x90]);
    put(3, b"MSDOS5.0");
    put(11, &[0, 2, 1, 1, 0, 2, 0, 2, 0, 8, 0xf8, TABLE as u8, 0, 32, 0, 64, 0]);
    put(36, &[0x80, 0, 0x29, 0x12, 0x34, 0x56, 0x78]);
    put(43, b"NIKON D7000FAT12   ");
    put(510, &[0x55, 0xaa]);
    for table in [1, 1 + TABLE] {
        put(table * BLOCK, &[0xf8, 0xff, 0xff]);
    }
    put((1 + 2 * TABLE) * BLOCK, b"NIKON D7000\x08");
    disk
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn command(length: u32, to_host: bool, words: &[u8]) -> Vec<u8> {
        let mut bytes = [COMMAND, [1, 2, 3, 4], length.to_le_bytes()].concat();
        bytes.extend([if to_host { 0x80 } else { 0 }, 0, words.len() as u8]);
        bytes.extend(words);
        bytes.resize(COMMAND_LENGTH, 0);
        bytes
    }

    fn status(container: &Container) -> (u32, u8) {
        let bytes = container.to_vec();
        assert_eq!((bytes.len(), &bytes[..8]), (13, [STATUS, [1, 2, 3, 4]].concat().as_slice()));
        (u32::from_le_bytes(bytes[8..12].try_into().unwrap()), bytes[12])
    }

    #[test]
    fn its_blocks_are_read_and_not_written() {
        let mut storage = Storage::new();
        let capacity = storage.take(&command(8, true, &[READ_CAPACITY])).unwrap();
        assert_eq!((capacity[0].to_vec(), status(&capacity[1])), (vec![0, 0, 7, 0xff, 0, 0, 2, 0], (0, 0)));
        let read = storage.take(&command(1024, true, &[READ_10, 0, 0, 0, 0, 0, 0, 0, 2, 0])).unwrap();
        assert_eq!(
            (read[0].len(), &read[0].to_vec()[510..512], status(&read[1])),
            (1024, [0x55, 0xaa].as_slice(), (0, 0))
        );
        let behind = storage.take(&command(1024, true, &[READ_10, 0, 0, 0, 7, 0xff, 0, 0, 2, 0])).unwrap();
        assert_eq!((behind[0].len(), status(&behind[1])), (0, (1024, 1)));
        assert_eq!(storage.take(&command(512, false, &[WRITE_10, 0, 0, 0, 0, 0, 0, 0, 1, 0])), Ok(vec![]));
        assert_eq!(storage.take(&[0; 256]), Ok(vec![]), "half of the data");
        assert_eq!(status(&storage.take(&[0; 256]).unwrap()[0]), (512, 1));
        let sense = storage.take(&command(18, true, &[REQUEST_SENSE])).unwrap()[0].to_vec();
        assert_eq!((sense[2], sense[12]), (7, 0x27), "write protected");
    }

    #[test]
    fn what_is_no_command_is_refused() {
        assert_eq!(Storage::new().take(&[0; 31]), Err(NoCommand));
        assert_eq!(Storage::new().take(b"USBC"), Err(NoCommand));
    }
}
