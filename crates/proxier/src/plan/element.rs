//! Elements of the packet filter's sets.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::desired::FrontendKey;

/// A word beside an element for people and for `status`: the Service port it is there for.
pub type Comment = Option<Arc<str>>;

/// One element of one of the packet filter's sets; the rules themselves never change with the
/// Services.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[non_exhaustive]
pub enum Element {
    /// The virtual server is there and is ours. Present before its virtual server and gone after
    /// it, so that the set is also the record of what we own, whenever we are killed.
    VirtualServer(FrontendKey),
    /// Nobody answers here: refuse before IPVS sees it.
    NoEndpoints(FrontendKey),
    /// A backend that may be on this node and so its own client: masquerade that.
    Hairpin(IpAddr),
    /// Addresses in which all that is no virtual server is refused.
    ServiceCidr(IpNet),
}

impl fmt::Display for Element {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::VirtualServer(key) => write!(f, "virtual-servers {key}"),
            Self::NoEndpoints(key) => write!(f, "no-endpoints {key}"),
            Self::Hairpin(address) => write!(f, "hairpin {address}"),
            Self::ServiceCidr(cidr) => write!(f, "service-cidrs {cidr}"),
        }
    }
}
