//! What names stand for: the declarations of modules, and the instances made of them.

use crate::source::Span;
use crate::syntax::intern::{Interner, Symbol};
use crate::syntax::tree::StmtId;
use crate::vocab::Kind;
use hashbrown::HashMap;
use std::fmt::Write;

/// A declared name.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Decl {
    pub(crate) symbol: Symbol,
    pub(crate) kind: Kind,
    pub(crate) stmt: StmtId,
    pub(crate) span: Span,
    /// The module that a [`Kind::Instance`] is made of.
    pub(crate) module: u32,
}

/// The declarations of a module; module 0 is the file itself.
#[derive(Debug, Clone, Default)]
pub(crate) struct Module {
    pub(crate) name: Option<Symbol>,
    pub(crate) stmt: Option<StmtId>,
    pub(crate) decls: Vec<Decl>,
    pub(crate) table: HashMap<Symbol, u32>,
    /// Names of images, which are apart from all others.
    pub(crate) images: HashMap<Symbol, u32>,
}

impl Module {
    /// The declarations among which a name of a kind is unique.
    pub(crate) fn table_of(&self, kind: Kind) -> &HashMap<Symbol, u32> {
        if kind == Kind::Image { &self.images } else { &self.table }
    }
}

/// The rows that a declaration has in one instance, in the column of its kind.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rows {
    /// The first row. For a group of VMs the only one.
    pub(crate) base: u32,
    /// The lowest index.
    pub(crate) first: u32,
    /// How many elements; 1 for what is no array.
    pub(crate) count: u32,
    pub(crate) is_array: bool,
}

/// A module put to use; instance 0 is the file.
#[derive(Debug, Clone)]
pub(crate) struct Instance {
    pub(crate) parent: u32,
    /// Its declaration in the parent's module.
    pub(crate) decl: u32,
    pub(crate) index: Option<u32>,
    pub(crate) module: u32,
    /// One entry for each declaration of the module.
    pub(crate) rows: Vec<Rows>,
}

/// All names of a file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    pub(crate) interner: Interner,
    pub(crate) modules: Vec<Module>,
    pub(crate) instances: Vec<Instance>,
}

impl Names {
    /// The declaration of a name in an instance's module.
    pub(crate) fn find(&self, instance: u32, name: &str) -> Option<(u32, &Decl)> {
        let module = &self.modules[self.instances[instance as usize].module as usize];
        let decl = *module.table.get(&self.interner.find(name)?)?;
        Some((decl, &module.decls[decl as usize]))
    }

    /// Like [`Names::find`], for a name that is interned; outside of the file itself the file's names are seen, too.
    pub(crate) fn lookup(&self, instance: u32, symbol: Symbol) -> Option<(u32, u32, &Decl)> {
        let scopes = [instance, 0];
        let scopes = if instance == 0 { &scopes[..1] } else { &scopes[..] };
        scopes.iter().find_map(|scope| {
            let module = &self.modules[self.instances[*scope as usize].module as usize];
            let decl = *module.table.get(&symbol)?;
            Some((*scope, decl, &module.decls[decl as usize]))
        })
    }

    pub(crate) fn decl(&self, instance: u32, decl: u32) -> &Decl {
        &self.modules[self.instances[instance as usize].module as usize].decls[decl as usize]
    }

    pub(crate) fn rows(&self, instance: u32, decl: u32) -> Rows {
        self.instances[instance as usize].rows.get(decl as usize).copied().unwrap_or_default()
    }

    /// The path of an element: `t1[3].seg[0]`.
    pub(crate) fn path(&self, instance: u32, decl: u32, index: Option<u32>) -> String {
        let mut path = String::new();
        self.push_instance(&mut path, instance);
        path.push_str(self.interner.name(self.decl(instance, decl).symbol));
        push_index(&mut path, index);
        path
    }

    fn push_instance(&self, path: &mut String, instance: u32) {
        if instance == 0 {
            return;
        }
        let it = &self.instances[instance as usize];
        self.push_instance(path, it.parent);
        path.push_str(self.interner.name(self.decl(it.parent, it.decl).symbol));
        push_index(path, it.index);
        path.push('.');
    }

    /// The path of a declaration without indices, which is its key in the lock: `t1.seg`.
    pub(crate) fn plain_path(&self, instance: u32, decl: u32) -> String {
        let mut path = String::new();
        self.push_plain_path(&mut path, instance, decl);
        path
    }

    /// Appends [`Names::plain_path`].
    pub(crate) fn push_plain_path(&self, path: &mut String, instance: u32, decl: u32) {
        if instance != 0 {
            let it = &self.instances[instance as usize];
            self.push_plain_path(path, it.parent, it.decl);
            path.push('.');
        }
        path.push_str(self.interner.name(self.decl(instance, decl).symbol));
    }
}

fn push_index(path: &mut String, index: Option<u32>) {
    if let Some(index) = index {
        // Writing to a String cannot fail.
        let _ = write!(path, "[{index}]");
    }
}
