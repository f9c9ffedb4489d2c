//! A camera behind a usbredir server: seen, lent, and what servers do wrong.

mod common;

use std::sync::Arc;
use std::sync::atomic::Ordering;

use common::{Borrower, DEADLINE, FLOOD, Fake, Mode, command, picture, until};
use fleet_usb::Persona;
use fleet_usbexport::{Ended, ExportError, Server};
use fleet_usbredir::Packet;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

type Loan = JoinHandle<Result<Ended, ExportError>>;

/// Lends the camera to a borrower that is behind a pipe of so many bytes.
fn lend(server: &Arc<Server>, pipe: usize) -> (Loan, DuplexStream, CancellationToken) {
    let (ours, theirs) = tokio::io::duplex(pipe);
    let (server, cancel) = (Arc::clone(server), CancellationToken::new());
    let token = cancel.clone();
    (tokio::spawn(async move { server.lend(theirs, token).await }), ours, cancel)
}

async fn ended(loan: Loan) -> Result<Ended, ExportError> {
    tokio::time::timeout(DEADLINE, loan).await.expect("in time").expect("no panic")
}

#[tokio::test]
async fn a_camera_behind_a_server_is_seen_with_its_own_words() {
    let fake = Fake::start(Mode::Plugged("3012345"));
    let server = Server::start(fake.address());
    let seen = until(&server, Option::is_some).await.expect("a camera");
    assert_eq!(seen.id.to_string(), "04b0:0428");
    assert_eq!(seen.persona(), Persona::Ptp);
    let words = [&seen.serial, &seen.manufacturer, &seen.model].map(|word| word.as_deref().unwrap_or("none"));
    assert_eq!(words, ["3012345", "NIKON", "NIKON DSC D7000"]);
    assert_eq!((seen.speed.as_str(), seen.malformed), ("480", None));
    server.stop().await;
}

#[tokio::test]
async fn an_unplug_a_replug_and_a_server_that_dies_are_told() {
    let mut fake = Fake::start(Mode::Unplugged);
    let server = Server::start(fake.address());
    fake.set(Mode::Plugged("1"));
    until(&server, Option::is_some).await;
    fake.set(Mode::Unplugged);
    until(&server, Option::is_none).await;
    fake.set(Mode::Plugged("2"));
    let seen = until(&server, Option::is_some).await.expect("a camera");
    assert_eq!(seen.serial.as_deref(), Some("2"));
    fake.kill().await;
    until(&server, Option::is_none).await;
    fake.restart();
    until(&server, Option::is_some).await;
}

#[tokio::test]
async fn a_lent_camera_gives_its_picture_whole_and_is_seen_all_the_time() {
    let fake = Fake::start(Mode::Plugged("1"));
    let server = Server::start(fake.address());
    until(&server, Option::is_some).await;
    let mut seen = server.seen();
    seen.mark_unchanged();
    // A pipe that is smaller than any packet of the picture.
    let (loan, stream, cancel) = lend(&server, 1000);
    let mut borrower = Borrower::start(stream).await;
    borrower.wait(|packet| matches!(packet, Packet::DeviceConnect(_))).await;
    borrower.bulk_out(command(0x1002, &[1])).await;
    assert_eq!(borrower.transfer(512).await.len(), 12, "the response to the opening");
    borrower.bulk_out(command(0x1009, &[2])).await;
    assert_eq!(borrower.transfer(65536).await[12..], picture().bytes);
    cancel.cancel();
    assert_eq!(ended(loan).await.expect("a loan"), Ended::Cancelled);
    assert!(borrower.next().await.is_none_or(|(_, packet)| matches!(packet, Packet::Bulk { .. })));
    // It is watched again; nobody was told of a camera that went away.
    fake.set(Mode::Unplugged);
    tokio::time::timeout(DEADLINE, seen.changed()).await.expect("in time").expect("a change");
    assert_eq!(*seen.borrow(), None);
    assert_eq!(fake.counts.accepted.load(Ordering::SeqCst), 3, "watching, lent, watching");
}

