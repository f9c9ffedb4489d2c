//! Content by its SHA-256: what waves carry that is large and the same for many, so that it is sent once to whoever
//! lacks it.
//!
//! The cache forgets what was used the longest ago when it is full. A wave holds what it needs by itself (`Bytes` are
//! counted references), so the cache can forget it without harm.

use std::collections::HashMap;

use bytes::Bytes;
use sha2::{Digest, Sha256};

/// A SHA-256.
pub type Hash = [u8; 32];

/// The name of this content.
pub fn hash_of(content: &[u8]) -> Hash {
    Sha256::digest(content).into()
}

/// Content that was seen, bounded in bytes.
#[derive(Debug)]
pub struct BlobCache {
    limit: usize,
    held: usize,
    clock: u64,
    blobs: HashMap<Hash, (Bytes, u64)>,
}

impl BlobCache {
    /// A cache of at most so many bytes of content.
    pub fn new(limit: usize) -> Self {
        Self { limit, held: 0, clock: 0, blobs: HashMap::new() }
    }

    /// What has this hash.
    pub fn get(&mut self, hash: &Hash) -> Option<Bytes> {
        self.clock += 1;
        let (content, used) = self.blobs.get_mut(hash)?;
        *used = self.clock;
        Some(content.clone())
    }

    /// Keeps content under its hash, which the caller has computed. What is larger than the whole cache is not kept.
    pub fn put(&mut self, hash: Hash, content: Bytes) {
        if content.len() > self.limit {
            return;
        }
        self.clock += 1;
        self.held += content.len();
        if let Some((old, _)) = self.blobs.insert(hash, (content, self.clock)) {
            self.held -= old.len();
        }
        while self.held > self.limit {
            let Some(oldest) = self.blobs.iter().min_by_key(|(_, (_, used))| *used).map(|(hash, _)| *hash) else {
                return;
            };
            if let Some((gone, _)) = self.blobs.remove(&oldest) {
                self.held -= gone.len();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_used_goes_first_and_the_bound_holds() {
        let mut cache = BlobCache::new(100);
        let blob = |byte: u8, len: usize| Bytes::from(vec![byte; len]);
        let name = |byte: u8| hash_of(&[byte]);
        cache.put(name(1), blob(1, 40));
        cache.put(name(2), blob(2, 40));
        assert_eq!(cache.get(&name(1)), Some(blob(1, 40)));
        cache.put(name(3), blob(3, 40));
        assert_eq!(cache.get(&name(2)), None);
        assert_eq!(cache.get(&name(1)), Some(blob(1, 40)));
        cache.put(name(3), blob(3, 40)); // again: not counted twice
        assert_eq!(cache.held, 80);
        cache.put(name(4), blob(4, 101)); // larger than all: not kept, and nothing goes for it
        assert_eq!((cache.get(&name(4)), cache.held), (None, 80));
    }
}
