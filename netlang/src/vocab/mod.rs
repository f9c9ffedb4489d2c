//! The vocabulary: every keyword and property of the language, what follows it, and what it means.
//!
//! The grammar knows only statements made of words. These tables say which words there are; the checker, the
//! documentation and completion are driven by them, so that they cannot drift apart. A new property is one entry here
//! and the code that uses its value.

mod experiment;
mod reference;
mod tables;
pub(crate) mod words;

pub(crate) use experiment::{actions_for, is_action_of};
pub use reference::{explain_word, reference, similar_word};
pub use tables::KEYWORDS;

/// What a word may stand for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ty {
    /// A whole number within bounds, both included.
    Int(i64, i64),
    /// A host number: the address is the network's first address plus this.
    HostNumber,
    /// `5ms`
    Duration,
    /// `128MiB`, in bytes.
    Size,
    /// `10Mbit`, in bits a second.
    Rate,
    /// `200pps`, in packets a second.
    PacketRate,
    /// `0.2%`
    Ratio,
    /// `10.0.0.0/8`
    Prefix,
    /// `10.0.0.7`
    Address,
    /// `/31`
    PrefixLen,
    /// `10..250`
    Range,
    /// A port or a range of them: `80`, `8000..8010`
    Ports,
    /// `"text"`
    Text,
    /// One of a few words.
    Choice(&'static [&'static str]),
    /// The name of something that was declared.
    Name(&'static [Kind]),
    /// The name of an image: declared in the file, or known to the image store.
    Image,
    /// VMs, routers, lans or a prefix: what a check or a rule talks about.
    Target,
    /// This very word.
    Word(&'static str),
    /// Names with commas between them, of things of these kinds; a link also by its ends: `fibre, a -- b`.
    Things(&'static [Kind]),
    /// The same, or some of them: `5% of t2[*]`, `1 of web`.
    SomeOf(&'static [Kind]),
}

/// Kinds of declared things.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Kind {
    /// `lan`
    Lan,
    /// `vm`
    Vm,
    /// `router`
    Router,
    /// `link … as NAME`
    Link,
    /// `external`
    External,
    /// `image`
    Image,
    /// `module`
    Module,
    /// A module put to use: `office hq { … }`.
    Instance,
    /// `param`
    Param,
    /// `let`
    Let,
    /// `experiment`
    Experiment,
}

impl Kind {
    /// The kind with its article, for messages.
    pub fn a(self) -> &'static str {
        match self {
            Kind::Lan => "a lan",
            Kind::Vm => "a vm",
            Kind::Router => "a router",
            Kind::Link => "a link",
            Kind::External => "an external network",
            Kind::Image => "an image",
            Kind::Module => "a module",
            Kind::Instance => "an instance of a module",
            Kind::Param => "a parameter",
            Kind::Let => "a `let`",
            Kind::Experiment => "an experiment",
        }
    }
}

impl Ty {
    /// The type with its article, for messages.
    pub fn a(self) -> String {
        match self {
            Ty::Int(..) => "a whole number".into(),
            Ty::HostNumber => "a host number".into(),
            Ty::Duration => "a duration".into(),
            Ty::Size => "a size".into(),
            Ty::Rate => "a rate".into(),
            Ty::PacketRate => "a packet rate".into(),
            Ty::Ratio => "a ratio".into(),
            Ty::Prefix => "a prefix".into(),
            Ty::Address => "an address".into(),
            Ty::PrefixLen => "a prefix length".into(),
            Ty::Range => "a range".into(),
            Ty::Ports => "a port or a range of ports".into(),
            Ty::Text => "a text in quotes".into(),
            Ty::Choice(words) => crate::text::any_of(words.iter().copied()),
            Ty::Name(kinds) => kinds.iter().map(|k| k.a()).collect::<Vec<_>>().join(" or "),
            Ty::Image => "the name of an image".into(),
            Ty::Target => "vms, routers, a lan or a prefix".into(),
            Ty::Word(word) => format!("`{word}`"),
            Ty::Things(kinds) | Ty::SomeOf(kinds) => Ty::Name(kinds).a(),
        }
    }
}

/// A positional argument of a property, or the argument of an option.
#[derive(Debug, Clone, Copy)]
pub struct Arg {
    /// What it is called in messages and documentation.
    pub name: &'static str,
    /// What it must be.
    pub ty: Ty,
    /// It may be left out.
    pub optional: bool,
    /// Several, with commas between them.
    pub many: bool,
}

/// A word that may follow the arguments of a property, with arguments of its own: `at 5`.
#[derive(Debug, Clone, Copy)]
pub struct Opt {
    /// The word.
    pub word: &'static str,
    /// What follows it.
    pub args: &'static [Arg],
}

/// Whether this version of fleet does what a word says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ready {
    /// It works.
    Yes,
    /// It is checked and planned, but what runs networks cannot do it yet: `up` refuses it, see
    /// [`Plan::unsupported`](crate::Plan::unsupported).
    NotYet,
}

