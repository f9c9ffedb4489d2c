//! Many hosts on one machine: a controller and agents, each a process of its own in a network namespace of its own,
//! cabled to a bridge, joined by token over mutual TLS.
//!
//! ```text
//!              bridge, 10.99.0.1 (controller, and the agent of its own host, "head")
//!        ┌───────────┼───────────┐
//!     h01 .2      h02 .3  …   h12 .13     veths; experiments and their tunnels are made from here by each agent
//! ```
//!
//! Every host has a folder of its own ([`Fleet`]), and so its own names of namespaces, control groups and sockets. Not
//! divided are what a machine has once: its memory, its processors, and KSM, which is off here. When a lab is dropped, also
//! by a test that failed, its daemons are ended, then what they left is removed and, if the test went well, told; the
//! namespaces go last.

use serde_json::Value;

use crate::wire::Wire;
use crate::{Answer, Daemon, Fleet, Options, eventually, until};

/// Hosts of one rack.
const RACK: usize = 4;

/// One host.
pub struct Host {
    /// "h01".
    pub name: String,
    /// Its folder.
    pub fleet: Fleet,
    agent: Option<Daemon>,
}

/// A controller and its hosts.
pub struct Lab {
    // In the order in which they are dropped: daemons, folders, network.
    controller: Option<Daemon>,
    hosts: Vec<Host>,
    head: Fleet,
    wire: Wire,
}

impl Lab {
    /// A lab of so many hosts, all of which have joined. `config` are more lines of the controller's configuration.
    ///
    /// # Panics
    /// When one does not join.
    pub fn new(hosts: usize, config: &str) -> Self {
        Self::with(hosts, config, &|_| String::new())
    }

    /// The same; `own` gives more lines of the configuration of the host of a number, from 1.
    ///
    /// # Panics
    /// When one does not join.
    pub fn with(hosts: usize, config: &str, own: &dyn Fn(usize) -> String) -> Self {
        let wire = Wire::new(hosts);
        let address = wire.address(0);
        let head = Fleet::with(Options {
            config: format!(
                "host = \"head\"\nlisten = \"{address}\"\nunderlay = \"{address}\"\nheartbeat_seconds = 1\n{config}"
            ),
            namespace: Some(wire.namespace(0)),
            ..Options::default()
        });
        let make = |number: usize| Host {
            name: format!("h{number:02}"),
            fleet: Fleet::with(Options {
                config: format!("ksm = \"off\"\n{}", own(number)),
                namespace: Some(wire.namespace(number)),
                ..Options::default()
            }),
            agent: None,
        };
        let hosts: Vec<Host> = (1..=hosts).map(make).collect();
        let mut lab = Self { controller: None, hosts, head, wire };
        lab.start_controller();
        lab.join();
        lab
    }

    fn join(&mut self) {
        let (token, controller) = self.token(self.hosts.len());
        for number in 1..=self.hosts.len() {
            self.start_to_join(number, &token, &controller);
        }
        self.until_ready();
    }

    /// Starts a host's agent with a new token, as after its removal.
    ///
    /// # Panics
    /// When there is no such host, or it does not become ready.
    pub fn join_again(&mut self, name: &str) {
        let (token, controller) = self.token(1);
        self.host(name).agent = None;
        self.start_to_join(self.number(name), &token, &controller);
        until("the host to be ready", || self.in_state("ready").iter().any(|ready| ready == name));
    }

    /// A token for so many hosts, and where the controller is.
    fn token(&self, uses: usize) -> (String, String) {
        let issued = self.head.json(&["host", "token", "--uses", &uses.to_string()]);
        let text = |key: &str| issued[key].as_str().unwrap().to_owned();
        (text("token"), text("controller"))
    }

    fn start_to_join(&mut self, number: usize, token: &str, controller: &str) {
        let host = &mut self.hosts[number - 1];
        let (rack, kind) = (format!("r{}", (number - 1) / RACK + 1), format!("odd={}", number % 2));
        let place = ["--name", &host.name, "--rack", &rack, "--tag", &kind];
        let args = ["agent", "--join", controller, "--token", token];
        host.agent = Some(Daemon::start(&host.fleet, &[args.as_slice(), place.as_slice()].concat()));
    }

    /// Lets no host send faster than so many Mbit/s.
    ///
    /// # Panics
    /// When the kernel cannot.
    pub fn limit(&self, mbit: u32) {
        self.wire.limit(mbit);
    }

    /// The controller's folder: commands go through it.
    pub fn fleet(&self) -> &Fleet {
        &self.head
    }

