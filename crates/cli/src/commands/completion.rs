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
            local before="${COMP_WORDS[COMP_CWORD-1]}"
            if [[ "${COMP_WORDS[COMP_CWORD]}" != -* && ( "$before" != -* || "$before" == -n?* ) ]]; then
                local names namespace="" at
                names="$(svcproxy services --output name --metrics-bind-address= 2>/dev/null)"
                for ((at = 2; at < COMP_CWORD; at++)); do
                    case "${COMP_WORDS[at]}" in
                        -n|--namespace) namespace="${COMP_WORDS[at+1]}" ;;
                        -n=*|--namespace=*) namespace="${COMP_WORDS[at]#*=}" ;;
                        -n?*) namespace="${COMP_WORDS[at]#-n}" ;;
                    esac
                    # Bash makes a word of the sign.
                    [[ "$namespace" != "=" ]] || namespace="${COMP_WORDS[at+2]}"
                done
                if [[ -n "$namespace" ]]; then
                    local name of_namespace=""
                    for name in $names; do
                        [[ "$name" != "$namespace"/* ]] || of_namespace+=" ${name#*/}"
                    done
                    names="$of_namespace"
                fi
                COMPREPLY=($(compgen -W "$names" -- "${COMP_WORDS[COMP_CWORD]}"))
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

    /// What bash offers for a command line, by a node with three Services.
    fn offered(words: &[&str]) -> String {
        let completion = String::from_utf8(script(Shell::Bash)).unwrap();
        let words: Vec<_> = words.iter().map(|word| format!("'{word}'")).collect();
        let last = words.len() - 1;
        let text = format!(
            "svcproxy() {{ printf 'shop/web\\nshop/db\\nother/web\\n'; }}\n{completion}\n\
             COMP_WORDS=({}); COMP_CWORD={last}; _svcproxy_with_names svcproxy\n\
             echo \"${{COMPREPLY[*]}}\"\n",
            words.join(" ")
        );
        let output = std::process::Command::new("bash")
            .args(["--norc", "-c", &text])
            .output()
            .unwrap();
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.success(), "{error}");
        String::from_utf8(output.stdout).unwrap().trim().to_owned()
    }

    #[test]
    fn bash_offers_names_with_and_without_a_namespace() {
        assert_eq!(offered(&["svcproxy", "describe", "sh"]), "shop/web shop/db");
        for namespace in [&["-n", "shop"][..], &["--namespace", "shop"], &["-nshop"]] {
            let words = [&["svcproxy", "describe"], namespace, &["w"]].concat();
            assert_eq!(offered(&words), "web", "{namespace:?}");
            let words = [&["svcproxy", "verify"], namespace, &[""]].concat();
            assert_eq!(offered(&words), "web db", "{namespace:?}");
        }
        // Bash makes three words of --namespace=other.
        let words = ["svcproxy", "top", "--namespace", "=", "other", ""];
        assert_eq!(offered(&words), "web");
        assert_eq!(offered(&["svcproxy", "top", "-n", "[", "w"]), "");
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
