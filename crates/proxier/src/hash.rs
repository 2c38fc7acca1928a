//! A hash that is the same on every machine and in every version of svcproxy.

const FNV_OFFSET_BASIS: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// The 64-bit FNV-1a hash (draft-eastlake-fnv).
pub(crate) fn fnv1a(bytes: impl IntoIterator<Item = u8>) -> u64 {
    let step = |hash: u64, byte: u8| (hash ^ u64::from(byte)).wrapping_mul(FNV_PRIME);
    bytes.into_iter().fold(FNV_OFFSET_BASIS, step)
}

/// Makes every bit of a hash depend on all other bits, with the finalizer of MurmurHash3
/// (`fmix64`). In FNV-1a, the last bytes hardly change the upper bits, and so hardly change the
/// order of hashes.
pub(crate) const fn spread(hash: u64) -> u64 {
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xff51_afd7_ed55_8ccd);
    let hash = (hash ^ (hash >> 33)).wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    hash ^ (hash >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_fnv_1a() {
        // Test vectors of the draft.
        assert_eq!(fnv1a([]), 0xcbf2_9ce4_8422_2325);
        assert_eq!(fnv1a(*b"foobar"), 0x8594_4171_f739_67e8);
    }

    #[test]
    fn one_bit_of_the_last_byte_moves_half_of_a_spread_hash() {
        for last in *b"bcde" {
            let [one, other] = [[0, b'a'], [0, last]].map(|bytes| spread(fnv1a(bytes)));
            assert!((20..44).contains(&(one ^ other).count_ones()), "{last}");
        }
    }
}
