//! Promises of the editor support, on files like those that people write.

#![allow(clippy::unwrap_used)]

use super::*;
use crate::vocab::Kind;

/// Three sites, as in the sample `enterprise`.
const SITES: &str = r#"let corp = 10.0.0.0/8
pool link 172.31.0.0/16 each /31
image tiny "tiny.uml"
default vm { image tiny; cpu 1; mem 32MiB }

module office {
  param id    int
  param staff int = 100 max 700

  let net = corp.sub(/16, id)

  lan users  = net.sub(/22, 0) { gateway gw }
  lan guests = net.sub(/24, 8) { gateway gw }

  vm pc[0..staff]  { on users }
  vm kiosk[0..10]  { on guests }

  router gw {
    on users  at 1
    on guests at 1
  }
}

module datacentre {
  param id int

  let net = corp.sub(/16, id)

  lan front = net.sub(/24, 0) { gateway gw }
  lan back  = net.sub(/24, 1) { gateway gw; mtu 1400 }

  vm web[i in 0..60] { on front at 10 + i }
  vm db[i in 0..20]  { on back at 10 + i }

  router gw {
    on front at 1
    on back  at 1
  }
}

office hq     { id 1; staff 120 }
office branch { id 2; staff 80 }
datacentre dc { id 3 }

link hq.gw     -- dc.gw as fibre { cost 5 }
link branch.gw -- dc.gw as radio

check hq.pc[*]     reaches dc.web[*]
check dc.web[0]    reaches branch.pc[3]
check branch.pc[*] reaches dc.db[*]
"#;

fn analysis(text: &str) -> Analysis {
    Analysis::new(Source::new("p", text), &Lock::default())
}

/// The text without its `|`, and where that was.
fn with_cursor(marked: &str) -> (Analysis, u32) {
    let at = marked.find('|').unwrap();
    (analysis(&marked.replacen('|', "", 1)), at as u32)
}

fn labels(marked: &str) -> Vec<String> {
    let (it, at) = with_cursor(marked);
    it.complete(at).into_iter().map(|c| c.label).collect()
}

fn has(marked: &str, wanted: &[&str]) {
    let found = labels(marked);
    for word in wanted {
        assert!(found.iter().any(|f| f == word), "`{word}` is missing in {found:?} at {marked}");
    }
}

fn offset(text: &str, word: &str) -> u32 {
    text.find(word).unwrap() as u32
}

#[test]
fn keywords_and_modules_start_statements() {
    has("|", &["lan", "vm", "module", "check"]);
    has("module office { param id int }\nof|", &["office", "lan"]);
    let inside = labels("module office {\n  |\n}\n");
    assert!(inside.contains(&"param".into()) && inside.contains(&"vm".into()));
    assert!(!inside.contains(&"module".into()) && !inside.contains(&"office".into()));
}

#[test]
fn properties_of_the_block_are_offered_once() {
    let found = labels("lan a\nvm x { on a; cpu 1; | }\n");
    assert!(found.contains(&"on".into()) && found.contains(&"mem".into()), "{found:?}");
    assert!(!found.contains(&"cpu".into()) && !found.contains(&"mtu".into()), "{found:?}");
    assert!(!labels("lan a\nvm x { |\n  cpu 1\n}\n").contains(&"cpu".into()));
    has("default lan { | }", &["mtu"]);
    has("router r { ospf { | } }", &["area", "passive"]);
    has("router r {\n  firewall {\n    de|\n", &["default", "deny"]);
}

#[test]
fn a_property_is_described_by_the_vocabulary() {
    let (it, at) = with_cursor("vm x { o| }");
    let on = it.complete(at).into_iter().find(|c| c.label == "on").unwrap();
    assert_eq!(on.detail, "on LAN [at NUMBER] [dhcp]");
    assert!(on.doc.contains("attach to a lan"));
    assert_eq!(on.span.text(it.text()), "o");
}

