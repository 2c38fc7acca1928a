//! The weights that an annotation gives to endpoints.

use std::net::IpAddr;

use super::super::api::Metadata;
use super::super::api::annotation::WEIGHT;
use super::Findings;
use super::address::parse_address;
use crate::model::Endpoint;

/// Sets the weights of an object's endpoints by its annotation: a number for all of them, or
/// `ADDRESS=NUMBER` for one, separated by commas. Unusable parts are noted and change nothing.
pub(super) fn weigh(endpoints: &mut [Endpoint], metadata: &Metadata, findings: &mut Findings) {
    let Some(text) = metadata.annotation(WEIGHT) else {
        return;
    };
    let (mut all, mut of_one) = (None, Vec::new());
    for part in text.split(',').map(str::trim) {
        match parse(part) {
            Some((None, weight)) => all = Some(weight),
            Some((Some(address), weight)) => of_one.push((address, weight)),
            None => findings.note(
                format_args!("metadata.annotations[{WEIGHT}]"),
                format_args!(
                    "not used: {part:?} is neither a weight from 0 to 65535 nor ADDRESS=WEIGHT"
                ),
            ),
        }
    }
    for endpoint in endpoints {
        let own = of_one.iter().rfind(|(of, _)| *of == endpoint.address);
        let weight = own.map(|(_, weight)| *weight).or(all);
        endpoint.weight = weight.unwrap_or(endpoint.weight);
    }
}

fn parse(part: &str) -> Option<(Option<IpAddr>, u16)> {
    let (address, weight) = match part.split_once('=') {
        Some((address, weight)) => (Some(parse_address(address.trim())?), weight.trim()),
        None => (None, part),
    };
    // `parse` would accept a sign.
    let is_number = weight.bytes().all(|byte| byte.is_ascii_digit());
    Some((address, weight.parse().ok().filter(|_| is_number)?))
}