    /// The hosts, without the controller's own.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// All folders: the controller's first.
    pub fn folders(&self) -> impl Iterator<Item = &Fleet> {
        std::iter::once(&self.head).chain(self.hosts.iter().map(|host| &host.fleet))
    }

    /// Sessions of VMs on all hosts: one for each that runs, whoever knows of it.
    pub fn machines(&self) -> usize {
        self.folders().map(|fleet| fleet.traces().machines()).sum()
    }

    /// A host as `fleet host ls --json` shows it.
    ///
    /// # Panics
    /// When there is none of that name, or the controller does not answer.
    pub fn listed(&self, name: &str) -> Value {
        let hosts = self.head.json(&["host", "ls"]);
        hosts["hosts"].as_array().unwrap().iter().find(|host| host["name"] == name).unwrap().clone()
    }

    /// Names of the hosts in a state, in order.
    ///
    /// # Panics
    /// When the controller does not answer.
    pub fn in_state(&self, state: &str) -> Vec<String> {
        let hosts = self.head.json(&["host", "ls"]);
        let named = hosts["hosts"].as_array().unwrap().iter().filter(|host| host["state"] == state);
        let mut names: Vec<_> = named.map(|host| host["name"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    }

    /// Waits until a host is in a state.
    ///
    /// # Panics
    /// When it does not come to it.
    pub fn wait_for(&self, name: &str, state: &str) -> Value {
        eventually(&format!("{name} to be {state}"), || Some(self.listed(name)).filter(|host| host["state"] == state))
    }

    /// Waits until all hosts are ready and know what they can run, the controller's own among them.
    ///
    /// # Panics
    /// When one does not become so.
    pub fn until_ready(&self) {
        until("all hosts to be ready", || {
            let hosts = self.head.json(&["host", "ls"]);
            let hosts = hosts["hosts"].as_array().unwrap();
            let probed = |host: &&Value| host["hypervisors"].as_array().is_some_and(|kinds| !kinds.is_empty());
            hosts.iter().filter(|host| host["state"] == "ready").filter(probed).count() == self.hosts.len() + 1
        });
    }

    /// Kills a host's agent (SIGKILL); its VMs go on.
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill(&mut self, name: &str) {
        self.host(name).agent.take().unwrap().kill();
    }

    /// Starts a host's agent again, as its service would.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn restart(&mut self, name: &str) {
        let host = self.host(name);
        host.agent = Some(Daemon::start(&host.fleet, &["agent"]));
    }

    /// Pulls a host's cable.
    ///
    /// # Panics
    /// When there is no such host.
    pub fn cut(&self, name: &str) {
        self.wire.connect(self.number(name), false);
    }

    /// Puts a host's cable back.
    ///
    /// # Panics
    /// When there is no such host.
    pub fn heal(&self, name: &str) {
        self.wire.connect(self.number(name), true);
    }

    /// Kills the controller (SIGKILL).
    ///
    /// # Panics
    /// When it does not run.
    pub fn kill_controller(&mut self) {
        self.controller.take().unwrap().kill();
    }

    /// Starts the controller and waits until it answers.
    ///
    /// # Panics
    /// When it does not.
    pub fn start_controller(&mut self) {
        self.controller = Some(Daemon::start(&self.head, &["controller", "run", "--no-telemetry"]));
        until("the controller", || self.status().stdout.contains("\"pid\""));
    }

    fn status(&self) -> Answer {
        self.head.run(&["controller", "status", "--json"])
    }

    fn number(&self, name: &str) -> usize {
        self.hosts.iter().position(|host| host.name == name).unwrap() + 1
    }

    fn host(&mut self, name: &str) -> &mut Host {
        self.hosts.iter_mut().find(|host| host.name == name).unwrap()
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for (name, fleet) in
                std::iter::once("head").chain(self.hosts.iter().map(|host| host.name.as_str())).zip(self.folders())
            {
                let log = Daemon::log(fleet.root());
                let words: Vec<&str> = log.lines().rev().take(8).collect();
                eprintln!("last words of {name}:\n{}", words.into_iter().rev().collect::<Vec<_>>().join("\n"));
            }
        }
        // All at once, and then waited for one by one, when their fields are dropped.
        self.controller
            .iter_mut()
            .chain(self.hosts.iter_mut().filter_map(|host| host.agent.as_mut()))
            .for_each(Daemon::ask_to_end);
        self.controller = None;
        self.hosts.iter_mut().for_each(|host| host.agent = None);
    }
}
