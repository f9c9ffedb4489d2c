//! Which names are seen where, and what the statements of a block are.
//!
//! Names are looked up in modules, not in their instances: a place of the text is the same in all of them.

use crate::plan::names::{Decl, Names};
use crate::syntax::intern::Symbol;
use crate::syntax::tree::StmtId;
use crate::vocab::{Keyword, Kind, Property, keyword, property};
use hashbrown::HashMap;

/// A declaration: the module that it is in (0 is the file) and its number there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct DeclId {
    pub(super) module: u32,
    pub(super) decl: u32,
}

/// What a block holds, and so what its statements may be.
#[derive(Debug, Clone, Copy)]
pub(super) enum Block {
    /// The file itself.
    File,
    /// The body of a module.
    Module,
    /// Properties; the keyword or property that has them.
    Properties(&'static str, &'static [Property]),
    /// Parameters of this module.
    Instance(u32),
    /// Something that the vocabulary does not know.
    Unknown,
}

/// The names of a file.
pub(super) struct Scopes {
    /// By module, whether it is an image (images have names of their own), and name.
    table: HashMap<(u32, bool, Symbol), u32>,
    modules: HashMap<Symbol, u32>,
    pub(super) module_of_stmt: HashMap<StmtId, u32>,
    pub(super) decl_of_stmt: HashMap<StmtId, DeclId>,
}

impl Scopes {
    pub(super) fn new(names: &Names) -> Scopes {
        let mut scopes = Scopes {
            table: HashMap::new(),
            modules: HashMap::new(),
            module_of_stmt: HashMap::new(),
            decl_of_stmt: HashMap::new(),
        };
        for (module, it) in (0u32..).zip(&names.modules) {
            if let (Some(name), Some(stmt)) = (it.name, it.stmt) {
                scopes.modules.entry(name).or_insert(module);
                scopes.module_of_stmt.insert(stmt, module);
            }
            for (decl, found) in (0u32..).zip(&it.decls) {
                scopes.table.entry((module, found.kind == Kind::Image, found.symbol)).or_insert(decl);
                scopes.decl_of_stmt.insert(found.stmt, DeclId { module, decl });
            }
        }
        scopes
    }

    /// The module of a name.
    pub(super) fn module(&self, name: Symbol) -> Option<u32> {
        self.modules.get(&name).copied()
    }

    /// A name that is declared in a module.
    pub(super) fn find(&self, module: u32, image: bool, name: Symbol) -> Option<DeclId> {
        self.table.get(&(module, image, name)).map(|decl| DeclId { module, decl: *decl })
    }

    /// A name that is seen from a module: its own, or one of the file.
    pub(super) fn lookup(&self, module: u32, image: bool, name: Symbol) -> Option<DeclId> {
        self.find(module, image, name).or_else(|| self.find(0, image, name))
    }
}

/// A declaration by its id.
pub(super) fn decl(names: &Names, id: DeclId) -> Option<&Decl> {
    names.modules.get(id.module as usize)?.decls.get(id.decl as usize)
}

/// A first word of a statement of a file or module, as the vocabulary knows it.
pub(super) fn keyword_in(block: Block, word: &str) -> Option<&'static Keyword> {
    matches!(block, Block::File | Block::Module).then(|| keyword(word)).flatten()
}

impl Block {
    /// The block of a statement in this one, by the statement's first words.
    pub(super) fn inside(self, names: &Names, scopes: &Scopes, first: &str, second: &str) -> Block {
        match self {
            Block::File | Block::Module => {
                if let Some(module) = names.interner.find(first).and_then(|s| scopes.module(s)) {
                    return Block::Instance(module);
                }
                // `default vm { … }` has the properties of what it is for.
                let of = keyword(if first == "default" { second } else { first });
                match of {
                    Some(it) if it.word == "module" => Block::Module,
                    Some(it) if !it.block.is_empty() => Block::Properties(it.word, it.block),
                    _ => Block::Unknown,
                }
            }
            Block::Properties(_, block) => match property(block, first) {
                Some(it) if !it.block.is_empty() => Block::Properties(it.word, it.block),
                _ => Block::Unknown,
            },
            Block::Instance(_) | Block::Unknown => Block::Unknown,
        }
    }
}
