//! Any text as the output of iptables-save: what svcproxy removes has only its own names, and is as much
//! after reading it twice.
#![no_main]

use ipvs::Family;
use libfuzzer_sys::fuzz_target;
use proxier::mode::iptables::{Counters, Rules, Transaction};

fuzz_target!(|saved: &str| {
    let rules = Rules::parse(saved);
    let _ = Counters::parse(saved);
    let is_plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    for (_, name) in rules.chains() {
        let name = name.as_str();
        assert!(
            name.starts_with("SVCPROXY-") && name.chars().all(is_plain),
            "{name:?}"
        );
    }
    let removal = Transaction::removal(Family::V4, &rules);
    let text = removal.to_string();
    for line in text.lines().filter(|line| line.starts_with([':', '-'])) {
        assert!(line.contains("SVCPROXY-"), "{line:?}");
    }
    assert_eq!(removal.is_empty(), rules.is_empty());
    // Doubled input has the same chains.
    let twice = Rules::parse(&format!("{saved}\n{saved}"));
    assert!(
        rules
            .chains()
            .all(|(table, name)| twice.chains().any(|other| other == (table, name)))
    );
});
