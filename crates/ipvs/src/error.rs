//! Errors: the operation, the object, what went wrong, and what to do.

use std::{fmt, io};

use crate::{DecodeError, RealServerKey, SyncRole, VirtualServerKey};

/// A result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// An operation that failed.
///
/// `Display` writes operation, object and kind, and the kernel's message if there is one. The
/// operating system's error, if any, is the [`source`](std::error::Error::source).
// Boxed, since a batch holds a `Result` for each change and most are `Ok`.
pub struct Error(Box<Details>);

struct Details {
    operation: Operation,
    object: Object,
    kind: ErrorKind,
    message: Option<Box<str>>,
    source: Option<io::Error>,
}

impl Error {
    pub(crate) fn new(operation: Operation, object: Object, kind: ErrorKind) -> Self {
        Self(Box::new(Details {
            operation,
            object,
            kind,
            message: None,
            source: None,
        }))
    }

    /// The kernel's reply to a request: an errno, and sometimes a text.
    pub(crate) fn from_kernel(
        operation: Operation,
        object: Object,
        errno: i32,
        message: Option<&str>,
    ) -> Self {
        let kind = ErrorKind::from_errno(operation, errno);
        let source = Some(io::Error::from_raw_os_error(errno));
        Self(Box::new(Details {
            operation,
            object,
            kind,
            message: message.map(Into::into),
            source,
        }))
    }

    /// A failure of the socket itself.
    pub(crate) fn from_io(operation: Operation, object: Object, source: io::Error) -> Self {
        let kind = match source.kind() {
            io::ErrorKind::PermissionDenied => ErrorKind::PermissionDenied,
            _ => ErrorKind::Io,
        };
        Self(Box::new(Details {
            operation,
            object,
            kind,
            message: None,
            source: Some(source),
        }))
    }

    pub(crate) fn with_kind(mut self, kind: ErrorKind) -> Self {
        self.0.kind = kind;
        self
    }

    /// The operation that failed.
    pub fn operation(&self) -> Operation {
        self.0.operation
    }

    /// The object of the operation.
    pub fn object(&self) -> &Object {
        &self.0.object
    }

    /// What went wrong.
    pub fn kind(&self) -> &ErrorKind {
        &self.0.kind
    }

    /// The errno, if the kernel or the socket returned one.
    pub fn errno(&self) -> Option<i32> {
        self.0.source.as_ref().and_then(io::Error::raw_os_error)
    }

    /// The kernel's message (extended acknowledgement), if there was one.
    pub fn kernel_message(&self) -> Option<&str> {
        self.0.message.as_deref()
    }

    /// Whether the virtual server, real server or sync daemon does not exist.
    pub fn is_not_found(&self) -> bool {
        self.0.kind == ErrorKind::NotFound
    }

    /// Whether the object to add already exists.
    pub fn is_already_exists(&self) -> bool {
        self.0.kind == ErrorKind::AlreadyExists
    }

    /// Whether the kernel has no IPVS.
    pub fn is_unsupported(&self) -> bool {
        self.0.kind == ErrorKind::Unsupported
    }

    /// Whether the process lacks CAP_NET_ADMIN.
    pub fn is_permission_denied(&self) -> bool {
        self.0.kind == ErrorKind::PermissionDenied
    }

    /// Whether the change may have been made, or may still be, although this is an error.
    pub fn is_outcome_unknown(&self) -> bool {
        matches!(self.0.kind, ErrorKind::NoReply | ErrorKind::TimedOut)
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Details {
            operation,
            object,
            kind,
            message,
            ..
        } = &*self.0;
        write!(f, "{operation}{object}: {kind}")?;
        message
            .as_ref()
            .map_or(Ok(()), |message| write!(f, " (kernel: {message})"))
    }
}

