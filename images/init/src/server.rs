//! The event loop: hands each message and event to the part that knows it.

use std::{collections::BTreeMap, convert::Infallible, fs, time::Duration};

use fleet_wire::{ExecId, Settings, ToAgent, ToGuest, VERSION};
use nix::{
    errno::Errno,
    sys::{
        signal::{SigSet, Signal},
        signalfd::{SfdFlags, SignalFd},
        sysinfo::sysinfo,
        wait::{WaitPidFlag, WaitStatus, waitpid},
    },
    unistd::Pid,
};

use crate::{
    channel::Channel,
    command::{Command, Refusal},
    console::Console,
    error::InitError,
    events::{Events, Source},
    power,
    probe::Prober,
    settings, template,
};

/// Commands that may run at once; each holds at most a window of output and one of input.
const MAX_COMMANDS: usize = 64;
/// How long the last messages may take on the way down.
const FAREWELL: Duration = Duration::from_secs(1);

/// Everything that the init holds.
pub struct Server {
    channel: Channel,
    events: Events,
    signals: SignalFd,
    console: Console,
    commands: BTreeMap<ExecId, Command>,
    prober: Prober,
    /// Settings that were asked for last.
    settings: Settings,
    /// Fingerprint of the settings that are in force whole.
    in_force: u64,
    boot_id: u64,
    /// The agent's present session; 0: none yet.
    session: u64,
    buffer: Vec<u8>,
}

impl Server {
    /// Sets up events, signals and console, and says hello.
    pub fn new(channel: Channel) -> Result<Self, InitError> {
        let events = Events::new()?;
        let mut mask = SigSet::empty();
        for signal in [Signal::SIGCHLD, Signal::SIGINT, Signal::SIGTERM, Signal::SIGUSR1, Signal::SIGUSR2] {
            mask.add(signal);
        }
        mask.thread_block().map_err(InitError::system("blocking signals"))?;
        let signals = SignalFd::with_flags(&mask, SfdFlags::SFD_NONBLOCK | SfdFlags::SFD_CLOEXEC)
            .map_err(InitError::system("signalfd"))?;
        events.watch(&signals, Source::Signals).map_err(InitError::system("watching signals"))?;
        events.watch(&channel, Source::Channel).map_err(InitError::system("watching the control channel"))?;
        let console = Console::open(&events);
        let mut server = Self {
            channel,
            events,
            signals,
            console,
            commands: BTreeMap::new(),
            prober: Prober::default(),
            settings: Settings::default(),
            in_force: 0,
            boot_id: settings::random_u64(),
            session: 0,
            buffer: vec![0; 16 * 1024],
        };
        // An agent that spoke while this guest (re)started was not heard: tell it to attach again.
        server.hello(0);
        Ok(server)
    }

    /// Serves until the guest is shut down.
    pub fn run(mut self) -> Result<Infallible, InitError> {
        loop {
            for source in self.events.wait(self.prober.timeout_ms())? {
                match source {
                    Source::Channel => self.on_channel(),
                    Source::Signals => self.on_signals(),
                    Source::Console => self.console.on_input(&self.events),
                    Source::Probe => self.prober.on_socket(),
                    Source::Command(id) => self.pump(id),
                }
            }
            for answer in self.prober.advance() {
                self.channel.send(&answer);
            }
            while self.channel.has_room_again() {
                let ids: Vec<ExecId> = self.commands.keys().copied().collect();
                ids.into_iter().for_each(|id| self.pump(id));
            }
        }
    }

    fn on_channel(&mut self) {
        self.channel.flush();
        while let Some(messages) = self.channel.receive(&mut self.buffer) {
            messages.into_iter().for_each(|message| self.obey(message));
        }
    }

