//! Bits of packet marks.

use std::num::NonZeroU32;

use super::ConfigError;

/// The bits of a packet's mark that svcproxy uses.
///
/// A mark has 32 bits, which all programs that handle packets on a node share. Known uses:
/// kube-proxy 0x4000 (masquerade) and 0x8000 (drop); Cilium 0x0f00 and, with identities,
/// 0xffff0000; Calico 0xffff0000 by default (`iptablesMarkMask`), of which it takes what it needs,
/// from the top or the bottom by version. The bits of the numbers are set on a packet only from the
/// input hook until IPVS, where neither Calico nor Cilium reads the mark. The lowest bit of the
/// mask and the masquerade bit are set from prerouting to postrouting, so no other program may use
/// them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Marks {
    masquerade: u32,
    mask: u32,
}

impl Marks {
    /// Marks with this masquerade bit and these free bits. The lowest free bit marks svcproxy's
    /// packets; the others number virtual servers.
    ///
    /// # Errors
    ///
    /// If the mask contains the masquerade bit, or has fewer than 9 bits.
    pub fn new(masquerade_bit: u8, mask: u32) -> Result<Self, ConfigError> {
        let masquerade = 1u32.checked_shl(masquerade_bit.into());
        match masquerade {
            Some(masquerade) if mask & masquerade == 0 && mask.count_ones() >= 9 => {
                Ok(Self { masquerade, mask })
            }
            _ => Err(ConfigError::Marks {
                masquerade_bit,
                mask,
            }),
        }
    }

    /// The masquerade bit.
    pub const fn masquerade(self) -> u32 {
        self.masquerade
    }

    /// svcproxy's bits, without the masquerade bit.
    pub const fn mask(self) -> u32 {
        self.mask
    }

    /// The bit of packets that svcproxy delivers to this node or sends to a firewall-mark virtual
    /// server.
    pub const fn own(self) -> u32 {
        self.mask & self.mask.wrapping_neg()
    }

    /// The mark of packets that are delivered to this node although the address may be another
    /// node's.
    pub const fn captured(self, masquerade: bool) -> u32 {
        self.own() | if masquerade { self.masquerade } else { 0 }
    }

    /// The `n`th mark for a virtual server, from 1; `None` after the last one.
    pub fn number(self, n: u32, masquerade: bool) -> Option<NonZeroU32> {
        let bits = self.mask & !self.own();
        let mut left = n;
        let mut mark = self.captured(masquerade);
        for bit in (0..u32::BITS)
            .map(|bit| 1 << bit)
            .filter(|bit| bits & bit != 0)
        {
            if left & 1 == 1 {
                mark |= bit;
            }
            left >>= 1;
        }
        NonZeroU32::new(mark).filter(|_| n > 0 && left == 0)
    }

    /// Whether [`number`](Self::number) can return this mark.
    pub(crate) const fn is_number(self, mark: NonZeroU32, masquerade: bool) -> bool {
        let mark = mark.get();
        let fixed = self.captured(masquerade);
        let free = self.mask & !self.own();
        mark & !free == fixed && mark & free != 0
    }
}

impl Default for Marks {
    /// Masquerade bit 0x4000, as in kube-proxy; mask 0xffff2000.
    fn default() -> Self {
        Self {
            masquerade: 0x4000,
            mask: 0xffff_2000,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_spread_over_the_mask() {
        let marks = Marks::default();
        assert_eq!(marks.own(), 0x2000);
        assert_eq!(marks.number(0, false), None);
        assert_eq!(marks.number(1, false).unwrap().get(), 0x0001_2000);
        assert_eq!(marks.number(0xffff, true).unwrap().get(), 0xffff_6000);
        assert_eq!(marks.number(0x1_0000, true), None);
        let sparse = Marks::new(0, 0x0f0f_00f0).unwrap();
        assert_eq!(
            sparse.number(0b1001, true).unwrap().get(),
            0x0001_0020 | 0x11
        );
        for n in 1..0x800 {
            let mark = sparse.number(n, true).unwrap();
            assert!(sparse.is_number(mark, true) && !sparse.is_number(mark, false));
        }
        assert!(!marks.is_number(NonZeroU32::new(0x2000).unwrap(), false));
    }

    #[test]
    fn unusable_marks_are_rejected() {
        assert!(Marks::new(14, 0xffff_4000).is_err(), "the masquerade bit");
        assert!(Marks::new(32, 0xffff_0000).is_err(), "no bit of 32");
        assert!(Marks::new(14, 0xff).is_err(), "too few");
    }
}
