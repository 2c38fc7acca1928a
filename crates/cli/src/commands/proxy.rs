//! What mode userspace has on this node: the kernel's routes and sockets, and what the proxy says that
//! it serves.

use std::collections::BTreeSet;

use anyhow::Context;
use ipnet::IpNet;
use proxier::mode::userspace::{self, NodeState, Socket};

use crate::args::Mode;
use crate::inventory::{Proxied, add_served};
use crate::lock;
use crate::running::Client;

/// The state of the node.
#[derive(Debug, Clone)]
pub(super) struct ProxyNode {
    pub(super) node: NodeState,
    /// The sockets of other programs.
    pub(super) others: Vec<Socket>,
    /// Whether a svcproxy says what it serves.
    pub(super) answers: bool,
}

/// Reads it. `given` are the networks of `--listen`, if they are not those of the running svcproxy.
pub(super) fn read(client: Option<&Client>, given: &[IpNet]) -> anyhow::Result<ProxyNode> {
    let given = match (given, client) {
        ([], Some(client)) => client.settings().map(|of| of.listen).unwrap_or_default(),
        (given, _) => given.to_vec(),
    };
    let mut node = userspace::observe(given)?;
    let page: Option<Vec<Proxied>> = client.and_then(Client::proxied);
    if let (Some(_), Some(client)) = (&page, client) {
        // What that process may do counts, not what this one may.
        let conditions = client.conditions().unwrap_or_default();
        node.may_route = conditions.iter().all(|of| of.reason != "RoutesForbidden");
    }
    let sockets = userspace::sockets();
    let sockets = sockets.context("cannot read the sockets of this node from /proc/net")?;
    let bound: BTreeSet<_> = sockets.iter().map(|of| (of.protocol, of.address)).collect();
    let has_socket = |protocol, address| bound.contains(&(protocol, address));
    add_served(&mut node, page.as_deref().unwrap_or_default(), has_socket);
    let listeners = node.listeners.iter();
    let own: BTreeSet<_> = listeners
        .flat_map(|(key, at)| at.iter().map(|address| (key.protocol, *address)))
        .collect();
    let others = sockets.into_iter();
    let others = others.filter(|of| !own.contains(&(of.protocol, of.address)));
    Ok(ProxyNode {
        node,
        others: others.collect(),
        answers: page.is_some(),
    })
}

/// Why nothing is known of what a proxy serves, if none answers.
pub(super) fn silence() -> String {
    match lock::writer() {
        Some(writer) => format!(
            "svcproxy ({writer}) does not answer at --metrics-bind-address, so what it serves is not known"
        ),
        None => "no svcproxy runs here, and mode userspace serves only while it runs".to_owned(),
    }
}

/// The given mode, or mode userspace if the running svcproxy has it.
pub(super) fn mode_of(mode: Option<Mode>, client: Option<&Client>) -> Option<Mode> {
    let of_process = || {
        let status = client.and_then(Client::status)?;
        Mode::named(&status.mode).filter(|mode| *mode == Mode::Userspace)
    };
    mode.or_else(of_process)
}
