//! The network language: syntax, checks, addresses and plan; pure.
