//! From the bytes of a query to those of its answer. Pure.

use std::net::IpAddr;
use std::sync::Arc;

use hickory_proto::op::{Edns, Message, MessageType, Metadata, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, AAAA, CNAME, HINFO, NS, PTR, SOA, SRV, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};

use super::name::{Domain, Place, is_reverse, only_address, reverse};
use super::records::Records;
use super::zone::{Found, Zone};
use crate::model::Protocol;

/// The version of Kubernetes' DNS specification that the names follow.
const VERSION: &str = "1.1.0";
/// Time to live of all records, in seconds, also of negative answers. Short, because endpoints come
/// and go; CoreDNS has the same default.
pub(super) const TTL: u32 = 5;
/// Limit of answers over UDP, whatever the client can receive: larger packets would be fragmented
/// (dnsflagday.net/2020), and a forged source address would get more bytes.
pub(super) const UDP_LIMIT: u16 = 1232;
/// Limit of answers to clients without EDNS.
const PLAIN_LIMIT: u16 = 512;
/// The fewest bytes of a record with an address, its name compressed: an answer cannot have more
/// records than fit.
const SMALLEST_RECORD: usize = 16;
/// Length of a header.
const HEADER: usize = 12;
/// Limit of external names that lead to each other.
const ALIASES: usize = 8;

/// How a query arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Transport {
    Udp,
    Tcp,
}

/// What the answers depend on beside the zone.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) domain: Domain,
    /// The addresses of this server.
    pub(super) nameservers: Vec<IpAddr>,
    /// The reverse zones of Service CIDRs, beside those that the zone knows.
    pub(super) reverse: Vec<Name>,
    /// Whether there is an upstream server.
    pub(super) forwards: bool,
    /// The serial number of the zone before its first change.
    pub(super) serial: u32,
}

/// What to do with a query.
#[derive(Debug)]
pub(super) enum Outcome {
    /// Send these bytes.
    Answer(Vec<u8>, ResponseCode),
    /// Send the query to an upstream server, and its answer to the client.
    Relay(Draft),
    /// Ask an upstream server for a name, and add its answer to this one.
    Follow(Draft, Query),
    /// Send nothing: it is no query.
    Ignore,
}

/// An answer that is not encoded yet.
#[derive(Debug)]
pub(super) struct Draft {
    message: Message,
    /// The most bytes that the client accepts.
    pub(super) limit: u16,
    /// Whether more records exist than fit.
    cut: bool,
}

/// Answers a query.
pub(super) fn answer(zone: &Zone, rules: &Rules, query: &[u8], transport: Transport) -> Outcome {
    let Some(header) = query.get(..HEADER) else {
        return Outcome::Ignore;
    };
    // An answer to an answer could go back and forth between two servers for ever.
    if header.get(2).is_none_or(|flags| flags & 0x80 != 0) {
        return Outcome::Ignore;
    }
    if header.get(2).is_some_and(|flags| flags & 0x78 != 0) {
        return bare(header, ResponseCode::NotImp);
    }
    let question = match Message::from_vec(query) {
        Ok(message) if message.queries.len() == 1 => message,
        _ => return bare(header, ResponseCode::FormErr),
    };
    let draft = Draft::to(&question, rules, transport);
    let Some(asked) = question.queries.into_iter().next() else {
        return bare(header, ResponseCode::FormErr);
    };
    if question.edns.is_some_and(|edns| edns.version() > 0) {
        return draft.end(ResponseCode::BADVERS);
    }
    let is_transfer = matches!(asked.query_type, RecordType::AXFR | RecordType::IXFR);
    if asked.query_class != DNSClass::IN || is_transfer {
        return draft.end(ResponseCode::Refused);
    }
    if is_reverse(&asked.name) {
        return draft.reverse(zone, rules, &asked);
    }
    match rules.domain.place(&asked.name) {
        Place::Outside => draft.outside(rules),
        _ if !zone.is_ready() => draft.end(ResponseCode::ServFail),
        _ => draft.resolve(zone, rules, &asked),
    }
}

