//! One row per port of a Service, from what the kernel serves.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};

use crate::args::SortBy;
use crate::inventory::{ClientGroup, Inventory, Now, Rates, VipState, VipStatus};
use crate::logging::Shown;

/// A port of a Service, over all its virtual IPs.
#[derive(Debug, Default)]
pub(super) struct Row {
    pub(super) namespace: String,
    pub(super) name: String,
    port_name: String,
    protocol: String,
    ports: BTreeSet<u16>,
    node_ports: BTreeSet<u16>,
    addresses: BTreeSet<IpAddr>,
    endpoints: BTreeSet<SocketAddr>,
    draining: BTreeSet<SocketAddr>,
    /// None in a mode that counts none.
    now: Option<Now>,
    rates: Rates,
    /// None in a mode that counts none.
    total: Option<u64>,
    schedulers: BTreeSet<String>,
    affinity: Option<u32>,
    states: BTreeSet<(ClientGroup, VipState)>,
    is_missing: bool,
    reasons: BTreeSet<String>,
}

/// The rows, sorted.
pub(super) fn rows(inventory: &Inventory, sort: SortBy) -> Vec<Row> {
    let mut rows = BTreeMap::<_, Row>::new();
    for of in &inventory.services {
        for vip in &of.vips {
            let key = (&of.service, &vip.port_name, vip.key.protocol);
            rows.entry(key)
                .or_insert_with(|| Row::new(&of.service, vip))
                .add(vip);
        }
    }
    let mut rows: Vec<_> = rows.into_values().collect();
    match sort {
        SortBy::Name => {}
        SortBy::Connections => rows.sort_by_key(|row| Reverse((row.active(), row.total))),
        SortBy::Rate => rows.sort_by_key(|row| {
            Reverse((row.rates.connections_per_second, row.rates.bytes_per_second))
        }),
        SortBy::Endpoints => rows.sort_by_key(|row| Reverse(row.endpoints.len())),
    }
    rows
}

/// The names of the columns.
pub(super) fn header(wide: bool) -> Vec<String> {
    let first = [
        "NAMESPACE",
        "NAME",
        "PORT",
        "VIPS",
        "ENDPOINTS",
        "ACTIVE",
        "CONN/S",
        "STATE",
    ];
    let more = [
        "INACTIVE",
        "TOTAL",
        "PACKETS/S",
        "BYTES/S",
        "SCHEDULER",
        "AFFINITY",
        "ADDRESSES",
    ];
    let more = more.into_iter().filter(|_| wide);
    first.into_iter().chain(more).map(str::to_owned).collect()
}

impl Row {
    fn new(service: &str, vip: &VipStatus) -> Self {
        let (namespace, name) = service.split_once('/').unwrap_or(("", service));
        Self {
            namespace: namespace.to_owned(),
            name: name.to_owned(),
            port_name: vip.port_name.clone(),
            protocol: vip.key.protocol.to_string(),
            ..Self::default()
        }
    }

    fn add(&mut self, vip: &VipStatus) {
        let port = vip.key.port.get();
        if vip.key.is_node_port() {
            self.node_ports.insert(port);
        } else {
            self.ports.insert(port);
            self.addresses.insert(vip.key.address);
        }
        // A virtual server whose last endpoints drain has an entry that refuses beside its own.
        let drains = !vip.real_servers.is_empty() && vip.real_servers.iter().all(|s| s.drains());
        if !drains {
            self.states.insert((vip.clients, vip.state));
        }
        self.is_missing |= vip.state == VipState::Served && vip.scheduler.is_none();
        self.schedulers.extend(vip.scheduler.clone());
        self.affinity = self.affinity.or(vip.persistence_seconds);
        self.reasons.extend(vip.reason.clone());
        for server in &vip.real_servers {
            let address = SocketAddr::new(server.address, server.port);
            match server.drains() {
                true => self.draining.insert(address),
                false => self.endpoints.insert(address),
            };
            if let Some(total) = server.total_connections {
                self.total = Some(self.total.unwrap_or_default() + total);
            }
            if let Some(scheduled) = server.scheduled {
                let now = self.now.get_or_insert_default();
                now.active_connections += scheduled.now.active_connections;
                now.inactive_connections += scheduled.now.inactive_connections;
                self.rates.connections_per_second += scheduled.rates.connections_per_second;
                self.rates.packets_per_second += scheduled.rates.packets_per_second;
                self.rates.bytes_per_second += scheduled.rates.bytes_per_second;
            }
        }
    }

