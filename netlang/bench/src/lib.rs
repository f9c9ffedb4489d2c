//! Parts of `make bench-lang`, and of the tests that bound what an input may cost.

pub mod counting;
pub mod inputs;
pub mod page;
