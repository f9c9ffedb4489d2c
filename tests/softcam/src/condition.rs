//! What a test does to a camera: plug, switch, break. It is one value that changes; whoever talks to a client follows it.

use fleet_usbredir::Speed;

use crate::{Faults, Persona};

/// How a camera is at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Condition {
    /// Whether it is plugged in.
    pub plugged: bool,
    /// At which speed.
    pub speed: Speed,
    /// As what.
    pub persona: Persona,
    /// What is wrong with it.
    pub faults: Faults,
    /// Bytes a second that it sends at most.
    pub rate: Option<u64>,
    /// How often it was plugged in: another number is another device on the bus.
    pub(crate) plugs: u64,
    /// How often its connection was cut.
    pub(crate) cuts: u64,
}

impl Condition {
    pub(crate) fn new(persona: Persona, speed: Speed) -> Self {
        Self { plugged: true, speed, persona, faults: Faults::default(), rate: None, plugs: 1, cuts: 0 }
    }

    /// The number of the plugging, while it is plugged in.
    pub(crate) fn plug(&self) -> Option<u64> {
        self.plugged.then_some(self.plugs)
    }

    /// Out of its port.
    pub(crate) fn unplug(&mut self) {
        self.plugged = false;
    }

    /// Into a port; one that is plugged in is pulled out before.
    pub(crate) fn plug_in(&mut self, speed: Speed) {
        (self.plugged, self.speed) = (true, speed);
        self.plugs += 1;
    }

    /// Becomes another device, which shows at once if it is plugged in.
    pub(crate) fn switch(&mut self, persona: Persona) {
        if self.persona != persona {
            self.persona = persona;
            self.plugs += 1;
        }
    }
}
