//! The way from a parent to a member, whatever carries it. What went wrong is told apart by what the parent may
//! conclude: nothing was told, it may have been told, it was told and said no.

use std::pin::Pin;

use async_trait::async_trait;
use fleet_proto::v1::{Member, WaveDown, WaveOpen, WaveUp};
use futures::Stream;
use thiserror::Error;
use tokio::sync::mpsc;
use tonic::Code;

/// Messages on the way down that wait: content, mostly.
pub const DOWN_QUEUE: usize = 4;

/// No connection: the member was told nothing. The text is a reason that folds, without address or name.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
#[error("{0}")]
pub struct ConnectError(pub String);

/// Why a wave did not open, or broke off.
#[derive(Clone, Debug, Error, PartialEq, Eq)]
pub enum WaveError {
    /// The member said no; it did nothing.
    #[error("refused: {message}")]
    Refused {
        /// Why, as gRPC has it. `FailedPrecondition`: the sender is a stale controller.
        code: Code,
        /// Why, in words.
        message: String,
    },
    /// A warm connection turned out to be gone before anything was sent over it, and there is no new one.
    #[error("{0}")]
    Unreached(String),
    /// The connection is gone: the member may have acted.
    #[error("{0}")]
    Lost(String),
}

/// Opens waves to members.
#[async_trait]
pub trait Link: Send + Sync + 'static {
    /// A connection that is known to answer; a warm one at once. The caller bounds the time.
    async fn connect(&self, member: &Member) -> Result<Box<dyn Connection>, ConnectError>;
}

/// A connection to a member.
#[async_trait]
pub trait Connection: Send + Sync + 'static {
    /// Tells the member, at the latest when its answer is asked for. From here on it may have acted.
    async fn open(self: Box<Self>, open: WaveOpen) -> Result<WaveStream, WaveError>;
}

/// A wave that was told.
pub struct WaveStream {
    /// To the member.
    pub down: mpsc::Sender<WaveDown>,
    /// From the member. It ends after its `WaveEnd`; an end before is a loss. Dropping it breaks the stream off.
    pub up: Pin<Box<dyn Stream<Item = Result<WaveUp, WaveError>> + Send>>,
}
