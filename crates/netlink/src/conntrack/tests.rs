use proptest::prelude::*;

use super::*;

// Listed by Linux 6.18 after, in a namespace of its own,
//
// nft add rule ip t out ip daddr 10.96.0.10 udp dport 53 dnat to 192.0.2.1:5300
// nft add rule ip6 t out ip6 daddr fd00:10:96::a udp dport 53 dnat to [2001:db8::1]:5300
// nft add rule ip t raw udp dport 5353 ct zone set 7
// nft add rule ip t raw udp dport 5454 ct original zone set 9
//
// and a datagram from 192.0.2.1:40000 (2001:db8::1) to each; without `struct nfgenmsg`.
const TRANSLATED: &str = "\
    340001801400018008000100c0000201080002000a60000a1c0002800500010011000000060002009c400000\
    0600030000350000340002801400018008000100c000020108000200c00002011c0002800500010011000000\
    0600020014b40000060003009c40000008000300000001a8080008000000000008000c00c8c29b2308000b00\
    00000001080007000000001d";
const TRANSLATED_V6: &str = "\
    4c0001802c0001801400030020010db800000000000000000000000114000400fd0000100096000000000000\
    0000000a1c0002800500010011000000060002009c40000006000300003500004c0002802c00018014000300\
    20010db80000000000000000000000011400040020010db80000000000000000000000011c00028005000100\
    110000000600020014b40000060003009c40000008000300000001a8080008000000000008000c00ba1d1e0c\
    08000b0000000001080007000000001d";
const IN_ZONE: &str = "\
    340001801400018008000100c000020108000200c00002011c0002800500010011000000060002009c400000\
    0600030014e90000340002801400018008000100c000020108000200c00002011c0002800500010011000000\
    0600020014e90000060003009c4000000600120000070000080003000000018808000800000000000800\
    0c00f4e5232508000b0000000001080007000000001d";
const IN_ZONE_ONE_WAY: &str = "\
    3c0001801400018008000100c000020108000200c00002011c0002800500010011000000060002009c400000\
    06000300154e00000600030000090000340002801400018008000100c000020108000200c00002011c000280\
    050001001100000006000200154e0000060003009c4000000800030000000188080008000000000008000c00\
    2de3f6be08000b0000000001080007000000001d";

fn bytes(hex: &str) -> Vec<u8> {
    let digits: Vec<_> = hex
        .chars()
        .map(|c| u8::try_from(c.to_digit(16).unwrap()).unwrap())
        .collect();
    digits
        .chunks(2)
        .map(|pair| pair[0] << 4 | pair[1])
        .collect()
}

fn parse(bytes: &[u8]) -> Result<Option<Entry<'_>>, Malformed> {
    Entry::parse(Attributes::parse(bytes)?)
}

fn delete(entry: &Entry<'_>) -> Vec<u8> {
    let mut writer = Writer::default();
    entry.name().write_delete(&mut writer, NLM_F_ACK, 5);
    writer.bytes().to_vec()
}

fn address(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

#[test]
fn an_entry_has_destination_and_source_of_answers() {
    for (hex, to, answered_from) in [
        (TRANSLATED, "10.96.0.10:53", "192.0.2.1:5300"),
        (TRANSLATED_V6, "[fd00:10:96::a]:53", "[2001:db8::1]:5300"),
        (IN_ZONE, "192.0.2.1:5353", "192.0.2.1:5353"),
        (IN_ZONE_ONE_WAY, "192.0.2.1:5454", "192.0.2.1:5454"),
    ] {
        let bytes = bytes(hex);
        let entry = parse(&bytes).unwrap().unwrap();
        assert_eq!(entry.protocol, 17);
        assert_eq!(entry.to, address(to));
        assert_eq!(entry.answered_from, address(answered_from));
    }
}

#[test]
fn a_delete_names_the_whole_entry() {
    let bytes = bytes(IN_ZONE);
    let message = delete(&parse(&bytes).unwrap().unwrap());
    let header = "58000000 0201 0500 05000000 00000000 02000000".replace(' ', "");
    let original = &IN_ZONE[..0x34 * 2];
    let (id, zone) = ("08000c00f4e52325", "0600120000070000");
    assert_eq!(
        message,
        self::bytes(&format!("{header}{original}{id}{zone}"))
    );
}

#[test]
fn a_zone_of_one_direction_stays_in_the_tuple() {
    let bytes = bytes(IN_ZONE_ONE_WAY);
    let message = delete(&parse(&bytes).unwrap().unwrap());
    let header = "58000000 0201 0500 05000000 00000000 02000000".replace(' ', "");
    let original = &IN_ZONE_ONE_WAY[..0x3c * 2];
    assert_eq!(
        message,
        self::bytes(&format!("{header}{original}08000c002de3f6be"))
    );
}

#[test]
fn an_incomplete_entry_is_not_accepted() {
    for hex in [TRANSLATED, TRANSLATED_V6, IN_ZONE, IN_ZONE_ONE_WAY] {
        let whole = bytes(hex);
        let entry = parse(&whole).unwrap().unwrap();
        for end in 0..whole.len() {
            // What comes after the id does not matter.
            if let Ok(Some(part)) = parse(&whole[..end]) {
                assert_eq!(part.name(), entry.name(), "{end}");
                assert_eq!(
                    (part.to, part.answered_from),
                    (entry.to, entry.answered_from)
                );
            }
        }
    }
}

#[test]
fn a_list_is_filtered_by_protocol_and_port() {
    let extent = Extent {
        family: Family::V6,
        protocol: 17,
        port: Some(53),
    };
    let mut writer = Writer::default();
    extent.write_list(&mut writer, 9, true);
    let header = "38000000 0101 0103 09000000 00000000 0a000000";
    let tuple = "18000180 14000280 0500010011000000 0600030000350000";
    let filter = "0c001980 08000100 28000000";
    let message = bytes(&format!("{header}{tuple}{filter}").replace(' ', ""));
    assert_eq!(writer.bytes(), message);

    let mut writer = Writer::default();
    extent.write_list(&mut writer, 9, false);
    let header = header.replacen("38", "14", 1).replace(' ', "");
    assert_eq!(writer.bytes(), bytes(&header));
}

proptest! {
    #[test]
    fn arbitrary_listings_do_no_harm(
        hex in prop::sample::select(vec![TRANSLATED, TRANSLATED_V6, IN_ZONE, IN_ZONE_ONE_WAY]),
        changes in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 0..6),
        end in any::<prop::sample::Index>(),
    ) {
        let mut bytes = bytes(hex);
        for (at, value) in changes {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        bytes.truncate(end.index(bytes.len() + 1));
        if let Ok(Some(entry)) = parse(&bytes) {
            // The kernel sees an original tuple, so it does not empty the table.
            let message = delete(&entry);
            let tuple = Attributes::parse(&message[20..]).unwrap().iter().next().unwrap();
            prop_assert_eq!(tuple.kind, CTA_TUPLE_ORIG);
            prop_assert!(tuple.value.starts_with(entry.original) && !entry.original.is_empty());
        }
    }
}
