//! The same VMs by `fleet up`, with a controller of the bench's own, and `fleet ps` meanwhile.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::cgroup::{self, Group};
use crate::host::{self, Taken};
use crate::ping::{self, Answers};
use crate::{Load, Run};

/// A controller that ends with its value.
struct Controller {
    child: Child,
    fleet: PathBuf,
    root: PathBuf,
}

impl Controller {
    fn start(fleet: &Path, root: &Path, images: &Path, group: &Group) -> Result<Self> {
        fs::create_dir_all(root)?;
        fs::write(root.join("config.toml"), format!("image_store = {images:?}\n"))?;
        let procs = group.path().join("cgroup.procs");
        let mut command = Command::new(fleet);
        command.args(["controller", "run", "--no-telemetry"]).envs(settings(root));
        let log = fs::File::create(root.join("log"))?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        let procs = fs::File::options().write(true).open(procs)?;
        let fd = std::os::fd::AsRawFd::as_raw_fd(&procs);
        // SAFETY: one write to a descriptor that lives until `spawn` returns.
        unsafe {
            command.pre_exec(move || {
                nix::libc::write(fd, b"0".as_ptr().cast(), 1);
                Ok(())
            });
        }
        let child = command.spawn().with_context(|| format!("cannot start {}", fleet.display()))?;
        let controller = Self { child, fleet: fleet.into(), root: root.into() };
        let until = Instant::now() + Duration::from_secs(30);
        // Warm: the probe of hypervisors is done once a controller, not once an `up`.
        while !controller.hypervisors_known() {
            ensure!(Instant::now() < until, "the controller did not come up; see {}", root.join("log").display());
            std::thread::sleep(Duration::from_millis(50));
        }
        Ok(controller)
    }

    fn hypervisors_known(&self) -> bool {
        let status = self.command(&["controller", "status", "--json"]).stderr(Stdio::null()).output();
        let document = status.ok().and_then(|out| serde_json::from_slice::<serde_json::Value>(&out.stdout).ok());
        document.is_some_and(|status| status["hosts"][0]["hypervisors"].as_array().is_some_and(|list| !list.is_empty()))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(&self.fleet);
        command.args(args).envs(settings(&self.root)).stdin(Stdio::null());
        command
    }
}

impl Drop for Controller {
    fn drop(&mut self) {
        drop(self.command(&["down"]).output());
        drop(self.command(&["controller", "stop"]).output());
        drop(self.child.wait());
        drop(fs::remove_dir_all(&self.root));
    }
}

fn settings(root: &Path) -> [(&'static str, PathBuf); 2] {
    [("FLEET_ROOT", root.to_owned()), ("FLEET_CONFIG", root.join("config.toml"))]
}

/// Brings the VMs up, measures them and takes them down.
///
/// # Errors
/// When the controller does not come up or go down. VMs that fail are counted.
pub fn run(fleet: &Path, images: &Path, load: &Load) -> Result<Run> {
    let root = PathBuf::from(format!("/dev/shm/fleet-bench-{}", std::process::id()));
    let group = Group::new("bench-fleet")?;
    let controller = Controller::start(fleet, &root, images, &group)?;
    let file = root.join("bench.fleet");
    fs::write(&file, network(load))?;
    let free = host::settled_available()?;

    let done = AtomicBool::new(false);
    let before = cgroup::cpu_seconds(group.path())?;
    let (up, ps_ms) = std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch(&controller, &done));
        let up = bring_up(&controller, &group, &file);
        done.store(true, Ordering::Relaxed);
        (up, watching.join().unwrap_or_default())
    });
    let (wall, failed) = up?;
    let instance = instance(&controller)?;
    let vms = cgroup::root()?.join(&instance);
    let mut run = Run {
        wall,
        guests_cpu: cgroup::cpu_seconds(&vms)?,
        starter_cpu: cgroup::cpu_seconds(group.path())? - before,
        ps_ms,
        failed,
        ..Run::default()
    };
    if load.wired {
        run.answers = ask(&controller, &instance, load)?;
    }
    run.taken = Taken::measure(free, &[vms, group.path().to_owned()])?;
    run.resident = resident_bytes(controller.child.id())?;
    let begin = Instant::now();
    let down = controller.command(&["down"]).output()?;
    run.down = begin.elapsed().as_secs_f64();
    ensure!(down.status.success(), "fleet down failed: {}", String::from_utf8_lossy(&down.stderr));
    Ok(run)
}

/// What is promised to guests beyond what the host has: they touch a part of their memory only.
const OVERCOMMIT: u32 = 8;

/// The network file of a load. A Linux bridge has at most 1023 ports, so a lan gets a thousand VMs at most.
fn network(load: &Load) -> String {
    let mut text = String::new();
    for (lan, count) in load.lans().into_iter().enumerate() {
        let on = if load.wired {
            text += &format!("lan net{lan} = 10.{}.0.0/16\nrouter gw{lan} {{ on net{lan} }}\n", 77 + lan);
            format!("on net{lan}; ")
        } else {
            String::new()
        };
        let (image, hypervisor, memory) = (&load.image, load.hypervisor(), load.memory_mib);
        text += &format!(
            "vm web{lan}[0..{count}] {{ {on}image \"{image}\"; hypervisor {hypervisor}; mem {memory}MiB; overcommit {OVERCOMMIT} }}\n"
        );
    }
    text
}

