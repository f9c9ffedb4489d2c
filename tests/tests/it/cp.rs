//! Files to guests and hosts, and back.
#![allow(clippy::unwrap_used, missing_docs)]

use std::os::unix::fs::PermissionsExt;

use fleet_tests::Fleet;

#[test]
fn a_file_goes_to_guests_and_hosts_and_comes_back_as_it_was() {
    let fleet = Fleet::new();
    let file = fleet.write("three.fleet", "lan floor\nvm web[0..2] { on floor }\nvm alice { on floor }\n");
    let _ = fleet.ok(&["up", &file]);
    let path = |name: &str| fleet.root().join(name).display().to_string();
    let same = |one: &str, other: &str| {
        assert_eq!(std::fs::read(one).unwrap(), std::fs::read(other).unwrap(), "{one} and {other} differ");
        let mode = |of: &str| std::fs::metadata(of).unwrap().permissions().mode() & 0o7777;
        assert_eq!(mode(one), mode(other), "the modes of {one} and {other} differ");
    };

    // A program, to one: larger than what goes to many.
    let large: Vec<u8> = (0..3_000_000_u32).map(|at| (at % 253) as u8).collect();
    std::fs::write(path("large"), large).unwrap();
    std::fs::set_permissions(path("large"), std::fs::Permissions::from_mode(0o751)).unwrap();
    let _ = fleet.ok(&["cp", &path("large"), "alice:/root/"]).says(&["alice", "/root/large"]);
    let _ = fleet.ok(&["cp", "alice:/root/large", &path("back")]);
    same(&path("large"), &path("back"));

    // A small one, to many, and to a host; what was there is replaced.
    let small = fleet.write("small", "one\n");
    let _ = fleet.ok(&["cp", &small, "web[*]:/root/note"]).says(&["web[0-1] (2)"]);
    std::fs::write(&small, "two\n").unwrap();
    let _ = fleet.ok(&["cp", &small, "web[1]:/root/note"]);
    assert_eq!(
        (fleet.exec("web[0]", "cat /root/note"), fleet.exec("web[1]", "cat /root/note")),
        ("one".into(), "two".into())
    );
    assert_eq!(fleet.exec("web[1]", "ls /root"), "note", "nothing else is left there");
    let _ = fleet.ok(&["cp", &small, &format!("host:*:{}", path("hosts"))]);
    same(&small, &path("hosts"));

    // What cannot be is told, and leaves nothing.
    let _ = fleet.run(&["cp", &small, "web[0]:/nowhere/note"]).code(3).says(&["web[0]", "nowhere"]);
    let _ = fleet.run(&["cp", "web[0]:/root/nothing", &path("never")]).code(3).says(&["/root/nothing is no file"]);
    assert!(!std::path::Path::new(&path("never")).exists());
    let _ = fleet.run(&["cp", "web[*]:/root/note", &path("never")]).code(2).says(&["more than one"]);
    let _ = fleet.run(&["cp", &path("large"), "web[*]:/root/"]).code(2).says(&["1 MiB"]);
    let _ = fleet.run(&["cp", &path("missing"), "alice:/root/"]).code(2).says(&["missing"]);
    let _ = fleet.run(&["cp", &small, &path("here")]).code(2).says(&["TARGET:/PATH"]);
    fleet.down();
}
