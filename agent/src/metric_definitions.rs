//! Names of the agent's own metrics, as Prometheus shows them.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// VMs by `experiment` and `state`.
pub const VMS: &str = "fleet_vms";
/// Seconds from the making of a VM's process to its guest's first settings.
pub const BOOT_SECONDS: &str = "fleet_vm_boot_seconds";
/// VMs that may be starting at once.
pub const START_PLACES: &str = "fleet_start_places";
/// VMs that failed and are tried again.
pub const VM_RETRIES: &str = "fleet_vm_retries_total";
/// VMs that failed.
pub const VM_FAILURES: &str = "fleet_vm_failures_total";
/// Events that were lost because nobody stored them for too long.
pub const EVENTS_LOST: &str = "fleet_events_lost_total";
/// VMs whose processes could not be read at a sampling.
pub const SAMPLES_MISSING: &str = "fleet_samples_missing_total";

/// Bytes that merging saves on this host.
pub const KSM_SAVED: &str = "fleet_ksm_saved_bytes";
/// Share of one core that ksmd is given, 0 to 1.
pub const KSM_SHARE: &str = "fleet_ksm_share";
/// 1 for the `phase` that KSM's regulator is in, 0 for the others.
pub const KSM_PHASE: &str = "fleet_ksm_phase";

/// Tells the recorder what the metrics mean.
pub fn describe() {
    describe_gauge!(VMS, Unit::Count, "VMs by experiment and state");
    describe_histogram!(BOOT_SECONDS, Unit::Seconds, "From the making of a VM's process to its settings in force");
    describe_gauge!(START_PLACES, Unit::Count, "VMs that may be starting at once");
    describe_counter!(VM_RETRIES, Unit::Count, "VMs that failed and are tried again");
    describe_counter!(VM_FAILURES, Unit::Count, "VMs that failed");
    describe_counter!(EVENTS_LOST, Unit::Count, "Events lost because nobody stored them for too long");
    describe_gauge!(KSM_SAVED, Unit::Bytes, "Memory that merging of equal pages saves on this host");
    describe_gauge!(KSM_SHARE, "Share of one core that ksmd is given");
    describe_gauge!(KSM_PHASE, "1 for the phase that the regulator of KSM is in");
    describe_counter!(SAMPLES_MISSING, Unit::Count, "VMs whose processes could not be read at a sampling");
}
