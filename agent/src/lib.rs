//! The daemon of one host: the reconciler over the mechanisms.
