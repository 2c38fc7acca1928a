//! The cluster domain, and where names are.

use std::net::IpAddr;
use std::str::FromStr;

use hickory_proto::rr::Name;
use ipnet::IpNet;

use crate::model::ObjectName;

/// A cluster domain, such as `cluster.local`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Domain {
    name: Name,
    text: Box<str>,
    nameserver: Name,
    mailbox: Name,
}

/// Why a text is no cluster domain.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{text:?} is not a cluster domain: it must be a DNS name of lower-case letters, digits and '-', \
     of at most 120 bytes, such as cluster.local"
)]
pub struct InvalidDomain {
    /// The text.
    pub text: String,
}

/// The longest domain that leaves room for `_PORT._PROTOCOL.NAME.NAMESPACE.svc`, with 15, 5, 63 and
/// 63 bytes, of at most 255.
const LONGEST: usize = 120;

impl Default for Domain {
    /// `cluster.local`, as in Kubernetes.
    fn default() -> Self {
        let name = |text| Name::from_ascii(text).unwrap_or_default();
        Self {
            name: name("cluster.local."),
            text: "cluster.local".into(),
            nameserver: name("ns.dns.cluster.local."),
            mailbox: name("hostmaster.cluster.local."),
        }
    }
}

impl FromStr for Domain {
    type Err = InvalidDomain;

    fn from_str(text: &str) -> Result<Self, InvalidDomain> {
        let bare = text.strip_suffix('.').unwrap_or(text);
        let invalid = || InvalidDomain {
            text: text.to_owned(),
        };
        let is_label = |label: &str| {
            let inner =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
            (1..=63).contains(&label.len())
                && label.bytes().all(inner)
                && !label.starts_with('-')
                && !label.ends_with('-')
        };
        if bare.len() > LONGEST || !bare.split('.').all(is_label) || bare.ends_with(".arpa") {
            return Err(invalid());
        }
        let name = |text: String| Name::from_ascii(text).map_err(|_| invalid());
        Ok(Self {
            name: name(format!("{bare}."))?,
            text: bare.into(),
            nameserver: name(format!("ns.dns.{bare}."))?,
            mailbox: name(format!("hostmaster.{bare}."))?,
        })
    }
}

impl std::fmt::Display for Domain {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.text)
    }
}

/// Where a name is.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// In another domain.
    Outside,
    /// In the domain: its labels before it, in lower case.
    Inside(String),
    /// In the domain, with a label that no name here has.
    Nowhere,
}

impl Domain {
    pub(super) fn name(&self) -> &Name {
        &self.name
    }

    /// This server.
    pub(super) fn nameserver(&self) -> &Name {
        &self.nameserver
    }

    pub(super) fn mailbox(&self) -> &Name {
        &self.mailbox
    }

    pub(super) fn place(&self, name: &Name) -> Place {
        let own = self.name.iter().count();
        let Some(before) = name.iter().count().checked_sub(own) else {
            return Place::Outside;
        };
        let mut pairs = name.iter().skip(before).zip(self.name.iter());
        if !pairs.all(|(label, own)| label.eq_ignore_ascii_case(own)) {
            return Place::Outside;
        }
        let mut text = String::with_capacity(name.len());
        for label in name.iter().take(before) {
            if !text.is_empty() {
                text.push('.');
            }
            for byte in label {
                if !(byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_')) {
                    return Place::Nowhere;
                }
                text.push(byte.to_ascii_lowercase().into());
            }
        }
        Place::Inside(text)
    }

    /// The name of a Service, or of one of its hosts.
    pub(super) fn service(&self, service: &ObjectName, host: Option<&str>) -> Option<Name> {
        let (name, namespace) = (service.name(), service.namespace());
        let (host, dot) = host.map_or(("", ""), |host| (host, "."));
        Name::from_ascii(format!("{host}{dot}{name}.{namespace}.svc.{}.", self.text)).ok()
    }
}

/// Whether a name may be the reverse name of an address or a network.
pub(super) fn is_reverse(name: &Name) -> bool {
    let last = name.iter().next_back();
    last.is_some_and(|label| label.eq_ignore_ascii_case(b"arpa"))
}

/// What a reverse name stands for: `4.3.2.1.in-addr.arpa` for an address, `3.2.1.in-addr.arpa` for a
/// network.
pub(super) fn reverse(name: &Name) -> Option<IpNet> {
    is_reverse(name)
        .then(|| name.parse_arpa_name().ok())
        .flatten()
}

