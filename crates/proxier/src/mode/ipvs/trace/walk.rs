//! Evaluates chains: the statements of each rule, in order, as the kernel does.

use super::lookup::Lookup;
use super::passing::{DEPTH, End, Flow, Passing, Verdict, below};
use crate::mode::ipvs::rules::{Chain, ChainKind, HookPoint, REFUSED, Rule, Set, Statement};
use crate::mode::trace::Step;

/// A packet on its way through the chains.
pub(super) struct Walker<'a> {
    pub(super) chains: &'a [Chain],
    pub(super) lookup: Lookup<'a>,
    pub(super) passing: Passing<'a>,
    pub(super) steps: Vec<Step>,
    pub(super) owner: Option<String>,
}

impl Walker<'_> {
    /// Passes the chains of a hook whose priority and kind `are_passed`.
    pub(super) fn hook(
        &mut self,
        point: HookPoint,
        are_passed: impl Fn(i32, ChainKind) -> bool,
    ) -> Verdict {
        let chains = self.chains;
        let hooked = chains.iter().filter_map(|chain| Some((chain.hook?, chain)));
        let mut hooked: Vec<_> = hooked
            .filter(|(hook, _)| hook.point == point && are_passed(hook.priority, hook.kind))
            .collect();
        hooked.sort_by_key(|(hook, _)| hook.priority);
        for (hook, chain) in hooked {
            let place = format!("{} ({})", chain.name, hook.priority);
            match self.chain(chain.name, point.name(), &place, DEPTH) {
                End::Continue | End::Verdict(Verdict::Accept) => {}
                End::Verdict(verdict) => return verdict,
            }
        }
        Verdict::Accept
    }

    fn chain(&mut self, name: &str, hook: &'static str, place: &str, depth: usize) -> End {
        let chains = self.chains;
        let chain = chains.iter().find(|chain| chain.name == name);
        let (Some(chain), Some(deeper)) = (chain, depth.checked_sub(1)) else {
            return End::Continue;
        };
        for rule in &chain.rules {
            match self.rule(rule, hook, place) {
                Flow::Next | Flow::NoMatch => {}
                Flow::Return => return End::Continue,
                Flow::Verdict(verdict) => return End::Verdict(verdict),
                Flow::Goto(to) => {
                    let place = below(place, to);
                    return self.chain(to, hook, &place, deeper);
                }
                Flow::Jump(to) => {
                    let place = below(place, to);
                    if let End::Verdict(verdict) = self.chain(to, hook, &place, deeper) {
                        return End::Verdict(verdict);
                    }
                }
            }
        }
        End::Continue
    }

    fn rule(&mut self, rule: &Rule, hook: &'static str, place: &str) -> Flow {
        let mut effects = Vec::new();
        let mut owner = None;
        let mut end = Flow::Next;
        for statement in rule.statements() {
            end = self.statement(statement, &mut effects, &mut owner);
            if !matches!(end, Flow::Next) {
                break;
            }
        }
        if matches!(end, Flow::NoMatch) {
            return end;
        }
        // Rules that only lead to another chain are not worth a line.
        if !effects.is_empty() {
            self.owner = self.owner.take().or(owner);
            self.steps.push(Step {
                hook,
                place: place.to_owned(),
                rule: rule.to_string(),
                effect: effects.join(", "),
            });
        }
        end
    }

    /// Whether a packet matches, or what a statement does with it.
    fn statement(
        &mut self,
        statement: &Statement,
        effects: &mut Vec<String>,
        owner: &mut Option<String>,
    ) -> Flow {
        let matching = |matches| if matches { Flow::Next } else { Flow::NoMatch };
        match statement {
            Statement::In(set) => match self.look_up(*set) {
                Some((comment, _)) => {
                    *owner = owner.take().or(comment);
                    Flow::Next
                }
                None => Flow::NoMatch,
            },
            Statement::NotIn(set) => matching(self.look_up(*set).is_none()),
            Statement::SourceNetworkIn(set, length) => {
                let packet = &self.passing.packet;
                matching(
                    set.family() == packet.family() && self.lookup.is_in_range(packet, *length),
                )
            }
            Statement::MarkFrom(set) => match self.look_up(*set) {
                Some((comment, Some(mark))) => {
                    self.passing.mark = mark;
                    *owner = owner.take().or(comment);
                    effects.push(format!("sets the mark {mark:#010x}"));
                    Flow::Next
                }
                _ => Flow::NoMatch,
            },
            Statement::Jump(_) | Statement::Goto(_) => {
                // What is refused is decided here, where the Service is known.
                self.owner = self.owner.take().or(owner.take());
                if *statement == Statement::Goto(REFUSED) {
                    effects.push("is to be refused".to_owned());
                }
                self.passing.statement(statement, effects)
            }
            other => self.passing.statement(other, effects),
        }
    }

    fn look_up(&self, set: Set) -> Option<(Option<String>, Option<u32>)> {
        let packet = &self.passing.packet;
        if set.has_address() && set.family() != packet.family() {
            return None;
        }
        let found = self.lookup.find(set, packet)?;
        let comment = found.comment.map(|comment| comment.to_string());
        Some((comment, found.mark.map(Into::into)))
    }

    /// Records what is no rule.
    pub(super) fn note(&mut self, hook: &'static str, place: &str, effect: impl Into<String>) {
        self.steps.push(Step {
            hook,
            place: place.to_owned(),
            rule: String::new(),
            effect: effect.into(),
        });
    }
}
