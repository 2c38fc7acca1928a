use std::net::IpAddr;

use super::*;
use crate::desired::Place;

fn backend(last: u8, weight: u16) -> Backend {
    Backend {
        address: IpAddr::from([10, 0, 0, last]),
        port: 80.try_into().unwrap(),
        place: Place::Elsewhere,
        weight: weight.try_into().unwrap(),
    }
}

fn numbers(before: &[u8], now: &[(u8, u16)]) -> Vec<u8> {
    let before = before.iter().zip(0..);
    let before = before.map(|(last, number)| (number, Target::from(&backend(*last, 1))));
    let backends: Vec<_> = now
        .iter()
        .map(|(last, weight)| backend(*last, *weight))
        .collect();
    let numbered = number(&backends, &before.collect());
    let last = |to: &Target| match to.address {
        IpAddr::V4(address) => address.octets()[3],
        IpAddr::V6(_) => 0,
    };
    numbered.iter().map(last).collect()
}

#[test]
fn endpoints_keep_their_numbers() {
    assert_eq!(numbers(&[], &[(1, 1), (2, 1), (3, 1)]), [1, 2, 3]);
    // The last one takes the place of one that goes.
    assert_eq!(numbers(&[1, 2, 3], &[(2, 1), (3, 1)]), [3, 2]);
    assert_eq!(numbers(&[3, 2], &[(2, 1), (3, 1), (9, 1)]), [3, 2, 9]);
    // One goes, another one comes.
    assert_eq!(numbers(&[3, 2, 9], &[(1, 1), (3, 1), (9, 1)]), [3, 1, 9]);
}

#[test]
fn weights_are_numbers_of_shares() {
    assert_eq!(numbers(&[], &[(1, 2), (2, 1)]), [1, 1, 2]);
    // Only their ratio counts.
    assert_eq!(numbers(&[], &[(1, 30), (2, 10)]), [1, 1, 1, 2]);
    assert_eq!(numbers(&[1, 1, 1, 2], &[(1, 1), (2, 1)]), [1, 2]);
    // Each gets a share, and there is a limit.
    let many = numbers(&[], &[(1, 65_535), (2, 65_534), (3, 1)]);
    assert!(u64::try_from(many.len()).unwrap() <= MOST_NUMBERS + 3);
    let share = |of| many.iter().filter(|last| **last == of).count();
    assert_eq!(share(3), 1);
    assert!(
        share(1).abs_diff(share(2)) <= 1,
        "{} {}",
        share(1),
        share(2)
    );
}

/// Clients with session affinity know their endpoint by its lasting number.
#[test]
fn lasting_numbers_do_not_depend_on_other_endpoints() {
    let target = |last| Target::from(&backend(last, 1));
    let all: BTreeSet<_> = (1..=200).map(target).collect();
    let numbers = lasting(&all, &BTreeMap::new());
    let distinct: BTreeSet<_> = numbers.values().collect();
    assert_eq!(distinct.len(), 200);
    assert!(
        distinct
            .iter()
            .all(|number| (LASTING..2 * LASTING).contains(*number))
    );
    let one = lasting(&[target(7)].into(), &BTreeMap::new());
    assert_eq!(one[&target(7)], numbers[&target(7)]);
    // A number that another endpoint has is not given twice, and one that an endpoint has stays.
    let taken = [(target(1), numbers[&target(7)])].into();
    let two = lasting(&[target(1), target(7)].into(), &taken);
    assert_eq!(two[&target(1)], numbers[&target(7)]);
    assert_eq!(two[&target(7)], numbers[&target(7)] + 1);
}
