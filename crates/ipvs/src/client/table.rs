//! What takes several requests: the whole table, add-or-update, plans.

use std::collections::HashSet;

use super::{Client, Outcomes, Result, Transport};
use crate::plan::keys;
use crate::{
    Change, Plan, RealServer, TableEntry, VirtualServer, VirtualServerEntry, VirtualServerKey,
    Wanted,
};

/// How often add-or-update tries again when another program adds or deletes the same server.
const ATTEMPTS: usize = 4;

impl<T: Transport> Client<T> {
    /// Every virtual server with its real servers, ordered by key.
    ///
    /// The kernel has no such request: this is one listing of the virtual servers, and one of the
    /// real servers for each. A virtual server that is deleted meanwhile is left out.
    ///
    /// # Errors
    ///
    /// See [`virtual_servers`](Self::virtual_servers) and [`real_servers`](Self::real_servers).
    pub fn table(&mut self) -> Result<Vec<TableEntry>> {
        self.table_of(|_| true)
    }

    /// The table; the real servers only of the virtual servers that are `selected`.
    fn table_of(
        &mut self,
        mut selected: impl FnMut(&VirtualServerEntry) -> bool,
    ) -> Result<Vec<TableEntry>> {
        let mut virtual_servers = self.virtual_servers()?;
        virtual_servers.sort_unstable_by_key(|entry| entry.server.key);
        let mut table = Vec::with_capacity(virtual_servers.len());
        for virtual_server in virtual_servers {
            let real_servers = if selected(&virtual_server) {
                match self.real_servers(&virtual_server.server.key) {
                    Err(error) if error.is_not_found() => continue,
                    listed => listed?,
                }
            } else {
                Vec::new()
            };
            table.push(TableEntry::new(virtual_server, real_servers));
        }
        Ok(table)
    }

    /// Adds a virtual server, or updates it if it exists.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::UnknownScheduler`](crate::ErrorKind::UnknownScheduler),
    /// [`ErrorKind::Invalid`](crate::ErrorKind::Invalid).
    pub fn add_or_update_virtual_server(&mut self, server: &VirtualServer) -> Result<()> {
        self.first_that_applies(
            Change::AddVirtualServer(*server),
            Change::UpdateVirtualServer(*server),
        )
    }

    /// Adds a real server, or updates it if it exists.
    ///
    /// # Errors
    ///
    /// [`ErrorKind::NotFound`](crate::ErrorKind::NotFound) if the virtual server does not exist;
    /// [`ErrorKind::OutOfRange`](crate::ErrorKind::OutOfRange);
    /// [`ErrorKind::Rejected`](crate::ErrorKind::Rejected).
    pub fn add_or_update_real_server(
        &mut self,
        virtual_server: &VirtualServerKey,
        real_server: &RealServer,
    ) -> Result<()> {
        let (virtual_server, real_server) = (*virtual_server, *real_server);
        let add = Change::AddRealServer {
            virtual_server,
            real_server,
        };
        let update = Change::UpdateRealServer {
            virtual_server,
            real_server,
        };
        self.first_that_applies(add, update)
    }

    /// The kernel has no such request. Between the two, another program can delete what exists.
    fn first_that_applies(&mut self, add: Change, update: Change) -> Result<()> {
        let mut result = Ok(());
        for _ in 0..ATTEMPTS {
            result = self.change(add);
            if !result
                .as_ref()
                .is_err_and(|error| error.is_already_exists())
            {
                return result;
            }
            result = self.change(update);
            if !result.as_ref().is_err_and(|error| error.is_not_found()) {
                return result;
            }
        }
        result
    }

    /// Compares the wanted virtual servers with the kernel's, and changes nothing. See
    /// [`Plan::new`], which takes the same arguments.
    ///
    /// A listing of an old kernel can lack a virtual server that exists, see
    /// [kernel behaviour to know](crate#kernel-behaviour-to-know). So each wanted one that it lacks
    /// is looked up before the plan adds it.
    ///
    /// # Errors
    ///
    /// See [`table`](Self::table).
    pub fn plan<'a>(
        &mut self,
        wanted: impl IntoIterator<Item = &'a Wanted> + Clone,
        mut owned: impl FnMut(&VirtualServerEntry) -> bool,
    ) -> Result<Plan> {
        let keys = keys(wanted.clone());
        // Only these are compared: a listing of real servers costs a request each.
        let compared = |entry: &VirtualServerEntry| keys.contains(&entry.server.key);
        let mut table = self.table_of(|entry| compared(entry) && owned(entry))?;
        let listed: HashSet<_> = table
            .iter()
            .map(|entry| entry.virtual_server.server.key)
            .collect();
        for key in keys.difference(&listed) {
            let entry = match self.virtual_server(key) {
                Err(error) if error.is_not_found() => continue,
                found => found?,
            };
            let real_servers = if owned(&entry) {
                self.real_servers(key)?
            } else {
                Vec::new()
            };
            table.push(TableEntry::new(entry, real_servers));
        }
        Ok(Plan::new(wanted, &table, owned))
    }

    /// Makes the kernel's table the wanted one: [`plan`](Self::plan), then
    /// [`apply`](Self::apply). The outcomes are in the order of the plan's changes.
    ///
    /// # Errors
    ///
    /// See [`table`](Self::table). Changes that fail are in the outcomes.
    pub fn reconcile<'a>(
        &mut self,
        wanted: impl IntoIterator<Item = &'a Wanted> + Clone,
        owned: impl FnMut(&VirtualServerEntry) -> bool,
    ) -> Result<(Plan, Outcomes)> {
        let plan = self.plan(wanted, owned)?;
        let outcomes = self.apply(plan.changes());
        Ok((plan, outcomes))
    }
}
