//! What the kernel does with each request, as in `ip_vs_ctl.c` and `ip_vs_sync.c`. The order of
//! the checks decides which error a request with several faults gets.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};

use crate::error::errno::{EEXIST, EINVAL, ENODEV, ENOENT, EOPNOTSUPP, ERANGE, ESRCH};
use crate::wire::{IP_VS_CONN_F_TUNNEL_TYPE_GUE, Message, forwarding_fields};
use crate::{
    Connections, Family, Forwarding, Info, PersistenceEngine, RealServer, RealServerEntry,
    RealServerKey, Scheduler, Statistics, SyncDaemon, SyncRole, Timeouts, Version, VirtualServer,
    VirtualServerEntry, VirtualServerKey,
};

/// The reply: messages, or an errno.
type Answer = Result<Vec<Message>, i32>;

#[derive(Debug)]
pub(super) struct Table {
    pub(super) servers: BTreeMap<VirtualServerKey, Server>,
    pub(super) schedulers: BTreeSet<Scheduler>,
    timeouts: Timeouts,
    daemons: BTreeMap<SyncRole, SyncDaemon>,
}

#[derive(Debug)]
pub(super) struct Server {
    pub(super) entry: VirtualServerEntry,
    /// The last added first.
    pub(super) real_servers: Vec<RealServerEntry>,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            servers: BTreeMap::new(),
            schedulers: Scheduler::known().collect(),
            timeouts: Timeouts::default()
                .with_tcp(900)
                .with_tcp_fin(120)
                .with_udp(300),
            daemons: BTreeMap::new(),
        }
    }
}

impl Table {
    /// Executes a request that changes something or reads one object.
    pub(super) fn execute(&mut self, request: Message) -> Answer {
        let done = |()| Vec::new();
        match request {
            Message::NewVirtualServer(entry) => self.add_virtual_server(entry.server).map(done),
            Message::SetVirtualServer(entry) => self.update_virtual_server(entry.server).map(done),
            Message::DeleteVirtualServer(key) => {
                self.servers.remove(&key).map(|_| Vec::new()).ok_or(ESRCH)
            }
            Message::GetVirtualServer(Some(key)) => {
                let server = self.servers.get(&key).ok_or(ESRCH)?;
                Ok(vec![Message::NewVirtualServer(server.entry.clone())])
            }
            Message::NewRealServer(Some(key), entry) => {
                self.add_real_server(&key, entry.server).map(done)
            }
            Message::SetRealServer(key, entry) => {
                self.update_real_server(&key, entry.server).map(done)
            }
            Message::DeleteRealServer(key, real_server) => {
                let server = self.servers.get_mut(&key).ok_or(ESRCH)?;
                let place = server.place(&real_server).ok_or(ENOENT)?;
                server.real_servers.remove(place);
                Ok(Vec::new())
            }
            Message::ZeroStatistics(key) => self.zero(key).map(done),
            Message::Flush => {
                self.servers.clear();
                Ok(Vec::new())
            }
            Message::SetTimeouts(timeouts) => {
                self.set_timeouts(timeouts.timeouts);
                Ok(Vec::new())
            }
            Message::GetTimeouts => Ok(vec![Message::SetTimeouts(self.timeouts.into())]),
            Message::GetInfo => {
                let version = Version {
                    major: 1,
                    minor: 2,
                    patch: 1,
                };
                Ok(vec![Message::Info(Info::new(version, 4096))])
            }
            Message::NewSyncDaemon(entry) => self.start_sync_daemon(entry.daemon).map(done),
            Message::DeleteSyncDaemon(role) => {
                self.daemons.remove(&role).map(|_| Vec::new()).ok_or(ESRCH)
            }
            // Dumps only.
            Message::GetRealServers(_) | Message::GetSyncDaemons => Err(EOPNOTSUPP),
            _ => Err(EINVAL),
        }
    }

    /// Executes a request with the flag for a dump.
    pub(super) fn dump(&self, request: &Message) -> Answer {
        match request {
            Message::GetVirtualServer(_) => {
                let entries = self.servers.values().map(|server| server.entry.clone());
                Ok(entries.map(Message::NewVirtualServer).collect())
            }
            Message::GetRealServers(key) => {
                let server = self.servers.get(key);
                let entries = server.map(|server| server.real_servers.as_slice());
                let entries = entries.unwrap_or_default().iter().cloned();
                Ok(entries
                    .map(|entry| Message::NewRealServer(None, entry))
                    .collect())
            }
            Message::GetSyncDaemons => Ok(self
                .daemons
                .values()
                .copied()
                .map(|daemon| Message::NewSyncDaemon(daemon.into()))
                .collect()),
            _ => Err(EOPNOTSUPP),
        }
    }

    pub(super) fn real_server_mut(
        &mut self,
        virtual_server: &VirtualServerKey,
        real_server: &RealServerKey,
    ) -> Option<&mut RealServerEntry> {
        let server = self.servers.get_mut(virtual_server)?;
        let place = server.place(real_server)?;
        server.real_servers.get_mut(place)
    }

    fn check_modules(&self, server: &VirtualServer) -> Result<(), i32> {
        let engine = !matches!(server.engine, Some(PersistenceEngine::Other(_)));
        if engine && self.schedulers.contains(&server.scheduler) {
            Ok(())
        } else {
            Err(ENOENT)
        }
    }

    fn add_virtual_server(&mut self, server: VirtualServer) -> Result<(), i32> {
        if self.servers.contains_key(&server.key) {
            return Err(EEXIST);
        }
        self.check_modules(&server)?;
        let mut entry = VirtualServerEntry::from(server);
        entry.stats = Some(Statistics::default());
        self.servers.insert(
            server.key,
            Server {
                entry,
                real_servers: Vec::new(),
            },
        );
        Ok(())
    }

