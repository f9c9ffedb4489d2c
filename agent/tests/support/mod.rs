//! A real agent behind its local socket, and a root that sends it waves.
#![allow(dead_code, missing_docs, clippy::unwrap_used)]

use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use fleet_agent::{Agent, AgentConfig, router};
use fleet_images::{Builder, ImageStore, Recipe};
use fleet_proto::v1::{
    ApplyTask, HostInfo, HostPlacement, InfoRequest, Member, OpHeader, Outcome, Range, RemoveRequest, Reply, Spec,
    Task, WaveEnd, reply, task,
};
use fleet_tests::{Traces, until};
use fleet_tree::grpc::{GrpcLink, Plain};
use fleet_tree::{Call, ClockWatch, Config, Event, Members, Root, RootWave, hash_of};
use netlang::{Lock, Source};
use nix::mount::{MntFlags, umount2};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use prost::Message;
use tokio::net::UnixListener;
use tokio::task::JoinHandle;
use tokio::time::Duration;
use tokio_stream::wrappers::UnixListenerStream;
use tokio_util::sync::CancellationToken;

/// Long enough for a busy machine; nothing waits so long when all is well.
pub const PATIENCE: Duration = Duration::from_secs(240);

/// This host's name.
pub const HOST: &str = "h1";

/// A place for an agent, which can be started anew in it.
pub struct Place {
    dir: tempfile::TempDir,
    /// `None`: it has none.
    images: Option<PathBuf>,
}

impl Place {
    pub fn new() -> Self {
        Self::with(None)
    }

    fn with(images: Option<PathBuf>) -> Self {
        Self { dir: tempfile::Builder::new().prefix("fleet-agent-").tempdir_in("/dev/shm").unwrap(), images }
    }

    /// With the image `tiny`, which is built once for a target directory.
    pub fn with_images() -> Self {
        // target/<profile>/deps/<test>
        let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
        let init = std::env::var_os("FLEET_INIT")
            .map_or_else(|| target.join("x86_64-unknown-linux-gnu/guest/fleet-init"), PathBuf::from);
        assert!(init.exists(), "no guest init at {}: run `make build`, or set FLEET_INIT", init.display());
        let lock = std::fs::File::create(target.join("fleet-test-image.lock")).unwrap();
        lock.lock().unwrap(); // test programs run side by side
        let images = target.join("fleet-test-images");
        let store = ImageStore::open(images.clone()).unwrap();
        let cache = target.join("fleet-test-cache");
        Builder::new(&store, cache, init).build(&Recipe::load("tiny").unwrap(), &mut |_| {}).unwrap();
        Self::with(Some(images))
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Letters and digits, and another in each test.
    fn instance(&self) -> String {
        self.dir.path().file_name().unwrap().to_string_lossy().replace('-', "")
    }

    /// What of it the kernel shows, beside files.
    fn traces(&self) -> Traces {
        Traces { run_files: Vec::new(), ..Traces::of(self.dir.path(), &self.instance()) }
    }

    fn config(&self) -> AgentConfig {
        let dir = |name: &str| {
            let dir = self.dir.path().join(name);
            std::fs::create_dir_all(&dir).unwrap();
            dir
        };
        AgentConfig {
            host: HOST.into(),
            instance: self.instance(),
            run_dir: dir("run"),
            ram_dir: dir("ram"),
            state_dir: dir("state"),
            image_store: self.images.clone().unwrap_or_else(|| dir("images")),
            netns_dir: dir("netns"),
            vxlan_port: fleet_agent::VXLAN_PORT,
            hypervisor: None,
            ksm: fleet_vm::Merge::Off,
            clones: false,
            snapshot_quota: fleet_vm::SnapshotQuota::default(),
            cameras: fleet_agent::CamerasConfig::default(),
            sample_interval: Duration::from_secs(60),
        }
    }

    pub async fn start(&self) -> Served {
        let agent = Agent::start(self.config()).await.unwrap();
        let socket = self.dir.path().join("agent.sock");
        drop(std::fs::remove_file(&socket));
        let incoming = UnixListenerStream::new(UnixListener::bind(&socket).unwrap());
        let stop = CancellationToken::new();
        let server = router(Arc::clone(&agent)).serve_with_incoming_shutdown(incoming, stop.clone().cancelled_owned());
        let server = tokio::spawn(async move { server.await.unwrap() });
        let link = GrpcLink::new(Plain { connect_timeout: Duration::from_secs(5) });
        let root = Root::new(Arc::new(link), Config::default(), ClockWatch::start());
        let member = Member { name: HOST.into(), address: format!("unix:{}", socket.display()), rack: String::new() };
        Served { agent, server, stop, root, members: Members::new(vec![member]).unwrap() }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            return until("an end that leaves nothing", || self.traces().is_none());
        }
        // The last resort of a test that failed.
        for (pid, _) in self.traces().processes {
            let _ = kill(Pid::from_raw(pid.try_into().unwrap()), Signal::SIGKILL);
        }
        for mount in self.traces().mounts {
            let _ = mount.split(' ').nth(4).map(|path| umount2(path, MntFlags::MNT_DETACH));
        }
        for cgroup in self.traces().cgroups.iter().rev() {
            drop(std::fs::remove_dir(cgroup));
        }
    }
}

