//! One message of the family: a command and what it carries.

use super::attribute::{Attribute, Attributes, DecodeError, Decoded, Sink, put_nested};
use super::real_server::{
    parse_real_server, parse_real_server_key, put_real_server, put_real_server_entry,
    put_real_server_key,
};
use super::settings::{parse_info, parse_timeouts, put_info, put_timeouts, put_timeouts_entry};
use super::sync_daemon::{
    parse_role, parse_sync_daemon, put_role, put_sync_daemon, put_sync_daemon_entry,
};
use super::virtual_server::{
    parse_key, parse_virtual_server, put_virtual_server, put_virtual_server_entry,
};
use super::{key::put_key, *};
use crate::{
    Change, Family, Info, RealServerEntry, RealServerKey, SyncDaemonEntry, SyncRole, TimeoutsEntry,
    VirtualServerEntry, VirtualServerKey,
};

/// The version of the family's messages.
const FAMILY_VERSION: u8 = 1;

/// A message of the generic netlink family `IPVS`, request or reply.
///
/// The kernel answers a `Get…` with the `New…` or `Set…` of the same object, so one type serves
/// both directions. For a netlink connection of your own: [`command`](Self::command) and
/// [`encode`](Self::encode) write a request, [`parse`](Self::parse) reads a reply.
///
/// With feature `netlink-packet` it implements the traits of the rust-netlink crates
/// (`GenlFamily`, `Emitable`, `ParseableParametrized`), for `GenlMessage::from_payload`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Message {
    /// Add a virtual server; or the reply to a request for one.
    NewVirtualServer(VirtualServerEntry),
    /// Change a virtual server.
    SetVirtualServer(VirtualServerEntry),
    /// Delete a virtual server.
    DeleteVirtualServer(VirtualServerKey),
    /// Request one virtual server, or all with `NLM_F_DUMP`.
    GetVirtualServer(Option<VirtualServerKey>),
    /// Add a real server; or the reply to a request for one, without its virtual server.
    NewRealServer(Option<VirtualServerKey>, RealServerEntry),
    /// Change a real server.
    SetRealServer(VirtualServerKey, RealServerEntry),
    /// Delete a real server.
    DeleteRealServer(VirtualServerKey, RealServerKey),
    /// Request the real servers of a virtual server, with `NLM_F_DUMP`.
    GetRealServers(VirtualServerKey),
    /// Start a sync daemon; or the reply to a request for one.
    NewSyncDaemon(SyncDaemonEntry),
    /// Stop a sync daemon.
    DeleteSyncDaemon(SyncRole),
    /// Request the sync daemons, with `NLM_F_DUMP`.
    GetSyncDaemons,
    /// Set timeouts; or the reply to a request for them.
    SetTimeouts(TimeoutsEntry),
    /// Request the timeouts.
    GetTimeouts,
    /// The reply to a request for the version.
    Info(Info),
    /// Request the version.
    GetInfo,
    /// Zero the statistics of one virtual server, or of all.
    ZeroStatistics(Option<VirtualServerKey>),
    /// Delete everything.
    Flush,
}

impl Message {
    /// The name of the family, which the controller resolves to a number.
    pub const FAMILY: &'static str = FAMILY_NAME;

    /// The version of the family, for the generic netlink header.
    pub const VERSION: u8 = FAMILY_VERSION;

    /// The command's number, for the generic netlink header.
    pub const fn command(&self) -> u8 {
        match self {
            Self::NewVirtualServer(_) => IPVS_CMD_NEW_SERVICE,
            Self::SetVirtualServer(_) => IPVS_CMD_SET_SERVICE,
            Self::DeleteVirtualServer(_) => IPVS_CMD_DEL_SERVICE,
            Self::GetVirtualServer(_) => IPVS_CMD_GET_SERVICE,
            Self::NewRealServer(..) => IPVS_CMD_NEW_DEST,
            Self::SetRealServer(..) => IPVS_CMD_SET_DEST,
            Self::DeleteRealServer(..) => IPVS_CMD_DEL_DEST,
            Self::GetRealServers(_) => IPVS_CMD_GET_DEST,
            Self::NewSyncDaemon(_) => IPVS_CMD_NEW_DAEMON,
            Self::DeleteSyncDaemon(_) => IPVS_CMD_DEL_DAEMON,
            Self::GetSyncDaemons => IPVS_CMD_GET_DAEMON,
            Self::SetTimeouts(_) => IPVS_CMD_SET_CONFIG,
            Self::GetTimeouts => IPVS_CMD_GET_CONFIG,
            Self::Info(_) => IPVS_CMD_SET_INFO,
            Self::GetInfo => IPVS_CMD_GET_INFO,
            Self::ZeroStatistics(_) => IPVS_CMD_ZERO,
            Self::Flush => IPVS_CMD_FLUSH,
        }
    }

