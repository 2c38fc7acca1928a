//! `/configz`: the settings in effect, as JSON.

use std::sync::{Arc, Mutex, PoisonError};

use ipnet::IpNet;
use proxier::desired::Config;
use serde_json::{Value, json};

use crate::args::Cli;
use crate::component_config;
use crate::settings;

/// The key of kube-proxy's settings (`kubeproxyconfig.GroupName`).
const KUBE_PROXY: &str = "kubeproxy.config.k8s.io";

/// The page, kept up to date. Clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Configz(Arc<Mutex<Parts>>);

#[derive(Debug)]
struct Parts {
    kube_proxy: Value,
    own: Value,
}

impl Configz {
    pub(crate) fn new(cli: &Cli, config: &Config) -> Self {
        Self(Arc::new(Mutex::new(Parts {
            kube_proxy: document(cli, config),
            own: own_settings(config),
        })))
    }

    /// Updates the page with new settings. Those that need a restart stay unchanged.
    pub(crate) fn reconfigure(&self, cli: &Cli, config: &Config) {
        let mut new = document(cli, config);
        self.with(|parts| {
            for name in settings::taking_a_restart(cli) {
                let pointer = format!("/{}", name.replace('.', "/"));
                let old = parts.kube_proxy.pointer(&pointer);
                if let (Some(old), Some(new)) = (old, new.pointer_mut(&pointer)) {
                    new.clone_from(old);
                }
            }
            parts.kube_proxy = new;
        });
    }

    /// Updates the page with the settings in effect, including those from the API.
    pub(crate) fn follow(&self, config: &Config) {
        self.with(|parts| parts.own = own_settings(config));
    }

    pub(crate) fn text(&self) -> String {
        self.with(|parts| {
            json!({ KUBE_PROXY: parts.kube_proxy, "svcproxy": parts.own }).to_string()
        })
    }

    fn with<T>(&self, f: impl FnOnce(&mut Parts) -> T) -> T {
        f(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

fn document(cli: &Cli, config: &Config) -> Value {
    serde_json::to_value(component_config::effective(cli, config)).unwrap_or_default()
}

/// Settings without a field in kube-proxy's configuration, and those from the API.
fn own_settings(config: &Config) -> Value {
    let list =
        |networks: &[IpNet]| -> Vec<String> { networks.iter().map(ToString::to_string).collect() };
    json!({
        "nodeName": &*config.node_name,
        "nodeIPs": config.node_ips,
        "zone": config.zone.as_deref(),
        "clusterCIDRs": list(&config.cluster_cidrs),
        "serviceCIDRs": list(&config.service_cidrs),
        "nodePortNetworks": list(&config.node_port_networks()),
        "drainTimeoutSeconds": config.drain_timeout.as_secs(),
        "masqueradeMark": format!("{:#x}", config.marks.masquerade()),
        "markMask": format!("{:#x}", config.marks.mask()),
    })
}
