//! Errno values that mean something here: `include/uapi/asm-generic/errno*.h` of Linux.
#![allow(dead_code, reason = "each is for the code of some features")]

use std::io;

pub(crate) const ENOENT: i32 = 2;
pub(crate) const ESRCH: i32 = 3;
pub(crate) const EINTR: i32 = 4;
pub(crate) const EAGAIN: i32 = 11;
pub(crate) const ENOMEM: i32 = 12;
pub(crate) const EACCES: i32 = 13;
pub(crate) const EBUSY: i32 = 16;
pub(crate) const EEXIST: i32 = 17;
pub(crate) const ENODEV: i32 = 19;
pub(crate) const EINVAL: i32 = 22;
pub(crate) const ENFILE: i32 = 23;
pub(crate) const EMFILE: i32 = 24;
pub(crate) const EBADMSG: i32 = 74;
pub(crate) const EPROTONOSUPPORT: i32 = 93;
pub(crate) const EOPNOTSUPP: i32 = 95;
pub(crate) const EAFNOSUPPORT: i32 = 97;
pub(crate) const EADDRINUSE: i32 = 98;
pub(crate) const EADDRNOTAVAIL: i32 = 99;
pub(crate) const ENETUNREACH: i32 = 101;
pub(crate) const ENOBUFS: i32 = 105;
pub(crate) const ETIMEDOUT: i32 = 110;
pub(crate) const EHOSTUNREACH: i32 = 113;

/// What helps if a socket cannot be bound or listen, in parentheses; empty if nothing special does.
pub(crate) fn listen_hint(error: &io::Error) -> &'static str {
    match error.raw_os_error() {
        Some(EADDRINUSE) => " (another program listens there: find it with ss -lntup)",
        Some(EADDRNOTAVAIL) => " (the node does not have the address)",
        Some(EMFILE) => " (raise the limit of open files)",
        _ if error.kind() == io::ErrorKind::PermissionDenied => " (needs CAP_NET_BIND_SERVICE)",
        _ => "",
    }
}
