//! The interner that every file starts with: it knows the words of the vocabulary, so that they cost nothing more.

use super::{KEYWORDS, Property, Ty};
use crate::syntax::intern::Interner;
use std::sync::OnceLock;

/// An interner that holds the vocabulary.
pub(crate) fn seeded_interner() -> Interner {
    static SEED: OnceLock<Interner> = OnceLock::new();
    SEED.get_or_init(|| {
        let mut names = Interner::default();
        for keyword in KEYWORDS {
            names.intern(keyword.word);
            seed(&mut names, keyword.block);
        }
        names
    })
    .clone()
}

fn seed(names: &mut Interner, block: &[Property]) {
    for property in block {
        names.intern(property.word);
        for option in property.options {
            names.intern(option.word);
        }
        for arg in property.args {
            if let Ty::Choice(words) = arg.ty {
                for word in words {
                    names.intern(word);
                }
            }
        }
        seed(names, property.block);
    }
}
