//! Making a template: a VM like any other boots, comes to rest, is frozen and ended; what it leaves is put in place by
//! one rename. Dropped at any moment, all of it is undone; a killed agent's successor does that instead.

use std::fs::{self, File};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use tokio::sync::watch;
use tokio::time::timeout;

use super::{FileMark, Manifest, Origin, Template, VERSION, store, template_nics};
use crate::control::ControlClient;
use crate::error::VmError;
use crate::host::HostInner;
use crate::launch::{self, Begin};
use crate::spec::VmSpec;

/// From the start of the process to the finished template. An emulated guest on a busy host is slow, not dead.
const DEADLINE: Duration = Duration::from_secs(120);

/// For a guest that answers to come to rest.
const SETTLE_DEADLINE: Duration = Duration::from_secs(20);

/// A directory that is removed with all that is in it, unless it is kept.
struct NewDir(Option<PathBuf>);

impl NewDir {
    fn make(dir: PathBuf) -> Result<NewDir, VmError> {
        store::remove_all(&dir)?;
        fs::DirBuilder::new().mode(0o700).create(&dir).map_err(VmError::io("cannot make", &dir))?;
        Ok(NewDir(Some(dir)))
    }

    /// Gives it its final name.
    fn keep_as(mut self, to: &Path) -> Result<(), VmError> {
        let Some(dir) = self.0.take() else { return Ok(()) };
        fs::rename(&dir, to).map_err(VmError::io("cannot rename to", to)).inspect_err(|_| self.0 = Some(dir))
    }
}

impl Drop for NewDir {
    fn drop(&mut self) {
        if let Some(dir) = self.0.take() {
            let _ = fs::remove_dir_all(dir);
        }
    }
}

/// Makes the template of this key, for VMs like this one.
///
/// # Errors
/// When it does not boot, answer or freeze in time. All is undone then.
pub(super) async fn make(host: &Arc<HostInner>, key: &str, spec: &VmSpec) -> Result<Template, VmError> {
    let doing = || format!("making the template {key}, from which VMs like {} start,", spec.label());
    timeout(DEADLINE, boot_and_freeze(host, key, spec))
        .await
        .map_err(|_| VmError::Deadline { doing: doing(), deadline: DEADLINE })?
}

async fn boot_and_freeze(host: &Arc<HostInner>, key: &str, spec: &VmSpec) -> Result<Template, VmError> {
    let ram_dir = &host.config.ram_dir;
    has_room(ram_dir, spec)?;
    let paths = store::process_paths(&host.config, key);
    store::end_process(&paths, &host.boot_id)?; // of an attempt that was killed
    let making = ram_dir.join(format!("{}{key}", store::MAKING));
    let new = NewDir::make(making.clone())?;
    let spec = VmSpec {
        experiment: store::RUN_NAME.to_owned(),
        name: key.to_owned(),
        nics: template_nics(spec.nics.len()),
        merge: crate::spec::Merge::Off,
        ..spec.clone()
    };
    let macs = spec.nics.iter().map(|nic| nic.mac).collect();
    let ram = making.join("ram");

    let facts = host.facts_for(&spec).await?;
    let starting = Arc::clone(host);
    let begin = Begin::Template { ram: ram.clone() };
    let launched = tokio::task::spawn_blocking(move || launch::launch(&starting, &facts, spec, paths, &[], &begin))
        .await
        .map_err(|error| VmError::Template {
            dir: making.clone(),
            problem: format!("its start was broken off: {error}"),
        })??;
    let parts = launched.parts();
    let (_sender, exit) = watch::channel(None);
    let control = ControlClient::start(parts.clone(), exit);
    let settled = async {
        let hello = control.hello(DEADLINE).await.map_err(|error| error.to_string())?;
        control.settle(SETTLE_DEADLINE).await.map_err(|error| match error {
            crate::control::ControlError::Deadline { .. } => {
                "its guest did not come to rest when asked: its init may be older than this agent, build the image anew"
                    .to_owned()
            }
            error => error.to_string(),
        })?;
        Ok(hello.boot_id)
    };
    let boot_id = tokio::select! {
        settled = settled => settled.map_err(|problem| VmError::Template { dir: making.clone(), problem })?,
        exit = parts.ended() => return Err(VmError::Ended { vm: parts.record.spec.label(), reason: exit?.to_string() }),
    };
    drop(control);

    let state_path = making.join("state");
    let state = File::options().create_new(true).read(true).write(true).mode(0o600).open(&state_path);
    let state = state.map_err(VmError::io("cannot make", &state_path))?;
    parts.hypervisor.freeze(&parts.paths, &state, DEADLINE).await?;
    let gone = tokio::task::spawn_blocking(move || drop(launched)).await; // ends it and removes what is its
    gone.map_err(|error| VmError::Template { dir: making.clone(), problem: error.to_string() })?;

    let mark = |path: &Path| {
        fs::metadata(path).map(|metadata| FileMark::of(&metadata)).map_err(VmError::io("cannot examine", path))
    };
    let origin = Origin { key: key.to_owned(), boot_id, macs };
    let manifest = Manifest { version: VERSION, origin, ram: mark(&ram)?, state: mark(&state_path)? };
    let text = serde_json::to_vec_pretty(&manifest)
        .map_err(|error| VmError::Template { dir: making.clone(), problem: error.to_string() })?;
    let path = making.join("template.json");
    fs::write(&path, text).map_err(VmError::io("cannot write", &path))?;
    let dir = store::template_dir(&host.config, key);
    store::remove_all(&dir)?;
    new.keep_as(&dir)?;
    Template::open(&dir)
}

/// Refuses a template whose memory the file system of the RAM could not hold: the guest would die without a word.
fn has_room(ram_dir: &Path, spec: &VmSpec) -> Result<(), VmError> {
    let stat = statvfs(ram_dir).map_err(|errno| VmError::io("cannot examine", ram_dir)(errno.into()))?;
    let free = stat.blocks_available().saturating_mul(stat.fragment_size());
    if free < spec.memory_bytes {
        let vm = format!("the template for VMs like {}", spec.label());
        return Err(VmError::NoSpace { vm, path: ram_dir.to_owned(), needed: spec.memory_bytes, free });
    }
    Ok(())
}