    fn update_virtual_server(&mut self, server: VirtualServer) -> Result<(), i32> {
        let checked = self.check_modules(&server);
        let present = self.servers.get_mut(&server.key).ok_or(ESRCH)?;
        checked?;
        present.entry.server = server;
        Ok(())
    }

    fn check_real_server(&self, key: &VirtualServerKey, server: &RealServer) -> Result<(), i32> {
        let tunnelled = matches!(server.forwarding, Forwarding::Tunnel(_));
        let other_family = Family::of(&server.key.address) != key.family();
        if other_family && (!tunnelled || !self.daemons.is_empty()) {
            return Err(EINVAL);
        }
        if i32::try_from(server.weight).is_err() || server.lower_threshold > server.upper_threshold
        {
            return Err(ERANGE);
        }
        // Linux of 2026; older ones accept it.
        if i32::try_from(server.upper_threshold).is_err() {
            return Err(EINVAL);
        }
        match forwarding_fields(server.forwarding) {
            (_, (IP_VS_CONN_F_TUNNEL_TYPE_GUE, 0, _)) => Err(EINVAL),
            _ => Ok(()),
        }
    }

    fn add_real_server(&mut self, key: &VirtualServerKey, added: RealServer) -> Result<(), i32> {
        let server = self.servers.get(key).ok_or(ESRCH)?;
        self.check_real_server(key, &added)?;
        if server.place(&added.key).is_some() {
            return Err(EEXIST);
        }
        if !is_unicast(&added.key.address) {
            return Err(EINVAL);
        }
        let mut entry = RealServerEntry::from(added);
        entry.connections = Some(Connections::default());
        entry.stats = Some(Statistics::default());
        let server = self.servers.get_mut(key).ok_or(ESRCH)?;
        server.real_servers.insert(0, entry);
        Ok(())
    }

    fn update_real_server(
        &mut self,
        key: &VirtualServerKey,
        wanted: RealServer,
    ) -> Result<(), i32> {
        self.servers.get(key).ok_or(ESRCH)?;
        self.check_real_server(key, &wanted)?;
        self.real_server_mut(key, &wanted.key).ok_or(ENOENT)?.server = wanted;
        Ok(())
    }

    fn zero(&mut self, key: Option<VirtualServerKey>) -> Result<(), i32> {
        match key {
            Some(key) => self.servers.get_mut(&key).ok_or(ESRCH)?.zero(),
            None => self.servers.values_mut().for_each(Server::zero),
        }
        Ok(())
    }

    fn set_timeouts(&mut self, wanted: Timeouts) {
        // 0 leaves the value unchanged (`ip_vs_set_timeout`).
        let set = |wanted: Option<u32>, present| wanted.filter(|&seconds| seconds != 0).or(present);
        self.timeouts = Timeouts {
            tcp: set(wanted.tcp, self.timeouts.tcp),
            tcp_fin: set(wanted.tcp_fin, self.timeouts.tcp_fin),
            udp: set(wanted.udp, self.timeouts.udp),
        };
    }

    fn start_sync_daemon(&mut self, daemon: SyncDaemon) -> Result<(), i32> {
        if daemon.group.is_some_and(|group| !group.is_multicast()) || self.has_mixed_families() {
            return Err(EINVAL);
        }
        if daemon.interface.as_bytes() != b"lo" {
            return Err(ENODEV);
        }
        if self.daemons.contains_key(&daemon.role) {
            return Err(EEXIST);
        }
        self.daemons.insert(daemon.role, in_effect(daemon));
        Ok(())
    }

    fn has_mixed_families(&self) -> bool {
        self.servers.iter().any(|(key, server)| {
            let family = |entry: &RealServerEntry| Family::of(&entry.server.key.address);
            server
                .real_servers
                .iter()
                .any(|entry| family(entry) != key.family())
        })
    }
}

impl Server {
    fn place(&self, key: &RealServerKey) -> Option<usize> {
        self.real_servers
            .iter()
            .position(|entry| entry.server.key == *key)
    }

    fn zero(&mut self) {
        self.entry.stats = Some(Statistics::default());
        for entry in &mut self.real_servers {
            entry.stats = Some(Statistics::default());
        }
    }
}

/// What `ip_vs_new_dest` asks of `inet_addr_type` and `ipv6_addr_type`, in a namespace where `lo`
/// is up and has the only addresses.
fn is_unicast(address: &IpAddr) -> bool {
    match address {
        IpAddr::V4(v4) => {
            // Within 0.0.0.0/8 only the first one is special since Linux 5.3 (`ipv4_is_zeronet`).
            let of_lo = Ipv4Addr::new(127, 255, 255, 255);
            !v4.is_unspecified() && !v4.is_broadcast() && !v4.is_multicast() && *v4 != of_lo
        }
        IpAddr::V6(v6) => {
            let mapped = v6.to_ipv4_mapped().is_some();
            !v6.is_unspecified() && !v6.is_multicast() && !v6.is_unicast_link_local() && !mapped
        }
    }
}

/// On interface `lo`, whose MTU of 65536 is cut to 65535.
fn in_effect(daemon: SyncDaemon) -> SyncDaemon {
    let daemon = daemon.in_effect();
    let headers = if daemon.group.is_some_and(|group| group.is_ipv6()) {
        48
    } else {
        28
    };
    SyncDaemon {
        max_length: daemon.max_length.or(Some(u16::MAX - headers)),
        ..daemon
    }
}
