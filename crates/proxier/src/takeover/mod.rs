//! Removes what kube-proxy left on the node.

mod chains;
pub(crate) mod device;
mod first_sync;
pub(crate) mod leftovers;
mod report;
mod servers;

use std::fmt;
use std::io;
use std::net::IpAddr;
use std::thread;
use std::time::{Duration, Instant};

use ipnet::IpNet;
use ipvs::{Protocol, VirtualServerKey};

use crate::desired::FrontendKey;
use crate::mode::NodeError;
use crate::mode::flows::OwedFlows;
use crate::mode::ipvs::drain::Draining;
use crate::mode::ipvs::kernel::rtnetlink::Rtnetlink;
use crate::takeover::leftovers::{NFTABLES_TABLE, Record, SetOf, is_set, set_of};
use netlink::{Socket, ipset, nftables};

use device::Device;

pub use first_sync::FirstSync;
pub use report::{Removal, Removed};

/// The kernel releases a set some time after the rules that used it were deleted.
const SET_ATTEMPTS: u32 = 20;
const SET_PAUSE: Duration = Duration::from_millis(50);

/// Removes what kube-proxy left on a node, in any of its modes.
///
/// It recognises kube-proxy's state by exact names, or by kube-proxy's own record. Chains of the
/// kubelet and of network plugins stay, and so do virtual servers of other programs. Netlink works
/// in the network namespace of the thread that opened this; programs and `/proc` use that of the
/// calling thread.
///
/// ```no_run
/// use std::time::Instant;
///
/// use proxier::takeover::{KubeProxy, NewProxy};
///
/// let new_proxy = NewProxy::new(&|_| false, &|_| false);
/// let removal = KubeProxy::open()?.remove(&new_proxy, Instant::now());
/// println!("removed: {}", removal.removed);
/// # Ok::<(), proxier::mode::NodeError>(())
/// ```
#[derive(Debug)]
pub struct KubeProxy {
    netfilter: Socket,
    netlink: Rtnetlink,
    /// kube-proxy's virtual servers that drain.
    draining: Draining,
    /// Flows to deleted virtual servers that could not be deleted.
    owed: OwedFlows,
}

/// The data plane that is in effect now.
#[derive(Clone, Copy)]
#[non_exhaustive]
pub struct NewProxy<'a> {
    /// Whether it owns a virtual server.
    pub has: &'a dyn Fn(&VirtualServerKey) -> bool,
    /// Whether it serves a node port.
    pub has_node_port: &'a dyn Fn(&FrontendKey) -> bool,
    /// Networks whose VIPs belong to other programs.
    pub exclude_cidrs: &'a [IpNet],
    /// Networks with a `local` route.
    pub local_cidrs: &'a [IpNet],
    /// How long a virtual server may drain.
    pub drain_timeout: Duration,
}

impl<'a> NewProxy<'a> {
    /// A data plane with these virtual servers and node ports.
    pub const fn new(
        has: &'a dyn Fn(&VirtualServerKey) -> bool,
        has_node_port: &'a dyn Fn(&FrontendKey) -> bool,
    ) -> Self {
        Self {
            has,
            has_node_port,
            exclude_cidrs: &[],
            local_cidrs: &[],
            drain_timeout: Duration::ZERO,
        }
    }

    /// Sets the networks whose VIPs belong to other programs.
    #[must_use]
    pub const fn excluding(self, exclude_cidrs: &'a [IpNet]) -> Self {
        Self {
            exclude_cidrs,
            ..self
        }
    }

    /// Sets the networks with a `local` route.
    #[must_use]
    pub const fn with_local(self, local_cidrs: &'a [IpNet]) -> Self {
        Self {
            local_cidrs,
            ..self
        }
    }

    /// Sets how long virtual servers may drain.
    #[must_use]
    pub const fn draining(self, drain_timeout: Duration) -> Self {
        Self {
            drain_timeout,
            ..self
        }
    }

    fn is_local(&self, address: &IpAddr) -> bool {
        self.local_cidrs.iter().any(|cidr| cidr.contains(address))
    }

    fn keeps(&self, key: &VirtualServerKey) -> bool {
        let is_excluded = matches!(key, VirtualServerKey::Address { address, .. }
            if self.exclude_cidrs.iter().any(|cidr| cidr.contains(address)));
        is_excluded || (self.has)(key)
    }
}

impl fmt::Debug for NewProxy<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewProxy")
            .field("exclude_cidrs", &self.exclude_cidrs)
            .field("drain_timeout", &self.drain_timeout)
            .finish_non_exhaustive()
    }
}

