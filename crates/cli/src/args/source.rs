//! Flags that say where Services come from.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::sync::not_negative;

/// Manifests, or an API server.
#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    /// Files or directories of YAML or JSON, or - for standard input: Service, EndpointSlice,
    /// Endpoints, Pod, Node [default: the API server's objects]
    #[arg(long, value_name = "PATH", num_args = 1..)]
    pub(crate) manifests: Vec<PathBuf>,

    /// A kubeconfig, of which the current context says where the API server is and who asks
    /// [default: the service account of the pod this runs in]
    #[arg(long, value_name = "FILE")]
    pub(crate) kubeconfig: Option<PathBuf>,

    /// URL of the API server, in the place of the kubeconfig's; it must be one that answers without
    /// a service proxy
    #[arg(long, value_name = "URL")]
    pub(crate) master: Option<String>,

    /// How long --once, and the command plan, wait for what the API server has (30s, 5m); 0 waits for
    /// ever
    #[arg(long, value_name = "DURATION", default_value = "1m", value_parser = not_negative)]
    pub(crate) timeout: Duration,
}