#[test]
fn names_of_the_right_kind_are_offered() {
    let text = "lan a\nlan b\nrouter r { on a }\nvm x { on | }\n";
    assert_eq!(labels(text), ["a", "b"]);
    assert_eq!(labels("lan a { gateway | }\nrouter r { on a }\nvm x { on a }\n"), ["r"]);
    assert_eq!(labels("image tiny \"x\"\nvm x { image | }\n"), ["tiny"]);
}

#[test]
fn options_follow_arguments() {
    assert_eq!(labels("lan a\nvm x { on a | }\n"), ["at", "dhcp"]);
    assert_eq!(labels("lan a\nvm x { on a at 5 | }\n"), ["dhcp"]);
    assert_eq!(labels("vm x { hypervisor | }\n"), ["uml", "qemu"]);
    has("let n = 5\nlan a\nvm x[i in 0..4] { on a at 10 + | }\n", &["i", "n"]);
    has("let n = 5\nlan a[0..4]\nvm x[i in 0..4] { on a[| }\n", &["i", "n"]);
}

#[test]
fn paths_lead_into_instances() {
    let module = "module office { lan users; vm pc { on users }; router gw { on users } }\noffice hq { }\n";
    assert_eq!(labels(&format!("{module}vm x {{ on hq.| }}\n")), ["users"]);
    assert_eq!(labels(&format!("{module}link hq.|\n")), ["gw"]);
    has(&format!("{module}check hq.pc reaches hq.|\n"), &["pc", "gw", "users"]);
    assert_eq!(labels(&format!("{module}vm x {{ on | }}\n")), ["hq"]);
    assert_eq!(labels("let net = 10.0.0.0/8\nlan a = net.|\n"), ["sub", "host"]);
}

#[test]
fn parameters_are_offered_in_an_instance() {
    let module = "module office { param id int; param staff int = 5; lan a }\n";
    assert_eq!(labels(&format!("{module}office hq {{ | }}\n")), ["id", "staff"]);
    assert_eq!(labels(&format!("{module}office hq {{ id 1; s| }}\n")), ["staff"]);
    has(&format!("{module}let n = 3\noffice hq {{ id | }}\n"), &["n"]);
}

#[test]
fn heads_are_completed_from_their_usage() {
    has("lan a\nvm x { on a }\ncheck |\n", &["x", "diameter"]);
    has("lan a\nvm x { on a }\ncheck x |\n", &["reaches", "cannot"]);
    has("lan a\nvm x { on a }\ncheck x reaches |\n", &["x", "a"]);
    assert_eq!(labels("check x cannot |\n"), ["reach"]);
    assert_eq!(labels("lan l\nrouter a { on l }\nvm x { on l }\nlink a -- |\n"), ["a"]);
    has("router r |\n", &["linux"]);
    has("module m { param n | }\n", &["int", "prefix"]);
    has("default |\n", &["vm", "lan", "router", "link"]);
    assert_eq!(labels("vm |\n"), Vec::<String>::new());
}

#[test]
fn nothing_is_offered_in_comments_texts_and_numbers() {
    for text in ["# on |", "image a \"x|\"", "let n = 10|", "let a = 10.0.0.|0/8", "image a \"x|"] {
        assert_eq!(labels(text), Vec::<String>::new(), "{text}");
    }
}

#[test]
fn definition_and_references_go_through_paths_and_modules() {
    let it = analysis(SITES);
    assert_eq!(it.diagnostics(), []);
    let at = offset(SITES, "hq.pc[*]");
    assert_eq!(it.definition(at).unwrap().text(SITES), "hq");
    let pc = it.definition(at + 3).unwrap();
    assert_eq!(pc.start, offset(SITES, "vm pc[") + 3);
    assert_eq!(it.references(pc.start, true).len(), 4);
    let id = offset(SITES, "id    int");
    assert_eq!(it.references(id, true).iter().filter(|s| s.text(SITES) == "id").count(), 4);
    let office = offset(SITES, "module office") + 7;
    assert_eq!(it.references(office, false).len(), 2);
    // The index of `web`, not that of `db`.
    let web = offset(SITES, "web[i in 0..60]") + 4;
    assert_eq!(it.references(web, true).len(), 2);
}

