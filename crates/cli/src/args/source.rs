//! Flags that choose the source of Services.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::sync::not_negative;

/// Manifests, or an API server.
#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    /// Files or directories of YAML or JSON manifests, or - for standard input: Service,
    /// EndpointSlice, Endpoints, Pod, Node [default: read the API server]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub(crate) manifests: Vec<PathBuf>,

    /// Kubeconfig file; its current context names the API server and the credentials [default: the
    /// service account of this pod]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// URL of the API server, instead of the kubeconfig's; it must be reachable without a service
    /// proxy
    #[arg(long, value_name = "URL")]
    pub(crate) master: Option<String>,

    /// How long --once and the command plan wait for the API server (30s, 5m); 0 waits without
    /// limit
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = not_negative)]
    pub(crate) timeout: Duration,
}
