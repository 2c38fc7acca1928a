//! Filters in the text of iptables-save, for legacy iptables, which netlink does not show.

use std::collections::BTreeMap;

use ipvs::Family;
use netlink::filter::{BaseChain, Condition, Hook, Rule, TableFamily, Verdict};
use netlink::uapi::{NF_CT_STATE_ESTABLISHED, NF_CT_STATE_NEW, NF_CT_STATE_RELATED};

use super::Filter;

/// The filters of table `filter`, and the number of all rules of other programs.
pub(super) fn filters(saved: &str, family: Family) -> (Vec<Filter>, usize) {
    let mut rules = BTreeMap::<String, Vec<Rule>>::new();
    let mut bases = Vec::new();
    let (mut table, mut count) = ("", 0);
    for line in saved.lines() {
        if let Some(name) = line.strip_prefix('*') {
            table = name;
        } else if line.starts_with("-A ") && !line.contains("SVCP") {
            count += 1;
        }
        if table != "filter" {
            continue;
        }
        if let Some(chain) = line.strip_prefix(':') {
            bases.extend(base(chain, family));
        } else if let Some((chain, rule)) = line.strip_prefix("-A ").and_then(|l| l.split_once(' '))
        {
            rules.entry(chain.to_owned()).or_default().push(parse(rule));
        }
    }
    let filters = bases.into_iter().map(|base| Filter {
        is_legacy: true,
        ..Filter::new(base, rules.clone())
    });
    (filters.collect(), count)
}

/// A chain at a hook: `INPUT DROP [0:0]`.
fn base(line: &str, family: Family) -> Option<BaseChain> {
    let (name, rest) = line.split_once(' ')?;
    let hook = match name {
        "INPUT" => Hook::Input,
        "FORWARD" => Hook::Forward,
        _ => return None,
    };
    Some(BaseChain {
        family: match family {
            Family::V4 => TableFamily::V4,
            Family::V6 => TableFamily::V6,
        },
        table: "filter".to_owned(),
        name: name.to_owned(),
        hook,
        priority: 0,
        drops: rest.starts_with("DROP"),
    })
}

/// A rule without its chain.
fn parse(rule: &str) -> Rule {
    let mut conditions = Vec::new();
    let mut verdict = Verdict::Continue;
    let mut words = rule.split(' ');
    while let Some(word) = words.next() {
        match word {
            "-j" | "-g" => {
                let target = words.next().unwrap_or_default().to_owned();
                verdict = match target.as_str() {
                    "ACCEPT" => Verdict::Accept,
                    "DROP" => Verdict::Drop,
                    "REJECT" => Verdict::Reject,
                    "RETURN" => Verdict::Return,
                    _ if word == "-g" => Verdict::Goto(target),
                    // A target that is no chain has no rules.
                    _ => Verdict::Jump(target),
                };
                break;
            }
            "-m" => match words.next() {
                Some("conntrack" | "state" | "comment") => {}
                _ => conditions.push(Condition::Other),
            },
            "--comment" => skip_text(&mut words),
            "--ctstate" | "--state" => {
                let states = words.next().unwrap_or_default().split(',');
                let bits = states.map(|state| match state {
                    "NEW" => NF_CT_STATE_NEW,
                    "ESTABLISHED" => NF_CT_STATE_ESTABLISHED,
                    "RELATED" => NF_CT_STATE_RELATED,
                    _ => 0,
                });
                conditions.push(Condition::State(bits.fold(0, |all, bit| all | bit)));
            }
            _ => conditions.push(Condition::Other),
        }
    }
    Rule {
        conditions,
        verdict,
    }
}

/// Skips a text, which may be quoted and contain escaped quotes.
fn skip_text<'a>(words: &mut impl Iterator<Item = &'a str>) {
    let Some(first) = words.next() else { return };
    let ends = |word: &str| word.ends_with('"') && !word.ends_with("\\\"");
    if first.starts_with('"') && !(first.len() > 1 && ends(first)) {
        words.find(|word| ends(word));
    }
}
