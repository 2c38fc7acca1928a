//! Flags that say where Services come from.

use std::path::PathBuf;

use clap::Args;

/// Manifests, or an API server.
#[derive(Debug, Args)]
pub(crate) struct SourceArgs {
    /// Files or directories of YAML or JSON: Service, EndpointSlice, Endpoints, Pod, Node
    /// [default: the API server's objects]
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
}
