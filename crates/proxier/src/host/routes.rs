//! Asks the kernel for its routes.

use std::collections::BTreeMap;
use std::io;
use std::net::IpAddr;

use futures_util::TryStreamExt;
use ipvs::Family;
use netlink_packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::Host;
use super::look::name;
use super::way::{Route, Ways};
use crate::errno::{EACCES, EHOSTUNREACH, EINVAL, ENETUNREACH};
use crate::mode::ipvs::kernel::rtnetlink::io_error;

/// The sysctl of a family that lets the node forward packets.
const FORWARDING: [(Family, &str, &str); 2] = [
    (Family::V4, "net/ipv4/ip_forward", "net.ipv4.ip_forward"),
    (
        Family::V6,
        "net/ipv6/conf/all/forwarding",
        "net.ipv6.conf.all.forwarding",
    ),
];

impl Host {
    /// Where packets to these addresses go, and whether the node forwards.
    ///
    /// # Errors
    ///
    /// If the kernel answers with an error that is not that of a route.
    pub fn ways(&mut self, addresses: impl IntoIterator<Item = IpAddr>) -> io::Result<Ways> {
        let mut routes = BTreeMap::new();
        for address in addresses {
            routes.insert(address, self.route_to(address)?);
        }
        let closed = FORWARDING.into_iter();
        let closed = closed.filter(|(_, file, _)| self.number(file) == Some(0));
        Ok(Ways {
            routes,
            closed: closed
                .map(|(family, _, sysctl)| (family, sysctl.to_owned()))
                .collect(),
        })
    }

    fn route_to(&mut self, address: IpAddr) -> io::Result<Route> {
        let asked = self.netlink.read(|handle| lookup(handle, address));
        let route = match asked {
            Ok(Some(route)) => route,
            Ok(None) => return Ok(Route::None("the kernel names none".to_owned())),
            Err(error) => {
                return match error.raw_os_error().and_then(refusal) {
                    Some(why) => Ok(Route::None(why.to_owned())),
                    None => Err(error),
                };
            }
        };
        let why = match route.header.kind {
            RouteType::Local => return Ok(Route::Local),
            RouteType::Unreachable => refusal(EHOSTUNREACH),
            RouteType::BlackHole => refusal(EINVAL),
            RouteType::Prohibit => refusal(EACCES),
            _ => None,
        };
        if let Some(why) = why {
            return Ok(Route::None(why.to_owned()));
        }
        let mut attributes = route.attributes.iter();
        let index = attributes.find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) => Some(*index),
            _ => None,
        });
        let name = self.interface(index.unwrap_or_default())?;
        Ok(Route::By(name))
    }

    /// The name of an interface; empty if it is gone.
    fn interface(&mut self, index: u32) -> io::Result<String> {
        let links: Vec<_> = self.netlink.read(|handle| async move {
            let listed = handle.link().get().match_index(index).execute();
            listed.try_collect().await.map_err(io_error)
        })?;
        let found = links.first().and_then(name);
        Ok(found.unwrap_or_default().to_owned())
    }
}

/// What the error of a lookup says about the route.
const fn refusal(errno: i32) -> Option<&'static str> {
    match errno {
        EHOSTUNREACH => Some("a route of kind unreachable (ip route show type unreachable)"),
        EINVAL => Some("a route of kind blackhole (ip route show type blackhole)"),
        EACCES => Some("a route of kind prohibit (ip route show type prohibit)"),
        ENETUNREACH => Some("no route matches (ip route)"),
        _ => None,
    }
}

async fn lookup(handle: Handle, address: IpAddr) -> io::Result<Option<RouteMessage>> {
    let length = if address.is_ipv4() { 32 } else { 128 };
    let asked = RouteMessageBuilder::<IpAddr>::new()
        .table_id(0)
        .protocol(RouteProtocol::Unspec)
        .kind(RouteType::Unspec)
        .destination_prefix(address, length);
    let mut asked = asked.map_err(io::Error::other)?.build();
    // IPv6 rejects the flag.
    if address.is_ipv4() {
        asked.header.flags = RouteFlags::LookupTable;
    }
    let mut answers = handle.route().get(asked).execute();
    answers.try_next().await.map_err(io_error)
}
