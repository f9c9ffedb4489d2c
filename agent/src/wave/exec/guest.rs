//! A command in a guest, over its control channel. Dropped, it is killed.

use std::pin::Pin;

use fleet_proto::v1::ExecTask;
use fleet_vm::{ExecEvent, ExecSession, ExecSpec, Machine};

use super::Command;
use crate::session::{START_DEADLINE, cut_off, state_word};
use crate::slot::Slot;

/// A command that runs in a guest.
pub struct GuestCommand {
    machine: Machine,
    session: ExecSession,
    /// Hands it its input; none: that is done.
    feeding: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

impl GuestCommand {
    /// Starts it.
    ///
    /// # Errors
    /// In words that many guests can share, without a name.
    pub async fn start(slot: Option<&Slot>, task: &ExecTask) -> Result<Self, String> {
        let slot = slot.ok_or("this host does not know it")?;
        let machine = slot.machine().ok_or_else(|| format!("it is {}", state_word(slot)))?;
        let spec = ExecSpec { argv: task.argv.clone(), env: task.env.clone(), tty: None };
        let session = machine.control().exec(spec, START_DEADLINE).await.map_err(|error| error.to_string())?;
        let (input, stdin) = (session.input(), task.stdin.clone());
        let feeding = Box::pin(async move {
            // A command that does not read to the end, or has ended: its end is told elsewhere.
            if input.write(&stdin).await.is_ok() {
                drop(input.close().await);
            }
        });
        Ok(Self { machine, session, feeding: Some(feeding) })
    }
}

impl Command for GuestCommand {
    async fn next(&mut self) -> Result<ExecEvent, String> {
        let Self { machine, session, feeding } = self;
        loop {
            tokio::select! {
                event = session.next() => return match event {
                    Ok(event) => Ok(event),
                    Err(error) => Err(cut_off(machine, error).await),
                },
                () = fed(feeding) => *feeding = None,
            }
        }
    }
}

async fn fed(feeding: &mut Option<Pin<Box<dyn Future<Output = ()> + Send>>>) {
    match feeding {
        Some(feeding) => feeding.await,
        None => std::future::pending().await,
    }
}
