//! What is wrong with the bytes of the other end.

use thiserror::Error;

/// An error of the protocol. The connection is of no more use.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum RedirError {
    /// A packet of this type is not known, or not without a capability that both have, or not from that side.
    #[error("usbredir: a packet of type {kind} is not to be sent here")]
    Type {
        /// Its type.
        kind: u32,
    },
    /// A packet is longer than any can be.
    #[error("usbredir: a packet of type {kind} says that {length} bytes follow; at most {limit} may")]
    TooLong {
        /// Its type.
        kind: u32,
        /// What it says.
        length: usize,
        /// The bound.
        limit: usize,
    },
    /// A packet's length does not fit its type, or the length that its head says.
    #[error("usbredir: a packet of type {kind} has {length} bytes, which does not fit what it says")]
    Length {
        /// Its type.
        kind: u32,
        /// Bytes behind its header.
        length: usize,
    },
    /// A field has a value that cannot be.
    #[error("usbredir: a packet of type {kind} says {what} {value}")]
    Value {
        /// Its type.
        kind: u32,
        /// Of what.
        what: &'static str,
        /// What it says.
        value: u64,
    },
    /// The first packet is no `hello`, or a later one is.
    #[error("usbredir: a packet of type {kind} where {expected} is due")]
    Order {
        /// Its type.
        kind: u32,
        /// What is due.
        expected: &'static str,
    },
    /// A filter that cannot be read.
    #[error("`{rule}` is no rule of a filter: write class:vendor:product:version:allow, with -1 for any")]
    Filter {
        /// The rule.
        rule: String,
    },
}
