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
    table: HashTable<Slot>,
    hasher: DefaultHashBuilder,
}

/// A name's symbol beside its hash, so that the table grows, and nearly always rejects, without a look at the text.
#[derive(Debug, Clone, Copy)]
struct Slot {
    hash: u32,
    symbol: u32,
}

impl Slot {
    /// The hash as the table wants it: 64 bits of which the highest and the lowest matter.
    fn spread(self) -> u64 {
        u64::from(self.hash) << 32 | u64::from(self.hash)
    }
}

impl Interner {
    /// Makes room for the names of a text of so many bytes: one in 32 bytes is what large network files have.
    pub(crate) fn reserve_for_text(&mut self, bytes: usize) {
        self.table.reserve(bytes / 32, |slot| slot.spread());
    }

    fn slot(&self, name: &str, symbol: u32) -> Slot {
        Slot { hash: self.hasher.hash_one(name) as u32, symbol }
    }

    fn find_slot(&self, wanted: Slot, name: &str) -> Option<Symbol> {
        let same = |slot: &Slot| slot.hash == wanted.hash && slice(&self.text, &self.ends, slot.symbol) == name;
        self.table.find(wanted.spread(), same).map(|slot| Symbol(slot.symbol))
    }

    /// The symbol of a name, new or old.
    pub(crate) fn intern(&mut self, name: &str) -> Symbol {
        let slot = self.slot(name, self.ends.len() as u32);
        if let Some(found) = self.find_slot(slot, name) {
            return found;
        }
        self.text.push_str(name);
        self.ends.push(self.text.len() as u32);
        self.table.insert_unique(slot.spread(), slot, |slot| slot.spread());
        Symbol(slot.symbol)
    }

    /// The symbol of a name that was interned before.
    pub(crate) fn find(&self, name: &str) -> Option<Symbol> {
        self.find_slot(self.slot(name, 0), name)
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
