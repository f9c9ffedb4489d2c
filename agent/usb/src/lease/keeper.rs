//! The host's side of one lease.
//!
//! ```text
//!              attach            attached            gone
//!   LEASED ──────────► ATTACHING ─────────► ATTACHED ─────► LOST ◄─────────┐ gone
//!      ▲                   │                   ▲             │ back        │
//!      └───── failed ──────┴─── REATTACHING ───┘ ◄───────────┤        WRONG MODE
//!                                                            └─ back otherwise ─►
//!   detach, of any: DETACHING ─► HELD (the lease stays, the camera stays out) or ENDED
//! ```
//!
//! Orders of one lease are done one after the other, and are numbered; an answer names its order. Only the answer to the
//! newest counts, so a lease that is held or ended has no order left that could still bring the camera into its VM.

use serde::{Deserialize, Serialize};

use super::LeaseError;
use crate::device::Persona;

/// Where a lease is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// Lent, not in the VM: not asked for yet, or attaching failed.
    Leased,
    /// On its way into the VM.
    Attaching,
    /// In the VM, proved.
    Attached,
    /// Was in the VM and is not plugged in.
    Lost,
    /// Came back, on its way into the VM again.
    Reattaching,
    /// Plugged in in another mode than it was lent in.
    WrongMode(Persona),
    /// On its way out; then held, or ended.
    Detaching {
        /// Whether the lease stays.
        hold: bool,
    },
    /// Kept out of the VM, until it is attached again. Comings and goings change nothing.
    Held,
    /// The lease is over.
    Ended,
}

impl Phase {
    fn word(self) -> String {
        match self {
            Self::Leased => "leased".into(),
            Self::Attaching => "being attached".into(),
            Self::Attached => "attached".into(),
            Self::Lost => "lost".into(),
            Self::Reattaching => "being reattached".into(),
            Self::WrongMode(persona) => format!("in the wrong mode ({persona})"),
            Self::Detaching { .. } => "being detached".into(),
            Self::Held => "held".into(),
            Self::Ended => "no longer lent".into(),
        }
    }
}

/// What is asked, and what is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Bring it into the VM; as what it is plugged in now, if it is.
    Attach(Option<Persona>),
    /// The order with this number, an [`Act::Attach`], is done and proved.
    Attached(u64),
    /// The order with this number, an [`Act::Attach`], failed; nothing of it is in the VM.
    Failed(u64),
    /// It is not plugged in any more.
    Gone,
    /// It is plugged in, again or in another mode.
    Back(Persona),
    /// Take it out; `hold` keeps the lease.
    Detach {
        /// Whether the lease stays.
        hold: bool,
    },
    /// The order with this number, an [`Act::Detach`], is done.
    Detached(u64),
    /// The agent begins: as what it is plugged in, and whether the VM has it (or the remains of it).
    Restarted {
        /// As what it is plugged in.
        present: Option<Persona>,
        /// Whether the VM's device for it exists.
        in_vm: bool,
    },
}

/// What is to be done, after the record has been stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Act {
    /// Bring it into the VM and prove it; what remains there of an earlier attachment is replaced. Answer
    /// [`Event::Attached`] or [`Event::Failed`].
    Attach,
    /// Take the VM's device away; answer [`Event::Detached`]. What is not there is taken away already.
    Detach,
}

/// An act with its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Order {
    /// Higher than those before it, over restarts too.
    pub number: u64,
    /// What is to be done.
    pub act: Act,
}

/// One lease on its host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Keeper {
    /// The VM that has it.
    pub holder: String,
    /// The fencing epoch.
    pub epoch: u64,
    /// The mode in which it was lent.
    pub persona: Persona,
    phase: Phase,
    /// The number of the newest order.
    ordered: u64,
}

impl Keeper {
    /// A lease that begins.
    pub fn new(holder: impl Into<String>, epoch: u64, persona: Persona) -> Self {
        Self { holder: holder.into(), epoch, persona, phase: Phase::Leased, ordered: 0 }
    }

