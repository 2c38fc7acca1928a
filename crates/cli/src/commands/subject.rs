//! What this node should have, by the command line or by the running svcproxy.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::bail;
use proxier::desired::{Config, DesiredState};
use proxier::source::Reading;
use proxier::store::Store;

use super::DiagnosticLog;
use super::proxy::{self, ProxyNode};
use crate::args::{Mode, NodeArgs};
use crate::running::{Client, Settings};
use crate::source::Source;
use crate::{component_config, inventory, lock, node};

/// What is compared: the settings, the source and the mode.
pub(super) struct Subject {
    node: NodeArgs,
    /// What the running svcproxy overrides in them.
    running: Option<Settings>,
    pub(super) mode: Mode,
}

/// What a source of Services says.
pub(super) struct Planned {
    pub(super) desired: DesiredState,
    pub(super) store: Store,
    pub(super) is_invalid: bool,
}

impl Planned {
    /// From a whole reading, with settings that it may override.
    pub(super) fn of(settings: &Config, reading: Reading) -> anyhow::Result<Self> {
        let is_invalid = reading.has_errors();
        let mut store = Store::default();
        let changes = reading.changes.into_iter();
        changes.for_each(|change| store.apply(change));
        let config = settings.following(store.node(), store.service_cidrs())?;
        let desired = DesiredState::from_store(Arc::new(config), &store);
        Ok(Self {
            desired,
            store,
            is_invalid,
        })
    }
}

impl Subject {
    /// From the command line, and from a running svcproxy: its settings, its mode if none is given, and
    /// its source if none is given.
    pub(super) fn of(args: &NodeArgs, mode: Option<Mode>) -> anyhow::Result<Self> {
        let client = Client::at(&args.monitor.metrics_bind_address);
        let (status, configz) = match &client {
            Some(client) => (client.status(), client.configz()),
            None => (None, None),
        };
        let mut node = args.clone();
        let mut running = None;
        if let Some(page) = configz {
            let source = node.source.clone();
            component_config::adopt(&page.kube_proxy, &mut node)?;
            if args.source.is_given() {
                node.source = source;
            } else {
                let is_file = |path: &PathBuf| !path.ends_with("-");
                let manifests = page.svcproxy.manifests.iter();
                node.source.manifests = manifests.filter(|path| is_file(path)).cloned().collect();
            }
            running = Some(page.svcproxy);
        }
        let of_process = status.and_then(|status| Mode::named(&status.mode));
        let (mode, _) = inventory::in_use(mode.or(of_process))?;
        if let (true, Some(running)) = (node.listen.is_empty(), &running) {
            node.listen.clone_from(&running.listen);
        }
        Ok(Self {
            node,
            running,
            mode,
        })
    }

    /// The settings, before the source overrides some.
    pub(super) fn settings(&self) -> anyhow::Result<Config> {
        let given = node::config(&self.node)?;
        Ok(match &self.running {
            Some(running) => running.clone().over(given),
            None => given,
        })
    }

    /// What mode userspace has on this node.
    ///
    /// # Errors
    ///
    /// If the node cannot be read, or a svcproxy runs that does not say what it serves.
    pub(super) fn proxy(&self) -> anyhow::Result<ProxyNode> {
        let client = Client::at(&self.node.monitor.metrics_bind_address);
        let found = proxy::read(client.as_ref(), &self.node.listen)?;
        // Without one, nothing is served, which is known.
        if !found.answers && lock::writer().is_some() {
            bail!(proxy::silence());
        }
        Ok(found)
    }

    /// Reads the source.
    pub(super) fn read(&self, log: &mut DiagnosticLog) -> anyhow::Result<Planned> {
        let settings = self.settings()?;
        let reading = Source::new(&self.node.source, &settings.node_name).read()?;
        log.log(&reading.diagnostics);
        Planned::of(&settings, reading)
    }
}
