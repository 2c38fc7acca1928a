//! The attributes of statistics, in 32 and in 64 bits.

use super::attribute::{Attribute, Decoded, Sink, keep_unknown, put_fixed};
use crate::{Rates, Statistics, UnknownAttribute};

const IPVS_STATS_ATTR_CONNS: u16 = 1;
const IPVS_STATS_ATTR_INPKTS: u16 = 2;
const IPVS_STATS_ATTR_OUTPKTS: u16 = 3;
const IPVS_STATS_ATTR_INBYTES: u16 = 4;
const IPVS_STATS_ATTR_OUTBYTES: u16 = 5;
const IPVS_STATS_ATTR_CPS: u16 = 6;
const IPVS_STATS_ATTR_INPPS: u16 = 7;
const IPVS_STATS_ATTR_OUTPPS: u16 = 8;
const IPVS_STATS_ATTR_INBPS: u16 = 9;
const IPVS_STATS_ATTR_OUTBPS: u16 = 10;
/// Aligns the 64-bit value after it.
const IPVS_STATS_ATTR_PAD: u16 = 11;

/// Statistics in 32 bits and, from Linux 4.1, also in 64.
#[derive(Default)]
pub(super) struct StatisticsParser<'a> {
    pub(super) bits_32: Option<Attribute<'a>>,
    pub(super) bits_64: Option<Attribute<'a>>,
}

impl StatisticsParser<'_> {
    /// Reads the wider of the two, which have the same counters, and those it does not know.
    pub(super) fn finish(self) -> Decoded<(Option<Statistics>, Vec<UnknownAttribute>)> {
        let mut unknown = Vec::new();
        let stats = self.bits_64.or(self.bits_32);
        let stats = stats.map(|attribute| parse(attribute, &mut unknown));
        Ok((stats.transpose()?, unknown))
    }
}

fn parse(attribute: Attribute<'_>, unknown: &mut Vec<UnknownAttribute>) -> Decoded<Statistics> {
    let mut stats = Statistics::default();
    for attribute in attribute.nested("statistics") {
        let attribute = attribute?;
        let Statistics { rates, .. } = &mut stats;
        let counter = match attribute.kind {
            IPVS_STATS_ATTR_CONNS => &mut stats.connections,
            IPVS_STATS_ATTR_INPKTS => &mut stats.incoming_packets,
            IPVS_STATS_ATTR_OUTPKTS => &mut stats.outgoing_packets,
            IPVS_STATS_ATTR_INBYTES => &mut stats.incoming_bytes,
            IPVS_STATS_ATTR_OUTBYTES => &mut stats.outgoing_bytes,
            IPVS_STATS_ATTR_CPS => &mut rates.connections,
            IPVS_STATS_ATTR_INPPS => &mut rates.incoming_packets,
            IPVS_STATS_ATTR_OUTPPS => &mut rates.outgoing_packets,
            IPVS_STATS_ATTR_INBPS => &mut rates.incoming_bytes,
            IPVS_STATS_ATTR_OUTBPS => &mut rates.outgoing_bytes,
            IPVS_STATS_ATTR_PAD => continue,
            _ => {
                keep_unknown(unknown, attribute);
                continue;
            }
        };
        *counter = attribute.counter("counter")?;
    }
    Ok(stats)
}

pub(super) fn put_statistics64<S: Sink>(sink: &mut S, stats: &Statistics) {
    let Rates {
        connections,
        incoming_packets,
        outgoing_packets,
        incoming_bytes,
        outgoing_bytes,
    } = stats.rates;
    for (kind, counter) in [
        (IPVS_STATS_ATTR_CONNS, stats.connections),
        (IPVS_STATS_ATTR_INPKTS, stats.incoming_packets),
        (IPVS_STATS_ATTR_OUTPKTS, stats.outgoing_packets),
        (IPVS_STATS_ATTR_INBYTES, stats.incoming_bytes),
        (IPVS_STATS_ATTR_OUTBYTES, stats.outgoing_bytes),
        (IPVS_STATS_ATTR_CPS, connections),
        (IPVS_STATS_ATTR_INPPS, incoming_packets),
        (IPVS_STATS_ATTR_OUTPPS, outgoing_packets),
        (IPVS_STATS_ATTR_INBPS, incoming_bytes),
        (IPVS_STATS_ATTR_OUTBPS, outgoing_bytes),
    ] {
        put_fixed(sink, kind, counter.to_ne_bytes());
    }
}
