//! No text makes the translation panic or take for ever.

#![allow(clippy::unwrap_used)]

use fleet_import::containerlab;
use proptest::prelude::*;

/// A megabyte, about.
const LARGE: usize = 1 << 20;

#[test]
fn aliases_that_multiply_are_refused_or_read_once() {
    let mut laughs = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
    for level in 1..40 {
        let before = format!("*a{}, ", level - 1).repeat(10);
        laughs += &format!("a{level}: &a{level} [{}]\n", before.trim_end_matches(", "));
    }
    let under = "topology:\n  nodes:\n    r: { kind: linux, exec: *a39 }\n";
    assert!(containerlab(&format!("{laughs}{under}")).is_ok());

    // Every node takes in a large map, and each of those ten others.
    let keys: String = (0..20_000).map(|key| format!("  k{key}: 1\n")).collect();
    let nodes: String = (0..20_000).map(|node| format!("    n{node}: *big\n")).collect();
    let error = containerlab(&format!("big: &big\n{keys}topology:\n  nodes:\n{nodes}")).unwrap_err();
    assert!(error.message.contains("aliases"), "{error}");

    let mut merges = String::from("m0: &m0 { kind: linux }\n");
    for level in 1..30 {
        let before = format!("*m{}, ", level - 1).repeat(20);
        merges += &format!("m{level}: &m{level} {{ <<: [{}] }}\n", before.trim_end_matches(", "));
    }
    let error = containerlab(&format!("{merges}topology:\n  nodes:\n    r: *m29\n")).unwrap_err();
    assert!(error.message.contains("aliases"), "{error}");
}

#[test]
fn maps_that_hold_themselves_end() {
    for text in [
        "topology: &t\n  nodes: &n\n    r: *n\n    s: *t\n",
        "topology: &t\n  nodes:\n    r: { <<: *t, exec: [*t] }\n  links: *t\n",
        "&a [*a]",
        "topology: { nodes: { r: &r { group: g, <<: *r } }, groups: { g: { <<: *g } } }",
    ] {
        drop(containerlab(text));
    }
}

#[test]
fn a_megabyte_of_anything_is_read_to_its_end() {
    let head = "topology:\n  nodes:\n    r1:\n      exec:\n        - ";
    let texts = [
        "[".repeat(LARGE),
        "{a: ".repeat(LARGE / 4),
        "- ".repeat(LARGE / 2),
        "? ".repeat(LARGE / 2),
        "a: ".repeat(LARGE / 3),
        "&a ".repeat(LARGE / 3),
        "*a ".repeat(LARGE / 3),
        "\"".repeat(LARGE),
        "!!!".repeat(LARGE / 3),
        "|\n ".repeat(LARGE / 3),
        "---\n".repeat(LARGE / 4),
        "\u{0}".repeat(LARGE),
        "é".repeat(LARGE / 2),
        " ".repeat(LARGE),
        "\n\t".repeat(LARGE / 2),
        "%TAG ! x\n".repeat(LARGE / 9),
        format!("{head}{}", "ip addr add 10.0.0.1/24 dev eth1; ".repeat(LARGE / 34)),
        format!("{head}{}", "x; ".repeat(LARGE / 3)),
        format!("{head}{}", "sh -c ".repeat(LARGE / 6)),
        format!("{head}{}", "${A:=b".repeat(LARGE / 6)),
        format!("topology:\n  nodes:\n{}", (0..60_000).map(|n| format!("    n-{n}:\n")).collect::<String>()),
        format!("topology:\n  nodes:\n    {}:\n", "n".repeat(LARGE)),
        format!("topology:\n  nodes:\n    r:\n  links:\n{}", "    - endpoints: [\"r:a\", \"r:b\"]\n".repeat(30_000)),
        format!("topology:\n  nodes:\n    r:\n  links:\n    - endpoints: [{}]\n", "\"r:a\", ".repeat(100_000)),
        format!(
            "topology:\n  nodes:\n    r:\n    s:\n  links:\n{}",
            "    - endpoints: [\"r:a\", \"s:b\"]\n".repeat(30_000)
        ),
    ];
    for text in texts {
        if let Ok(imported) = containerlab(&text) {
            assert_eq!(netlang::format(&imported.fleet).as_ref(), Ok(&imported.fleet));
        }
    }
    let error = containerlab(&" ".repeat(9 << 20)).unwrap_err();
    assert!(error.message.contains("larger"), "{error}");
}

#[test]
fn what_is_no_topology_is_told_with_place_and_mend() {
    let cases = [
        ("", (1, 1), "empty"),
        ("name: x\n", (1, 1), "no map `topology`"),
        ("- a\n- b\n", (1, 1), "no topology"),
        ("topology:\n  links: []\n", (2, 3), "no nodes"),
        ("topology:\n  nodes: {}\n", (2, 10), "no nodes"),
        ("topology:\n  nodes:\n    r1:\n    r1:\n", (4, 5), "twice"),
        ("topology:\n  nodes:\n    r1: [x]\n", (3, 5), "no map"),
        ("topology:\n  nodes: [\n", (3, 1), "not YAML"),
        ("services:\n  web:\n    image: x\n", (1, 1), "no map `topology`"),
    ];
    for (text, place, part) in cases {
        let error = containerlab(text).unwrap_err();
        assert!(error.message.contains(part), "{text:?}: {error}");
        assert_eq!((error.line, error.column), place, "{text:?}: {error}");
        assert!(!error.help.is_empty());
    }
    assert!(containerlab("services: {}\n").unwrap_err().help.contains("Compose"));
    assert!(containerlab("a: [{{ .x }}, {{ .y }}\n").unwrap_err().help.contains("render"));
}

/// Words of topologies and of YAML, in any order.
fn fragments() -> impl Strategy<Value = String> {
    const WORDS: &[&str] = &[
        "name: x\n",
        "topology:\n",
        "  nodes:\n",
        "    r1:\n",
        "    r1: {kind: linux}\n",
        "    br: {kind: bridge}\n",
        "      kind: frr\n",
        "      image: a/frr:1\n",
        "      exec:\n",
        "        - ip addr add 10.0.0.1/24 dev eth1\n",
        "  links:\n",
        "    - endpoints: [\"r1:e\", \"br:e\"]\n",
        "    - endpoints: [r1, r1]\n",
        "    - type: macvlan\n",
        "      endpoint: {node: r1, interface: e}\n",
        "      host-interface: eth0\n",
        "      mtu: 1\n",
        "  groups: &g\n",
        "  kinds: *g\n",
        "  defaults:\n",
        "    <<: *g\n",
        "      cpu: 1e9\n",
        "      memory: 9t\n",
        "- ",
        "? ",
        ": ",
        "\n",
        "  ",
        "[",
        "]",
        "{",
        "}",
        "\"",
        "'",
        "#",
        "|\n",
        ">\n",
        "&a ",
        "*a ",
        "!t ",
        "---\n",
        "...\n",
        "%",
        "\t",
        "\u{feff}",
        "é",
        "${X:=",
        "}",
        "~",
        "\r\n",
        "      ipv4: 1.2.3.4/0\n",
    ];
    proptest::collection::vec(proptest::sample::select(WORDS), 0..60).prop_map(|words| words.concat())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1500))]

    #[test]
    fn no_text_makes_it_panic(text in prop_oneof![any::<String>(), fragments()]) {
        if let Ok(imported) = containerlab(&text) {
            let formatted = netlang::format(&imported.fleet);
            prop_assert_eq!(formatted.as_ref(), Ok(&imported.fleet));
        }
    }
}
