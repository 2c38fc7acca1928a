//! The fake kernel's side of netlink.

use std::collections::VecDeque;
use std::io;

use super::{FakeKernel, Fault, State};
use crate::client::Transport;
use crate::error::errno::{EINVAL, ENOENT};
use crate::wire::{
    Body, CONTROLLER, Header, Message, Packet, Packets, put_done, put_error, put_family_reply,
    put_message, put_packet,
};

/// The number of messages of a listing in one datagram.
const MESSAGES_A_DATAGRAM: usize = 16;

/// A socket connected to a [`FakeKernel`].
#[derive(Debug)]
pub struct FakeSocket {
    kernel: FakeKernel,
    replies: VecDeque<Vec<u8>>,
}

impl FakeSocket {
    pub(super) fn new(kernel: FakeKernel) -> Self {
        Self {
            kernel,
            replies: VecDeque::new(),
        }
    }
}

impl Transport for FakeSocket {
    fn send(&mut self, packets: &[u8]) -> io::Result<()> {
        let mut state = self.kernel.state();
        for packet in Packets(packets) {
            let packet =
                packet.map_err(|error| io::Error::new(io::ErrorKind::InvalidInput, error))?;
            if !answer(&mut state, packet, &mut self.replies) {
                break;
            }
        }
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let reply = self.replies.pop_front().ok_or(io::ErrorKind::WouldBlock)?;
        for (place, byte) in buffer.iter_mut().zip(&reply) {
            *place = *byte;
        }
        Ok(reply.len())
    }

    fn reopen(&self) -> io::Result<Self> {
        Ok(self.kernel.socket())
    }
}

/// Answers one request. Returns whether replies still arrive.
fn answer(state: &mut State, packet: Packet<'_>, replies: &mut VecDeque<Vec<u8>>) -> bool {
    let Packet { header, body, .. } = packet;
    let Body::Message {
        command,
        attributes,
    } = body
    else {
        return true;
    };
    let fail = |errno| datagram(|buffer| put_error(buffer, header, errno, None));
    if header.kind == CONTROLLER {
        replies.push_back(match state.family {
            Some(family) => datagram(|buffer| put_family_reply(buffer, header, family)),
            None => fail(ENOENT),
        });
        return true;
    }
    if state.family != Some(header.kind) {
        replies.push_back(fail(ENOENT));
        return true;
    }
    let fault = state.faults.pop_front().flatten();
    let dump = header.flags & Header::DUMP == Header::DUMP;
    let answered = match (fault, Message::parse(command, attributes)) {
        (Some(Fault::Errno(errno)), _) => Err(errno),
        (_, Err(_)) => Err(EINVAL),
        (_, Ok(request)) if dump => state.table.dump(&request),
        (_, Ok(request)) => state.table.execute(request),
    };
    if let Some(Fault::LostReply) = fault {
        return false;
    }
    match answered {
        Err(errno) => replies.push_back(fail(errno)),
        Ok(messages) => {
            for part in messages.chunks(MESSAGES_A_DATAGRAM) {
                replies.push_back(datagram(|buffer| {
                    part.iter()
                        .for_each(|message| put_reply(buffer, header, message));
                }));
            }
            if dump {
                let interrupted = state.interruptions > 0;
                state.interruptions = state.interruptions.saturating_sub(1);
                replies.push_back(datagram(|b| put_done(b, header.sequence, interrupted)));
            } else if header.flags & Header::ACK != 0 {
                replies.push_back(fail(0));
            }
        }
    }
    true
}

fn put_reply(buffer: &mut Vec<u8>, request: Header, message: &Message) {
    let header = Header {
        flags: 0,
        ..request
    };
    put_packet(buffer, header, |buffer| put_message(buffer, message));
}

fn datagram(fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut buffer = Vec::new();
    fill(&mut buffer);
    buffer
}
