//! Parses `docs/traffic.md`.

use std::fmt;

const PAGE: &str = include_str!("../../../../docs/traffic.md");

/// A cell of the tables.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Cell {
    /// The Service.
    pub service: Service,
    /// The kind of address.
    pub way: Way,
    /// The client.
    pub from: Client,
    /// The expected result.
    pub expected: Expected,
}

/// The expected result of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Expected {
    /// It reaches an endpoint.
    Reached {
        /// The endpoints that answer.
        who: Who,
        /// The source address that they see.
        see: Seen,
        /// The source address that the client sees if it answers itself.
        itself: Seen,
    },
    /// The client gets an error at once.
    Refused,
    /// The connection is accepted, and then reset. No cell has it: a proxy refuses in this way.
    Reset,
    /// The client gets no answer.
    Dropped,
}

/// Declares an enum whose variants have names on the page.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal,)* }) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name { $($(#[$doc])* $variant,)* }

        impl $name {
            /// All of them.
            pub const ALL: &[Self] = &[$(Self::$variant),*];

            /// The word on the page.
            #[must_use]
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),* }
            }

            fn read(word: &str) -> Result<Self, String> {
                let mut all = Self::ALL.iter().copied();
                all.find(|one| one.word() == word)
                    .ok_or_else(|| format!("{word:?} is no {}", stringify!($name)))
            }
        }
    };
}

words! {
    /// A Service, described in the heading of its section.
    Service {
        /// All clients reach all endpoints.
        Cluster = "cluster",
        /// Both policies `Local`.
        Local = "local",
        /// The same, with an endpoint on the other node only.
        Elsewhere = "elsewhere",
        /// Without endpoints.
        Nobody = "nobody",
        /// Without endpoints, both policies `Local`.
        NobodyLocal = "nobody-local",
        /// With source ranges.
        Ranges = "ranges",
        /// With session affinity.
        Affinity = "affinity",
        /// With session affinity, both policies `Local`.
        AffinityLocal = "affinity-local",
    }
}

words! {
    /// An address and port that a client connects to.
    Way {
        /// Cluster IP.
        ClusterIp = "cluster IP",
        /// Node port of this node's address.
        NodePort = "node port",
        /// Load-balancer IP.
        LoadBalancerIp = "load-balancer IP",
        /// External IP.
        ExternalIp = "external IP",
        /// This node's address as an external IP.
        ThisNodesIp = "external IP that is this node's",
        /// The other node's address as an external IP.
        OtherNodesIp = "external IP that is the other node's",
        /// An address that was added to this node after svcproxy had started.
        NewAddress = "node port of a new address",
        /// The node port's number on the cluster IP.
        ClusterIpNodePort = "node port of a cluster IP",
        /// The node port's number on a loopback address.
        Loopback = "node port of a loopback address",
        /// A port of this node's address that no Service uses.
        ThisNodesPort = "another port of this node",
        /// A port of the other node's address that no Service uses.
        OtherNodesPort = "another port of the other node",
    }
}

words! {
    /// The client of a connection.
    Client {
        /// A pod of this node that is no endpoint.
        PodHere = "pod of this node",
        /// This node itself.
        Node = "this node",
        /// A pod of the other node that is no endpoint.
        PodThere = "pod of the other node",
        /// A client outside of the cluster.
        Outside = "outside",
        /// The same, with an address that is in no source range.
        OutsideRanges = "outside, in no range",
        /// The endpoint on this node.
        Itself = "the endpoint on this node",
    }
}

words! {
    /// The endpoints that answer.
    Who {
        /// Every endpoint.
        All = "all",
        /// Every endpoint on this node.
        Local = "local",
        /// Always the same endpoint.
        One = "one",
        /// The node that has the address.
        Owner = "owner",
    }
}

words! {
    /// The source address that the endpoint sees.
    Seen {
        /// The client's.
        Client = "client",
        /// This node's.
        Node = "node",
    }
}

/// The cells of the page.
///
/// # Errors
///
/// At the first line that has an unknown word.
pub fn table() -> Result<Vec<Cell>, String> {
    let mut cells = Vec::new();
    let mut service = None;
    let mut ways: Vec<Way> = Vec::new();
    for (number, line) in (1..).zip(PAGE.lines()) {
        let at = |error| format!("docs/traffic.md, line {number}: {error}");
        if let Some(heading) = line.strip_prefix("## `") {
            let name = heading.split('`').next().unwrap_or_default();
            service = Some(Service::read(name).map_err(at)?);
            ways.clear();
        }
        // Skips the table before the first Service, which explains the words.
        let Some((service, row)) = service.zip(line.strip_prefix("| ")) else {
            continue;
        };
        let mut words = row.trim_end_matches('|').split('|').map(str::trim);
        match words.next().unwrap_or_default() {
            "---" => {}
            "from" => ways = words.map(Way::read).collect::<Result<_, _>>().map_err(at)?,
            from => {
                let from = Client::read(from).map_err(at)?;
                let words: Vec<_> = words.collect();
                if words.len() != ways.len() {
                    return Err(at("more or fewer cells than columns".to_owned()));
                }
                for (word, &way) in words.into_iter().zip(&ways) {
                    if word != "–" {
                        cells.push(Cell {
                            service,
                            way,
                            from,
                            expected: Expected::read(word).map_err(at)?,
                        });
                    }
                }
            }
        }
    }
    Ok(cells)
}

impl Expected {
    fn read(words: &str) -> Result<Self, String> {
        match words {
            "refused" => return Ok(Self::Refused),
            "dropped" => return Ok(Self::Dropped),
            _ => {}
        }
        let (who, see) = words
            .split_once(" see ")
            .ok_or_else(|| format!("{words:?} says nothing"))?;
        let (see, itself) = see.split_once(", itself ").unwrap_or((see, see));
        Ok(Self::Reached {
            who: Who::read(who)?,
            see: Seen::read(see)?,
            itself: Seen::read(itself)?,
        })
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            service, way, from, ..
        } = self;
        let (service, way, from) = (service.word(), way.word(), from.word());
        write!(f, "{service}: {way}, from {from}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_says_what_happens_in_every_case() {
        let cells = table().unwrap();
        let says = |service, way, from| {
            let of = |cell: &&Cell| (cell.service, cell.way, cell.from) == (service, way, from);
            assert_eq!(
                cells.iter().filter(of).count(),
                1,
                "{service:?} {way:?} {from:?}"
            );
        };
        let kinds = [
            Way::ClusterIp,
            Way::NodePort,
            Way::LoadBalancerIp,
            Way::ExternalIp,
        ];
        let everyone = [
            Client::PodHere,
            Client::Node,
            Client::PodThere,
            Client::Outside,
        ];
        for &service in Service::ALL {
            for way in kinds {
                for from in everyone {
                    says(service, way, from);
                }
            }
        }
        for service in [Service::Cluster, Service::Local] {
            for way in kinds {
                says(service, way, Client::Itself);
            }
        }
        for &way in Way::ALL {
            assert!(cells.iter().any(|cell| cell.way == way), "{way:?}");
        }
        for &from in Client::ALL {
            assert!(cells.iter().any(|cell| cell.from == from), "{from:?}");
        }
    }

    #[test]
    fn meaningless_words_are_errors() {
        for words in ["", "all", "all see nobody", "some see client", "refused "] {
            assert!(Expected::read(words).is_err(), "{words:?}");
        }
    }
}
