//! `svcproxy env`.

use std::io::{self, Write};

use proxier::discovery::environment;
use proxier::source::Extent;
use proxier::store::Store;
use serde::Serialize;

use super::{DiagnosticLog, json};
use crate::Ending;
use crate::args::{EnvArgs, EnvFormat};
use crate::source::Source;

/// Prints the environment variables of a container.
pub(crate) fn env(args: &EnvArgs) -> anyhow::Result<Ending> {
    // No variable depends on the node.
    let source = Source::new(&args.source, "").extent(Extent::Named);
    let reading = source.read()?;
    DiagnosticLog::default().log(&reading.diagnostics);
    let invalid = reading.has_errors();
    let mut store = Store::default();
    let changes = reading.changes.into_iter();
    changes.for_each(|change| store.apply(change));
    let services = store.services().map(|view| view.service);
    let variables = environment::variables(services, &args.namespace, args.service_links);
    let mut out = io::stdout().lock();
    match args.output {
        EnvFormat::Sh => {
            for (name, value) in &variables {
                if is_identifier(name) {
                    writeln!(out, "export {name}={}", quoted(value))?;
                } else {
                    tracing::warn!(
                        "{name} is left out: a shell accepts no variable that begins with a digit; \
                         use -o docker or -o json"
                    );
                }
            }
        }
        EnvFormat::Docker => {
            for (name, value) in &variables {
                writeln!(out, "{name}={value}")?;
            }
        }
        EnvFormat::Json => {
            drop(out);
            let variables = variables.iter();
            let variables = variables.map(|(name, value)| Variable { name, value });
            json(&variables.collect::<Vec<_>>())?;
        }
    }
    Ok(match invalid {
        true => Ending::InvalidInput,
        false => Ending::Done,
    })
}

/// A variable as a Pod has it.
#[derive(Serialize)]
struct Variable<'a> {
    name: &'a str,
    value: &'a str,
}

/// Whether a shell accepts it as the name of a variable. The characters are those of a Service's
/// name, so only the first one can be wrong.
fn is_identifier(name: &str) -> bool {
    let mut bytes = name.bytes();
    let first = |byte: u8| byte.is_ascii_alphabetic() || byte == b'_';
    bytes.next().is_some_and(first) && bytes.all(|byte| first(byte) || byte.is_ascii_digit())
}

/// A word of a shell. Nothing has a meaning between single quotes but the quote itself.
fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]

        #[test]
        fn a_shell_reads_back_what_is_quoted(text in "[^\0]{0,40}") {
            let script = format!("printf %s {}", quoted(&text));
            let out = Command::new("sh").args(["-c", &script]).output().unwrap();
            prop_assert_eq!(out.stdout, text.into_bytes());
        }
    }

    #[test]
    fn names_that_a_shell_rejects_are_recognised() {
        for (name, valid) in [
            ("WEB_PORT", true),
            ("_1", true),
            ("1_PORT", false),
            ("", false),
        ] {
            assert_eq!(is_identifier(name), valid, "{name}");
        }
    }
}
