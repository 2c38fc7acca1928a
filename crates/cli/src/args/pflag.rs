//! Command lines as kube-proxy reads them: the rules of spf13/pflag, and Go's `strconv`.
//!
//! Sources: pflag `flag.go` (`parseLongArg`), `string_slice.go`, and component-base
//! `cli/flag/flags.go` (`WordSepNormalizeFunc`).

use std::ffi::OsString;
use std::num::ParseIntError;

use clap::error::{Error, ErrorKind};
use clap::{Arg, ArgAction, Command};

/// Arguments that keep an empty value. Empty means: no server; a mode that the log names; or a path
/// that a script forgot to set, which must not select another source of Services.
const EMPTY_IS_A_VALUE: [&str; 4] = [
    "metrics_bind_address",
    "healthz_bind_address",
    "proxy_mode",
    "manifests",
];

/// Lists that are one string in kube-proxy, so an empty value resets them.
const TEXT_IN_KUBE_PROXY: [&str; 1] = ["cluster_cidrs"];

/// Rewrites a command line so that clap reads it as pflag would.
///
/// - `_` in a flag's name is `-`.
/// - The word after a flag that needs a value is its value, even if it begins with a dash.
/// - An empty value resets a flag to its default. For lists, it adds nothing.
/// - A long flag with a single dash is an error.
///
/// That the last of repeated flags counts is a setting of the clap command
/// (`args_override_self`).
pub(super) fn rewrite(
    command: &mut Command,
    words: impl IntoIterator<Item = OsString>,
) -> Result<Vec<OsString>, Error> {
    // Gives subcommands the global arguments.
    command.build();
    let mut current = &*command;
    let mut words = words.into_iter().peekable();
    let mut rewritten: Vec<(Option<&str>, OsString)> = Vec::new();
    rewritten.extend(words.next().map(|program| (None, program)));
    let mut is_value_of_list = false;
    while let Some(word) = words.next() {
        let text = word.to_str().unwrap_or_default();
        if text == "--" {
            rewritten.push((None, word));
            rewritten.extend(words.map(|word| (None, word)));
            break;
        }
        let Some(flag) = Flag::find(current, text) else {
            if let Some(long) = single_dash(current, text) {
                let message = format!("'{text}' has a single dash; write '--{long}'");
                return Err(command.clone().error(ErrorKind::UnknownArgument, message));
            }
            if text.starts_with('-') {
                is_value_of_list = false;
            } else if !is_value_of_list {
                current = current.find_subcommand(text).unwrap_or(current);
            }
            rewritten.push((None, word));
            continue;
        };
        let id = flag.arg.get_id().as_str();
        let takes = flag.arg.get_num_args().unwrap_or_default();
        is_value_of_list = flag.value.is_none() && takes.max_values() > 1;
        // An optional value (`--profiling`) must follow a `=`.
        let wants_next = flag.value.is_none() && takes.min_values() == 1 && !is_value_of_list;
        let is_next = |next: &OsString| next.to_str().is_some_and(|next| !next.starts_with("--"));
        let value = match flag.value {
            None if wants_next => words
                .next_if(is_next)
                .and_then(|next| next.into_string().ok()),
            value => value.map(str::to_owned),
        };
        match value {
            Some(value) if value.is_empty() && !EMPTY_IS_A_VALUE.contains(&id) => {
                let is_list = matches!(flag.arg.get_action(), ArgAction::Append);
                if !is_list || TEXT_IN_KUBE_PROXY.contains(&id) {
                    rewritten.retain(|(known, _)| *known != Some(id));
                }
            }
            Some(value) => rewritten.push((Some(id), format!("{}={value}", flag.name).into())),
            None => rewritten.push((Some(id), flag.name.into())),
        }
    }
    Ok(rewritten.into_iter().map(|(_, word)| word).collect())
}

