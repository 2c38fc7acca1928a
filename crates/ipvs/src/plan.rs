//! From the virtual servers that should exist to the changes that make it so.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::{
    Change, RealServer, RealServerEntry, RealServerKey, VirtualServer, VirtualServerEntry,
    VirtualServerKey,
};

/// A virtual server with its real servers, as they should be.
#[derive(Clone, Debug, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
#[cfg_attr(feature = "serde", serde(deny_unknown_fields))]
#[non_exhaustive]
pub struct Wanted {
    /// The virtual server.
    pub server: VirtualServer,
    /// Its real servers. Of several with the same key the last one counts.
    #[cfg_attr(feature = "serde", serde(default))]
    pub real_servers: Vec<RealServer>,
}

impl Wanted {
    /// A virtual server with its real servers.
    pub fn new(server: VirtualServer, real_servers: impl IntoIterator<Item = RealServer>) -> Self {
        Self {
            server,
            real_servers: real_servers.into_iter().collect(),
        }
    }
}

/// A virtual server with its real servers, as the kernel reports them.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct TableEntry {
    /// The virtual server.
    pub virtual_server: VirtualServerEntry,
    /// Its real servers, the last one added first.
    pub real_servers: Vec<RealServerEntry>,
}

impl TableEntry {
    /// A virtual server with its real servers.
    pub fn new(virtual_server: VirtualServerEntry, real_servers: Vec<RealServerEntry>) -> Self {
        Self {
            virtual_server,
            real_servers,
        }
    }
}

/// The changes that turn the kernel's table into the wanted one, for the virtual servers that the
/// caller owns.
///
/// A plan is a value: print it, count it, or pass [`changes`](Self::changes) to
/// [`Client::apply`](crate::Client::apply).
///
/// ```
/// use ipvs::{FakeKernel, RealServer, VirtualServer, Wanted};
///
/// let mut client = FakeKernel::new().client()?;
/// let web = VirtualServer::new("tcp 10.96.0.1:80".parse()?).with_tag(7);
/// let wanted = [Wanted::new(web, [RealServer::new("10.244.0.1:80".parse()?)])];
///
/// // Own what carries this tag.
/// let plan = client.plan(&wanted, |entry| entry.server.tag == 7)?;
/// let changes: Vec<String> = plan.changes().iter().map(ToString::to_string).collect();
/// assert_eq!(changes, [
///     "add virtual server tcp 10.96.0.1:80",
///     "add real server 10.244.0.1:80 of tcp 10.96.0.1:80",
/// ]);
/// client.apply(plan.changes()).into_result()?;
/// assert!(client.plan(&wanted, |entry| entry.server.tag == 7)?.is_empty());
/// # Ok::<(), Box<dyn std::error::Error>>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[cfg_attr(feature = "serde", derive(serde::Serialize, serde::Deserialize))]
pub struct Plan {
    changes: Vec<Change>,
    conflicts: Vec<VirtualServerKey>,
}

impl Plan {
    /// Compares the wanted virtual servers with the kernel's. Of several with the same key the
    /// last one counts.
    ///
    /// `owned` says which of the kernel's virtual servers the caller may change or delete: by tag,
    /// by address, or all of them. The others stay as they are; if one of them has a wanted key,
    /// that is a [conflict](Self::conflicts).
    ///
    /// A virtual server gets its new real servers before it loses old ones, and virtual servers
    /// that are not wanted go last. A real server that is not wanted is deleted at once, which cuts
    /// its connections: to drain it, want it with weight 0 first.
    pub fn new<'a>(
        wanted: impl IntoIterator<Item = &'a Wanted>,
        table: &[TableEntry],
        mut owned: impl FnMut(&VirtualServerEntry) -> bool,
    ) -> Self {
        let wanted = by_key(wanted);
        let present: HashMap<_, _> = table
            .iter()
            .map(|entry| (entry.virtual_server.server.key, entry))
            .collect();
        let mut plan = Self::default();
        for (key, wanted) in &wanted {
            match present.get(key) {
                None => plan.add(wanted),
                Some(entry) if owned(&entry.virtual_server) => plan.update(wanted, entry),
                Some(_) => plan.conflicts.push(*key),
            }
        }
        let entries = table.iter().map(|entry| &entry.virtual_server);
        let unwanted = entries.filter(|entry| !wanted.contains_key(&entry.server.key));
        let deletes = unwanted.filter(|entry| owned(entry));
        plan.changes
            .extend(deletes.map(|entry| Change::DeleteVirtualServer(entry.server.key)));
        plan
    }

    /// The changes, in the order in which to make them.
    pub fn changes(&self) -> &[Change] {
        &self.changes
    }

    /// Wanted virtual servers that exist and are not owned. The plan does not touch them.
    pub fn conflicts(&self) -> &[VirtualServerKey] {
        &self.conflicts
    }

    /// Whether there is nothing to change.
    pub fn is_empty(&self) -> bool {
        self.changes.is_empty()
    }

    fn add(&mut self, wanted: &Wanted) {
        let virtual_server = wanted.server.key;
        self.changes.push(Change::AddVirtualServer(wanted.server));
        let real_servers = real_servers_by_key(wanted).into_values();
        self.changes
            .extend(real_servers.map(|real_server| Change::AddRealServer {
                virtual_server,
                real_server,
            }));
    }

    fn update(&mut self, wanted: &Wanted, present: &TableEntry) {
        let virtual_server = wanted.server.key;
        if wanted.server != present.virtual_server.server {
            self.changes
                .push(Change::UpdateVirtualServer(wanted.server));
        }
        let real_servers = real_servers_by_key(wanted);
        let entries = present.real_servers.iter().map(|entry| entry.server);
        let present: HashMap<_, _> = entries.map(|server| (server.key, server)).collect();
        for (key, &real_server) in &real_servers {
            match present.get(key) {
                None => self.changes.push(Change::AddRealServer {
                    virtual_server,
                    real_server,
                }),
                Some(there) if *there != real_server => {
                    self.changes.push(Change::UpdateRealServer {
                        virtual_server,
                        real_server,
                    });
                }
                Some(_) => {}
            }
        }
        let mut unwanted: Vec<_> = present
            .into_keys()
            .filter(|key| !real_servers.contains_key(key))
            .collect();
        unwanted.sort_unstable();
        self.changes.extend(
            unwanted
                .into_iter()
                .map(|real_server| Change::DeleteRealServer {
                    virtual_server,
                    real_server,
                }),
        );
    }
}

/// The keys that are wanted.
pub(crate) fn keys<'a>(wanted: impl IntoIterator<Item = &'a Wanted>) -> HashSet<VirtualServerKey> {
    wanted.into_iter().map(|wanted| wanted.server.key).collect()
}

fn by_key<'a>(
    wanted: impl IntoIterator<Item = &'a Wanted>,
) -> BTreeMap<VirtualServerKey, &'a Wanted> {
    let keyed = wanted.into_iter().map(|wanted| (wanted.server.key, wanted));
    keyed.collect()
}

fn real_servers_by_key(wanted: &Wanted) -> BTreeMap<RealServerKey, RealServer> {
    let servers = wanted.real_servers.iter();
    servers.map(|server| (server.key, *server)).collect()
}
