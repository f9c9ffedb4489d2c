//! Descriptors as a hostile device may say them.

mod common;

use common::{d7000, descriptors};
use fleet_usb::descriptors::parse;
use proptest::prelude::*;

#[test]
fn a_whole_device_is_read() {
    let found = parse(&descriptors(&d7000())).expect("descriptors");
    assert_eq!((found.vendor, found.product), (0x04b0, 0x0428));
    let interface = &found.configurations[0].interfaces[0];
    assert_eq!((interface.class.class, interface.endpoints.len()), (6, 2));
    assert_eq!((interface.endpoints[0].address, interface.endpoints[0].max_packet), (0x81, 512));
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
        let _ = parse(&bytes);
    }

    #[test]
    fn a_changed_byte_is_read_or_refused(at in 0usize..50, value in any::<u8>()) {
        let mut bytes = descriptors(&d7000());
        bytes[at] = value;
        let _ = parse(&bytes);
    }

    #[test]
    fn what_is_cut_off_between_two_descriptors_is_refused(end in 0usize..50) {
        let bytes = descriptors(&d7000());
        let whole = [18, 27, 36, 43, 50];
        prop_assert_eq!(parse(&bytes[..end]).is_ok(), whole.contains(&end));
    }
}

#[test]
fn more_interfaces_than_a_device_can_have_are_refused() {
    let mut bytes = descriptors(&d7000());
    for _ in 0..2000 {
        bytes.extend([9, 4, 0, 0, 0, 6, 1, 1, 0]);
    }
    assert!(parse(&bytes).is_err());
}