impl fmt::Debug for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Error")
            .field("operation", &self.0.operation)
            .field("object", &self.0.object)
            .field("kind", &self.0.kind)
            .field("message", &self.0.message)
            .field("source", &self.0.source)
            .finish()
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.0.source.as_ref().map(|source| source as _)
    }
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The kernel has no IPVS, or cannot load its module.
    #[error(
        "the kernel has no IPVS; load it with `modprobe ip_vs`, or install the module: package \
         linux-modules-extra-$(uname -r) on Ubuntu, kernel-modules on Fedora and RHEL, \
         linux-image-amd64 instead of -cloud-amd64 on Debian"
    )]
    Unsupported,
    /// The process lacks CAP_NET_ADMIN in the initial user namespace, which IPVS requires even for
    /// reading. Root in a user namespace does not have it.
    #[error("permission denied; CAP_NET_ADMIN in the initial user namespace is required")]
    PermissionDenied,
    /// The virtual server, real server or sync daemon does not exist. For a change to a real
    /// server, [`Error::errno`] is ESRCH if its virtual server does not exist, and ENOENT if it
    /// does not.
    #[error("it does not exist")]
    NotFound,
    /// The object already exists.
    #[error("it already exists")]
    AlreadyExists,
    /// The kernel has no such scheduler or persistence engine.
    #[error("the kernel has no such scheduler or persistence engine")]
    UnknownScheduler,
    /// The kernel was built without IPv6, or IPv6 is disabled.
    #[error("the kernel does not support this address family")]
    AddressFamily,
    /// The weight is above `i32::MAX`, or the lower threshold above the upper one.
    #[error("the weight is above 2147483647, or the lower threshold above the upper one")]
    OutOfRange,
    /// The kernel rejected the request. For a real server: its address is not unicast, `lo` of the
    /// network namespace is down, it has the other address family and no tunnel, or its upper
    /// threshold is above `i32::MAX`.
    #[error("the kernel rejected it as invalid")]
    Rejected,
    /// This crate rejected it: the kernel would accept it but not do it.
    #[error("{0}")]
    Invalid(Invalid),
    /// The table changed during every attempt to list it.
    #[error("the table kept changing while it was read")]
    Interrupted,
    /// The kernel's reply cannot be decoded.
    #[error("malformed reply: {0}")]
    Malformed(DecodeError),
    /// The kernel's reply was lost. A change may have been made.
    #[error("the kernel's reply was lost; whether the change was made is unknown")]
    NoReply,
    /// The call was not executed: the time limit passed, or the queue was full, while it waited
    /// for earlier calls of an `AsyncClient`.
    #[error("not started: earlier calls to the kernel have not finished")]
    NotStarted,
    /// The time limit of an `AsyncClient` passed while the kernel executed the call. A change may
    /// have been made, or may still be.
    #[error("the kernel did not answer within the time limit; the change may still be made")]
    TimedOut,
    /// Any other failure; see the source.
    #[error("failed")]
    Io,
}

impl ErrorKind {
    fn from_errno(operation: Operation, errno: i32) -> Self {
        use Operation::{AddVirtualServer, UpdateVirtualServer};
        match errno {
            errno::EPERM | errno::EACCES => Self::PermissionDenied,
            errno::ESRCH => Self::NotFound,
            errno::ENOENT if matches!(operation, AddVirtualServer | UpdateVirtualServer) => {
                Self::UnknownScheduler
            }
            errno::ENOENT => Self::NotFound,
            errno::EEXIST => Self::AlreadyExists,
            errno::ERANGE => Self::OutOfRange,
            errno::EINVAL => Self::Rejected,
            errno::EAFNOSUPPORT => Self::AddressFamily,
            _ => Self::Io,
        }
    }
}

/// Why this crate rejected a change.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Invalid {
    /// IPVS does not forward this protocol.
    #[error("the protocol is not TCP, UDP or SCTP")]
    Protocol,
    /// Port 0, which stands for all ports, requires persistence.
    #[error("port 0 needs persistence")]
    PortZero,
    /// The persistence netmask is 0, too long, or of the other family.
    #[error("the persistence netmask is 0, too long, or of the other address family")]
    Netmask,
    /// The persistence timeout is 0 or too long.
    #[error("the persistence timeout is not within 1 second and 31 days")]
    PersistenceTimeout,
    /// A virtual server with persistence cannot have a tag.
    #[error("a virtual server with persistence cannot have a tag")]
    Tag,
    /// A timeout is 0 or too long.
    #[error("a timeout is not within 1 second and 31 days")]
    Timeout,
    /// The sync id is above 255.
    #[error("the sync id is above 255")]
    SyncId,
}

/// An operation of a [`Client`](crate::Client).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
#[expect(missing_docs, reason = "each is the name of a method")]
pub enum Operation {
    Open,
    Info,
    ListVirtualServers,
    GetVirtualServer,
    ListRealServers,
    GetTimeouts,
    ListSyncDaemons,
    AddVirtualServer,
    UpdateVirtualServer,
    DeleteVirtualServer,
    AddRealServer,
    UpdateRealServer,
    DeleteRealServer,
    ZeroStatistics,
    Flush,
    SetTimeouts,
    StartSyncDaemon,
    StopSyncDaemon,
    Counters,
    Closure,
}