#[test]
fn hover_says_what_the_plan_derives() {
    let it = analysis(SITES);
    let hover = |word: &str, skip: u32| it.hover(offset(SITES, word) + skip).unwrap().text;
    let users = hover("lan users", 5);
    assert!(users.contains("`hq.users`: 10.1.0.0/22, gateway 10.1.0.1, VNI "), "{users}");
    assert!(users.contains("`branch.users`: 10.2.0.0/22"), "{users}");
    let web = hover("dc.web[*]", 3);
    assert!(web.contains("`dc.web[0..60]` eth0: 10.3.0.10/24 to 10.3.0.69/24, MAC 02:"), "{web}");
    let one = hover("branch.pc[3]", 7);
    assert!(one.contains("`branch.pc[3]` eth0: 10.2.0.19/22, MAC 02:00:0a:02:00:13"), "{one}");
    let gw = hover("hq.gw     -- dc.gw", 3);
    assert!(gw.contains("`hq.gw` eth0: 10.1.0.1/22 on `hq.users`"), "{gw}");
    assert!(!gw.contains("branch"), "{gw}");
    let net = hover("let net", 4);
    assert!(net.contains("`10.1.0.0/16` in `hq`") && net.contains("`10.2.0.0/16` in `branch`"), "{net}");
    let staff = hover("staff int", 0);
    assert!(staff.contains("`120` in `hq`") && staff.contains("`80` in `branch`"), "{staff}");
    let fibre = hover("fibre {", 0);
    assert!(fibre.contains("172.31.0.") && fibre.contains("`hq.gw`") && fibre.contains("`dc.gw`"), "{fibre}");
    assert!(hover("hq     {", 0).contains("130 VMs"));
}

#[test]
fn hover_says_what_the_vocabulary_says() {
    let it = analysis(SITES);
    let hover = |word: &str, skip: u32| it.hover(offset(SITES, word) + skip).unwrap().text;
    assert!(hover("router gw", 1).contains("a router between lans"));
    assert!(hover("on users  at 1", 1).contains("property of `router`"));
    assert!(hover("on users  at 1", 10).contains("at NUMBER"));
    let (choice, at) = with_cursor("lan a { switch b|ridge }\n");
    assert!(choice.hover(at).unwrap().text.contains("`bridge` or `vde`"));
    assert!(hover("corp.sub", 6).contains("sub(/LEN, N)"));
    assert!(hover("reaches dc", 2).contains("check VMS reaches"));
    assert!(hover("web[i in", 4).contains("index"));
}

#[test]
fn hover_works_without_a_plan() {
    let (it, at) = with_cursor("lan a\nvm x { on |a; frob }\n");
    let text = it.hover(at).unwrap().text;
    assert!(text.contains("lan a") && text.contains("when the file has no errors"), "{text}");
}

#[test]
fn renaming_changes_all_places_and_nothing_else() {
    let it = analysis(SITES);
    let edits = it.rename(offset(SITES, "hq.gw") + 3, "edge_gw").unwrap();
    let text = rename::apply(SITES, &edits);
    assert!(text.contains("link hq.edge_gw") && text.contains("router edge_gw {\n    on users"), "{text}");
    assert!(text.contains("lan users  = net.sub(/22, 0) { gateway edge_gw }"), "{text}");
    // The datacentre has a `gw` of its own.
    assert!(text.contains("-- dc.gw as fibre") && text.contains("router gw {\n    on front"), "{text}");
    assert_eq!(analysis(&text).diagnostics(), []);
}

#[test]
fn a_rename_that_would_change_the_meaning_is_refused() {
    let it = analysis(SITES);
    let at = offset(SITES, "lan users") + 4;
    let refuse = |name: &str| it.rename(at, name).unwrap_err();
    assert!(matches!(refuse("guests"), RenameError::Clash { .. }));
    assert!(matches!(refuse("corp"), RenameError::Clash { .. }));
    assert!(matches!(refuse("lan"), RenameError::Reserved { .. }));
    assert!(matches!(refuse("mod"), RenameError::Reserved { .. }));
    assert!(matches!(refuse("Users"), RenameError::BadName { .. }));
    assert!(matches!(refuse(""), RenameError::BadName { .. }));
    assert!(matches!(it.rename(0, "x"), Err(RenameError::NoName)));
    // `i` is an index where `n` is used.
    let text = "let n = 4\nlan a\nvm x[i in 0..n] { on a at 20 + i + n }\n";
    let it = analysis(text);
    assert!(matches!(it.rename(4, "i"), Err(RenameError::Clash { .. })));
    assert!(matches!(it.rename(offset(text, "i in"), "n"), Err(RenameError::Clash { .. })));
    assert_eq!(it.rename(offset(text, "i in"), "k").unwrap().len(), 2);
}

