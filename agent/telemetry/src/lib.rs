//! What a host measures of itself, its VMs and their ports.