    /// Writes the attributes.
    fn put<S: Sink>(&self, sink: &mut S) {
        match self {
            Self::NewVirtualServer(entry) | Self::SetVirtualServer(entry) => {
                put_nested(sink, IPVS_CMD_ATTR_SERVICE, |sink| {
                    put_virtual_server_entry(sink, entry)
                });
            }
            Self::DeleteVirtualServer(key)
            | Self::GetVirtualServer(Some(key))
            | Self::GetRealServers(key)
            | Self::ZeroStatistics(Some(key)) => put_service(sink, key),
            Self::NewRealServer(key, entry) => {
                if let Some(key) = key {
                    put_service(sink, key);
                }
                put_nested(sink, IPVS_CMD_ATTR_DEST, |sink| {
                    put_real_server_entry(sink, entry)
                });
            }
            Self::SetRealServer(key, entry) => {
                put_service(sink, key);
                put_nested(sink, IPVS_CMD_ATTR_DEST, |sink| {
                    put_real_server_entry(sink, entry)
                });
            }
            Self::DeleteRealServer(key, real_server) => {
                put_service(sink, key);
                put_nested(sink, IPVS_CMD_ATTR_DEST, |sink| {
                    put_real_server_key(sink, real_server)
                });
            }
            Self::NewSyncDaemon(entry) => {
                put_nested(sink, IPVS_CMD_ATTR_DAEMON, |sink| {
                    put_sync_daemon_entry(sink, entry)
                });
            }
            Self::DeleteSyncDaemon(role) => {
                put_nested(sink, IPVS_CMD_ATTR_DAEMON, |sink| put_role(sink, *role));
            }
            Self::SetTimeouts(entry) => put_timeouts_entry(sink, entry),
            Self::Info(info) => put_info(sink, info),
            Self::GetVirtualServer(None)
            | Self::GetSyncDaemons
            | Self::GetTimeouts
            | Self::GetInfo
            | Self::ZeroStatistics(None)
            | Self::Flush => {}
        }
    }

    /// The attributes, which follow the generic netlink header.
    ///
    /// ```
    /// use ipvs::Message;
    ///
    /// let message = Message::DeleteVirtualServer("tcp 10.96.0.1:80".parse()?);
    /// assert_eq!(Message::parse(message.command(), &message.encode())?, message);
    /// # Ok::<(), Box<dyn std::error::Error>>(())
    /// ```
    pub fn encode(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        self.put(&mut bytes);
        bytes
    }

    /// Parses the attributes of a command.
    ///
    /// # Errors
    ///
    /// If they are malformed, or one that the command requires is missing.
    pub fn parse(command: u8, bytes: &[u8]) -> Result<Self, DecodeError> {
        Self::parse_for(command, bytes, None)
    }

