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

/// Prints the script. It offers the flags that `--help` shows, and their values; in bash and fish also
/// the names of Services, which it asks of this node.
pub(crate) fn completion(shell: Shell) -> anyhow::Result<Ending> {
    let mut out = io::stdout().lock();
    out.write_all(&script(shell))?;
    Ok(Ending::Done)
}

fn script(shell: Shell) -> Vec<u8> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut visible(&command()), "svcproxy", &mut script);
    let names = match shell {
        Shell::Bash => BASH_NAMES,
        Shell::Fish => FISH_NAMES,
        _ => "",
    };
    script.extend_from_slice(names.as_bytes());
    script
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