    /// Where it is.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// Takes in an event of the lease with this epoch. The caller stores the record, then does the order, if there is one.
    ///
    /// # Errors
    /// [`LeaseError::Stale`] for another epoch, [`LeaseError::Phase`] for what cannot be asked now; nothing is changed.
    pub fn step(&mut self, epoch: u64, event: Event) -> Result<Option<Order>, LeaseError> {
        if epoch != self.epoch {
            return Err(LeaseError::Stale { order: epoch, current: self.epoch });
        }
        let refused = |asked| Err(LeaseError::Phase { phase: self.phase.word(), asked });
        let (phase, act) = match (self.phase, event) {
            (Phase::Ended, Event::Attach(_)) => return refused("attached"),
            (Phase::Leased | Phase::Held | Phase::WrongMode(_), Event::Attach(present)) => {
                self.bring(present, Phase::Attaching)
            }
            // It is in the VM, or will be as soon as it can: that is what was asked.
            (Phase::Attaching | Phase::Attached | Phase::Reattaching | Phase::Lost, Event::Attach(_)) => {
                return Ok(None);
            }
            (Phase::Detaching { .. }, Event::Attach(_)) => return refused("attached"),

            (Phase::Attaching | Phase::Reattaching, Event::Attached(order)) if order == self.ordered => {
                (Phase::Attached, None)
            }
            (Phase::Attaching | Phase::Reattaching, Event::Failed(order)) if order == self.ordered => {
                (Phase::Leased, None)
            }

            // The VM's device for it would stay, and take no other: out with it.
            (Phase::Attaching | Phase::Attached | Phase::Reattaching, Event::Gone) => (Phase::Lost, Some(Act::Detach)),
            (Phase::WrongMode(_), Event::Gone) => (Phase::Lost, None),
            (Phase::Lost | Phase::WrongMode(_), Event::Back(persona)) => self.bring(Some(persona), Phase::Reattaching),
            (Phase::Attaching | Phase::Attached | Phase::Reattaching, Event::Back(persona)) => {
                // A mode switch within one look. The same mode: a replug within one look, which the VM does not survive.
                let next = if persona == self.persona { Phase::Reattaching } else { Phase::WrongMode(persona) };
                (next, Some(if persona == self.persona { Act::Attach } else { Act::Detach }))
            }

            (Phase::Ended, Event::Detach { .. }) => return Ok(None),
            // Once more, as after a failure; a lease that was to end does end.
            (Phase::Detaching { hold: was }, Event::Detach { hold }) => {
                (Phase::Detaching { hold: was && hold }, Some(Act::Detach))
            }
            // Also when it is not in the VM: an earlier order may be under way, and this one ends after it.
            (_, Event::Detach { hold }) => (Phase::Detaching { hold }, Some(Act::Detach)),
            (Phase::Detaching { hold }, Event::Detached(order)) if order == self.ordered => {
                (if hold { Phase::Held } else { Phase::Ended }, None)
            }

            (phase, Event::Restarted { present, in_vm }) => self.resume(phase, present, in_vm),

            // Late answers, and comings and goings of what nobody waits for.
            (_, Event::Attached(_) | Event::Failed(_) | Event::Gone | Event::Back(_) | Event::Detached(_)) => {
                return Ok(None);
            }
        };
        self.phase = phase;
        // 2^64 orders are never given; were they, the number would stay and an answer could count once too often.
        self.ordered = self.ordered.saturating_add(u64::from(act.is_some()));
        Ok(act.map(|act| Order { number: self.ordered, act }))
    }

    /// Into the VM if it is there in its mode.
    fn bring(&self, present: Option<Persona>, on_its_way: Phase) -> (Phase, Option<Act>) {
        match present {
            Some(persona) if persona == self.persona => (on_its_way, Some(Act::Attach)),
            Some(persona) => (Phase::WrongMode(persona), None),
            None => (Phase::Lost, None),
        }
    }

    /// After a restart nobody knows how an act ended, but what is so can be seen.
    fn resume(&self, phase: Phase, present: Option<Persona>, in_vm: bool) -> (Phase, Option<Act>) {
        let out = in_vm.then_some(Act::Detach);
        match phase {
            Phase::Leased | Phase::Held | Phase::Ended => (phase, out),
            Phase::Detaching { .. } => (phase, Some(Act::Detach)),
            // Attaching anew proves it: what is there in order is found so, what is a remainder is replaced.
            Phase::Attaching | Phase::Attached | Phase::Lost | Phase::Reattaching | Phase::WrongMode(_) => {
                let (next, act) = self.bring(present, Phase::Reattaching);
                (next, act.or(out))
            }
        }
    }
}
