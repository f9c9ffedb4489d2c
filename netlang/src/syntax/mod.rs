//! Syntax: text to tokens to a compact tree, and back to well-laid-out text.
//!
//! There is one statement form (`word… [block]`); what a word means is the business of [`crate::vocab`]. The tree
//! is an arena of small nodes that hold byte offsets and interned names, never strings, so that a file of a million
//! statements stays small. The parser recovers at the end of a statement and goes on, and nothing in here recurses
//! deeper than fixed limits allow, whatever the input.

pub(crate) mod format;
pub(crate) mod intern;
pub(crate) mod lexer;
pub(crate) mod parser;
pub(crate) mod tree;
