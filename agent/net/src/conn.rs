//! An rtnetlink connection into one namespace, with requests in bounded batches.
//!
//! A request is one system call to send and one message in answer; what takes the time is the kernel's work between.
//! [`Conn::run`] sends a batch of requests before it waits for the first answer. The batch is bounded because answers
//! wait in the socket's receive buffer: when that is full the kernel drops them. Every batch has a deadline.

use std::time::Duration;

use futures::{Stream, StreamExt};
use rtnetlink::{
    Handle,
    packet_core::{NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload},
    packet_route::RouteNetlinkMessage,
    sys::AsyncSocket,
};
use tokio::{task::JoinHandle, time::timeout};

use crate::{error::NetError, worker::Cancel};

/// Requests sent before the first answer is awaited; their answers take some 100 KB of the receive buffer.
const BATCH: usize = 128;
/// Size of the receive buffer in bytes: several times what a batch's answers take.
const RECEIVE_BUFFER: u32 = 1 << 20;
/// Longest wait for the answers of one batch or dump. A bridge port takes the kernel half a millisecond.
const DEADLINE: Duration = Duration::from_secs(30);

/// One request to the kernel, with the words for its failure.
#[derive(Debug)]
pub(crate) struct Request {
    pub message: RouteNetlinkMessage,
    /// `NLM_F_CREATE` and the like; `REQUEST` and `ACK` are added.
    pub flags: u16,
    /// What is being done, for errors: "plug port web[3]/eth0 into lan lan0".
    pub doing: String,
    /// Answers that are as good as success, for what may have happened meanwhile.
    pub tolerated: &'static [i32],
}

/// A connection into the namespace that the thread was in when it was opened.
#[derive(Debug)]
pub(crate) struct Conn {
    handle: Handle,
    task: JoinHandle<()>,
    experiment: String,
}

impl Drop for Conn {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Conn {
    /// Opens a connection into the calling thread's namespace.
    pub fn open(experiment: &str) -> Result<Self, NetError> {
        let failed = |source| NetError::Kernel {
            experiment: experiment.to_owned(),
            doing: "open a netlink socket".into(),
            source,
        };
        let (mut connection, handle, _unsolicited) = rtnetlink::new_connection().map_err(failed)?;
        // Without this an answer and a connection that died look the same.
        connection.set_forward_ack(true);
        connection.set_forward_done(true);
        // A hint: the kernel cuts it to net.core.rmem_max, which still holds a batch.
        connection.socket_mut().socket_mut().set_rx_buf_sz(RECEIVE_BUFFER).map_err(failed)?;
        let task = tokio::spawn(connection);
        Ok(Self { handle, task, experiment: experiment.to_owned() })
    }

    /// Carries out the requests in order. Stops after the batch in which one failed, with that failure.
    pub async fn run(
        &self,
        requests: Vec<Request>,
        cancel: &Cancel,
        mut progress: impl FnMut(usize),
    ) -> Result<(), NetError> {
        let mut requests = requests.into_iter().peekable();
        while requests.peek().is_some() {
            cancel.check(&self.experiment)?;
            let mut sent = Vec::with_capacity(BATCH);
            for mut request in requests.by_ref().take(BATCH) {
                let mut message = NetlinkMessage::from(request.message);
                message.header.flags = NLM_F_REQUEST | NLM_F_ACK | request.flags;
                let doing = std::mem::take(&mut request.doing);
                let answers = self.send(message, &doing)?;
                sent.push((Box::pin(answers), doing, request.tolerated));
            }
            let count = sent.len();
            let mut failed = None;
            for (mut answers, doing, tolerated) in sent {
                let answer = self.deadline(&doing, answers.next()).await?;
                if let Err(error) = self.outcome(answer, doing, tolerated) {
                    failed.get_or_insert(error);
                }
            }
            if let Some(error) = failed {
                return Err(error);
            }
            progress(count);
        }
        Ok(())
    }

    /// Asks for all objects of a kind.
    pub async fn dump(&self, message: RouteNetlinkMessage, doing: &str) -> Result<Vec<RouteNetlinkMessage>, NetError> {
        let mut message = NetlinkMessage::from(message);
        message.header.flags = NLM_F_REQUEST | NLM_F_DUMP;
        let mut answers = Box::pin(self.send(message, doing)?);
        let collect = async {
            let mut objects = Vec::new();
            while let Some(answer) = answers.next().await {
                match answer.payload {
                    NetlinkPayload::InnerMessage(object) => objects.push(object),
                    NetlinkPayload::Done(done) if done.code == 0 => return Ok(objects),
                    NetlinkPayload::Done(done) => return Err(self.kernel(doing, errno(done.code))),
                    NetlinkPayload::Error(error) => return Err(self.kernel(doing, error.to_io())),
                    // Overrun: answers were dropped.
                    _ => return Err(self.kernel(doing, errno(libc::ENOBUFS))),
                }
            }
            Err(self.gone(doing))
        };
        self.deadline(doing, collect).await?
    }

    fn send(
        &self,
        message: NetlinkMessage<RouteNetlinkMessage>,
        doing: &str,
    ) -> Result<impl Stream<Item = NetlinkMessage<RouteNetlinkMessage>> + use<>, NetError> {
        self.handle.clone().request(message).map_err(|_| self.gone(doing))
    }

    fn outcome(
        &self,
        answer: Option<NetlinkMessage<RouteNetlinkMessage>>,
        doing: String,
        tolerated: &[i32],
    ) -> Result<(), NetError> {
        match answer.map(|answer| answer.payload) {
            Some(NetlinkPayload::Error(answer)) => match answer.raw_code().abs() {
                0 => Ok(()),
                errno if tolerated.contains(&errno) => Ok(()),
                _ => Err(self.kernel(&doing, answer.to_io())),
            },
            _ => Err(self.gone(&doing)),
        }
    }

    async fn deadline<T>(&self, doing: &str, answer: impl Future<Output = T>) -> Result<T, NetError> {
        timeout(DEADLINE, answer).await.map_err(|_| NetError::Deadline {
            experiment: self.experiment.clone(),
            doing: doing.to_owned(),
            after: DEADLINE,
        })
    }

    fn kernel(&self, doing: &str, source: std::io::Error) -> NetError {
        NetError::Kernel { experiment: self.experiment.clone(), doing: doing.to_owned(), source }
    }

    /// The connection ended, which it does only when its socket fails.
    fn gone(&self, doing: &str) -> NetError {
        self.kernel(doing, errno(libc::ENOTCONN))
    }
}

/// The error of a kernel's code, which comes negative.
fn errno(code: i32) -> std::io::Error {
    std::io::Error::from_raw_os_error(code.abs())
}
