//! The camera in software behind a server, over TCP: its modes, its speeds, and descriptors that lie.

mod common;

use common::{Borrower, DEADLINE, command, until};
use fleet_softcam::{Hostile, Options, Persona as Mode, Softcam};
use fleet_usb::Persona;
use fleet_usbexport::{Ended, Server};
use fleet_usbredir::{Packet, Speed, Status};
use tokio_util::sync::CancellationToken;

fn softcam() -> Softcam {
    let mut options = Options::new("127.0.0.1:0".parse().expect("an address"), "3012345");
    options.files = fleet_softcam::pictures(1, 300_000);
    Softcam::start(options).expect("a port")
}

fn watch(softcam: &Softcam) -> std::sync::Arc<Server> {
    Server::start(softcam.address().to_string().parse().expect("an address"))
}

#[tokio::test]
async fn a_switch_of_mode_and_another_speed_show_the_same_serial_number() {
    let softcam = softcam();
    let server = watch(&softcam);
    let is = |persona, speed: &'static str| {
        move |seen: &Option<fleet_usbexport::Seen>| {
            seen.as_ref().is_some_and(|seen| seen.persona() == persona && seen.speed == speed)
        }
    };
    let ptp = until(&server, is(Persona::Ptp, "480")).await.expect("a camera");
    softcam.switch(Mode::MassStorage);
    let disk = until(&server, is(Persona::MassStorage, "480")).await.expect("a camera");
    assert_ne!(ptp.id, disk.id);
    assert_eq!((ptp.id.vendor, ptp.serial.as_deref()), (disk.id.vendor, disk.serial.as_deref()));
    assert_eq!((ptp.serial.as_deref(), ptp.malformed, disk.malformed), (Some("3012345"), None, None));
    softcam.unplug();
    until(&server, Option::is_none).await;
    softcam.plug(Speed::Full);
    until(&server, is(Persona::MassStorage, "12")).await;
    server.stop().await;
}

#[tokio::test]
async fn descriptors_and_packets_that_lie_are_told_and_a_right_camera_is_seen_after_them() {
    let softcam = softcam();
    let server = watch(&softcam);
    until(&server, |seen| seen.as_ref().is_some_and(|seen| seen.malformed.is_none())).await;
    softcam.set_hostile(Some(Hostile::Lengths));
    let seen = until(&server, |seen| seen.as_ref().is_some_and(|seen| seen.malformed.is_some())).await;
    assert_eq!(seen.expect("a camera").id.vendor, fleet_softcam::VENDOR);
    softcam.set_hostile(Some(Hostile::Strings));
    until(&server, |seen| seen.as_ref().is_some_and(|seen| seen.malformed.is_none())).await;
    softcam.set_hostile(Some(Hostile::Packets));
    until(&server, Option::is_none).await;
    softcam.set_hostile(None);
    until(&server, |seen| seen.as_ref().is_some_and(|seen| seen.serial.as_deref() == Some("3012345"))).await;
}

#[tokio::test]
async fn a_switch_of_mode_ends_a_loan_and_the_server_meets_one_client_at_a_time() {
    let softcam = softcam();
    let server = watch(&softcam);
    until(&server, Option::is_some).await;
    let (ours, theirs) = tokio::io::duplex(65536);
    let lending = std::sync::Arc::clone(&server);
    let loan = tokio::spawn(async move { lending.lend(theirs, CancellationToken::new()).await });
    let mut borrower = Borrower::start(ours).await;
    borrower.wait(|packet| matches!(packet, Packet::DeviceConnect(_))).await;
    let open = command(0x1002, &[1]);
    let (length, status) = (open.len() as u32, Status::Success);
    borrower.send(&Packet::Bulk { endpoint: 0x02, status, stream: 0, length, data: open }).await;
    borrower.wait(|packet| matches!(packet, Packet::Bulk { status: Status::Success, .. })).await;
    softcam.switch(Mode::MassStorage);
    borrower.wait(|packet| *packet == Packet::DeviceDisconnect).await;
    let outcome = tokio::time::timeout(DEADLINE, loan).await.expect("in time").expect("no panic");
    assert_eq!(outcome.expect("a loan"), Ended::Unplugged);
    assert!(borrower.next().await.is_none(), "of the other mode the borrower hears nothing");
    until(&server, |seen| seen.as_ref().is_some_and(|seen| seen.persona() == Persona::MassStorage)).await;
    assert_eq!(softcam.seen().clients, 3);
}
