//! Inputs that once broke a promise, and everything that the fuzzer starts from.

use fleet_usb_fuzz::{check, seeds};

#[test]
fn no_seed_and_no_input_that_was_once_wrong_breaks_a_promise() -> anyhow::Result<()> {
    for input in seeds::corpus()? {
        check(&input);
    }
    Ok(())
}

#[test]
fn recorded_conversations_are_read_to_their_end() -> anyhow::Result<()> {
    use fleet_usbredir::{Caps, Codec, Side};
    let folder = fleet_fuzz::repository().join("agent/usb/fuzz/conversations");
    for (ending, side) in [("to-guest", Side::Guest), ("to-host", Side::Host)] {
        for name in ["ptp", "storage"] {
            let bytes = std::fs::read(folder.join(format!("{name}.{ending}")))?;
            let (mut codec, _) = Codec::new(side, Caps::OURS, "test");
            codec.read(&mut Codec::new(side.other(), Caps::OURS, "test").1.as_slice())?;
            let (mut rest, mut packets) = (bytes.as_slice(), 0);
            while codec.read(&mut rest)?.is_some() {
                packets += 1;
            }
            assert!(packets > 20, "{name}.{ending}: {packets}");
        }
    }
    Ok(())
}