/// An answer without a question, for a query that cannot be read.
fn bare(header: &[u8], code: ResponseCode) -> Outcome {
    let mut bytes = vec![0; HEADER];
    for (to, from) in bytes.iter_mut().zip(header).take(3) {
        *to = *from;
    }
    if let Some(flags) = bytes.get_mut(2) {
        // Operation and "recursion desired" are the client's.
        *flags = *flags & 0x79 | 0x80;
    }
    if let Some(last) = bytes.get_mut(3) {
        *last = code.low();
    }
    Outcome::Answer(bytes, code)
}

/// A list of records without those that do not fit anyway, from a start that the client's random
/// number chooses: so clients that take the first one spread over all of them.
fn rotated<T>(all: &[T], start: usize, most: usize) -> impl Iterator<Item = &T> {
    let start = start.checked_rem(all.len()).unwrap_or_default();
    let (before, from) = all.split_at(start);
    from.iter().chain(before).take(most)
}

fn address(name: Name, address: IpAddr) -> Record {
    let data = match address {
        IpAddr::V4(address) => RData::A(A(address)),
        IpAddr::V6(address) => RData::AAAA(AAAA(address)),
    };
    Record::from_rdata(name, TTL, data)
}

impl Draft {
    fn to(question: &Message, rules: &Rules, transport: Transport) -> Self {
        let asked = &question.metadata;
        let mut message = Message::new(asked.id, MessageType::Response, OpCode::Query);
        message.metadata = Metadata::response_from_request(asked);
        message.metadata.recursion_available = rules.forwards;
        message.queries.clone_from(&question.queries);
        let theirs = question.edns.as_ref();
        let limit = match transport {
            Transport::Tcp => u16::MAX,
            Transport::Udp => theirs.map_or(PLAIN_LIMIT, |edns| {
                edns.max_payload().clamp(PLAIN_LIMIT, UDP_LIMIT)
            }),
        };
        message.edns = theirs.map(|theirs| {
            let mut edns = Edns::new();
            edns.set_max_payload(UDP_LIMIT);
            // An answer has the question's bit, also from a zone without signatures (RFC 3225, 3).
            edns.set_dnssec_ok(theirs.flags().dnssec_ok);
            edns
        });
        Self {
            message,
            limit,
            cut: false,
        }
    }

    /// The number of records beyond which none can fit.
    fn most(&self) -> usize {
        usize::from(self.limit) / SMALLEST_RECORD + 1
    }

    fn start(&self) -> usize {
        usize::from(self.message.metadata.id)
    }

    /// Encodes the answer with this code.
    pub(super) fn end(self, code: ResponseCode) -> Outcome {
        let (bytes, code) = self.encode(code);
        Outcome::Answer(bytes, code)
    }

    /// Over UDP an answer that is too long is empty, and the client asks over TCP. Additional
    /// records are left out first, because the client does not need them.
    pub(super) fn encode(mut self, code: ResponseCode) -> (Vec<u8>, ResponseCode) {
        let failed = |id| {
            let header = Message::error_msg(id, OpCode::Query, ResponseCode::ServFail);
            (header.to_vec().unwrap_or_default(), ResponseCode::ServFail)
        };
        self.message.metadata.response_code = code;
        let limit = usize::from(self.limit);
        let id = self.message.metadata.id;
        if !self.cut {
            let Ok(bytes) = self.message.to_vec() else {
                return failed(id);
            };
            if bytes.len() <= limit && !is_cut(&bytes) {
                return (bytes, code);
            }
            self.message.additionals.clear();
        }
        let whole = self.message.to_vec();
        match whole {
            // Over TCP there is no other way to get more.
            Ok(bytes) if bytes.len() <= limit && (!self.cut || self.limit == u16::MAX) => {
                (bytes, code)
            }
            _ => match self.message.truncate().to_vec() {
                Ok(bytes) => (bytes, code),
                Err(_) => failed(id),
            },
        }
    }