    /// `family` is the virtual server's, for real servers without the attribute.
    pub(crate) fn parse_for(command: u8, bytes: &[u8], family: Option<Family>) -> Decoded<Self> {
        // The attributes of these two have the numbers of others.
        match command {
            IPVS_CMD_SET_INFO => return parse_info(bytes).map(Self::Info),
            IPVS_CMD_SET_CONFIG => return parse_timeouts(bytes).map(Self::SetTimeouts),
            _ => {}
        }
        let parts = Parts::parse(bytes, family)?;
        Ok(match command {
            IPVS_CMD_NEW_SERVICE => Self::NewVirtualServer(parse_virtual_server(parts.service()?)?),
            IPVS_CMD_SET_SERVICE => Self::SetVirtualServer(parse_virtual_server(parts.service()?)?),
            IPVS_CMD_DEL_SERVICE => Self::DeleteVirtualServer(parts.key()?),
            IPVS_CMD_GET_SERVICE => Self::GetVirtualServer(parts.optional_key()?),
            IPVS_CMD_NEW_DEST => Self::NewRealServer(parts.optional_key()?, parts.real_server()?),
            IPVS_CMD_SET_DEST => Self::SetRealServer(parts.key()?, parts.real_server()?),
            IPVS_CMD_DEL_DEST => Self::DeleteRealServer(parts.key()?, parts.real_server_key()?),
            IPVS_CMD_GET_DEST => Self::GetRealServers(parts.key()?),
            IPVS_CMD_NEW_DAEMON => Self::NewSyncDaemon(parse_sync_daemon(parts.daemon()?)?),
            IPVS_CMD_DEL_DAEMON => Self::DeleteSyncDaemon(parse_role(parts.daemon()?)?),
            IPVS_CMD_GET_DAEMON => Self::GetSyncDaemons,
            IPVS_CMD_GET_CONFIG => Self::GetTimeouts,
            IPVS_CMD_GET_INFO => Self::GetInfo,
            IPVS_CMD_ZERO => Self::ZeroStatistics(parts.optional_key()?),
            IPVS_CMD_FLUSH => Self::Flush,
            other => return Err(DecodeError::Command(other)),
        })
    }
}

fn put_service<S: Sink>(sink: &mut S, key: &VirtualServerKey) {
    put_nested(sink, IPVS_CMD_ATTR_SERVICE, |sink| put_key(sink, key));
}

/// The top-level attributes.
struct Parts<'a> {
    service: Option<Attribute<'a>>,
    dest: Option<Attribute<'a>>,
    daemon: Option<Attribute<'a>>,
    family: Option<Family>,
}

impl<'a> Parts<'a> {
    fn parse(bytes: &'a [u8], family: Option<Family>) -> Decoded<Self> {
        let mut parts = Self {
            service: None,
            dest: None,
            daemon: None,
            family,
        };
        for attribute in Attributes::new(bytes, "message") {
            let attribute = attribute?;
            match attribute.kind {
                IPVS_CMD_ATTR_SERVICE => parts.service = Some(attribute),
                IPVS_CMD_ATTR_DEST => parts.dest = Some(attribute),
                IPVS_CMD_ATTR_DAEMON => parts.daemon = Some(attribute),
                _ => {}
            }
        }
        Ok(parts)
    }

    fn service(&self) -> Decoded<Attribute<'a>> {
        self.service.ok_or(DecodeError::Missing("virtual server"))
    }

    fn dest(&self) -> Decoded<Attribute<'a>> {
        self.dest.ok_or(DecodeError::Missing("real server"))
    }

    fn daemon(&self) -> Decoded<Attribute<'a>> {
        self.daemon.ok_or(DecodeError::Missing("sync daemon"))
    }

    fn key(&self) -> Decoded<VirtualServerKey> {
        parse_key(self.service()?)
    }

    fn optional_key(&self) -> Decoded<Option<VirtualServerKey>> {
        self.service.map(parse_key).transpose()
    }

    /// The family of real servers without the attribute: the virtual server's.
    fn family(&self) -> Decoded<Option<Family>> {
        Ok(self.optional_key()?.map(|key| key.family()).or(self.family))
    }

    fn real_server(&self) -> Decoded<RealServerEntry> {
        parse_real_server(self.dest()?, self.family()?)
    }

    fn real_server_key(&self) -> Decoded<RealServerKey> {
        parse_real_server_key(self.dest()?, self.family()?)
    }
}