#[tokio::test]
async fn a_camera_that_is_unplugged_ends_its_loan_and_the_borrower_is_told() {
    let fake = Fake::start(Mode::Plugged("1"));
    let server = Server::start(fake.address());
    until(&server, Option::is_some).await;
    let (loan, stream, _cancel) = lend(&server, 4096);
    let mut borrower = Borrower::start(stream).await;
    borrower.wait(|packet| matches!(packet, Packet::DeviceConnect(_))).await;
    fake.set(Mode::Unplugged);
    borrower.wait(|packet| *packet == Packet::DeviceDisconnect).await;
    assert_eq!(ended(loan).await.expect("a loan"), Ended::Unplugged);
    assert_eq!(*server.seen().borrow(), None);
    // And once more, to the same borrower.
    fake.set(Mode::Plugged("1"));
    until(&server, Option::is_some).await;
    let (loan, stream, _cancel) = lend(&server, 4096);
    let mut borrower = Borrower::start(stream).await;
    borrower.wait(|packet| matches!(packet, Packet::DeviceConnect(_))).await;
    drop(borrower);
    assert_eq!(ended(loan).await.expect("a loan"), Ended::PeerClosed);
}

#[tokio::test]
async fn a_server_that_dies_takes_the_camera_from_its_borrower() {
    let mut fake = Fake::start(Mode::Plugged("1"));
    let server = Server::start(fake.address());
    until(&server, Option::is_some).await;
    let (loan, stream, _cancel) = lend(&server, 4096);
    let mut borrower = Borrower::start(stream).await;
    borrower.wait(|packet| matches!(packet, Packet::DeviceConnect(_))).await;
    fake.kill().await;
    assert_eq!(ended(loan).await.expect("a loan"), Ended::Unplugged);
    assert!(borrower.next().await.is_none());
    assert_eq!(*server.seen().borrow(), None);
}

#[tokio::test]
async fn one_has_it_and_others_are_refused() {
    let fake = Fake::start(Mode::Plugged("1"));
    let server = Server::start(fake.address());
    let (early, _io) = tokio::io::duplex(64);
    let refused = server.lend(early, CancellationToken::new()).await;
    assert!(matches!(refused, Err(ExportError::Absent { .. })), "{refused:?}");
    until(&server, Option::is_some).await;
    let (first, stream, cancel) = lend(&server, 4096);
    let mut borrower = Borrower::start(stream).await;
    borrower.wait(|packet| matches!(packet, Packet::DeviceConnect(_))).await;
    let (second, _io, _) = lend(&server, 4096);
    let refused = ended(second).await;
    assert!(matches!(refused, Err(ExportError::Lent { .. })), "{refused:?}");
    cancel.cancel();
    assert_eq!(ended(first).await.expect("a loan"), Ended::Cancelled);
    // Free again at once.
    let (third, stream, _cancel) = lend(&server, 4096);
    let mut borrower = Borrower::start(stream).await;
    borrower.wait(|packet| matches!(packet, Packet::DeviceConnect(_))).await;
    // Its caller is dropped: as if it were cancelled.
    third.abort();
    assert!(third.await.expect_err("aborted").is_cancelled());
    while borrower.next().await.is_some() {}
}

#[tokio::test]
async fn a_filter_that_refuses_the_camera_ends_the_loan() {
    let fake = Fake::start(Mode::Plugged("1"));
    let server = Server::start(fake.address());
    until(&server, Option::is_some).await;
    let (loan, stream, _cancel) = lend(&server, 4096);
    let mut borrower = Borrower::start(stream).await;
    borrower.wait(|packet| matches!(packet, Packet::DeviceConnect(_))).await;
    borrower.send(&Packet::FilterReject).await;
    let outcome = ended(loan).await;
    assert!(matches!(outcome, Err(ExportError::Rejected)), "{outcome:?}");
    assert!(server.seen().borrow().is_some());
}

