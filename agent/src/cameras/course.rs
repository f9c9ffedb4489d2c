//! One lease, from what is seen of camera and VM. Pure: looks go in, events of the [`Keeper`] come out.
//!
//! To the keeper a camera is there when it can be brought into its VM: it is plugged in, its host is reached, and the VM
//! runs. So a VM that is stopped and one that is restarted are to it what an unplugged camera and a replugged one are, and
//! one way back serves all of them.

use fleet_usb::Persona;
use fleet_usb::lease::{Event, Keeper, Phase};

/// What can be brought where.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Visible {
    /// How the camera presents itself.
    pub persona: Persona,
    /// Which plugging in it is.
    pub plugged: u64,
    /// The VM's process.
    pub pid: u32,
}

/// What was seen last, to compare with.
#[derive(Clone, Copy, Debug, Default)]
pub struct Course {
    before: Option<Visible>,
}

impl Course {
    /// A look: what the keeper is to be told, if anything.
    pub fn see(&mut self, keeper: &Keeper, now: Option<Visible>) -> Option<Event> {
        let before = std::mem::replace(&mut self.before, now);
        match (before, now) {
            (before, now) if before == now => None,
            // Meant to be in the VM, and out of it because that failed or nobody has asked yet.
            (_, Some(now)) if keeper.phase() == Phase::Leased => Some(Event::Attach(Some(now.persona))),
            (_, Some(now)) => Some(Event::Back(now.persona)),
            (_, None) if keeper.phase() == Phase::Leased => Some(Event::Attach(None)),
            (_, None) => Some(Event::Gone),
        }
    }

    /// The conversation with it broke: it counts as gone, and as back with the next look that sees it.
    pub fn broke(&mut self) -> Event {
        self.before = None;
        Event::Gone
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use fleet_usb::lease::{Act, Order};
    use proptest::prelude::*;

    /// What happens to a lease.
    #[derive(Clone, Debug)]
    enum Happening {
        Seen(Option<(bool, u64, u32)>),
        Done(bool),
        Broke,
        Hold,
        Attach,
        Restart,
    }

    fn happening() -> impl Strategy<Value = Happening> {
        prop_oneof![
            prop::option::of((any::<bool>(), 0u64..3, 1u32..3)).prop_map(Happening::Seen),
            any::<bool>().prop_map(Happening::Done),
            Just(Happening::Broke),
            Just(Happening::Hold),
            Just(Happening::Attach),
            Just(Happening::Restart),
        ]
    }

    fn visible((right, plugged, pid): (bool, u64, u32)) -> Visible {
        Visible { persona: if right { Persona::Ptp } else { Persona::MassStorage }, plugged, pid }
    }

    struct World {
        keeper: Keeper,
        course: Course,
        order: Option<Order>,
        seen: Option<Visible>,
        /// What the VM has: as it was when it was brought there.
        in_vm: Option<Visible>,
        held: bool,
    }

    impl World {
        fn tell(&mut self, event: Option<Event>) {
            let Some(event) = event else { return };
            // What cannot be asked now is refused, and changes nothing.
            let Ok(order) = self.keeper.step(1, event) else { return };
            if let Some(order) = order {
                self.order = Some(order);
            }
        }

        fn done(&mut self, well: bool) {
            let Some(order) = self.order.take() else { return };
            let event = match order.act {
                Act::Attach if well && self.seen.is_some_and(|seen| seen.persona == Persona::Ptp) => {
                    self.in_vm = self.seen;
                    Event::Attached(order.number)
                }
                Act::Attach => {
                    self.in_vm = None;
                    Event::Failed(order.number)
                }
                Act::Detach => {
                    self.in_vm = None;
                    Event::Detached(order.number)
                }
            };
            self.tell(Some(event));
        }

        fn look(&mut self) {
            let event = self.course.see(&self.keeper, self.seen);
            self.tell(event);
        }

        fn happen(&mut self, happening: &Happening) {
            match happening {
                Happening::Seen(seen) => {
                    self.seen = seen.map(visible);
                    self.look();
                }
                Happening::Done(well) => self.done(*well),
                Happening::Broke => {
                    let event = self.course.broke();
                    self.tell(Some(event));
                    self.look();
                }
                Happening::Hold => {
                    self.held = true;
                    self.tell(Some(Event::Detach { hold: true }));
                }
                Happening::Attach => {
                    let event = Event::Attach(self.seen.map(|seen| seen.persona));
                    if self.keeper.phase() != (Phase::Detaching { hold: true }) {
                        self.held = false;
                        self.tell(Some(event));
                    }
                }
                Happening::Restart => {
                    self.order = None;
                    self.course = Course::default();
                    let event = Event::Restarted { present: None, in_vm: self.in_vm.is_some() };
                    self.tell(Some(event));
                    self.look();
                }
            }
        }

        /// Everything under way ends, and what failed is tried again.
        fn settle(&mut self) {
            for _ in 0..8 {
                self.done(true);
                if self.keeper.phase() == Phase::Leased {
                    let event = Event::Attach(self.seen.map(|seen| seen.persona));
                    self.tell(Some(event));
                }
            }
        }
    }

    proptest! {
        #[test]
        fn whatever_happens_the_camera_ends_where_it_belongs(happenings in prop::collection::vec(happening(), 0..40)) {
            let mut world = World {
                keeper: Keeper::new("a.b", 1, Persona::Ptp),
                course: Course::default(),
                order: None,
                seen: None,
                in_vm: None,
                held: false,
            };
            for happening in &happenings {
                world.happen(happening);
                if world.keeper.phase() == Phase::Held {
                    prop_assert!(world.in_vm.is_none(), "a held camera is in no VM");
                }
            }
            world.settle();
            if world.held {
                prop_assert_eq!(world.keeper.phase(), Phase::Held);
                prop_assert!(world.in_vm.is_none());
            } else if world.seen.is_some_and(|seen| seen.persona == Persona::Ptp) {
                prop_assert_eq!(world.keeper.phase(), Phase::Attached);
                prop_assert_eq!(world.in_vm, world.seen, "this process has this plugging in");
            } else {
                prop_assert!(world.in_vm.is_none());
                prop_assert!(matches!(world.keeper.phase(), Phase::Lost | Phase::WrongMode(_)));
            }
        }
    }
}
