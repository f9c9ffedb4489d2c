//! The hosts of a wave, in order, with their encoding.
//!
//! A branch is a run of the list. `MemberList` has one repeated field, so the encoding of a run is a run of bytes of the
//! whole: a view takes it without copying, and whoever cuts the same branch out of the same list gets the same bytes and
//! the same hash. That is why a parent that adopts the branches of a dead child sends what the child would have sent.

use std::collections::HashSet;
use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use fleet_proto::v1::{Member, MemberList};
use prost::Message;
use thiserror::Error;

use crate::blobs::{Hash, hash_of};

/// Bytes before a member's own encoding: the tag of field 1, whose length follows.
const TAG: usize = 1;

/// Why a list of members is not one.
#[derive(Debug, Error, PartialEq, Eq)]
pub enum MembersError {
    /// No protobuf message.
    #[error("the list of members does not decode ({0}); run the same version of fleet on all hosts")]
    Decode(String),
    /// Another encoding of it exists: its runs would not be runs of bytes.
    #[error("the list of members is not encoded canonically; run the same version of fleet on all hosts")]
    NotCanonical,
    /// Nobody is in it.
    #[error("the list of members is empty; name one host at least")]
    Empty,
    /// One host would be told twice.
    #[error("host `{0}` stands twice in the list of members; list it once")]
    Twice(String),
}

/// A run of a list of members. Cheap to clone and to cut.
#[derive(Clone, Debug)]
pub struct Members {
    all: Arc<Whole>,
    run: Range<usize>,
}

#[derive(Debug)]
struct Whole {
    list: Vec<Member>,
    /// Where the encoding of each member begins, and where that of the last one ends.
    offsets: Vec<usize>,
    bytes: Bytes,
}

impl Members {
    /// A list of hosts. Those of one rack should stand together.
    ///
    /// # Errors
    /// When it is empty or a name stands in it twice.
    pub fn new(list: Vec<Member>) -> Result<Self, MembersError> {
        let list = MemberList { members: list };
        let bytes = Bytes::from(list.encode_to_vec());
        Self::of(list.members, bytes)
    }

    /// Reads an encoded `MemberList`.
    ///
    /// # Errors
    /// When it is none, is not canonical, is empty, or a name stands in it twice.
    pub fn decode(bytes: Bytes) -> Result<Self, MembersError> {
        let list = MemberList::decode(bytes.clone()).map_err(|error| MembersError::Decode(error.to_string()))?;
        if list.encode_to_vec() != bytes {
            return Err(MembersError::NotCanonical);
        }
        Self::of(list.members, bytes)
    }

    fn of(list: Vec<Member>, bytes: Bytes) -> Result<Self, MembersError> {
        if list.is_empty() {
            return Err(MembersError::Empty);
        }
        let mut names = HashSet::with_capacity(list.len());
        if let Some(twice) = list.iter().find(|member| !names.insert(member.name.as_str())) {
            return Err(MembersError::Twice(twice.name.clone()));
        }
        let mut end = 0;
        let mut offsets = Vec::with_capacity(list.len() + 1);
        offsets.push(0);
        for member in &list {
            let len = member.encoded_len();
            end += TAG + prost::length_delimiter_len(len) + len;
            offsets.push(end);
        }
        let run = 0..list.len();
        Ok(Self { all: Arc::new(Whole { list, offsets, bytes }), run })
    }

    /// The members, the head first.
    pub fn as_slice(&self) -> &[Member] {
        &self.all.list[self.run.clone()]
    }

    /// How many. Never 0 for a list that was made or read; a cut can be empty.
    pub fn len(&self) -> usize {
        self.run.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.run.is_empty()
    }

    /// The members at these positions, as a list of their own. What lies outside is left out.
    pub fn cut(&self, positions: Range<usize>) -> Self {
        let start = self.run.start.saturating_add(positions.start).min(self.run.end);
        let end = self.run.start.saturating_add(positions.end).clamp(start, self.run.end);
        Self { all: Arc::clone(&self.all), run: start..end }
    }

    /// The encoded `MemberList`.
    pub fn bytes(&self) -> Bytes {
        // `run` lies within the list, and there is one offset more than members.
        self.all.bytes.slice(self.all.offsets[self.run.start]..self.all.offsets[self.run.end])
    }

    /// SHA-256 of [`Members::bytes`]. Computed anew each time.
    pub fn hash(&self) -> Hash {
        hash_of(&self.bytes())
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn member(index: usize) -> Member {
        Member { name: format!("h{index}"), address: format!("10.0.0.{index}:7118"), rack: format!("r{}", index / 4) }
    }

    #[test]
    fn a_cut_is_encoded_as_if_it_had_been_made_alone() {
        let all = Members::new((0..300).map(member).collect()).unwrap();
        for run in [0..300, 0..1, 7..200, 299..300] {
            let cut = all.cut(run.clone());
            let alone = Members::new(run.map(member).collect()).unwrap();
            assert_eq!(cut.bytes(), alone.bytes());
            assert_eq!(cut.hash(), alone.hash());
            assert_eq!(Members::decode(cut.bytes()).unwrap().as_slice(), cut.as_slice());
        }
        assert_eq!(all.cut(10..20).cut(3..5).as_slice(), &all.as_slice()[13..15]);
        assert!(all.cut(300..400).is_empty());
    }

    #[test]
    fn what_is_no_list_is_refused() {
        assert_eq!(Members::new(Vec::new()).unwrap_err(), MembersError::Empty);
        assert_eq!(Members::new(vec![member(1), member(1)]).unwrap_err(), MembersError::Twice("h1".into()));
        assert!(matches!(Members::decode(Bytes::from_static(b"\xff\xff")), Err(MembersError::Decode(_))));
        // An unknown field: it decodes, but not to the same bytes.
        let mut odd = Members::new(vec![member(1)]).unwrap().bytes().to_vec();
        odd.extend([0x78, 1]);
        assert_eq!(Members::decode(odd.into()).unwrap_err(), MembersError::NotCanonical);
    }
}