    fn obey(&mut self, message: ToGuest) {
        match message {
            ToGuest::Attach { session } => {
                self.commands.clear(); // dropping a command kills it
                self.prober.clear();
                self.channel.start_session();
                self.session = session;
                self.hello(session);
            }
            ToGuest::Configure(settings) => {
                let fingerprint = settings.fingerprint();
                let errors = settings::apply(&settings, &self.settings);
                self.in_force = if errors.is_empty() { fingerprint } else { 0 };
                self.settings = settings;
                self.channel.send(&ToAgent::Configured { settings: fingerprint, errors });
            }
            ToGuest::Exec { id, argv, env, tty } => self.start(id, &argv, &env, tty),
            ToGuest::Stdin { id, data } => self.with_command(id, |command, channel| {
                command.give_input(&data);
                command.write_input(id, channel);
            }),
            ToGuest::StdinClosed { id } => self.with_command(id, |command, channel| {
                command.end_input();
                command.write_input(id, channel);
            }),
            ToGuest::Resize { id, rows, columns } => {
                self.with_command(id, |command, _| command.resize(rows, columns));
            }
            ToGuest::Signal { id, signal } => self.with_command(id, |command, _| command.signal(signal)),
            ToGuest::Grant { id, bytes } => {
                self.with_command(id, |command, _| command.grant(bytes));
                self.pump(id);
            }
            ToGuest::Ping { nonce } => self.channel.send(&ToAgent::Pong { nonce }),
            ToGuest::Probe { nonce, targets, timeout_ms, attempts } => {
                let answer = self.prober.start(&self.events, nonce, targets, timeout_ms, attempts);
                if let Err(answer) = answer {
                    self.channel.send(&answer);
                }
            }
            ToGuest::Shutdown { reboot } => self.shut_down(reboot),
            ToGuest::Settle => {
                for problem in template::settle() {
                    eprintln!("fleet-init: {problem}");
                }
                self.channel.send(&ToAgent::Settled);
            }
            ToGuest::Become { template, macs, seed, time_ns } if template == self.boot_id => {
                for problem in template::leave(&macs, &seed, time_ns) {
                    eprintln!("fleet-init: {problem}");
                }
                self.boot_id = settings::random_u64();
                self.hello(self.session);
            }
            ToGuest::Become { .. } => {} // it has been said before
        }
    }

    fn start(&mut self, id: ExecId, argv: &[String], env: &[String], tty: Option<(u16, u16)>) {
        let started = if self.commands.contains_key(&id) {
            Err(Refusal::new(Errno::EEXIST, "a command of this number runs already"))
        } else if self.commands.len() >= MAX_COMMANDS {
            Err(Refusal::new(Errno::EAGAIN, "64 commands run in this guest, more may not"))
        } else {
            Command::start(&self.events, id, argv, env, tty)
        };
        match started {
            Ok(command) => {
                self.channel.send(&ToAgent::Started { id, pid: command.pid() });
                self.commands.insert(id, command);
            }
            Err(Refusal { errno, reason }) => {
                self.channel.send(&ToAgent::ExecFailed { id, errno: errno as i32, reason });
            }
        }
    }

    fn with_command(&mut self, id: ExecId, work: impl FnOnce(&mut Command, &mut Channel)) {
        if let Some(command) = self.commands.get_mut(&id) {
            work(command, &mut self.channel); // a command that has just ended is no error
        }
    }

    /// Moves a command's input and output; lets go of it when it has ended and all is sent.
    fn pump(&mut self, id: ExecId) {
        if let Some(command) = self.commands.get_mut(&id) {
            command.write_input(id, &mut self.channel);
            if let Some(code) = command.read_output(id, &mut self.channel, &mut self.buffer) {
                self.commands.remove(&id);
                self.channel.send(&ToAgent::Exited { id, code });
            }
        }
    }

    fn on_signals(&mut self) {
        while let Ok(Some(signal)) = self.signals.read_signal() {
            match Signal::try_from(signal.ssi_signo.cast_signed()) {
                Ok(Signal::SIGCHLD) => self.reap(),
                // What busybox's poweroff, halt and reboot send to process 1, and Ctrl-Alt-Del.
                Ok(Signal::SIGUSR1 | Signal::SIGUSR2) => self.shut_down(false),
                Ok(Signal::SIGTERM | Signal::SIGINT) => self.shut_down(true),
                _ => {}
            }
        }
    }

    /// Takes the exit status of all processes that ended: commands, the shell, and orphans.
    fn reap(&mut self) {
        loop {
            let (pid, code) = match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
                Ok(WaitStatus::Exited(pid, code)) => (pid, code),
                Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
                Ok(WaitStatus::StillAlive) | Err(_) => return,
                Ok(_) => continue,
            };
            self.console.on_exit(pid, &self.events);
            let found = self.commands.iter_mut().find(|(_, command)| command.is(pid));
            if let Some((id, command)) = found.map(|(id, command)| (*id, command)) {
                command.ended(code);
                self.pump(id);
            }
        }
    }

    fn hello(&mut self, session: u64) {
        self.channel.note(); // the start of the session's account
        self.channel.send(&ToAgent::Hello {
            version: VERSION,
            session,
            boot_id: self.boot_id,
            kernel: fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default().trim_end().to_owned(),
            uptime_ms: uptime_ms(),
            settings: self.in_force,
        });
    }

    fn shut_down(&mut self, restart: bool) -> ! {
        self.channel.send(&ToAgent::ShuttingDown);
        self.channel.drain(FAREWELL);
        power::shut_down(restart)
    }
}

fn uptime_ms() -> u64 {
    let text = fs::read_to_string("/proc/uptime").unwrap_or_default();
    let seconds = text.split_whitespace().next().and_then(|word| word.parse::<f64>().ok());
    seconds.or_else(|| Some(sysinfo().ok()?.uptime().as_secs_f64())).map_or(0, |seconds| (seconds * 1000.0) as u64)
}
