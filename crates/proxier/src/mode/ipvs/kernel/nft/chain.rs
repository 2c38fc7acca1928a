//! Encodes chains for the kernel, and compares them with its listing.

use netlink::uapi::*;
use netlink::{Attributes, Malformed, Writer};

use crate::mode::ipvs::rules::{Chain, Hook, HookPoint, TABLE};

pub(super) fn put_chain(writer: &mut Writer, sequence: u32, chain: &Chain) {
    let flags = NLM_F_REQUEST | NLM_F_CREATE;
    writer.message(NFT_MSG_NEWCHAIN, flags, sequence, |w| {
        w.text(NFTA_CHAIN_TABLE, TABLE);
        w.text(NFTA_CHAIN_NAME, chain.name);
        if let Some(hook) = chain.hook {
            put_hook(w, hook);
        }
    });
}

/// Attaches a chain to a hook.
pub(crate) fn put_hook(w: &mut Writer, hook: Hook) {
    w.text(NFTA_CHAIN_TYPE, hook.kind.name());
    w.number(NFTA_CHAIN_POLICY, NF_ACCEPT);
    w.nested(NFTA_CHAIN_HOOK, |w| {
        w.number(NFTA_HOOK_HOOKNUM, hook_number(hook.point));
        w.put(NFTA_HOOK_PRIORITY, &hook.priority.to_be_bytes());
    });
}

const fn hook_number(point: HookPoint) -> u32 {
    match point {
        HookPoint::Prerouting => 0,
        HookPoint::Input => 1,
        HookPoint::Forward => 2,
        HookPoint::Output => 3,
        HookPoint::Postrouting => 4,
    }
}

/// The definition of a chain in the kernel's listing, without rules.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct ChainDefinition {
    name: String,
    base: Option<BaseChain>,
}

/// The part of a definition that attaches a chain to a hook.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
struct BaseChain {
    kind: Option<String>,
    hook: u32,
    priority: i32,
    policy: Option<u32>,
}

impl ChainDefinition {
    pub(super) fn of(chain: &Chain) -> Self {
        Self::new(chain.name.to_owned(), chain.hook)
    }

    pub(crate) fn new(name: String, hook: Option<Hook>) -> Self {
        Self {
            name,
            base: hook.map(|hook| BaseChain {
                kind: Some(hook.kind.name().to_owned()),
                hook: hook_number(hook.point),
                priority: hook.priority,
                policy: Some(NF_ACCEPT),
            }),
        }
    }

    /// The definition of a chain with this name.
    pub(crate) fn parse(name: &str, chain: Attributes<'_>) -> Result<Self, Malformed> {
        let base = match chain.nested(NFTA_CHAIN_HOOK)? {
            None => None,
            Some(hook) => Some(BaseChain {
                kind: chain.text(NFTA_CHAIN_TYPE).map(str::to_owned),
                hook: hook.require(NFTA_HOOK_HOOKNUM)?.number()?,
                priority: i32::from_be_bytes(hook.require(NFTA_HOOK_PRIORITY)?.array()?),
                policy: chain.number(NFTA_CHAIN_POLICY)?,
            }),
        };
        let name = name.to_owned();
        Ok(Self { name, base })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mode::ipvs::rules::ChainKind;

    #[test]
    fn every_part_of_a_definition_counts() {
        let hook = Hook {
            kind: ChainKind::Filter,
            point: HookPoint::Input,
            priority: -20,
        };
        let chain = |hook| Chain {
            name: "input",
            hook,
            rules: Vec::new(),
        };
        let read = |hook| {
            let mut writer = Writer::default();
            put_chain(&mut writer, 1, &chain(hook));
            // Skips the headers of netlink and nfnetlink.
            let attributes = Attributes::parse(&writer.bytes()[20..]).unwrap();
            ChainDefinition::parse("input", attributes).unwrap()
        };
        let wanted = ChainDefinition::of(&chain(Some(hook)));
        assert_eq!(read(Some(hook)), wanted);
        assert_eq!(read(None), ChainDefinition::of(&chain(None)));
        for other in [
            None,
            Some(Hook {
                kind: ChainKind::Nat,
                ..hook
            }),
            Some(Hook {
                point: HookPoint::Output,
                ..hook
            }),
            Some(Hook {
                priority: 20,
                ..hook
            }),
        ] {
            assert_ne!(read(other), wanted);
        }
    }
}
