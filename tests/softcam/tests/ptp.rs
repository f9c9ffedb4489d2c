//! A host's session with the camera in software.

use fleet_softcam::{File, NotPtp, Policy, Responder};
use proptest::prelude::*;

fn camera(settings: bool) -> Responder {
    let picture = |number: u8| File { name: format!("DSC_000{number}.JPG"), bytes: vec![number; 1000].into() };
    Responder::new("3012345", vec![picture(1), picture(2)], Policy { settings })
}

fn container(kind: u16, code: u16, transaction: u32, parameters: &[u32]) -> Vec<u8> {
    let mut bytes = (12 + 4 * parameters.len() as u32).to_le_bytes().to_vec();
    bytes.extend(kind.to_le_bytes());
    bytes.extend(code.to_le_bytes());
    bytes.extend(transaction.to_le_bytes());
    bytes.extend(parameters.iter().flat_map(|word| word.to_le_bytes()));
    bytes
}

/// The data, if any, and the response's code.
fn ask(camera: &mut Responder, code: u16, parameters: &[u32]) -> (Option<Vec<u8>>, u16) {
    let mut answers = camera.take(&container(1, code, 9, parameters)).expect("answers");
    let response = answers.pop().expect("a response").to_vec();
    assert_eq!((response.len(), response[4], &response[8..]), (12, 3, [9, 0, 0, 0].as_slice()));
    let data = answers.pop().map(|data| data.to_vec()[12..].to_vec());
    (data, u16::from_le_bytes([response[6], response[7]]))
}

fn utf16(text: &str) -> Vec<u8> {
    text.encode_utf16().flat_map(u16::to_le_bytes).collect()
}

fn has(data: &[u8], part: &[u8]) -> bool {
    data.windows(part.len()).any(|window| window == part)
}

#[test]
fn its_files_are_listed_and_fetched_in_whole_and_in_part() {
    let mut camera = camera(false);
    let (info, ok) = ask(&mut camera, 0x1001, &[]);
    assert!(ok == 0x2001 && has(&info.expect("data"), &utf16("D7000")));
    assert_eq!(ask(&mut camera, 0x1004, &[]).1, 0x2003, "no session yet");
    assert_eq!(ask(&mut camera, 0x1002, &[1]), (None, 0x2001));
    assert_eq!(ask(&mut camera, 0x1002, &[1]).1, 0x201e, "open already");
    assert_eq!(ask(&mut camera, 0x1004, &[]).0, Some(vec![1, 0, 0, 0, 1, 0, 1, 0]));
    let (top, _) = ask(&mut camera, 0x1007, &[0x0001_0001, 0, u32::MAX]);
    assert_eq!(top, Some(vec![1, 0, 0, 0, 1, 0, 0, 0]), "one folder");
    let (files, _) = ask(&mut camera, 0x1007, &[u32::MAX, 0, 1]);
    assert_eq!(files, Some(vec![2, 0, 0, 0, 2, 0, 0, 0, 3, 0, 0, 0]));
    let info = ask(&mut camera, 0x1008, &[3]).0.expect("data");
    assert!(has(&info, &utf16("DSC_0002.JPG")) && info[8..12] == 1000u32.to_le_bytes());
    assert_eq!(ask(&mut camera, 0x1009, &[3]).0, Some(vec![2; 1000]));
    assert_eq!(ask(&mut camera, 0x101b, &[3, 990, 100]).0, Some(vec![2; 10]));
    assert_eq!(ask(&mut camera, 0x1009, &[4]), (None, 0x2009));
}

#[test]
fn uploads_and_removals_are_denied_and_settings_as_asked() {
    for settings in [false, true] {
        let mut camera = camera(settings);
        ask(&mut camera, 0x1002, &[1]);
        let mut send = |code| {
            assert_eq!(camera.take(&container(1, code, 5, &[])), Ok(vec![]), "it waits for the data");
            let answer = camera.take(&container(2, code, 5, &[1, 2, 3])).expect("an answer")[0].to_vec();
            u16::from_le_bytes([answer[6], answer[7]])
        };
        assert_eq!(send(0x100c), 0x200f);
        assert_eq!(send(0x1016), if settings { 0x2001 } else { 0x200f });
        assert_eq!(ask(&mut camera, 0x100b, &[2]), (None, 0x200f));
        assert_eq!(camera.denied(), if settings { 2 } else { 3 });
    }
}

#[test]
fn what_is_no_ptp_is_an_error_until_a_reset() {
    let mut camera = camera(false);
    assert_eq!(camera.take(&[0xff; 12]), Err(NotPtp));
    assert_eq!(camera.take(&container(1, 0x1001, 9, &[])), Err(NotPtp));
    camera.reset();
    assert_eq!(ask(&mut camera, 0x1001, &[]).1, 0x2001);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = camera(false).take(&bytes);
    }

    #[test]
    fn any_command_gets_one_response(code in 0x1000u16..0x1030, parameters in any::<[u32; 3]>(), open in any::<bool>()) {
        prop_assume!(![0x100c, 0x100d, 0x1016].contains(&code));
        let mut camera = camera(false);
        if open {
            ask(&mut camera, 0x1002, &[1]);
        }
        ask(&mut camera, code, &parameters);
    }
}
