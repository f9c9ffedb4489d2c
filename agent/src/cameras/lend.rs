//! A camera of this host, for a VM of another one: the service `Cameras.Lend`.
//!
//! A camera has one loan at a time. A later one ends it, if its epoch is not lower: so a borrower that comes back after a
//! cut takes the place of its own stream of before, and a newer lease that of an older. The borrower is told how the
//! camera is, at once, at each change, and every [`ALIVE`], so that it notices a cut. A conversation is piped in chunks;
//! few are under way, and whoever is slow slows down the other side.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use fleet_pki::{Role, peer, require};
use fleet_proto::v1::cameras_server::{Cameras as CamerasService, CamerasServer};
use fleet_proto::v1::{CameraSeen, LendData, LendInput, LendOpen, LendOutput, LendSession, lend_input, lend_output};
use fleet_usbexport::Ended;
use futures::{Stream, StreamExt};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, ReadHalf, WriteHalf};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;
use tonic::service::interceptor::InterceptedService;
use tonic::{Request, Response, Status, Streaming};

use super::Cameras;
use super::refusal::Refusal;
use super::source::{Own, Seen, Source};

/// Between two words to a borrower, at most.
pub(super) const ALIVE: Duration = Duration::from_secs(2);
/// Bytes in one message.
pub(super) const CHUNK: usize = 64 * 1024;
/// Messages that wait for the network.
pub(super) const QUEUE: usize = 4;
/// Bytes between exporter and network.
const PIPE: usize = 256 * 1024;
/// For a borrower's first word.
const OPENED: Duration = Duration::from_secs(10);
/// For a conversation that is ended to let go of the camera.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// The service, for agents of the fleet; the controller borrows for its own host.
pub fn service(
    cameras: Arc<Cameras>,
) -> InterceptedService<
    CamerasServer<impl CamerasService>,
    impl Fn(Request<()>) -> Result<Request<()>, Status> + Clone + Send + Sync + 'static,
> {
    InterceptedService::new(CamerasServer::new(Service { cameras }), require(&[Role::Agent, Role::Controller]))
}

struct Service {
    cameras: Arc<Cameras>,
}

#[tonic::async_trait]
impl CamerasService for Service {
    type LendStream = Pin<Box<dyn Stream<Item = Result<LendOutput, Status>> + Send>>;

