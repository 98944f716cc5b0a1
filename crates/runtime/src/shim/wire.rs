//! One message, with file descriptors, over a `SOCK_SEQPACKET` socket.
//!
//! The kernel keeps message boundaries, so there is no framing to get wrong. A message too long for one
//! packet travels as an anonymous file whose descriptor comes first.

use std::fs::File;
use std::io::{self, IoSlice, IoSliceMut, Read, Seek, Write};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::MemfdFlags;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
    SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, sendmsg, socketpair,
};
use serde::Serialize;
use serde::de::DeserializeOwned;

/// Longest message that travels in the packet itself, in bytes.
const INLINE: usize = 16 * 1024;
/// Most descriptors one message carries, the long message's own included.
const MAX_FDS: usize = 8;

/// A connected pair of message sockets.
pub fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    Ok(socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?)
}

/// Sends `message` and duplicates of `fds`. Fails with `WouldBlock` where the socket does not block and
/// the peer does not read.
pub fn send<T: Serialize>(socket: BorrowedFd<'_>, message: &T, fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let body = serde_json::to_vec(message)?;
    if body.len() <= INLINE {
        return send_packet(socket, b'i', &body, fds);
    }
    let mut file = File::from(rustix::fs::memfd_create("message", MemfdFlags::CLOEXEC)?);
    file.write_all(&body)?;
    let mut all = vec![file.as_fd()];
    all.extend_from_slice(fds);
    send_packet(socket, b'f', &[], &all)
}

fn send_packet(socket: BorrowedFd<'_>, tag: u8, body: &[u8], fds: &[BorrowedFd<'_>]) -> io::Result<()> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    if !fds.is_empty() && !control.push(SendAncillaryMessage::ScmRights(fds)) {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "too many descriptors in one message"));
    }
    let parts = [IoSlice::new(std::slice::from_ref(&tag)), IoSlice::new(body)];
    rustix::io::retry_on_intr(|| sendmsg(socket, &parts, &mut control, SendFlags::NOSIGNAL))?;
    Ok(())
}

/// Receives one message with its descriptors, or `None` where the peer has hung up.
pub fn recv<T: DeserializeOwned>(socket: BorrowedFd<'_>) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
    let mut buffer = vec![0; INLINE + 1];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let received = rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let mut fds: Vec<OwnedFd> = control
        .drain()
        .filter_map(|message| match message {
            RecvAncillaryMessage::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    let Some((tag, body)) = buffer[..received.bytes].split_first() else { return Ok(None) };
    match tag {
        b'i' => Ok(Some((serde_json::from_slice(body)?, fds))),
        b'f' if !fds.is_empty() => {
            let mut file = File::from(fds.remove(0));
            let mut long = Vec::new();
            file.rewind()?;
            file.read_to_end(&mut long)?;
            Ok(Some((serde_json::from_slice(&long)?, fds)))
        }
        _ => Err(io::Error::new(io::ErrorKind::InvalidData, "message of an unknown form")),
    }
}

/// Receives the descriptor that a message of any content brings.
pub fn recv_fd(socket: BorrowedFd<'_>) -> io::Result<Option<OwnedFd>> {
    let mut buffer = [0; 64];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    rustix::io::retry_on_intr(|| {
        recvmsg(socket, &mut [IoSliceMut::new(&mut buffer)], &mut control, RecvFlags::CMSG_CLOEXEC)
    })?;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    Ok(fd)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, fds: usize) {
        let (left, right) = pair().unwrap();
        let file = File::open("/dev/null").unwrap();
        let sent = vec![file.as_fd(); fds];
        send(left.as_fd(), &text, &sent).unwrap();
        let (got, received): (String, _) = recv(right.as_fd()).unwrap().unwrap();
        assert_eq!(got, text);
        assert_eq!(received.len(), fds);
        drop(left);
        assert!(recv::<String>(right.as_fd()).unwrap().is_none());
    }

    #[test]
    fn messages_of_any_length_arrive_with_their_descriptors() {
        check("short", 0);
        check("short", 4);
        check(&"long".repeat(100_000), 0);
        check(&"long".repeat(100_000), 4);
    }
}