/// The address of a network of one address.
pub(super) fn only_address(network: IpNet) -> Option<IpAddr> {
    (network.prefix_len() == network.max_prefix_len()).then(|| network.addr())
}

/// The reverse zones of networks. A zone ends between two labels, which stand for 8 bits in IPv4 and for
/// 4 in IPv6, so a network between two such lengths has several.
pub(super) fn reverse_zones(networks: &[IpNet]) -> Vec<Name> {
    let zones = networks.iter().flat_map(|network| {
        let (bits, top) = match network {
            IpNet::V4(_) => (8, 2),
            IpNet::V6(_) => (4, 2),
        };
        let labels = network.prefix_len().div_ceil(bits);
        let parts = network.trunc().subnets(labels * bits);
        let parts = parts.into_iter().flatten();
        parts.map(move |part| Name::from(part.addr()).trim_to(usize::from(labels) + top))
    });
    let mut zones: Vec<_> = zones.collect();
    zones.sort_unstable();
    zones.dedup();
    zones
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn domains_are_checked() {
        let domain = |text: &str| text.parse::<Domain>().map(|domain| domain.to_string());
        assert_eq!(domain("cluster.local"), Ok("cluster.local".to_owned()));
        assert_eq!(domain("k8s.example.com."), Ok("k8s.example.com".to_owned()));
        assert_eq!("cluster.local".parse(), Ok(Domain::default()));
        let long = format!("{}.{}", "a".repeat(63), "b".repeat(60));
        for wrong in ["", ".", "a..b", "-a.b", "A.b", "a_b", "in-addr.arpa", &long] {
            assert!(domain(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn names_are_placed_by_their_labels() {
        let domain = Domain::default();
        let place = |text: &str| domain.place(&Name::from_ascii(text).unwrap());
        let inside = |text: &str| Place::Inside(text.to_owned());
        assert_eq!(place("cluster.local."), inside(""));
        assert_eq!(place("WEB.shop.svc.Cluster.LOCAL."), inside("web.shop.svc"));
        assert_eq!(place("local."), Place::Outside);
        assert_eq!(place("xcluster.local."), Place::Outside);
        let dotted = Name::from_labels([&b"a.b"[..], b"cluster", b"local"]).unwrap();
        assert_eq!(domain.place(&dotted), Place::Nowhere);
    }

    #[test]
    fn reverse_zones_end_between_labels() {
        let zones = |networks: &[&str]| {
            let networks: Vec<_> = networks.iter().map(|of| of.parse().unwrap()).collect();
            let zones = reverse_zones(&networks);
            zones.iter().map(ToString::to_string).collect::<Vec<_>>()
        };
        assert_eq!(zones(&["10.3.0.0/16"]), ["3.10.in-addr.arpa."]);
        assert_eq!(zones(&["10.3.0.7/32"]), ["7.0.3.10.in-addr.arpa."]);
        assert_eq!(
            zones(&["10.96.0.0/15", "10.96.0.0/16"]),
            ["96.10.in-addr.arpa.", "97.10.in-addr.arpa."]
        );
        assert_eq!(zones(&["10.96.0.0/12"]).len(), 16);
        assert_eq!(zones(&["0.0.0.0/0"]), ["in-addr.arpa."]);
        assert_eq!(zones(&["2001:db8::/31"]).len(), 2);
        assert_eq!(zones(&["2001:db8::/32"]), ["8.b.d.0.1.0.0.2.ip6.arpa."]);
    }

    #[test]
    fn only_whole_addresses_have_reverse_names() {
        let reverse = |text: &str| {
            let network = reverse(&Name::from_ascii(text).unwrap());
            network.and_then(only_address)
        };
        assert_eq!(
            reverse("1.0.3.10.in-addr.arpa."),
            Some([10, 3, 0, 1].into())
        );
        assert_eq!(reverse("0.3.10.in-addr.arpa."), None);
        assert_eq!(reverse("x.0.3.10.in-addr.arpa."), None);
        assert_eq!(
            reverse("1.0.3.10.IN-ADDR.ARPA."),
            Some([10, 3, 0, 1].into())
        );
        let zeros = "0.".repeat(23);
        let v6 = format!("1.{zeros}8.b.d.0.1.0.0.2.ip6.arpa.");
        assert_eq!(reverse(&v6), Some("2001:db8::1".parse().unwrap()));
    }
}