impl fmt::Display for Operation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Open => "open IPVS",
            Self::Info => "read IPVS version",
            Self::ListVirtualServers => "list virtual servers",
            Self::GetVirtualServer => "read virtual server",
            Self::ListRealServers => "list real servers of",
            Self::GetTimeouts => "read timeouts",
            Self::ListSyncDaemons => "list sync daemons",
            Self::AddVirtualServer => "add virtual server",
            Self::UpdateVirtualServer => "update virtual server",
            Self::DeleteVirtualServer => "delete virtual server",
            Self::AddRealServer => "add real server",
            Self::UpdateRealServer => "update real server",
            Self::DeleteRealServer => "delete real server",
            Self::ZeroStatistics => "zero statistics",
            Self::Flush => "flush",
            Self::SetTimeouts => "set timeouts",
            Self::StartSyncDaemon => "start sync daemon",
            Self::StopSyncDaemon => "stop sync daemon",
            Self::Counters => "read counters",
            Self::Closure => "run closure",
        })
    }
}

/// The object of an operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Object {
    /// The whole table.
    Table,
    /// A virtual server.
    VirtualServer(VirtualServerKey),
    /// A real server.
    RealServer {
        /// Its virtual server.
        virtual_server: VirtualServerKey,
        /// The real server.
        real_server: RealServerKey,
    },
    /// A sync daemon.
    SyncDaemon(SyncRole),
}

/// Begins with a space, to follow an operation. Empty for the whole table.
impl fmt::Display for Object {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Table => Ok(()),
            Self::VirtualServer(key) => write!(f, " {key}"),
            Self::RealServer {
                virtual_server,
                real_server,
            } => {
                write!(f, " {real_server} of {virtual_server}")
            }
            Self::SyncDaemon(role) => write!(f, " {role}"),
        }
    }
}

/// A text that cannot be parsed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a valid {what}")]
pub struct ParseError {
    what: &'static str,
    text: Box<str>,
}

impl ParseError {
    pub(crate) fn new(what: &'static str, text: &str) -> Self {
        Self {
            what,
            text: text.into(),
        }
    }
}

/// Linux's error numbers, for builds without a crate for system calls.
pub(crate) mod errno {
    pub(crate) const EPERM: i32 = 1;
    pub(crate) const ENOENT: i32 = 2;
    pub(crate) const ESRCH: i32 = 3;
    pub(crate) const EACCES: i32 = 13;
    pub(crate) const EBUSY: i32 = 16;
    pub(crate) const EEXIST: i32 = 17;
    #[cfg(any(feature = "testing", test))]
    pub(crate) const ENODEV: i32 = 19;
    pub(crate) const EINVAL: i32 = 22;
    pub(crate) const ERANGE: i32 = 34;
    #[cfg(any(feature = "testing", test))]
    pub(crate) const EOPNOTSUPP: i32 = 95;
    pub(crate) const EAFNOSUPPORT: i32 = 97;
    pub(crate) const ENOBUFS: i32 = 105;
}

#[cfg(test)]
mod tests {
    use std::error::Error as _;

    use super::*;

    #[test]
    fn has_operation_object_and_kind_but_not_the_source() {
        let object = Object::RealServer {
            virtual_server: "tcp 10.96.0.1:80".parse().unwrap(),
            real_server: "10.244.0.1:8080".parse().unwrap(),
        };
        let error = Error::from_kernel(Operation::AddRealServer, object, errno::EEXIST, None);
        assert!(error.is_already_exists());
        assert_eq!(error.errno(), Some(17));
        let text = error.to_string();
        assert_eq!(
            text,
            "add real server 10.244.0.1:8080 of tcp 10.96.0.1:80: it already exists"
        );
        let source = error.source().unwrap().to_string();
        assert!(!source.is_empty() && !text.contains(&source));
        let flush = Error::from_kernel(Operation::Flush, Object::Table, 5, Some("no"));
        assert_eq!(flush.to_string(), "flush: failed (kernel: no)");
    }

    #[test]
    fn is_one_pointer() {
        assert_eq!(size_of::<Result<()>>(), size_of::<usize>());
    }
}