    /// A name of another domain.
    fn outside(self, rules: &Rules) -> Outcome {
        let wants = self.message.metadata.recursion_desired;
        match rules.forwards && wants {
            true => Outcome::Relay(self),
            false => self.end(ResponseCode::Refused),
        }
    }

    /// The name of an address. This server is authoritative for the addresses of Services and of
    /// endpoints, and for all others of the Service CIDRs. The rest is someone else's.
    fn reverse(mut self, zone: &Zone, rules: &Rules, asked: &Query) -> Outcome {
        let network = reverse(&asked.name);
        let address = network.and_then(only_address);
        let mut own = rules.reverse.iter().chain(zone.reverse());
        let origin = own.find(|origin| origin.zone_of(&asked.name));
        if !zone.is_ready() && (address.is_some() || origin.is_some()) {
            // It may be an address of the cluster: another server would say that it has no name.
            return self.end(ResponseCode::ServFail);
        }
        let most = self.most();
        let pointers = address.into_iter().flat_map(|of| zone.pointers(of));
        let mut names = pointers.filter_map(|pointer| {
            let host = pointer.host.as_deref();
            rules.domain.service(&pointer.service, host)
        });
        let (first, origin) = match (names.next(), origin) {
            (Some(first), origin) => (first, origin.unwrap_or(&asked.name)),
            (None, Some(origin)) => return self.without_pointer(zone, rules, asked, origin),
            (None, None) => return self.outside(rules),
        };
        self.message.metadata.authoritative = true;
        match asked.query_type {
            RecordType::PTR => {
                let all = [first].into_iter().chain(names).take(most);
                let record =
                    |name| Record::from_rdata(asked.name.clone(), TTL, RData::PTR(PTR(name)));
                self.message.answers.extend(all.map(record));
            }
            RecordType::ANY => self.minimal(asked.name.clone()),
            _ => self.negative(zone, rules, origin.clone()),
        }
        self.end(ResponseCode::NoError)
    }

    /// A name without pointer of a reverse zone of the Service CIDRs.
    fn without_pointer(
        mut self,
        zone: &Zone,
        rules: &Rules,
        asked: &Query,
        origin: &Name,
    ) -> Outcome {
        self.message.metadata.authoritative = true;
        let is_apex = asked.name == *origin;
        match asked.query_type {
            RecordType::SOA if is_apex => {
                self.message.answers.push(soa(zone, rules, origin.clone()));
            }
            RecordType::NS if is_apex => self.nameserver(rules, origin),
            _ => self.negative(zone, rules, origin.clone()),
        }
        // That a network does not exist would mean that no address of it has a name (RFC 8020).
        let network = reverse(&asked.name);
        let is_network = network.is_some_and(|network| only_address(network).is_none());
        match is_network || is_apex {
            true => self.end(ResponseCode::NoError),
            false => self.end(ResponseCode::NXDomain),
        }
    }

    /// A name of the domain.
    fn resolve(mut self, zone: &Zone, rules: &Rules, asked: &Query) -> Outcome {
        self.message.metadata.authoritative = true;
        let mut owner = asked.name.clone();
        for _ in 0..=ALIASES {
            let found = match rules.domain.place(&owner) {
                Place::Inside(name) => zone.find(&name),
                Place::Nowhere => Found::Absent,
                Place::Outside if rules.forwards && self.message.metadata.recursion_desired => {
                    let mut query = Query::query(owner, asked.query_type);
                    query.set_query_class(DNSClass::IN);
                    return Outcome::Follow(self, query);
                }
                // The client's own server resolves the rest.
                Place::Outside => return self.end(ResponseCode::NoError),
            };
            if found == Found::Absent {
                self.negative(zone, rules, rules.domain.name().clone());
                return self.end(ResponseCode::NXDomain);
            }
            if let Found::Service(records) = &found
                && let Records::ExternalName(target) = &**records
            {
                let alias = RData::CNAME(CNAME(target.clone()));
                let alias = Record::from_rdata(owner, TTL, alias);
                self.message.answers.push(alias);
                if matches!(asked.query_type, RecordType::CNAME | RecordType::ANY) {
                    return self.end(ResponseCode::NoError);
                }
                owner = target.clone();
                continue;
            }
            let before = self.message.answers.len();
            match asked.query_type {
                RecordType::ANY => self.minimal(owner),
                of => self.add(zone, rules, &owner, of, &found),
            }
            if self.message.answers.len() == before {
                self.negative(zone, rules, rules.domain.name().clone());
            }
            return self.end(ResponseCode::NoError);
        }
        // A loop, or nearly one.
        self.message.answers.clear();
        self.end(ResponseCode::ServFail)
    }

