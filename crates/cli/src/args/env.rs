//! Flags of `svcproxy env`.

use clap::{ArgAction, Args, ValueEnum};
use proxier::model::ObjectName;

use super::{SourceArgs, go_bool};

/// `svcproxy env`.
#[derive(Debug, Args)]
pub(crate) struct EnvArgs {
    /// Namespace of the container
    #[arg(short, long, default_value = "default", value_parser = namespace)]
    pub(crate) namespace: String,

    /// Give the variables of all Services of the namespace; false gives those of default/kubernetes
    /// only, as enableServiceLinks of a Pod
    #[arg(
        long,
        value_name = "BOOL",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true",
        default_value_t = true,
        value_parser = go_bool,
        action = ArgAction::Set
    )]
    pub(crate) service_links: bool,

    #[command(flatten)]
    pub(crate) source: SourceArgs,

    /// Output format
    #[arg(short, long, value_enum, default_value_t = EnvFormat::Sh)]
    pub(crate) output: EnvFormat,
}

/// Output formats of `svcproxy env`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum EnvFormat {
    /// Commands for a shell, to be read with eval
    Sh,
    /// Lines for docker's and podman's --env-file, and for systemd's EnvironmentFile=
    Docker,
    /// JSON, as the field env of a container
    Json,
}

fn namespace(text: &str) -> Result<String, String> {
    match ObjectName::new(text, "any") {
        Ok(_) => Ok(text.to_owned()),
        Err(error) => Err(format!("not a namespace: it must be {}", error.expected)),
    }
}
