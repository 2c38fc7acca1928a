//! `svcproxy completion`: a script for a shell.

use std::io::{self, Write};

use clap_complete::Shell;

use crate::Ending;
use crate::args::{command, visible};

/// Adds the names of Services to what bash offers for these subcommands.
const BASH_NAMES: &str = r#"
_svcproxy_with_names() {
    _svcproxy "$@"
    case "${COMP_WORDS[1]}" in
        describe|services|top|verify)
            if [[ "${COMP_WORDS[COMP_CWORD]}" != -* && "${COMP_WORDS[COMP_CWORD-1]}" != -* ]]; then
                COMPREPLY=($(compgen -W "$(svcproxy services --output name --metrics-bind-address= 2>/dev/null)" -- "${COMP_WORDS[COMP_CWORD]}"))
            fi
            ;;
    esac
}
complete -F _svcproxy_with_names -o nosort -o bashdefault -o default svcproxy
"#;

/// The same for fish.
const FISH_NAMES: &str = r#"
complete -c svcproxy -n "__fish_seen_subcommand_from describe services top verify" -f -a "(svcproxy services --output name --metrics-bind-address= 2>/dev/null)"
"#;

/// The same for zsh. It must come before the last lines of the script, which call its functions.
const ZSH_NAMES: &str = r#"#compdef svcproxy

_svcproxy_names() {
    local -a names
    names=(${(f)"$(svcproxy services --output name --metrics-bind-address= 2>/dev/null)"})
    compadd -a names
}
"#;

/// Prints the script. It offers the flags that `--help` shows, and their values; and in bash, fish and zsh
/// the names of Services, which it asks of this node.
pub(crate) fn completion(shell: Shell) -> anyhow::Result<Ending> {
    let mut out = io::stdout().lock();
    out.write_all(&script(shell))?;
    Ok(Ending::Done)
}

fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut visible(&command()), "svcproxy", &mut script);
    match shell {
        Shell::Bash => script.extend_from_slice(BASH_NAMES.as_bytes()),
        Shell::Fish => script.extend_from_slice(FISH_NAMES.as_bytes()),
        Shell::Zsh => return zsh_with_names(&String::from_utf8_lossy(&script)).into_bytes(),
        _ => {}
    }
    script
}

/// Lets arguments that name Services complete by these.
fn zsh_with_names(script: &str) -> String {
    let names_one = |line: &str| {
        let line = line.trim_start();
        line.starts_with("'*::names -- ") || line.starts_with("':name -- ")
    };
    let lines = script.lines().map(|line| match line {
        "#compdef svcproxy" => ZSH_NAMES.to_owned(),
        _ if names_one(line) => line.replace(":_default'", ":_svcproxy_names'") + "\n",
        _ => format!("{line}\n"),
    });
    lines.collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(shell: Shell) -> Vec<String> {
        let script = String::from_utf8(script(shell)).unwrap();
        let words = script.split(|c: char| c.is_whitespace() || "\"'(){}[]:=,\\".contains(c));
        words.map(str::to_owned).collect()
    }

    #[test]
    fn names_of_services_are_asked_of_the_node() {
        for (shell, count) in [(Shell::Bash, 1), (Shell::Fish, 1), (Shell::Zsh, 1)] {
            let script = String::from_utf8(script(shell)).unwrap();
            let asks = script.matches("svcproxy services --output name").count();
            assert_eq!(asks, count, "{shell}");
        }
        let zsh = String::from_utf8(script(Shell::Zsh)).unwrap();
        // services, describe, top, verify.
        assert_eq!(zsh.matches(":_svcproxy_names' \\").count(), 4, "{zsh}");
        assert!(zsh.starts_with("#compdef svcproxy\n"));
    }

    #[test]
    fn values_are_offered_and_hidden_flags_are_not() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let words = words(shell);
            let has = |word: &str| words.iter().any(|one| one == word);
            for word in [
                "iptables",
                "wrr",
                "mh",
                "wide",
                "connections",
                "explain",
                "describe",
            ] {
                assert!(has(word), "{shell} lacks {word}");
            }
            for word in ["--kube-api-qps", "--logtostderr", "--proxy-mode", "man"] {
                assert!(
                    !has(word) && !has(word.trim_start_matches("--")),
                    "{shell} has {word}"
                );
            }
        }
    }
}
