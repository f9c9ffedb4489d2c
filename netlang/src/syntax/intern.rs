//! Names as small numbers. All names live in one string; a [`Symbol`] is an index into it.

use hashbrown::{DefaultHashBuilder, HashTable};
use std::hash::BuildHasher;

/// An interned name; equal names of one [`Interner`] have equal symbols.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Symbol(pub(crate) u32);

/// The store of names of one file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Interner {
    text: String,
    ends: Vec<u32>,
    table: HashTable<u32>,
    hasher: DefaultHashBuilder,
}

impl Interner {
    /// The symbol of a name, new or old.
    pub(crate) fn intern(&mut self, name: &str) -> Symbol {
        let hash = self.hasher.hash_one(name);
        let (text, ends) = (&self.text, &self.ends);
        if let Some(found) = self.table.find(hash, |s| slice(text, ends, *s) == name) {
            return Symbol(*found);
        }
        let symbol = self.ends.len() as u32;
        self.text.push_str(name);
        self.ends.push(self.text.len() as u32);
        let (text, ends, hasher) = (&self.text, &self.ends, &self.hasher);
        self.table.insert_unique(hash, symbol, |s| hasher.hash_one(slice(text, ends, *s)));
        Symbol(symbol)
    }

    /// The symbol of a name that was interned before.
    pub(crate) fn find(&self, name: &str) -> Option<Symbol> {
        let hash = self.hasher.hash_one(name);
        self.table.find(hash, |s| slice(&self.text, &self.ends, *s) == name).map(|s| Symbol(*s))
    }

    /// The name of a symbol.
    pub(crate) fn name(&self, symbol: Symbol) -> &str {
        slice(&self.text, &self.ends, symbol.0)
    }
}

fn slice<'a>(text: &'a str, ends: &[u32], symbol: u32) -> &'a str {
    let i = symbol as usize;
    let start = if i == 0 { 0 } else { ends[i - 1] };
    &text[start as usize..ends[i] as usize]
}
