//! What hosts have said of cameras, and what a user is told of each camera: its state on its own host, with its lease in
//! the ledger and what the host of its VM does for that. Pure.

use std::collections::{BTreeMap, BTreeSet};

use fleet_proto::v1::{Camera, CameraLease, CameraState, CameraView, CamerasReply, ControllerCameras};
use fleet_usb::lease::{CameraId, Lease, Leases};

use crate::daemon::fleet::Place;

/// What one host has said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// Whether it answers now. What it said before is kept, for names and models.
    pub answers: bool,
    /// Its cameras, by identity.
    pub cameras: BTreeMap<String, Camera>,
    /// What it does for leases of its VMs.
    pub leases: Vec<CameraLease>,
}

/// What all hosts have said.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Picture {
    /// By name.
    pub hosts: BTreeMap<String, Report>,
    /// The highest epoch that any of them ever said.
    pub highest: u64,
}

impl Picture {
    /// A host has answered.
    pub fn told(&mut self, host: &str, said: CamerasReply) {
        let epochs = said.cameras.iter().map(|camera| camera.epoch).chain(said.leases.iter().map(|lease| lease.epoch));
        self.highest = epochs.fold(self.highest, u64::max);
        let cameras =
            said.cameras.into_iter().map(|camera| (camera.id.clone(), Camera { host: host.into(), ..camera }));
        let leases = said.leases.into_iter().map(|lease| CameraLease { vm_host: host.into(), ..lease });
        let report = Report { answers: true, cameras: cameras.collect(), leases: leases.collect() };
        self.hosts.insert(host.to_owned(), report);
    }

    /// A host does not answer.
    pub fn silent(&mut self, host: &str) {
        self.hosts.entry(host.to_owned()).or_default().answers = false;
    }

    /// Forgets all hosts but these.
    pub fn keep(&mut self, known: &BTreeSet<String>) {
        self.hosts.retain(|host, _| known.contains(host));
    }

    /// Whether a host answers.
    pub fn answers(&self, host: &str) -> bool {
        self.hosts.get(host).is_some_and(|report| report.answers)
    }

    /// A camera, as its host saw it last.
    pub fn camera(&self, id: &CameraId) -> Option<&Camera> {
        self.hosts.get(&id.host)?.cameras.get(&id.camera)
    }

    /// All cameras.
    pub fn cameras(&self) -> impl Iterator<Item = (CameraId, &Camera)> {
        self.hosts.iter().flat_map(|(host, report)| {
            report.cameras.iter().map(move |(id, camera)| (CameraId { host: host.clone(), camera: id.clone() }, camera))
        })
    }

    /// What hosts that answer do for a camera.
    pub fn reports<'a>(&'a self, id: &'a CameraId) -> impl Iterator<Item = &'a CameraLease> {
        let all = self.hosts.values().filter(|report| report.answers).flat_map(|report| &report.leases);
        all.filter(move |lease| lease.host == id.host && lease.camera == id.camera)
    }
}

/// `EXPERIMENT/VM`, as leases name a VM.
pub fn holder(experiment: &str, vm: &str) -> String {
    format!("{experiment}/{vm}")
}

/// Experiment and VM of a holder.
pub fn parts(holder: &str) -> (&str, &str) {
    holder.split_once('/').unwrap_or((holder, ""))
}

/// A holder as users name the VM.
pub fn in_words(holder: &str) -> String {
    holder.replacen('/', ".", 1)
}

/// What [`joint`] needs to know beside picture and leases.
pub struct Around<'a> {
    /// Where a VM is.
    pub place: &'a dyn Fn(&str, &str) -> Place,
    /// Why a lease was not brought into its VM when it was tried last.
    pub trouble: &'a dyn Fn(&CameraId) -> Option<String>,
}

/// All cameras as users see them: those of hosts that answer, and all that are lent.
pub fn joint(picture: &Picture, leases: &Leases, around: &Around<'_>) -> ControllerCameras {
    let mut ids: BTreeSet<CameraId> =
        picture.cameras().filter(|(id, _)| picture.answers(&id.host)).map(|(id, _)| id).collect();
    ids.extend(leases.iter().map(|(id, _)| id));
    let cameras = ids.iter().map(|id| view(id, picture, leases.get(id), around));
    let silent = picture.hosts.iter().filter(|(_, report)| !report.answers);
    ControllerCameras { cameras: cameras.collect(), unknown_hosts: silent.map(|(host, _)| host.clone()).collect() }
}

