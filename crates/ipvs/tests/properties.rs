//! Properties of every type: written and read again it is the same, as bytes and as text.

#![allow(clippy::unwrap_used, clippy::indexing_slicing, clippy::panic)]

mod arbitrary;

use arbitrary::*;
use ipvs::*;
use netlink_packet_core::{Emitable, ParseableParametrized};
use netlink_packet_generic::{GenlFamily, GenlHeader};
use proptest::prelude::*;

/// Passes packets on and keeps the first that is no question to the controller.
struct Tap {
    socket: FakeSocket,
    sent: Vec<u8>,
}

impl Transport for &mut Tap {
    fn send(&mut self, packets: &[u8]) -> std::io::Result<()> {
        if self.sent.is_empty() && packets[4..6] != 16u16.to_ne_bytes() {
            self.sent = packets.to_vec();
        }
        self.socket.send(packets)
    }

    fn receive(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        self.socket.receive(buffer)
    }
}

proptest! {
    #[test]
    fn emit_then_parse_is_identity(message in message()) {
        let mut buffer = vec![0xff; message.buffer_len()];
        message.emit(&mut buffer);
        let header = GenlHeader { cmd: message.command(), version: message.version() };
        prop_assert_eq!(Message::parse_with_param(&buffer, header).unwrap(), message);
    }

    #[test]
    fn a_change_is_sent_as_its_message(change in change()) {
        let mut tap = Tap { socket: FakeKernel::new().socket(), sent: Vec::new() };
        let mut client = Client::with_transport(&mut tap).unwrap();
        let invalid = matches!(
            client.change(change),
            Err(error) if matches!(error.kind(), ErrorKind::Invalid(_))
        );
        drop(client);
        if !invalid {
            let message = Message::from(change);
            let mut buffer = vec![0xff; message.buffer_len()];
            message.emit(&mut buffer);
            prop_assert_eq!(tap.sent[16], message.command());
            prop_assert_eq!(&tap.sent[20..], buffer);
        }
    }

    #[test]
    fn a_cut_message_is_an_error_or_a_whole_one(message in message(), cut in 1usize..400) {
        let mut buffer = vec![0; message.buffer_len()];
        message.emit(&mut buffer);
        let cut = buffer.len().saturating_sub(cut);
        // What is left may end between two attributes; then it must mean what it says.
        if let Ok(parsed) = Message::parse(message.command(), &buffer[..cut]) {
            let mut again = vec![0; parsed.buffer_len()];
            parsed.emit(&mut again);
            prop_assert_eq!(Message::parse(parsed.command(), &again), Ok(parsed));
        }
    }

    #[test]
    fn any_bytes_parse_or_are_an_error(command in 0u8..20, bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
        let _ = Message::parse(command, &bytes);
    }

    #[test]
    fn keys_are_their_text(virtual_server in virtual_server_key(), real_server in real_server_key()) {
        prop_assert_eq!(virtual_server.to_string().parse(), Ok(virtual_server));
        prop_assert_eq!(real_server.to_string().parse(), Ok(real_server));
    }

    #[test]
    fn choices_are_their_text(
        protocol in protocol(),
        scheduler in scheduler(),
        engine in "[a-z]{1,15}",
        forwarding in forwarding(),
        checksum in checksum(),
        role in sync_role(),
        mask in 1u32..,
        length in 1u8..=128,
    ) {
        prop_assert_eq!(protocol.to_string().parse(), Ok(protocol));
        prop_assert_eq!(scheduler.to_string().parse(), Ok(scheduler));
        let engine: PersistenceEngine = engine.parse().unwrap();
        prop_assert_eq!(engine.to_string().parse(), Ok(engine));
        prop_assert_eq!(forwarding.to_string().parse(), Ok(forwarding));
        if let Forwarding::Tunnel(tunnel) = forwarding {
            prop_assert_eq!(tunnel.to_string().parse(), Ok(tunnel));
        }
        prop_assert_eq!(checksum.to_string().parse(), Ok(checksum));
        prop_assert_eq!(role.to_string().parse(), Ok(role));
        for netmask in [Netmask::V4(mask.into()), Netmask::V6(length)] {
            prop_assert_eq!(netmask.to_string().parse(), Ok(netmask));
        }
        for family in [Family::V4, Family::V6] {
            prop_assert_eq!(family.to_string().parse(), Ok(family));
        }
    }

    #[test]
    fn no_text_panics(text in ".{0,40}") {
        let _ = text.parse::<VirtualServerKey>();
        let _ = text.parse::<RealServerKey>();
        let _ = text.parse::<Scheduler>();
        let _ = text.parse::<InterfaceName>();
        let _ = text.parse::<Protocol>();
        let _ = text.parse::<PersistenceEngine>();
        let _ = text.parse::<Forwarding>();
        let _ = text.parse::<Tunnel>();
        let _ = text.parse::<Netmask>();
        let _ = ipvsadm::parse(&text);
    }

    #[test]
    fn interface_names_are_their_text(bytes in proptest::collection::vec(1u8.., 1..=15)) {
        let name = InterfaceName::from_bytes(&bytes).unwrap();
        prop_assert_eq!(name.as_bytes(), &bytes[..]);
        if !bytes.contains(&b'/') {
            prop_assert_eq!(name.to_string().parse(), Ok(name));
        }
    }

    #[test]
    fn a_rule_is_one_line(server in virtual_server(), real in real_server()) {
        let rules = [
            ipvsadm::virtual_server(&server).to_string(),
            ipvsadm::real_server(&server.key, &real).to_string(),
        ];
        prop_assert!(rules.iter().all(|rule| !rule.contains('\n')));
    }
}