#[tokio::test]
async fn a_borrower_that_does_not_read_holds_up_the_server_and_nothing_else() {
    const TOTAL: usize = 48 << 20;
    let fake = Fake::start(Mode::Floods(TOTAL));
    let server = Server::start(fake.address());
    until(&server, Option::is_some).await;
    let (loan, stream, _cancel) = lend(&server, 4096);
    let mut borrower = Borrower::start(stream).await;
    borrower.wait(|packet| matches!(packet, Packet::DeviceConnect(_))).await;
    // Sent while the flood stands still; it is read by the server when the flood is over.
    borrower.send(&Packet::Reset).await;
    let before = fake.counts.flooded.load(Ordering::SeqCst);
    assert!(before < TOTAL / 2, "{before} bytes went ahead of a borrower that has read none");
    for _ in 0..TOTAL / FLOOD {
        let packet = borrower.wait(|packet| matches!(packet, Packet::Bulk { .. })).await;
        assert!(matches!(packet, Packet::Bulk { data, .. } if data.len() == FLOOD));
    }
    borrower.send(&Packet::GetConfiguration).await;
    borrower.wait(|packet| matches!(packet, Packet::ConfigurationStatus { .. })).await;
    assert_eq!(fake.counts.resets.load(Ordering::SeqCst), 1);
    drop(borrower);
    assert_eq!(ended(loan).await.expect("a loan"), Ended::PeerClosed);
}

#[tokio::test]
async fn garbage_silence_and_closing_are_no_camera_and_it_is_tried_again() {
    let fake = Fake::start(Mode::Closes);
    let server = Server::start(fake.address());
    let wrong = [Mode::Says(b"SSH-2.0-OpenSSH_9.2\r\n".to_vec()), Mode::Says(vec![0xff; 4096]), Mode::Silent];
    for mode in wrong {
        let before = fake.counts.accepted.load(Ordering::SeqCst);
        fake.set(mode.clone());
        while fake.counts.accepted.load(Ordering::SeqCst) == before {
            tokio::task::yield_now().await;
        }
        assert_eq!(*server.seen().borrow(), None, "{mode:?}");
    }
    fake.set(Mode::Plugged("1"));
    until(&server, Option::is_some).await;
}

#[tokio::test]
async fn a_borrower_that_speaks_no_usbredir_is_refused_and_the_camera_stays() {
    let fake = Fake::start(Mode::Plugged("1"));
    let server = Server::start(fake.address());
    until(&server, Option::is_some).await;
    let (loan, mut stream, _cancel) = lend(&server, 4096);
    stream.write_all(&[0xee; 64]).await.expect("bytes");
    let outcome = ended(loan).await;
    assert!(matches!(&outcome, Err(ExportError::Protocol { from, .. }) if from == "the borrower"), "{outcome:?}");
    let mut rest = Vec::new();
    stream.read_to_end(&mut rest).await.expect("its end");
    until(&server, Option::is_some).await;
}

#[tokio::test]
async fn a_stopped_server_has_no_connection_and_lends_nothing() {
    let fake = Fake::start(Mode::Plugged("1"));
    let server = Server::start(fake.address());
    until(&server, Option::is_some).await;
    let (loan, stream, _cancel) = lend(&server, 4096);
    let mut borrower = Borrower::start(stream).await;
    borrower.wait(|packet| matches!(packet, Packet::DeviceConnect(_))).await;
    server.stop().await;
    let outcome = ended(loan).await;
    assert!(matches!(outcome, Err(ExportError::Stopped { .. })), "{outcome:?}");
    while borrower.next().await.is_some() {}
    let (late, _io) = tokio::io::duplex(64);
    let refused = server.lend(late, CancellationToken::new()).await;
    assert!(matches!(refused, Err(ExportError::Stopped { .. })), "{refused:?}");
}
