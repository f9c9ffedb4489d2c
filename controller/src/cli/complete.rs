//! `fleet completions SHELL`: what the command line's description gives, and names of cameras and VMs, which are asked of
//! the controller when a user wants them (`fleet usb words`).

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::usb::NAMED;
use super::{Cli, Exit, Failure, output};

/// The generated function first; where a camera or a VM may stand, their names as well.
const BASH: &str = r#"
_fleet_words() {
    _fleet "$@"
    local word="${COMP_WORDS[COMP_CWORD]}"
    if [[ "${COMP_WORDS[1]}" == usb && "${COMP_WORDS[2]}" =~ ^(attach|detach)$ && "$word" != -* ]]; then
        COMPREPLY+=($(compgen -W "$(fleet usb words 2>/dev/null)" -- "$word"))
    fi
}
complete -F _fleet_words -o nosort -o bashdefault -o default fleet
"#;

const FISH: &str = r#"
complete -c fleet -n "__fish_seen_subcommand_from usb; and __fish_seen_subcommand_from attach detach" -f -a "(fleet usb words 2>/dev/null)"
"#;

/// Takes the place of the shell's own completion of an argument; so it is to be known before that.
const ZSH: &str = r#"
_fleet_words() {
    local -a named
    named=(${(f)"$(fleet usb words 2>/dev/null)"})
    compadd -a named
}
"#;

#[derive(Args, Debug)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub shell: Shell,
}

pub fn completions(args: &CompletionsArgs) -> Result<Exit, Failure> {
    output::print(&script(args.shell));
    Ok(Exit::Ok)
}

fn script(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "fleet", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    match shell {
        Shell::Bash => script + BASH,
        Shell::Fish => script + FISH,
        Shell::Zsh => {
            let named = NAMED.iter().fold(script, |script, help| {
                script.replace(&format!("{help}:_default"), &format!("{help}:_fleet_words"))
            });
            // After the first line, which says what the file is.
            named.replacen('\n', &format!("\n{ZSH}"), 1)
        }
        _ => script,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cameras_and_vms_are_asked_for_where_they_may_stand() {
        for (shell, times) in [(Shell::Bash, 2), (Shell::Zsh, 4)] {
            assert_eq!(script(shell).matches("_fleet_words").count(), times, "{shell}");
        }
        assert!(script(Shell::Zsh).starts_with("#compdef fleet\n"));
        assert_eq!(script(Shell::Fish).matches("(fleet usb words").count(), 1);
    }
}
