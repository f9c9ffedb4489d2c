//! Network files made by rule: a million declarations, and files of one megabyte that are as costly as can be.

use std::fmt::Write;

/// Size of the costly inputs, in bytes.
const SIZE: usize = 1 << 20;

/// A file of so many `vm` lines, a thousand a lan.
pub fn explicit_vms(count: usize) -> String {
    let mut text = String::with_capacity(count * 24);
    text.push_str("language 1\n");
    for lan in 0..count.div_ceil(1000) {
        let _ = writeln!(text, "lan l{lan}");
    }
    for vm in 0..count {
        let _ = writeln!(text, "vm v{vm} {{ on l{} }}", vm / 1000);
    }
    text
}

/// An input by name.
pub struct Costly {
    /// What it is.
    pub name: &'static str,
    /// Makes its text.
    pub text: fn() -> String,
}

/// Repeats a line up to the size; `{n}` is its number.
fn lines(head: &str, line: &str) -> String {
    let mut text = head.to_owned();
    let mut number = 0;
    while text.len() + line.len() + 80 < SIZE {
        text.push_str(&line.replace("{n}", &number.to_string()));
        text.push('\n');
        number += 1;
    }
    text
}

fn filled(with: &str) -> String {
    with.repeat(SIZE / with.len())
}

/// A statement that goes on and on.
fn long(head: &str, with: &str) -> String {
    format!("{head}{}", with.repeat((SIZE - head.len()) / with.len()))
}

/// Modules within modules, each with `n` instances of the next.
fn nested(depth: usize, n: usize, innermost: &str) -> String {
    let mut text = format!("module m0 {{ {innermost} }}\n");
    for level in 1..depth {
        let _ = writeln!(text, "module m{level} {{ m{} x[0..{n}] }}", level - 1);
    }
    let _ = writeln!(text, "m{} x[0..{n}]", depth - 1);
    text
}