/// Writes a change as a request with its generic header: the same bytes as `Message::from(change)`.
/// A message has room for everything in a reply, and copying that would be half of the work.
pub(crate) fn put_change<S: Sink>(sink: &mut S, change: &Change) {
    let command = match change {
        Change::AddVirtualServer(_) => IPVS_CMD_NEW_SERVICE,
        Change::UpdateVirtualServer(_) => IPVS_CMD_SET_SERVICE,
        Change::DeleteVirtualServer(_) => IPVS_CMD_DEL_SERVICE,
        Change::AddRealServer { .. } => IPVS_CMD_NEW_DEST,
        Change::UpdateRealServer { .. } => IPVS_CMD_SET_DEST,
        Change::DeleteRealServer { .. } => IPVS_CMD_DEL_DEST,
        Change::ZeroStatistics(_) => IPVS_CMD_ZERO,
        Change::Flush => IPVS_CMD_FLUSH,
        Change::SetTimeouts(_) => IPVS_CMD_SET_CONFIG,
        Change::StartSyncDaemon(_) => IPVS_CMD_NEW_DAEMON,
        Change::StopSyncDaemon(_) => IPVS_CMD_DEL_DAEMON,
    };
    put_generic_header(sink, command);
    match change {
        Change::AddVirtualServer(server) | Change::UpdateVirtualServer(server) => {
            put_nested(sink, IPVS_CMD_ATTR_SERVICE, |sink| {
                put_virtual_server(sink, server)
            });
        }
        Change::DeleteVirtualServer(key) | Change::ZeroStatistics(Some(key)) => {
            put_service(sink, key);
        }
        Change::AddRealServer {
            virtual_server,
            real_server,
        }
        | Change::UpdateRealServer {
            virtual_server,
            real_server,
        } => {
            put_service(sink, virtual_server);
            put_nested(sink, IPVS_CMD_ATTR_DEST, |sink| {
                put_real_server(sink, real_server)
            });
        }
        Change::DeleteRealServer {
            virtual_server,
            real_server,
        } => {
            put_service(sink, virtual_server);
            put_nested(sink, IPVS_CMD_ATTR_DEST, |sink| {
                put_real_server_key(sink, real_server)
            });
        }
        Change::ZeroStatistics(None) | Change::Flush => {}
        Change::SetTimeouts(timeouts) => put_timeouts(sink, timeouts),
        Change::StartSyncDaemon(daemon) => {
            put_nested(sink, IPVS_CMD_ATTR_DAEMON, |sink| {
                put_sync_daemon(sink, daemon)
            });
        }
        Change::StopSyncDaemon(role) => {
            put_nested(sink, IPVS_CMD_ATTR_DAEMON, |sink| put_role(sink, *role));
        }
    }
}

/// Writes a message with its generic header.
pub(crate) fn put_message<S: Sink>(sink: &mut S, message: &Message) {
    put_generic_header(sink, message.command());
    message.put(sink);
}

fn put_generic_header<S: Sink>(sink: &mut S, command: u8) {
    sink.put(&[command, FAMILY_VERSION, 0, 0]);
}

impl From<Change> for Message {
    fn from(change: Change) -> Self {
        match change {
            Change::AddVirtualServer(server) => Self::NewVirtualServer(server.into()),
            Change::UpdateVirtualServer(server) => Self::SetVirtualServer(server.into()),
            Change::DeleteVirtualServer(key) => Self::DeleteVirtualServer(key),
            Change::AddRealServer {
                virtual_server,
                real_server,
            } => Self::NewRealServer(Some(virtual_server), real_server.into()),
            Change::UpdateRealServer {
                virtual_server,
                real_server,
            } => Self::SetRealServer(virtual_server, real_server.into()),
            Change::DeleteRealServer {
                virtual_server,
                real_server,
            } => Self::DeleteRealServer(virtual_server, real_server),
            Change::ZeroStatistics(key) => Self::ZeroStatistics(key),
            Change::Flush => Self::Flush,
            Change::SetTimeouts(timeouts) => Self::SetTimeouts(timeouts.into()),
            Change::StartSyncDaemon(daemon) => Self::NewSyncDaemon(daemon.into()),
            Change::StopSyncDaemon(role) => Self::DeleteSyncDaemon(role),
        }
    }
}

#[cfg(feature = "netlink-packet")]
mod netlink_packet {
    use netlink_packet_core::{DecodeError, Emitable, ParseableParametrized};
    use netlink_packet_generic::{GenlFamily, GenlHeader};

    use super::super::attribute::{Length, Slice};
    use super::Message;

    impl GenlFamily for Message {
        fn family_name() -> &'static str {
            Self::FAMILY
        }

        fn command(&self) -> u8 {
            self.command()
        }

        fn version(&self) -> u8 {
            Self::VERSION
        }
    }

    impl Emitable for Message {
        fn buffer_len(&self) -> usize {
            let mut length = Length(0);
            self.put(&mut length);
            length.0
        }

        fn emit(&self, buffer: &mut [u8]) {
            self.put(&mut Slice {
                buffer,
                position: 0,
            });
        }
    }

    impl ParseableParametrized<[u8], GenlHeader> for Message {
        fn parse_with_param(bytes: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
            Ok(Self::parse(header.cmd, bytes)?)
        }
    }
}