/// A flag of the command, as given.
struct Flag<'c, 'w> {
    arg: &'c Arg,
    /// Includes the dashes.
    name: String,
    /// The text after `=`, or after the letter of a short flag.
    value: Option<&'w str>,
}

impl<'c, 'w> Flag<'c, 'w> {
    /// None if the command has no such flag, or one that never takes a value.
    fn find(command: &'c Command, word: &'w str) -> Option<Self> {
        if let Some(long) = word.strip_prefix("--") {
            let (name, value) = match long.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (long, None),
            };
            let name = name.replace('_', "-");
            let arg = long_arg(command, &name)?;
            let name = format!("--{name}");
            let takes_value = arg.get_action().takes_values();
            return takes_value.then_some(Self { arg, name, value });
        }
        let mut letters = word.strip_prefix('-')?.chars();
        let letter = letters.next()?;
        let arg = command
            .get_arguments()
            .find(|arg| arg.get_short() == Some(letter))?;
        let rest = letters.as_str();
        let value = rest
            .strip_prefix('=')
            .or((!rest.is_empty()).then_some(rest));
        let name = format!("-{letter}");
        let takes_value = arg.get_action().takes_values();
        takes_value.then_some(Self { arg, name, value })
    }
}

fn long_arg<'a>(command: &'a Command, name: &str) -> Option<&'a Arg> {
    command.get_arguments().find(|arg| {
        let aliases = arg.get_all_aliases().into_iter().flatten();
        arg.get_long()
            .into_iter()
            .chain(aliases)
            .any(|known| known == name)
    })
}

/// The long flag that a word such as `-proxy-mode=ipvs` probably means.
fn single_dash(command: &Command, word: &str) -> Option<String> {
    let name = word.strip_prefix('-')?.split('=').next()?.replace('_', "-");
    (name.len() > 1 && long_arg(command, &name).is_some()).then_some(name)
}

/// As Go's `strconv.ParseBool`.
pub(crate) fn go_bool(text: &str) -> Result<bool, String> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Ok(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Ok(false),
        _ => Err("must be true or false".to_owned()),
    }
}