/// What kube-proxy has on a node. Values are equal if kube-proxy has changed nothing in between.
#[derive(Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Presence {
    /// Nothing.
    Absent,
    /// Rules of its iptables or nftables mode.
    Rules(KubeProxyRules),
    /// The device of its IPVS mode, and so its virtual servers.
    Servers(KubeProxyServers),
}

impl Presence {
    /// Whether kube-proxy has begun to serve Services. It creates its device and its canary chains
    /// when it starts, before it knows any Service.
    pub fn serves(&self) -> bool {
        match self {
            Self::Absent => false,
            Self::Rules(rules) => rules.chains > 0,
            Self::Servers(servers) => !servers.0.vips.is_empty(),
        }
    }
}

/// The rules of kube-proxy's iptables or nftables mode.
#[derive(Debug, PartialEq, Eq)]
pub struct KubeProxyRules {
    /// Number of chains, without canaries.
    chains: usize,
}

/// The virtual servers of kube-proxy's IPVS mode.
#[derive(Debug)]
pub struct KubeProxyServers(Record);

impl PartialEq for KubeProxyServers {
    /// Other addresses of the node come and go with pods.
    fn eq(&self, other: &Self) -> bool {
        let (one, two) = (&self.0, &other.0);
        one.vips == two.vips && one.entries == two.entries && one.node_ports == two.node_ports
    }
}

impl Eq for KubeProxyServers {}

impl KubeProxyServers {
    /// Whether a virtual server is one of them.
    pub fn has(&self, key: &VirtualServerKey) -> bool {
        self.0.has(key)
    }
}

impl KubeProxy {
    /// Opens the netlink sockets. Changes nothing.
    ///
    /// # Errors
    ///
    /// Lack of privileges.
    pub fn open() -> Result<Self, NodeError> {
        Ok(Self {
            netfilter: Socket::open().map_err(packet_filter("open netfilter"))?,
            netlink: Rtnetlink::open().map_err(links("open rtnetlink"))?,
            draining: Draining::default(),
            owed: OwedFlows::default(),
        })
    }

    /// Finds and removes what kube-proxy left: first the rules that redirect packets, then the
    /// virtual servers that the new data plane does not have, then the sets and the device, which
    /// record the ownership. A failure does not stop the rest.
    pub fn remove(&mut self, new_proxy: &NewProxy<'_>, now: Instant) -> Removal {
        let mut removal = Removal::default();
        let tables = self.remove_tables();
        removal.removed.tables = removal.took(tables);
        chains::remove(&mut self.netfilter, &mut removal);
        let (sets, device, record) = match self.record() {
            Ok(found) => found,
            Err(error) => {
                removal.failures.push(error);
                return removal;
            }
        };
        if sets.is_empty() && device.is_none() {
            return removal;
        }
        match self.remove_servers(&record, new_proxy, now) {
            // Keep the device and the sets: they identify the virtual servers that are left.
            Ok(outcome) if !outcome.draining.is_empty() => {
                removal.removed.virtual_servers = outcome.deleted;
                removal.draining = outcome.draining;
            }
            Ok(outcome) => {
                removal.removed.virtual_servers = outcome.deleted;
                if let Some(device) = device {
                    let used = self.remove_device(&device, new_proxy, &mut removal.removed);
                    removal.connected = removal.took(used);
                }
                // Chains that could not be removed use the sets.
                if removal.failures.is_empty() {
                    self.remove_sets(sets, &mut removal);
                }
            }
            Err(error) => removal.failures.push(error),
        }
        removal
    }

    /// Whether kube-proxy runs on the node, and in which way. For a hand-over to it.
    ///
    /// # Errors
    ///
    /// If the node cannot be read.
    pub fn presence(&mut self) -> Result<Presence, NodeError> {
        let (_, device, record) = self.record()?;
        // Sets alone are no evidence: they may have been left because other programs use them.
        if device.is_some() {
            return Ok(Presence::Servers(KubeProxyServers(record)));
        }
        Ok(match chains::count(&mut self.netfilter)? {
            Some(chains) => Presence::Rules(KubeProxyRules { chains }),
            None => Presence::Absent,
        })
    }

    /// The existing virtual servers of its IPVS mode.
    ///
    /// # Errors
    ///
    /// If the node cannot be read.
    pub fn virtual_servers(&mut self) -> Result<Vec<VirtualServerKey>, NodeError> {
        let (_, device, record) = self.record()?;
        if device.is_none() {
            return Ok(Vec::new());
        }
        servers::list(&record)
    }

