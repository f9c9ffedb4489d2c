//! Inputs that once broke a promise, and everything that the fuzzer starts from.

use fleet_usb_fuzz::{check, seeds};

#[test]
fn no_seed_and_no_input_that_was_once_wrong_breaks_a_promise() -> anyhow::Result<()> {
    for input in seeds::corpus()? {
        check(&input);
    }
    Ok(())
}
