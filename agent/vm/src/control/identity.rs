//! What makes a clone a guest of its own.

use std::time::{SystemTime, UNIX_EPOCH};

use fleet_wire::{MacAddress, ToGuest};

use crate::spec::VmSpec;
use crate::template::Origin;

/// Bytes of random seed for a clone: what the kernel's generator takes as a key.
const SEED: usize = 32;

/// The identity of a clone.
#[derive(Clone, Debug)]
pub(super) struct Identity {
    template: u64,
    macs: Vec<(MacAddress, MacAddress)>,
}

impl Identity {
    /// Of a VM that came from this template.
    pub(super) fn new(origin: Origin, spec: &VmSpec) -> Identity {
        let macs = origin.macs.into_iter().zip(spec.nics.iter().map(|nic| nic.mac)).collect();
        Identity { template: origin.boot_id, macs }
    }

    /// Whether a guest of this boot id is still the template.
    pub(super) fn is_template(&self, boot_id: u64) -> bool {
        self.template == boot_id
    }

    /// What the guest is told; drawn anew for each time.
    pub(super) fn message(&self) -> ToGuest {
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        ToGuest::Become {
            template: self.template,
            macs: self.macs.clone(),
            seed: random_bytes(),
            time_ns: u64::try_from(time.as_nanos()).unwrap_or(0),
        }
    }
}

/// Empty when the kernel has none to give, which it always has (getrandom(2)): no bytes rather than known ones.
fn random_bytes() -> Vec<u8> {
    let mut seed = vec![0; SEED];
    // SAFETY: pointer and length are those of a live buffer.
    let drawn = unsafe { libc::getrandom(seed.as_mut_ptr().cast(), seed.len(), 0) };
    if usize::try_from(drawn) == Ok(SEED) { seed } else { Vec::new() }
}