    /// The short answer to a question for all types (RFC 8482), which would only serve to amplify.
    fn minimal(&mut self, name: Name) {
        let data = RData::HINFO(HINFO::new("RFC8482".to_owned(), String::new()));
        self.message
            .answers
            .push(Record::from_rdata(name, TTL, data));
    }

    /// Adds the records of one type.
    fn add(&mut self, zone: &Zone, rules: &Rules, owner: &Name, of: RecordType, found: &Found) {
        match (found, of) {
            (Found::Apex, RecordType::SOA) => {
                let soa = soa(zone, rules, rules.domain.name().clone());
                self.message.answers.push(soa);
            }
            (Found::Apex, RecordType::NS) => self.nameserver(rules, owner),
            (Found::Version, RecordType::TXT) => {
                let data = RData::TXT(TXT::new(vec![VERSION.to_owned()]));
                self.message
                    .answers
                    .push(Record::from_rdata(owner.clone(), TTL, data));
            }
            (Found::NameServer, _) => self.addresses(owner, of, &rules.nameservers),
            (Found::Pod(pod), _) => self.addresses(owner, of, &[*pod]),
            (Found::Service(records), _) => match &**records {
                Records::ClusterIp { addresses, .. } => self.addresses(owner, of, addresses),
                Records::Headless(headless) => self.addresses(owner, of, &headless.addresses),
                Records::ExternalName(_) => {}
            },
            (Found::Host(records, label), _) => {
                if let Records::Headless(headless) = &**records
                    && let Some(addresses) = headless.hosts.get(&**label)
                {
                    let addresses: Vec<_> = addresses.iter().copied().collect();
                    self.addresses(owner, of, &addresses);
                }
            }
            (Found::Port(records, protocol, name), RecordType::SRV) => {
                self.servers(owner, records, *protocol, name);
            }
            _ => {}
        }
    }

    /// Adds this server as that of a zone.
    fn nameserver(&mut self, rules: &Rules, owner: &Name) {
        let server = rules.domain.nameserver().clone();
        let addresses = rules.nameservers.iter();
        let additional = addresses.map(|of| address(server.clone(), *of));
        self.message.additionals.extend(additional);
        let data = RData::NS(NS(server));
        self.message
            .answers
            .push(Record::from_rdata(owner.clone(), TTL, data));
    }

    /// Adds the addresses of the type's family.
    fn addresses(&mut self, owner: &Name, of: RecordType, addresses: &[IpAddr]) {
        // Those of IPv4 are first if the list is sorted, but a Service may begin with IPv6.
        let wanted = |address: &&IpAddr| match of {
            RecordType::A => address.is_ipv4(),
            RecordType::AAAA => address.is_ipv6(),
            _ => false,
        };
        let most = self.most();
        let wanted: Vec<_> = addresses.iter().filter(wanted).copied().collect();
        self.cut |= wanted.len() > most;
        let chosen = rotated(&wanted, self.start(), most);
        let records = chosen.map(|one| address(owner.clone(), *one));
        self.message.answers.extend(records);
    }