/// Inputs of at most one megabyte that are costly in one way each.
pub const COSTLY: &[Costly] = &[
    Costly { name: "1 MB of (", text: || filled("(") },
    Costly { name: "1 MB of [", text: || filled("[") },
    Costly { name: "1 MB of {", text: || filled("{") },
    Costly { name: "1 MB of }", text: || filled("}") },
    Costly { name: "1 MB of a{", text: || filled("a{") },
    Costly { name: "1 MB of a{ in lines", text: || filled("a{\n") },
    Costly { name: "1 MB of a[", text: || long("let x = ", "a[") },
    Costly { name: "1 MB of a(", text: || long("let x = ", "a(") },
    Costly { name: "1 MB of dots", text: || filled(".") },
    Costly { name: "1 MB of a.a", text: || long("vm v { on ", "a.") },
    Costly { name: "1 MB of sums", text: || long("let x = 1", " + 1") },
    Costly { name: "1 MB of 1.1.1", text: || long("let x = ", "1.") },
    Costly { name: "1 MB of digits", text: || long("let x = ", "9") },
    Costly { name: "1 MB of quotes", text: || filled("\"") },
    Costly { name: "1 MB of text", text: || format!("{}\"", long("image a \"", "xx")) },
    Costly { name: "1 MB of comment", text: || long("#", " comment") },
    Costly { name: "1 MB of newlines", text: || filled("\n") },
    Costly { name: "1 MB of ;", text: || filled(";") },
    Costly { name: "1 MB of stray characters", text: || filled("\u{e9}") },
    Costly { name: "one name of 1 MB", text: || long("lan ", "a") },
    Costly {
        name: "a long name, used often",
        text: || {
            let name = "a".repeat(SIZE / 2);
            lines(&format!("lan {name}\n"), "vm v{n} { on a }")
        },
    },
    Costly { name: "one name, declared often", text: || lines("", "lan a") },
    Costly { name: "unknown names", text: || lines("lan a\n", "vm v{n} { on lan{n} }") },
    Costly {
        name: "unknown names beside similar ones",
        text: || {
            let mut text = String::new();
            for n in 0..10_000 {
                let _ = writeln!(text, "lan network{n:05}");
            }
            lines(&text, "vm v{n} { on networx{n} }")
        },
    },
    Costly { name: "unknown keywords", text: || lines("", "lam a{n}") },
    Costly { name: "unknown properties", text: || lines("", "vm a{n} { om x; cpv 1 }") },
    Costly { name: "one block of unknown properties", text: || format!("{} }}", lines("vm a {\n", "om x")) },
    Costly { name: "one block of repeated properties", text: || format!("{} }}", lines("vm a[0..9] {\n", "cpu 2")) },
    Costly {
        name: "a large block on an array of lans",
        text: || format!("{} }}", lines("lan a[0..1000000] {\n", "mtu 1400")),
    },
    Costly {
        name: "one block of unknown parameters",
        text: || format!("{} }}", lines("module m { vm a }\nm x {\n", "p{n} 1")),
    },
    Costly {
        name: "many parameters, many instances",
        text: || {
            let mut text = String::from("module m {\n");
            for n in 0..20_000 {
                let _ = writeln!(text, "param p{n} int");
            }
            text.push_str("}\nm x[0..100000] {\n");
            for n in 0..20_000 {
                let _ = writeln!(text, "p{n} {n}");
            }
            text.push_str("}\n");
            text
        },
    },
    Costly {
        name: "many lets, many instances",
        text: || format!("{}}}\nm x[0..1000000]\n", lines("module m {\n", "let a{n} = 1")),
    },
    Costly {
        name: "many links in many instances",
        text: || format!("{}}}\nm x[0..100000]\n", lines("module m {\nrouter r\n", "link a{n} -- r")),
    },
    Costly { name: "lets that need lets", text: || lines("let a = 1\n", "let b{n} = a + a + a + a") },
    Costly {
        name: "a chain of lets",
        text: || {
            let mut text = String::from("let a0 = 1\n");
            for n in 1..30_000 {
                let _ = writeln!(text, "let a{n} = a{} + a{0}", n - 1);
            }
            text
        },
    },
    Costly {
        name: "deep lets of deep sums",
        text: || {
            let sum = " + 1".repeat(190);
            let mut text = String::from("let a0 = 1\n");
            for n in 1..1_200 {
                let _ = writeln!(text, "let a{n} = a{}{sum}", n - 1);
            }
            text
        },
    },
    Costly {
        name: "16 million VMs",
        text: || "lan l[0..16500]\nvm a[i in 0..16777216] { on l[i mod 16500] }\n".into(),
    },
    Costly {
        name: "16 million VMs on one lan",
        text: || "lan l = 10.0.0.0/8\nvm a[0..16777216] { on l at 5 }\n".into(),
    },
    Costly {
        name: "16 million VMs with many NICs",
        text: || format!("lan l[0..16500]\nvm a[i in 0..16777216] {{ {} }}\n", "on l[i mod 16500]; ".repeat(32)),
    },
    Costly {
        name: "numbers without a closed form",
        text: || {
            "lan l[0..2000]\nvm a[i in 0..1048576] { on l[(i + i mod 3) mod 2000] at 16 + (i + i div 7) mod 1000 }\n"
                .into()
        },
    },
    Costly { name: "two million lans of one prefix", text: || "lan l[0..2000000] = 10.0.0.0/24\n".into() },
    Costly {
        name: "two million lans that are wrong",
        text: || "lan l[i in 0..2000000] = (10.0.0.0/8).sub(/4, i)\n".into(),
    },
    Costly {
        name: "a million routers on one lan",
        text: || "lan l = 10.0.0.0/8\nrouter r[0..1000000] { on l }\n".into(),
    },
    Costly { name: "two million instances", text: || nested(7, 7, "lan l; vm v { on l }") },
    Costly { name: "instances without end", text: || nested(8, 64, "lan l; vm v[0..64] { on l }") },
    Costly { name: "a mesh of 2,000 routers", text: || "router r[0..2000]\nlink mesh r[*]\n".into() },
    Costly { name: "many meshes", text: || lines("router r[0..1000]\n", "link mesh r[*]") },
    Costly {
        name: "each of many of many",
        text: || "router a[0..25000]\nrouter b[0..1300]\nlink each a[*] -> 16 of b[*]\n".into(),
    },
    Costly {
        name: "a path over many instances, in many checks",
        text: || lines("module m { lan l; vm v[0..8] { on l } }\nm x[0..1000]\n", "check x[*].v[*] reaches x[*].v[*]"),
    },
    Costly {
        name: "checks of a long chain of routers",
        text: || {
            let mut text = String::from("lan l[0..501]\nvm v[i in 0..501] { on l[i] }\n");
            text.push_str("router r[i in 0..500] { on l[i] at 1; on l[i + 1] at 2 }\n");
            for n in 0..501 {
                let _ = writeln!(text, "check v[{n}] cannot reach v[{}]", 500 - n);
            }
            text
        },
    },
    Costly { name: "many modules", text: || lines("", "module m{n} { lan l; vm v { on l } }\nm{n} x{n}") },
    Costly { name: "many pools and defaults", text: || lines("", "pool lan 10.0.0.0/8\ndefault vm { cpu 2 }") },
    Costly {
        name: "many firewalls",
        text: || {
            lines("lan a\nlan b\n", "router r{n} { on a at {n}; firewall { allow tcp 80 from a to b; default drop } }")
        },
    },
];
