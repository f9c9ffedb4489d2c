//! One VM as `fleet ps --json` shows it.

use serde_json::Value;

/// One VM.
#[derive(Clone, Debug)]
pub struct Vm {
    /// Its name within the experiment.
    pub name: String,
    /// Word of its state.
    pub state: String,
    /// Its process; 0 when it has none.
    pub pid: u32,
    /// Why it failed.
    pub reason: String,
    /// Its last console lines, when it failed.
    pub last_lines: Vec<String>,
    /// "uml", "qemu/tcg".
    pub hypervisor: String,
    /// "10.0.0.16/24".
    pub addresses: Vec<String>,
    /// What the guest was given.
    pub memory_bytes: u64,
}

impl Vm {
    /// Reads one entry of `vms`.
    ///
    /// # Panics
    /// When it lacks a key that docs/cli.md promises.
    pub fn read(value: &Value) -> Self {
        let text = |key: &str| value[key].as_str().unwrap_or_else(|| panic!("no text `{key}` in {value}")).to_owned();
        let number = |key: &str| value[key].as_u64().unwrap_or_else(|| panic!("no number `{key}` in {value}"));
        let texts = |key: &str| {
            let list = value[key].as_array().unwrap_or_else(|| panic!("no list `{key}` in {value}"));
            list.iter().map(|entry| entry.as_str().unwrap().to_owned()).collect()
        };
        Self {
            name: text("name"),
            state: text("state"),
            pid: u32::try_from(number("pid")).unwrap(),
            reason: text("reason"),
            last_lines: texts("last_lines"),
            hypervisor: text("hypervisor"),
            addresses: texts("addresses"),
            memory_bytes: number("memory_bytes"),
        }
    }
}