/// A statement within a block.
#[derive(Debug, Clone, Copy)]
pub struct Property {
    /// The first word.
    pub word: &'static str,
    /// What follows it.
    pub args: &'static [Arg],
    /// Words that may follow in any order, each once.
    pub options: &'static [Opt],
    /// Properties of its own block; empty when it has none.
    pub block: &'static [Property],
    /// Instead of a block, one statement of it may follow on the same line: `at 30s fail radio`.
    pub inline: bool,
    /// It may be given more than once.
    pub repeat: bool,
    /// Whether it works.
    pub ready: Ready,
    /// One line of documentation.
    pub doc: &'static str,
}

impl Property {
    /// How the property is written, from its tables: `on LAN [at N] [dhcp]`.
    pub fn usage(&self) -> String {
        let mut usage = self.word.to_owned();
        push_args(&mut usage, self.args);
        for option in self.options {
            usage.push_str(" [");
            usage.push_str(option.word);
            push_args(&mut usage, option.args);
            usage.push(']');
        }
        if self.inline {
            usage.push_str(" ACTION | { … }");
        } else if !self.block.is_empty() {
            usage.push_str(" { … }");
        }
        usage
    }
}

impl Opt {
    /// How the option is written: `at NUMBER`.
    pub fn usage(&self) -> String {
        let mut usage = self.word.to_owned();
        push_args(&mut usage, self.args);
        usage
    }
}

fn push_args(usage: &mut String, args: &[Arg]) {
    for arg in args {
        let mut text = match arg.ty {
            Ty::Choice(words) => words.join("|"),
            Ty::Word(word) => word.to_owned(),
            Ty::SomeOf(_) => format!("[N of | N% of] {}", arg.name.to_uppercase()),
            _ => arg.name.to_uppercase(),
        };
        if arg.many || matches!(arg.ty, Ty::Things(_) | Ty::SomeOf(_)) {
            text.push_str(", …");
        }
        usage.push(' ');
        usage.push_str(&if arg.optional { format!("[{text}]") } else { text });
    }
}

/// A statement of a file or module.
#[derive(Debug, Clone, Copy)]
pub struct Keyword {
    /// The first word.
    pub word: &'static str,
    /// How its head is written.
    pub usage: &'static str,
    /// Properties of its block; empty when it has none.
    pub block: &'static [Property],
    /// May stand in a module, too.
    pub in_module: bool,
    /// Whether it works.
    pub ready: Ready,
    /// One line of documentation.
    pub doc: &'static str,
}

/// The keyword of a word.
pub fn keyword(word: &str) -> Option<&'static Keyword> {
    KEYWORDS.iter().find(|k| k.word == word)
}

/// A property of a block by its word.
pub fn property(block: &'static [Property], word: &str) -> Option<&'static Property> {
    block.iter().find(|p| p.word == word)
}
