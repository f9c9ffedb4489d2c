//! Times and bounds of a node. Liveness is the connect time-out here and the transport's keepalive, never slowness.

use tokio::time::Duration;

/// Times and bounds; all nodes of a tree should have the same.
#[derive(Clone, Debug)]
pub struct Config {
    /// What the dead may cost a wave. A member that has not taken a connection after half of it is not reached; after an
    /// eighth it is suspect, and the branches below it are told without it. So four dead below one another still cost
    /// no more than this.
    pub connect_timeout: Duration,
    /// Connections that are being made at a time.
    pub opens: usize,
    /// Between two messages of progress.
    pub progress_pace: Duration,
    /// How long an answer waits for equal ones.
    pub answers_hold: Duration,
    /// By how much a child's deadline is earlier than its parent's, but not more than an eighth of what is left.
    pub margin: Duration,
    /// A lost child is tried again within this time.
    pub reconnect_within: Duration,
    /// How long a command goes on without a parent, so that another can come in its place.
    pub orphan_grace: Duration,
    /// How long a cancelled wave that reads, or runs a command, waits for the ends of its branches.
    pub cancel_grace: Duration,
    /// Bytes of content that are kept for later waves.
    pub blob_bytes: usize,
    /// Waves at a time.
    pub waves: usize,
}

impl Config {
    /// How long one connection may take.
    pub(crate) fn attempt(&self) -> Duration {
        self.connect_timeout / 2
    }

    /// After how long a member that has taken no connection is suspect.
    pub(crate) fn patience(&self) -> Duration {
        self.connect_timeout / 8
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(4),
            opens: 256,
            progress_pace: Duration::from_millis(100),
            answers_hold: Duration::from_millis(200),
            margin: Duration::from_millis(250),
            reconnect_within: Duration::from_millis(300),
            orphan_grace: Duration::from_secs(10),
            cancel_grace: Duration::from_secs(1),
            blob_bytes: 64 * 1024 * 1024,
            waves: 256,
        }
    }
}