    async fn lend(&self, request: Request<Streaming<LendInput>>) -> Result<Response<Self::LendStream>, Status> {
        let caller = peer(&request)?.identity().map(ToString::to_string).unwrap_or_default();
        let mut input = request.into_inner();
        let first = tokio::time::timeout(OPENED, input.message()).await;
        let first = first.map_err(|_| Status::deadline_exceeded("the first word was not said in time"))??;
        let Some(LendInput { message: Some(lend_input::Message::Open(open)) }) = first else {
            return Err(Status::invalid_argument("the first word must say which camera"));
        };
        let cameras = &self.cameras;
        let known = cameras.host.cameras().contains_key(&open.camera) || cameras.around.store.given(&open.camera) > 0;
        if !known {
            let unknown = Refusal::Unknown { host: cameras.around.host.clone(), camera: open.camera };
            return Err(Status::not_found(unknown.to_string()));
        }
        cameras.give(&open.camera, open.epoch).await.map_err(|refusal| match &refusal {
            Refusal::Stale { .. } => Status::failed_precondition(refusal.to_string()),
            _ => Status::unavailable(refusal.to_string()),
        })?;
        tracing::info!(camera = open.camera, epoch = open.epoch, holder = open.holder, caller, "a camera is lent");
        let (words, receiver) = mpsc::channel(QUEUE);
        let own = Own::new(Arc::clone(&cameras.host), &cameras.around.host, &open.camera);
        let loan = cameras.loans.begin(&open, |over, number| {
            let serve = Serve { own: Arc::new(own), open: open.clone(), words, over, session: None };
            let loans = cameras.loans.clone();
            tokio::spawn(async move {
                let camera = serve.open.camera.clone();
                serve.run(input).await;
                loans.forget(&camera, number);
            })
        });
        // An older epoch's that came in between.
        loan.map_err(Status::failed_precondition)?;
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

/// One loan.
struct Loan {
    epoch: u64,
    number: u64,
    over: CancellationToken,
    task: AbortOnDropHandle<()>,
}

/// The loans that are under way, by camera.
#[derive(Clone, Default)]
pub struct Loans {
    all: Arc<Mutex<HashMap<String, Loan>>>,
    count: Arc<AtomicU64>,
}

impl Loans {
    fn locked(&self) -> MutexGuard<'_, HashMap<String, Loan>> {
        // Only whole values are exchanged under it.
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lists a loan and starts its task, unless one of a higher epoch is there.
    fn begin(
        &self,
        open: &LendOpen,
        start: impl FnOnce(CancellationToken, u64) -> tokio::task::JoinHandle<()>,
    ) -> Result<(), String> {
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        let mut all = self.locked();
        if let Some(other) = all.get(&open.camera).filter(|other| other.epoch > open.epoch) {
            return Err(Refusal::Stale { asked: open.epoch, known: other.epoch }.to_string());
        }
        let over = CancellationToken::new();
        let task = AbortOnDropHandle::new(start(over.clone(), number));
        all.insert(open.camera.clone(), Loan { epoch: open.epoch, number, over, task });
        Ok(())
    }

    fn forget(&self, camera: &str, number: u64) {
        let mut all = self.locked();
        if all.get(camera).is_some_and(|loan| loan.number == number) {
            // Its task is at its end: nothing is left to abort.
            all.remove(camera);
        }
    }

    /// Ends the loan of a camera, if its epoch is not higher; returns when it has let go.
    pub async fn end(&self, camera: &str, epoch: u64) {
        let loan = {
            let mut all = self.locked();
            if all.get(camera).is_some_and(|loan| loan.epoch <= epoch) { all.remove(camera) } else { None }
        };
        if let Some(loan) = loan {
            loan.over.cancel();
            drop(tokio::time::timeout(LAST_WORDS, loan.task).await);
        }
    }

    /// Ends them all.
    pub async fn stop(&self) {
        let all = std::mem::take(&mut *self.locked());
        for loan in all.into_values() {
            loan.task.abort();
            drop(loan.task.await);
        }
    }
}

type Words = mpsc::Sender<Result<LendOutput, Status>>;

fn word(message: lend_output::Message) -> Result<LendOutput, Status> {
    Ok(LendOutput { message: Some(message) })
}

/// What the task of a loan owns.
struct Serve {
    own: Arc<Own>,
    open: LendOpen,
    words: Words,
    /// Somebody else has the camera now.
    over: CancellationToken,
    session: Option<Session>,
}

impl Serve {
    async fn run(mut self, mut input: Streaming<LendInput>) {
        // Beside the rest: a camera that is slow to take what is sent to it holds up no word that it is there.
        let _telling = AbortOnDropHandle::new(tokio::spawn(tell(Arc::clone(&self.own), self.words.clone())));
        let (over, words) = (self.over.clone(), self.words.clone());
        let status = loop {
            let step = async {
                match input.message().await {
                    Ok(Some(message)) => {
                        self.take(message).await;
                        true
                    }
                    Ok(None) | Err(_) => false,
                }
            };
            tokio::select! {
                () = over.cancelled() => {
                    let epoch = self.open.epoch;
                    let reason = format!("the camera is given out anew, after the lease of epoch {epoch}");
                    break Status::failed_precondition(reason);
                }
                () = words.closed() => break Status::cancelled("the borrower is gone"),
                goes_on = step => if !goes_on {
                    break Status::cancelled("the borrower is gone");
                },
            }
        };
        if let Some(session) = self.session.take() {
            session.end().await;
        }
        // No place: the stream's end is all that the borrower can be told.
        drop(self.words.try_send(Err(status)));
    }

    /// Does what the borrower says.
    async fn take(&mut self, message: LendInput) {
        match message.message {
            Some(lend_input::Message::Begin(begin)) => {
                if let Some(session) = self.session.take() {
                    session.end().await;
                }
                self.session = Some(Session::begin(begin.session, &self.own, &self.words));
            }
            Some(lend_input::Message::Data(data)) => {
                if let Some(session) = self.session.as_mut().filter(|session| session.number == data.session)
                    // It says itself that it has ended.
                    && session.to_camera.write_all(&data.content).await.is_err()
                {
                    tracing::debug!(camera = self.open.camera, "what came after the end of a conversation was dropped");
                }
            }
            Some(lend_input::Message::End(end)) => {
                if let Some(session) = self.session.take_if(|session| session.number == end.session) {
                    session.end().await;
                }
            }
            // The first word once more, or one of a newer version.
            Some(lend_input::Message::Open(_)) | None => {}
        }
    }
}

/// Tells a borrower how the camera is, and that this side is alive.
async fn tell(own: Arc<Own>, words: Words) {
    let mut sights = own.sights();
    let mut alive = tokio::time::interval(ALIVE);
    alive.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut told = None;
    loop {
        tokio::select! {
            // First how it is, then that it still is.
            biased;
            next = sights.next() => {
                let Some(seen) = next else { return };
                let seen = said(&seen);
                if told.as_ref() != Some(&seen) && words.send(word(lend_output::Message::Seen(seen.clone()))).await.is_err() {
                    return;
                }
                told = Some(seen);
            }
            // No place, no need: what waits there shows it as well.
            _ = alive.tick(), if told.is_some() => {
                drop(words.try_send(word(lend_output::Message::Seen(told.clone().unwrap_or_default()))));
            }
        }
    }
}

/// As a borrower is told.
fn said(seen: &Seen) -> CameraSeen {
    match seen {
        Seen::As(sight) => CameraSeen {
            present: sight.present,
            persona: sight.persona.to_string(),
            usb_id: sight.usb_id.to_string(),
            obstacle: sight.obstacle.as_ref().map(|obstacle| obstacle.detail.clone()).unwrap_or_default(),
        },
        Seen::Nowhere | Seen::Unreached(_) | Seen::Over(_) => CameraSeen::default(),
    }
}

/// A conversation under way.
struct Session {
    number: u32,
    to_camera: WriteHalf<DuplexStream>,
    cancel: CancellationToken,
    task: AbortOnDropHandle<()>,
}

impl Session {
    fn begin(number: u32, own: &Arc<Own>, words: &Words) -> Self {
        let (near, far) = tokio::io::duplex(PIPE);
        let (from_camera, to_camera) = tokio::io::split(far);
        let cancel = CancellationToken::new();
        let (own, words, token) = (Arc::clone(own), words.clone(), cancel.clone());
        let task = AbortOnDropHandle::new(tokio::spawn(async move {
            // It is told that it has begun before anything of it comes.
            let begun = LendSession { session: number, reason: String::new() };
            if words.send(word(lend_output::Message::Begun(begun))).await.is_err() {
                return;
            }
            let piping = async {
                tokio::select! {
                    piped = pipe(number, from_camera, &words) => piped,
                    () = token.cancelled() => Ok(()),
                }
            };
            let (ended, _) = tokio::join!(own.export(near, token.clone()), piping);
            let reason = match ended {
                Ok(Ended::Unplugged) => "it was unplugged".to_owned(),
                Ok(Ended::Cancelled) => "it was taken back".to_owned(),
                Ok(Ended::PeerClosed) => "the VM closed the conversation".to_owned(),
                Err(reason) => reason,
            };
            let ended = LendSession { session: number, reason };
            // A borrower that is gone needs no word.
            drop(words.send(word(lend_output::Message::Ended(ended))).await);
        }));
        Self { number, to_camera, cancel, task }
    }

    /// Ends it; the camera is free when this returns.
    async fn end(self) {
        self.cancel.cancel();
        // Its last word may find no place: it is dropped then.
        drop(tokio::time::timeout(LAST_WORDS, self.task).await);
    }
}

/// Hands on what the camera says.
async fn pipe(session: u32, mut from_camera: ReadHalf<DuplexStream>, words: &Words) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    loop {
        let length = from_camera.read(&mut buffer).await?;
        let Some(content) = buffer.get(..length).filter(|content| !content.is_empty()) else { return Ok(()) };
        let data = LendData { session, content: content.to_vec() };
        if words.send(word(lend_output::Message::Data(data))).await.is_err() {
            return Ok(());
        }
    }
}