/// Asks all VMs from the routers of their lans; gives the earliest and the latest answer.
fn ask(controller: &Controller, instance: &str, load: &Load) -> Result<Answers> {
    let ps = controller.command(&["ps", "--json"]).output()?;
    let document: serde_json::Value = serde_json::from_slice(&ps.stdout).context("fleet ps gave no JSON")?;
    let vms = document["vms"].as_array().context("fleet ps gave no list of VMs")?;
    let mut all = Answers::default();
    for lan in 0..load.lans().len() {
        let name = format!("web{lan}[");
        let guests = vms.iter().filter(|vm| vm["name"].as_str().is_some_and(|vm| vm.starts_with(&name)));
        let address = |vm: &serde_json::Value| vm["addresses"][0].as_str()?.split('/').next()?.parse().ok();
        let guests: Vec<_> = guests.filter_map(address).collect();
        let answers = ping::all(&Path::new("/run/netns").join(format!("{instance}-bench-r-gw{lan}")), &guests)?;
        all.first = if lan == 0 { answers.first } else { all.first.min(answers.first) };
        all.last = all.last.max(answers.last);
        all.missing += answers.missing;
    }
    Ok(all)
}

/// Seconds of `fleet up`, whose own CPU time counts too (it runs in the controller's group), and how many VMs failed.
fn bring_up(controller: &Controller, group: &Group, file: &Path) -> Result<(f64, u64)> {
    let procs = fs::File::options().write(true).open(group.path().join("cgroup.procs"))?;
    let fd = std::os::fd::AsRawFd::as_raw_fd(&procs);
    let mut command = controller.command(&["up", "--no-check", "--json"]);
    command.arg(file);
    // SAFETY: one write to a descriptor that lives until `output` returns.
    unsafe {
        command.pre_exec(move || {
            nix::libc::write(fd, b"0".as_ptr().cast(), 1);
            Ok(())
        });
    }
    let begin = Instant::now();
    let up = command.output()?;
    let wall = begin.elapsed().as_secs_f64();
    let document: Option<serde_json::Value> = serde_json::from_slice(&up.stdout).ok();
    let outcomes = document.as_ref().and_then(|document| document["outcomes"].as_array());
    let Some(outcomes) = outcomes else {
        bail!("fleet up failed: {}{}", String::from_utf8_lossy(&up.stdout), String::from_utf8_lossy(&up.stderr));
    };
    let failed = |outcome: &&serde_json::Value| !matches!(outcome["outcome"].as_str(), Some("ok" | "already_so"));
    let failed: Vec<_> = outcomes.iter().filter(failed).collect();
    for outcome in &failed {
        eprintln!("bench: {} VMs: {}", outcome["count"], outcome["reason"].as_str().unwrap_or_default());
    }
    Ok((wall, failed.iter().filter_map(|outcome| outcome["count"].as_u64()).sum()))
}

/// Asks `fleet ps` again and again, five times a second, until told that it is done.
fn watch(controller: &Controller, done: &AtomicBool) -> Vec<f64> {
    let mut times = Vec::new();
    while !done.load(Ordering::Relaxed) {
        let begin = Instant::now();
        if controller.command(&["ps", "--json"]).output().is_ok_and(|out| out.status.success()) {
            times.push(begin.elapsed().as_secs_f64() * 1e3);
        }
        std::thread::sleep(Duration::from_millis(200));
    }
    times
}

/// Name of the control group of this fleet's VMs: that of its folder of guest memory.
fn instance(controller: &Controller) -> Result<String> {
    let open = format!("/proc/{}/cmdline", controller.child.id());
    fs::metadata(&open).context("the controller is gone")?;
    let root = cgroup::root()?;
    let ours = fs::read_dir("/dev/shm")?
        .flatten()
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| name.starts_with("fleet"))
        .find(|name| uses(&root.join(name), &controller.root));
    ours.context("the VMs' control group was not found")
}

/// Whether some process of a group was started below this root.
fn uses(group: &Path, root: &Path) -> bool {
    let mut pending = vec![group.to_owned()];
    while let Some(group) = pending.pop() {
        let pids = fs::read_to_string(group.join("cgroup.procs")).unwrap_or_default();
        let ours = |pid: &str| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).contains(&*root.to_string_lossy()))
        };
        if pids.lines().any(ours) {
            return true;
        }
        let below = fs::read_dir(&group).into_iter().flatten().flatten().map(|entry| entry.path());
        pending.extend(below.filter(|path| path.is_dir()));
    }
    false
}

fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    Ok(kib.context("no VmRSS")? * 1024)
}