    /// Counts what kube-proxy has on the node, and changes nothing. Virtual servers are counted only
    /// if the kernel has IPVS.
    ///
    /// # Errors
    ///
    /// If the node cannot be read.
    pub fn holdings(&mut self) -> Result<Removed, NodeError> {
        let tables = nftables::families_with(&mut self.netfilter, NFTABLES_TABLE)
            .map_err(packet_filter("list tables"))?;
        let chains = chains::count_iptables(&mut self.netfilter)?;
        let (sets, device, record) = self.record()?;
        let virtual_servers = match device.is_some() || !sets.is_empty() {
            true => servers::list(&record)?.len(),
            false => 0,
        };
        Ok(Removed {
            tables: tables.len(),
            chains,
            virtual_servers,
            sets: sets.len(),
            addresses: device.as_ref().map_or(0, |device| device.addresses.len()),
            devices: usize::from(device.is_some()),
        })
    }

    fn remove_tables(&mut self) -> Result<usize, NodeError> {
        let families = nftables::families_with(&mut self.netfilter, NFTABLES_TABLE);
        let families = families.map_err(packet_filter("list tables"))?;
        if !families.is_empty() {
            nftables::delete(&mut self.netfilter, NFTABLES_TABLE, &families)
                .map_err(packet_filter("delete kube-proxy's tables"))?;
        }
        Ok(families.len())
    }

    /// kube-proxy's sets and device, and the record of its virtual servers in them. Empty if there
    /// is neither.
    fn record(&mut self) -> Result<(Vec<String>, Option<Device>, Record), NodeError> {
        let cannot = packet_filter("list ipsets");
        let mut sets = ipset::names(&mut self.netfilter).map_err(&cannot)?;
        sets.retain(|name| is_set(name));
        let (device, others) =
            device::addresses(&mut self.netlink).map_err(links("list addresses"))?;
        let mut record = Record::default();
        for name in &sets {
            let Some(set) = set_of(name) else { continue };
            let entries = ipset::entries(&mut self.netfilter, name).map_err(&cannot)?;
            for entry in entries {
                match set {
                    SetOf::NodePorts(protocol, family) => {
                        record.node_ports.insert((protocol, family, entry.port));
                    }
                    SetOf::Entries => {
                        let protocol = entry.protocol.map_or(Protocol::Tcp, |number| {
                            Protocol::from_number(u16::from(number))
                        });
                        let address = entry.address.map(|a| (protocol, a, entry.port));
                        record.entries.extend(address);
                    }
                }
            }
        }
        if let Some(device) = &device {
            record.vips.clone_from(&device.addresses);
        }
        record.node_addresses = others;
        Ok((sets, device, record))
    }

    fn remove_servers(
        &mut self,
        record: &Record,
        new_proxy: &NewProxy<'_>,
        now: Instant,
    ) -> Result<servers::Deletion, NodeError> {
        let (draining, owed) = (&mut self.draining, &mut self.owed);
        servers::delete(record, new_proxy, draining, owed, now)
    }

    fn remove_sets(&mut self, mut sets: Vec<String>, removal: &mut Removal) {
        for attempt in 0..SET_ATTEMPTS {
            if attempt > 0 && !sets.is_empty() {
                thread::sleep(SET_PAUSE);
            }
            sets.retain(|name| match ipset::destroy(&mut self.netfilter, name) {
                Ok(true) => {
                    removal.removed.sets += 1;
                    false
                }
                Ok(false) => true,
                Err(error) => {
                    let error = packet_filter("destroy an ipset")(error);
                    removal.failures.push(error);
                    false
                }
            });
        }
        let in_use = sets.into_iter().map(|name| format!("ipset {name}"));
        removal.in_use.extend(in_use);
    }

    /// Removes the device, except for addresses in use. The node's own connection to a VIP has that
    /// VIP as its source, and is cut when the address is not local any more.
    fn remove_device(
        &mut self,
        device: &Device,
        new_proxy: &NewProxy<'_>,
        removed: &mut Removed,
    ) -> Result<Vec<IpAddr>, NodeError> {
        let mut used = device::local_addresses().map_err(links("list connections"))?;
        used.retain(|address| device.addresses.contains(address) && !new_proxy.is_local(address));
        if used.is_empty() {
            device::delete(&mut self.netlink, device)
                .map_err(links("delete kube-proxy's device kube-ipvs0"))?;
            removed.devices = 1;
            removed.addresses = device.addresses.len();
        } else {
            removed.addresses = device::delete_all_but(&mut self.netlink, device, &used)
                .map_err(links("delete addresses of kube-proxy's device kube-ipvs0"))?;
        }
        Ok(used.into_iter().collect())
    }
}

fn packet_filter(operation: &'static str) -> impl Fn(io::Error) -> NodeError {
    move |source| NodeError::PacketFilter { operation, source }
}

fn links(operation: &'static str) -> impl Fn(io::Error) -> NodeError {
    move |source| NodeError::Link { operation, source }
}
