//! Where the work is done: each operation has a thread of its own with a small runtime.
//!
//! Two reasons. A thread, unlike a task, can enter a namespace. And most requests are system calls that hold the
//! kernel's one RTNL lock for their whole duration; on the caller's runtime they would stall its other tasks. When
//! the caller drops its future, the thread ends before its next batch.

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

use tokio::{runtime, sync::oneshot};

use crate::error::NetError;

/// Whether the caller has given up.
#[derive(Debug, Clone, Default)]
pub(crate) struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// An error once the caller has given up.
    pub fn check(&self, experiment: &str) -> Result<(), NetError> {
        if self.0.load(Ordering::Relaxed) {
            return Err(NetError::Cancelled { experiment: experiment.to_owned() });
        }
        Ok(())
    }
}

struct CancelOnDrop(Cancel);

impl Drop for CancelOnDrop {
    fn drop(&mut self) {
        self.0.0.store(true, Ordering::Relaxed);
    }
}

/// Runs the asynchronous `work` on a new thread, which may change its namespace as it likes.
pub(crate) async fn on_thread<T: Send + 'static>(
    work: impl AsyncFnOnce(&Cancel) -> Result<T, NetError> + Send + 'static,
) -> Result<T, NetError> {
    let guard = CancelOnDrop(Cancel::default());
    let cancel = guard.0.clone();
    let (answer, answered) = oneshot::channel();
    thread::Builder::new()
        .name("net-worker".into())
        .spawn(move || {
            let result = runtime::Builder::new_current_thread()
                .enable_io()
                .enable_time()
                .build()
                .map_err(NetError::thread)
                .and_then(|runtime| runtime.block_on(work(&cancel)));
            // Nobody waits any more when the caller gave up.
            let _ = answer.send(result);
        })
        .map_err(NetError::thread)?;
    answered.await.unwrap_or_else(|_| Err(NetError::thread(io::Error::other("it panicked"))))
}
