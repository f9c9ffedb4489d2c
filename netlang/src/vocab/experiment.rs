//! What happens when: the statements of an experiment, and the actions that `at` and `every` take, each with the kinds of
//! things to which it can be done.

use super::tables::{COUNT, arg, opt, prop};
use super::{Arg, Kind, Opt, Property, Ty};

/// What can break and be mended.
const BREAKABLE: Ty = Ty::SomeOf(&[Kind::Vm, Kind::Router, Kind::Lan, Kind::Link, Kind::Instance]);
/// VMs; of an instance all in it.
const MACHINES: Ty = Ty::SomeOf(&[Kind::Vm, Kind::Instance]);
/// Links; of a router all that end there.
const LINES: Ty = Ty::SomeOf(&[Kind::Link, Kind::Router]);

/// Which ones are chosen, when it is not all.
const SEED_OPT: Opt = opt("seed", &[arg("number", Ty::Int(0, i64::MAX))]);
const SEED: &[Opt] = &[SEED_OPT];

const SETTINGS: &[Opt] = &[
    opt("delay", &[arg("time", Ty::Duration)]),
    opt("jitter", &[arg("time", Ty::Duration)]),
    opt("rate", &[arg("rate", Ty::Rate)]),
    opt("loss", &[arg("ratio", Ty::Ratio)]),
    opt("cost", &[arg("cost", Ty::Int(1, 65_535))]),
    SEED_OPT,
];

const ON_MACHINES: &[Arg] = &[arg("target", MACHINES)];

const fn on_machines(word: &'static str, doc: &'static str) -> Property {
    prop(word, ON_MACHINES, doc).with(SEED).many()
}

const FAIL: Property =
    prop("fail", &[arg("target", BREAKABLE)], "cut it, as by a power cut or a pulled plug; `heal` mends it")
        .with(SEED)
        .many();
const HEAL: Property = prop("heal", &[arg("target", BREAKABLE)], "mend what `fail` cut").with(SEED).many();
const SET: Property =
    prop("set", &[arg("target", LINES)], "change properties of links; of a router those of all its links")
        .with(SETTINGS)
        .many();
const REBOOT: Property = on_machines("reboot", "start VMs anew");
const STOP: Property = on_machines("stop", "shut VMs down");
const START: Property = on_machines("start", "start VMs that are stopped");
const PAUSE: Property = on_machines("pause", "hold VMs still");
const RESUME: Property = on_machines("resume", "let paused VMs go on");
const RUN: Property = prop(
    "run",
    &[arg("command", Ty::Text), arg("on", Ty::Word("on")), arg("target", MACHINES)],
    "run a command in VMs",
)
.with(SEED)
.many();
const END: Property = prop("end", &[], "the experiment is over");

/// What can be done once, or again and again.
const ACTIONS: &[Property] = &[FAIL, HEAL, SET, REBOOT, STOP, START, PAUSE, RESUME, RUN];
/// What can be done at a time.
const ACTIONS_AT: &[Property] = &[FAIL, HEAL, SET, REBOOT, STOP, START, PAUSE, RESUME, RUN, END];

const EVERY: &[Arg] = &[
    arg("period", Ty::Duration),
    arg("from", Ty::Word("from")),
    arg("start", Ty::Duration),
    arg("until", Ty::Word("until")),
    arg("stop", Ty::Duration),
];

const BOOT: &[Opt] = &[
    opt("rate", &[arg("vms", COUNT), arg("per", Ty::Word("per")), arg("second", Ty::Word("second"))]),
    opt("order", &[arg("vms", Ty::Things(&[Kind::Vm, Kind::Instance]))]),
];

/// The block of an experiment.
pub(super) const EXPERIMENT: &[Property] = &[
    prop("boot", &[], "how fast VMs are started, and in which order").with(BOOT),
    prop("wait", &[arg("what", Ty::Word("converged"))], "hold the clock until routing has settled")
        .with(&[opt("max", &[arg("time", Ty::Duration)])]),
    prop("at", &[arg("time", Ty::Duration)], "do it at a time").inline(ACTIONS_AT).many(),
    prop("every", EVERY, "do it again and again: at START, START + PERIOD, … before STOP").inline(ACTIONS).many(),
];

/// Whether a block's statements are actions.
pub(crate) fn is_action_of(block: &'static [Property]) -> bool {
    block.iter().any(|property| property.word == FAIL.word)
}

/// The kinds to which an action can be done.
fn kinds_of(action: &Property) -> &'static [Kind] {
    let found = action.args.iter().find_map(|arg| if let Ty::SomeOf(kinds) = arg.ty { Some(kinds) } else { None });
    found.unwrap_or_default()
}

/// The actions that can be done to things of a kind.
pub(crate) fn actions_for(kind: Kind) -> impl Iterator<Item = &'static str> {
    ACTIONS.iter().filter(move |action| kinds_of(action).contains(&kind)).map(|action| action.word)
}
