//! Tests that cross crates: real VMs, faults, clean ends.
