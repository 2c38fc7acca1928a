//! Reads one ConfigMap, once.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::client::{ApiClients, Ask};
use super::error::Failure;
use super::state::States;
use super::wire::Answer;
use super::{Access, StartError, Timing};
use crate::Runtime;

/// Why a ConfigMap cannot be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ConfigMapError {
    /// The names are not those of a namespace and an object.
    #[error("{0:?} is not the name of a ConfigMap, NAMESPACE/NAME")]
    Name(String),
    /// The kubeconfig, a credential or the proxy cannot be used, or the runtime has stopped.
    #[error(transparent)]
    Start(#[from] StartError),
    /// The request failed.
    #[error("cannot read ConfigMap {name}")]
    Request {
        /// `NAMESPACE/NAME`.
        name: String,
        /// The reason.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

#[derive(Deserialize)]
struct ConfigMap {
    #[serde(default)]
    data: BTreeMap<String, String>,
}

/// Reads the data of the ConfigMap `NAMESPACE/NAME`. Waits for the answer for at most the time of
/// [`Timing`].
///
/// # Errors
///
/// [`ConfigMapError`].
pub fn config_map(
    runtime: &Runtime,
    access: Access,
    timing: &Timing,
    name: &str,
) -> Result<BTreeMap<String, String>, ConfigMapError> {
    let path = path(name).ok_or_else(|| ConfigMapError::Name(name.to_owned()))?;
    access.check().map_err(StartError::Access)?;
    let handle = runtime.handle().map_err(StartError::Runtime)?;
    let read = async {
        let clients = ApiClients::new(access, timing.plugin, States::new(&[]));
        let client = clients.get().await?;
        let answer = Answer::to(Ask::get(&path, &[]), &client, timing.answer).await?;
        let body = answer.short(timing.answer).await?;
        serde_json::from_slice::<ConfigMap>(&body).map_err(|error| Failure::Garbled(error.into()))
    };
    let read = handle.block_on(read);
    let map = read.map_err(|failure| ConfigMapError::Request {
        name: name.to_owned(),
        source: Box::new(failure),
    })?;
    Ok(map.data)
}

fn path(name: &str) -> Option<String> {
    let (namespace, name) = name.split_once('/')?;
    let name = crate::model::ObjectName::new(namespace, name).ok()?;
    let (namespace, name) = (name.namespace(), name.name());
    Some(format!("/api/v1/namespaces/{namespace}/configmaps/{name}"))
}