/// As Go's `strconv.ParseInt` with base 0: decimal, `0x`, `0o`, `0b` or a leading zero for octal.
pub(crate) fn go_int(text: &str) -> Result<i32, String> {
    let not_a_number = |error: ParseIntError| format!("must be a whole number: {error}");
    let (sign, digits) = match text.strip_prefix('-') {
        Some(digits) => ("-", digits),
        None => ("", text.strip_prefix('+').unwrap_or(text)),
    };
    let lower = digits.to_ascii_lowercase();
    let prefixed = |(prefix, radix)| Some((radix, lower.strip_prefix(prefix)?));
    let (radix, digits) = [("0x", 16), ("0o", 8), ("0b", 2)]
        .into_iter()
        .find_map(prefixed)
        .unwrap_or_else(|| match lower.strip_prefix('0') {
            Some(rest) if !rest.is_empty() => (8, rest),
            _ => (10, &*lower),
        });
    // Go rejects a second sign.
    let digits = if digits.starts_with(['+', '-']) {
        ""
    } else {
        digits
    };
    i32::from_str_radix(&format!("{sign}{digits}"), radix).map_err(not_a_number)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;
    use crate::args::{self, Cli};

    fn rewritten(words: &str) -> Result<String, String> {
        let words = ["svcproxy"].into_iter().chain(words.split(' '));
        let words = rewrite(&mut Cli::command(), words.map(OsString::from));
        let words = words.map_err(|error| error.to_string())?;
        let words: Vec<_> = words[1..].iter().filter_map(|word| word.to_str()).collect();
        Ok(words.join(" "))
    }

    #[test]
    fn command_lines_are_read_as_pflag_reads_them() {
        let rows = [
            ("--proxy_mode=ipvs", "--proxy-mode=ipvs"),
            ("--conntrack_max-per_core 5", "--conntrack-max-per-core=5"),
            ("--oom-score-adj -999 -v 2", "--oom-score-adj=-999 -v=2"),
            ("--v=2 -v4 -v=6", "--v=2 -v=4 -v=6"),
            ("--kubeconfig=", ""),
            ("--kubeconfig=/a --kubeconfig=", ""),
            ("--kubeconfig= --kubeconfig=/a", "--kubeconfig=/a"),
            (
                "--nodeport-addresses=primary --nodeport-addresses=",
                "--nodeport-addresses=primary",
            ),
            ("--cluster-cidr=10.0.0.0/8 --cluster-cidr=", ""),
            ("--masquerade-all= --profiling=", ""),
            (
                "--masquerade-all --profiling=False",
                "--masquerade-all --profiling=False",
            ),
            ("--metrics-bind-address=", "--metrics-bind-address="),
            (
                "plan --v= --hostname_override=a",
                "plan --hostname-override=a",
            ),
            ("-v 4 plan -v=", "plan"),
            (
                "--manifests plan status -v=2",
                "--manifests plan status -v=2",
            ),
            ("--once -- --v=", "--once -- --v="),
            ("--unknown_flag=", "--unknown_flag="),
            // clap rejects flags of another subcommand.
            ("status --kubeconfig=", "status --kubeconfig="),
        ];
        for (words, expected) in rows {
            assert_eq!(rewritten(words).as_deref(), Ok(expected), "{words}");
        }
        let error = rewritten("-proxy-mode=ipvs").unwrap_err();
        assert!(error.contains("write '--proxy-mode'"), "{error}");
        let error = rewritten("plan -masquerade_all").unwrap_err();
        assert!(error.contains("write '--masquerade-all'"), "{error}");
    }

    /// Checks every flag that takes a value.
    #[test]
    fn an_empty_value_is_the_default_of_every_flag() {
        let parsed = |words: &[String]| {
            let program = ["svcproxy".to_owned()];
            let words = program.iter().chain(words).map(OsString::from);
            format!("{:?}", args::try_parse(words).unwrap())
        };
        let default = parsed(&[]);
        let command = Cli::command();
        let values = command.get_arguments().filter(|arg| {
            let id = arg.get_id().as_str();
            arg.get_action().takes_values() && !EMPTY_IS_A_VALUE.contains(&id)
        });
        let mut all = Vec::new();
        for arg in values {
            let aliases = arg.get_all_aliases().into_iter().flatten();
            for name in arg.get_long().into_iter().chain(aliases) {
                let joined = format!("--{name}=");
                assert_eq!(parsed(std::slice::from_ref(&joined)), default, "{joined}");
                all.push(joined);
            }
        }
        assert!(all.len() > 70, "{}", all.len());
        assert_eq!(parsed(&all), default);
    }

    #[test]
    fn booleans_and_numbers_are_read_as_in_go() {
        for text in ["1", "t", "T", "true", "TRUE", "True"] {
            assert_eq!(go_bool(text), Ok(true), "{text}");
        }
        for text in ["0", "f", "F", "false", "FALSE", "False"] {
            assert_eq!(go_bool(text), Ok(false), "{text}");
        }
        for text in ["", "yes", "tRUE", "on", " true", "2"] {
            assert!(go_bool(text).is_err(), "{text}");
        }
        let numbers = [
            ("0", 0),
            ("-999", -999),
            ("+5", 5),
            ("0x10", 16),
            ("0b11", 3),
            ("0o17", 15),
            ("017", 15),
            ("-2147483648", i32::MIN),
        ];
        for (text, number) in numbers {
            assert_eq!(go_int(text), Ok(number), "{text}");
        }
        for text in [
            "",
            "-",
            "0x",
            "08",
            "--5",
            "0x-5",
            "1e3",
            "2147483648",
            "5 ",
        ] {
            assert!(go_int(text).is_err(), "{text}");
        }
    }
}
