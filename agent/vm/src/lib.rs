//! Virtual machines as processes: hypervisors, launching, adoption, control.