    /// Adds the servers of a port, and their addresses.
    fn servers(&mut self, owner: &Name, records: &Arc<Records>, protocol: Protocol, port: &str) {
        // The name without `_PORT._PROTOCOL`, as the client spelled it.
        let service = owner.base_name().base_name();
        let record = |target: Name, port: u16, weight: u16| {
            let data = RData::SRV(SRV::new(0, weight, port, target));
            Record::from_rdata(owner.clone(), TTL, data)
        };
        match &**records {
            Records::ClusterIp { addresses, ports } => {
                let found = ports
                    .iter()
                    .find(|one| one.protocol == protocol && one.name.as_str() == port);
                if let Some(found) = found {
                    let answer = record(service.clone(), found.number, 100);
                    self.message.answers.push(answer);
                    let additional = addresses.iter().map(|of| address(service.clone(), *of));
                    self.message.additionals.extend(additional);
                }
            }
            Records::Headless(headless) => {
                let found = headless
                    .servers
                    .iter()
                    .find(|((of, name), _)| *of == protocol && name.as_str() == port);
                let Some((_, servers)) = found else {
                    return;
                };
                let servers: Vec<_> = servers.iter().collect();
                let most = self.most();
                self.cut |= servers.len() > most;
                let weight = u16::try_from(100 / servers.len().max(1))
                    .unwrap_or(1)
                    .max(1);
                for (label, number) in rotated(&servers, self.start(), most).copied() {
                    let Ok(target) = service.prepend_label(label.as_bytes()) else {
                        continue;
                    };
                    if !self.cut {
                        let addresses = headless.hosts.get(label).into_iter().flatten();
                        let additional = addresses.map(|of| address(target.clone(), *of));
                        self.message.additionals.extend(additional);
                    }
                    self.message.answers.push(record(target, *number, weight));
                }
            }
            Records::ExternalName(_) => {}
        }
    }

    /// The record that lets a client remember that there is nothing (RFC 2308).
    fn negative(&mut self, zone: &Zone, rules: &Rules, owner: Name) {
        self.message.authorities.push(soa(zone, rules, owner));
    }

    /// Adds what an upstream server answered for the target of an alias.
    pub(super) fn follow(mut self, answer: Message) -> (Vec<u8>, ResponseCode) {
        let most = self.most();
        let code = answer.metadata.response_code;
        self.cut |= answer.metadata.truncation;
        self.message.metadata.truncation |= answer.metadata.truncation;
        // Without it, a client does not remember that there is nothing (RFC 2308).
        let authorities = answer.authorities.into_iter();
        let soa = authorities.filter(|record| record.record_type() == RecordType::SOA);
        self.message.authorities.extend(soa.take(1));
        let more = answer.answers.into_iter().take(most);
        self.message.answers.extend(more);
        self.message.metadata.authoritative = false;
        match code {
            ResponseCode::NoError | ResponseCode::NXDomain => self.encode(code),
            _ => self.fail(),
        }
    }

    /// No upstream server answered.
    pub(super) fn fail(mut self) -> (Vec<u8>, ResponseCode) {
        self.message.answers.clear();
        self.message.metadata.authoritative = false;
        self.encode(ResponseCode::ServFail)
    }

    /// The answer that makes the client ask over TCP.
    pub(super) fn truncated(mut self) -> (Vec<u8>, ResponseCode) {
        self.cut = true;
        self.encode(ResponseCode::NoError)
    }
}

/// Whether hickory left records out, because they exceed what any message can hold.
fn is_cut(bytes: &[u8]) -> bool {
    bytes.get(2).is_some_and(|flags| flags & 0x02 != 0)
}

fn soa(zone: &Zone, rules: &Rules, owner: Name) -> Record {
    let serial = rules.serial.wrapping_add(zone.changes());
    let (server, mailbox) = (
        rules.domain.nameserver().clone(),
        rules.domain.mailbox().clone(),
    );
    // Nobody transfers the zone: the intervals are CoreDNS's.
    let data = SOA::new(server, mailbox, serial, 7_200, 1_800, 86_400, TTL);
    Record::from_rdata(owner, TTL, RData::SOA(data))
}