#[test]
fn what_is_not_declared_is_not_renamed() {
    let it = analysis("vm x { on nowhere }\n");
    assert!(matches!(it.rename(11, "y"), Err(RenameError::NoName)));
}

#[test]
fn symbols_follow_the_text() {
    let it = analysis(SITES);
    let symbols = it.symbols();
    let office = symbols.iter().find(|s| s.name == "office").unwrap();
    assert_eq!(office.kind, Kind::Module);
    let children: Vec<&str> = office.children.iter().map(|s| s.name.as_str()).collect();
    assert_eq!(children, ["id", "staff", "net", "users", "guests", "pc[0..staff]", "kiosk[0..10]", "gw"]);
    assert!(symbols.windows(2).all(|w| w[0].span <= w[1].span));
    for symbol in &symbols {
        assert!(symbol.span.start <= symbol.selection.start && symbol.selection.end <= symbol.span.end);
    }
    assert_eq!(it.folds().len(), 4);
}

#[test]
fn fixes_mend_what_they_are_for() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/errors");
    let mut fixed = 0;
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.extension().is_none_or(|e| e != "fleet") {
            continue;
        }
        let it = analysis(&std::fs::read_to_string(&path).unwrap());
        for fix in it.fixes() {
            let code = it.diagnostics()[fix.diagnostic].code;
            let after = analysis(&rename::apply(it.text(), std::slice::from_ref(&fix.edit)));
            let still =
                after.diagnostics().iter().any(|d| d.code == code && d.primary.span.start == fix.edit.span.start);
            assert!(!still, "{}: `{}` mends nothing", path.display(), fix.title);
            fixed += 1;
        }
    }
    assert!(fixed >= 8, "only {fixed} fixes");
}

#[test]
fn actions_follow_times_and_targets_follow_actions() {
    let inside = |line: &str| {
        labels(&format!(
            "lan a\nvm x {{ on a }}\nrouter r {{ on a }}\nrouter s {{ on a at 2 }}\nlink r -- s as f\n\
             experiment e {{\n  {line}\n}}\n"
        ))
    };
    assert_eq!(inside("every 5s |"), ["from"]);
    assert_eq!(inside("every 5s from 1s |"), ["until"]);
    for line in ["at 5s |", "at 5s { | }", "every 5s from 1s until 9s |"] {
        let found = inside(line);
        assert!(["fail", "set", "run"].iter().all(|w| found.iter().any(|f| f == w)), "{found:?} at {line}");
        assert_eq!(found.iter().any(|f| f == "end"), line.starts_with("at"));
    }
    assert_eq!(inside("at 5s fail |"), ["a", "x", "r", "s", "f"]);
    assert_eq!(inside("at 5s reboot 5% of |"), ["x"]);
    assert_eq!(inside("at 5s reboot x |"), ["seed"]);
    assert_eq!(inside("at 5s set link r -- |"), ["r", "s", "f"]);
    assert!(inside("at 5s set f delay 5ms |").contains(&"loss".into()));
}

#[test]
fn actions_and_targets_of_experiments_are_uses() {
    let text = "lan a\nvm x[0..9] { on a }\nexperiment e { at 5s { reboot 5% of x[*] }; at 9s stop x[1], x[2] }\n";
    let it = analysis(text);
    assert_eq!(it.rename(offset(text, "x[0..9]"), "y").unwrap().len(), 4);
    let hover = it.hover(offset(text, "stop")).unwrap().text;
    assert!(hover.contains("shut VMs down"), "{hover}");
}