/// One camera.
pub fn view(id: &CameraId, picture: &Picture, lease: Option<&Lease>, around: &Around<'_>) -> CameraView {
    let unseen = || Camera { host: id.host.clone(), id: id.camera.clone(), ..Camera::default() };
    let camera = picture.camera(id).cloned().unwrap_or_else(unseen);
    let Some(lease) = lease else {
        // A host that still has what nobody wants there is told to let go.
        let left = picture.reports(id).next().cloned();
        let (state, detail) = match &left {
            Some(left) => (
                CameraState::Detaching,
                format!("{} still has it for {}.{}, which is to let go", left.vm_host, left.experiment, left.vm),
            ),
            None => (camera.state(), camera.detail.clone()),
        };
        return CameraView { camera: Some(camera), lease: left, state: state.into(), detail };
    };
    let (experiment, vm) = parts(&lease.holder);
    let place = (around.place)(experiment, vm);
    let at = match &place {
        Place::On { host, .. } => host.clone(),
        Place::Gone | Place::Nowhere => lease.at.clone(),
    };
    let report = picture.reports(id).find(|report| report.vm_host == at && report.epoch == lease.epoch).cloned();
    let (state, detail) = together(&camera, lease, report.as_ref(), &place, picture);
    let trouble = (around.trouble)(id).filter(|_| detail.is_empty() && state != CameraState::Attached);
    let detail = trouble.unwrap_or(detail);
    let mut told = report.unwrap_or_else(|| CameraLease {
        host: id.host.clone(),
        camera: id.camera.clone(),
        experiment: experiment.to_owned(),
        vm: vm.to_owned(),
        epoch: lease.epoch,
        vm_host: at,
        ..CameraLease::default()
    });
    told.set_state(state);
    told.detail.clone_from(&detail);
    CameraView { camera: Some(camera), lease: Some(told), state: state.into(), detail }
}

/// State and detail of a camera that is lent.
fn together(
    camera: &Camera,
    lease: &Lease,
    report: Option<&CameraLease>,
    place: &Place,
    picture: &Picture,
) -> (CameraState, String) {
    let vm_host = match place {
        Place::On { host, .. } => host,
        Place::Nowhere => return (CameraState::Leased, "its VM has no host".to_owned()),
        Place::Gone => return (CameraState::Detaching, "its VM is gone".to_owned()),
    };
    if !picture.answers(vm_host) {
        return (CameraState::Unknown, format!("{vm_host}, the host of its VM, does not answer"));
    }
    if !picture.answers(&camera.host) {
        let last = report.map_or(CameraState::Leased, CameraLease::state);
        let detail = format!("{}, its host, does not answer; on the host of its VM it is {}", camera.host, word(last));
        return (CameraState::Unknown, detail);
    }
    let waits = report.is_none_or(|report| report.state() == CameraState::Leased);
    match report {
        None if lease.held => (CameraState::Held, String::new()),
        _ if waits && !camera.present => (CameraState::Lost, "it is not plugged in".to_owned()),
        _ if waits && stands_in_the_way(camera.state()) => (camera.state(), camera.detail.clone()),
        Some(report) => (report.state(), report.detail.clone()),
        None => (CameraState::Leased, String::new()),
    }
}

/// Whether a camera that is in this state on its host can be given to nobody.
pub fn stands_in_the_way(state: CameraState) -> bool {
    matches!(state, CameraState::Busy | CameraState::Denied | CameraState::NoNode | CameraState::Malformed)
}

/// A state's word.
pub fn word(state: CameraState) -> &'static str {
    match state {
        CameraState::Unspecified => "?",
        CameraState::Absent => "absent",
        CameraState::Available => "available",
        CameraState::Leased => "leased",
        CameraState::Attaching => "attaching",
        CameraState::Attached => "attached",
        CameraState::Lost => "lost",
        CameraState::Reattaching => "reattaching",
        CameraState::WrongMode => "wrong mode",
        CameraState::Detaching => "detaching",
        CameraState::Held => "held",
        CameraState::Busy => "busy",
        CameraState::Denied => "denied",
        CameraState::NoNode => "no node",
        CameraState::Malformed => "malformed",
        CameraState::Unknown => "unknown",
    }
}