/// An agent that serves.
pub struct Served {
    pub agent: Arc<Agent>,
    server: JoinHandle<()>,
    stop: CancellationToken,
    pub root: Root,
    members: Members,
}

/// What came of a wave to the one host.
#[derive(Debug)]
pub struct Said {
    pub outcome: Outcome,
    pub reason: String,
    pub end: WaveEnd,
    pub replies: Vec<Reply>,
}

impl Said {
    /// How many targets ended, and how.
    pub fn targets(&self) -> Vec<(Outcome, u32, &str)> {
        self.end.targets.iter().map(|fold| (fold.outcome(), fold.count, fold.targets.as_str())).collect()
    }
}

impl Served {
    pub fn wave(&self, op: OpHeader, task: task::Task, content: Vec<Bytes>) -> RootWave {
        let call = Call {
            op,
            k: 0,
            members: self.members.clone(),
            dead: Vec::new(),
            task: Task { task: Some(task) },
            content,
            deadline: PATIENCE,
            again: false,
        };
        self.root.wave(call).unwrap()
    }

    /// Sends a wave of a generation and waits for its end.
    pub async fn ask(&self, generation: u64, task: task::Task, content: Vec<Bytes>) -> Said {
        let op_id = uuid::Uuid::new_v4().to_string();
        end_of(self.wave(OpHeader { op_id, epoch: 1, generation }, task, content)).await
    }

    pub async fn apply(&self, generation: u64, spec: &Spec, dry_run: bool) -> Said {
        let spec = Bytes::from(spec.encode_to_vec());
        let task = ApplyTask { spec: hash_of(&spec).to_vec(), dry_run };
        self.ask(generation, task::Task::Apply(task), vec![spec]).await
    }

    pub async fn remove(&self, generation: u64, experiment: &str) -> Said {
        let request = RemoveRequest { op: None, experiment: experiment.to_owned() };
        self.ask(generation, task::Task::Remove(request), Vec::new()).await
    }

    /// What the host says of itself.
    pub async fn info(&self) -> HostInfo {
        let said = self.ask(0, task::Task::Info(InfoRequest {}), Vec::new()).await;
        let info = said.replies.into_iter().find_map(|reply| match reply.reply {
            Some(reply::Reply::Info(info)) => Some(info),
            _ => None,
        });
        info.unwrap()
    }

    /// Experiments that it has something of, with the generation that it has whole.
    pub async fn held(&self) -> Vec<(String, u64)> {
        self.info().await.experiments.into_iter().map(|held| (held.experiment, held.generation)).collect()
    }

    /// Ends as the process does.
    pub async fn end(self) {
        self.root.stop().await;
        self.stop.cancel();
        self.agent.shutdown().await;
        tokio::time::timeout(PATIENCE, self.server).await.unwrap().unwrap();
    }
}

/// Follows a wave to its end.
pub async fn end_of(mut wave: RootWave) -> Said {
    let mut replies = Vec::new();
    loop {
        match tokio::time::timeout(PATIENCE * 2, wave.next()).await.unwrap() {
            Some(Event::Reply(reply)) => replies.push(reply),
            Some(Event::Progress(_)) => {}
            Some(Event::End(end)) => {
                let host = end.hosts.first().unwrap();
                assert_eq!((end.hosts.len(), host.count), (1, 1), "one host, counted once");
                return Said { outcome: host.outcome(), reason: host.reason.clone(), end: end.clone(), replies };
            }
            None => panic!("a wave has an end"),
        }
    }
}

/// An experiment of four VMs, `here` of which, from the first on, are on this host, the others elsewhere.
pub fn spec(experiment: &str, here: u32) -> Spec {
    let source = "language 1\nlan l\nvm web[0..4] { on l }\n".to_owned();
    let compiled = netlang::compile(&Source::new(experiment, source.as_str()), &Lock::default());
    let range = |first, count| Range { group: "web".into(), first, count };
    let place = |host: &str, range| HostPlacement {
        host: host.into(),
        underlay: if host == HOST { "127.0.0.1" } else { "192.0.2.1" }.into(),
        ranges: vec![range],
        routers: Vec::new(),
    };
    Spec {
        experiment: experiment.into(),
        source,
        lock: compiled.lock.to_string(),
        hosts: [place(HOST, range(0, here)), place("h2", range(here, 4 - here))]
            .into_iter()
            .filter(|place| place.ranges.iter().all(|range| range.count > 0))
            .collect(),
        ..Spec::default()
    }
}
