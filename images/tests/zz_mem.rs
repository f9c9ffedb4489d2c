#![allow(clippy::unwrap_used, missing_docs)]
mod common;
use common::{Session, boot};
use fleet_wire::*;
#[test]
fn mem() {
    std::thread::scope(|s| { for _ in 0..3 { s.spawn(|| for _ in 0..14 {
        let mut guest = boot("uml", None);
        let mut s = Session::attach(guest.control(), 1);
        s.send(&ToGuest::Shutdown { reboot: false });
        s.wait(|message| *message == ToAgent::ShuttingDown);
        let st = guest.wait();
        println!("{st}");
        if !st.success() { println!("{}", guest.console()); }
    }); } });
}