    fn active(&self) -> u64 {
        self.now.map_or(0, |now| now.active_connections)
    }

    /// Identifies the row.
    pub(super) fn key(&self) -> (String, String, String, String) {
        let key = [&self.namespace, &self.name, &self.port_name, &self.protocol];
        let [namespace, name, port, protocol] = key.map(Clone::clone);
        (namespace, name, port, protocol)
    }

    /// As kubectl prints ports: `80:30080/TCP`, with the name.
    fn port(&self) -> String {
        let list = |ports: &BTreeSet<u16>| {
            let ports = ports.iter().map(ToString::to_string);
            ports.collect::<Vec<_>>().join(",")
        };
        let mut text = list(&self.ports);
        if !self.node_ports.is_empty() {
            text = format!("{text}:{}", list(&self.node_ports));
        }
        text = format!("{text}/{}", self.protocol.to_uppercase());
        match self.port_name.is_empty() {
            true => text,
            false => format!("{text} ({})", Shown(&self.port_name)),
        }
    }

    /// What happens to new connections, for people.
    fn state(&self) -> String {
        let is = |group: ClientGroup, state| self.states.contains(&(group, state));
        let anyone = |state| is(ClientGroup::All, state) || is(ClientGroup::Inside, state);
        let mut text = if self.is_missing {
            "its virtual server is missing".to_owned()
        } else if anyone(VipState::NotServed) {
            match anyone(VipState::Served) {
                true => "served in part".to_owned(),
                false => "not served".to_owned(),
            }
        } else if anyone(VipState::Served) {
            "served".to_owned()
        } else if anyone(VipState::Refused) {
            "refused: no endpoints".to_owned()
        } else if anyone(VipState::Dropped) {
            "dropped: no endpoints here".to_owned()
        } else if is(ClientGroup::Outside, VipState::Served) {
            "served outside only".to_owned()
        } else {
            "dropped outside: no endpoints here".to_owned()
        };
        if is(ClientGroup::Outside, VipState::Dropped) && anyone(VipState::Served) {
            text += ", dropped outside: no endpoints here";
        }
        for reason in &self.reasons {
            text = format!("{text}: {}", Shown(reason));
        }
        text
    }

    /// The cells.
    pub(super) fn cells(&self, wide: bool) -> Vec<String> {
        let list = |mut addresses: Vec<String>| {
            if addresses.is_empty() {
                addresses.push("<none>".to_owned());
            }
            addresses.join(",")
        };
        let endpoints = match self.draining.len() {
            0 => self.endpoints.len().to_string(),
            draining => format!("{}, {draining} draining", self.endpoints.len()),
        };
        let counted = |count: u64| self.now.map_or("-".to_owned(), |_| count.to_string());
        let rates = self.rates;
        let addresses = self.addresses.iter().map(ToString::to_string);
        let mut cells = vec![
            Shown(&self.namespace).to_string(),
            Shown(&self.name).to_string(),
            self.port(),
            list(addresses.collect()),
            endpoints,
            counted(self.active()),
            counted(rates.connections_per_second),
            self.state(),
        ];
        if wide {
            let affinity = match self.affinity {
                Some(seconds) => format!("{seconds} s"),
                None => "<none>".to_owned(),
            };
            let endpoints = self.endpoints.iter().map(ToString::to_string);
            cells.extend([
                counted(self.now.map_or(0, |now| now.inactive_connections)),
                self.total.map_or("-".to_owned(), |total| total.to_string()),
                counted(rates.packets_per_second),
                counted(rates.bytes_per_second),
                list(self.schedulers.iter().cloned().collect()),
                affinity,
                list(endpoints.collect()),
            ]);
        }
        cells
    }
}
