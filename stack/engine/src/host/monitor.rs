//! The kernel's announcements: links, addresses, routes, rules and neighbours that change.
//!
//! Announcements only say *that* something changed; what counts is asked for afterwards, except for
//! neighbours and our link, whose announcements carry the whole entry. So a lost or misunderstood
//! announcement is healed by asking for everything again ([`Change::Lost`]).

use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};
use nix::errno::Errno;
use nix::sys::socket::{setsockopt, sockopt};

use super::device::LinkState;
use super::neighbours::{Finding, Hop, finding};
use super::netlink::{NetlinkError, messages};

// Multicast groups, <linux/rtnetlink.h>. Bit n-1 of the mask joins group n.
const RTMGRP_LINK: u32 = 0x1;
const RTMGRP_NEIGH: u32 = 0x4;
const RTMGRP_IPV4_IFADDR: u32 = 0x10;
const RTMGRP_IPV4_ROUTE: u32 = 0x40;
const RTMGRP_IPV4_RULE: u32 = 0x80;
const RTMGRP_IPV6_IFADDR: u32 = 0x100;
const RTMGRP_IPV6_ROUTE: u32 = 0x400;
/// Has no name in the header: `1 << (RTNLGRP_IPV6_RULE - 1)`.
const RTMGRP_IPV6_RULE: u32 = 1 << 18;

const GROUPS: u32 = RTMGRP_LINK
    | RTMGRP_NEIGH
    | RTMGRP_IPV4_IFADDR
    | RTMGRP_IPV4_ROUTE
    | RTMGRP_IPV4_RULE
    | RTMGRP_IPV6_IFADDR
    | RTMGRP_IPV6_ROUTE
    | RTMGRP_IPV6_RULE;

/// Room for announcements that wait, in bytes: a few thousand of them. The kernel cuts it down to
/// `net.core.rmem_max`; an overrun is noticed and healed either way.
const RECEIVE_BUFFER: usize = 1 << 20;

/// Something that the kernel announced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Change {
    /// Our link is in this state now.
    Link(LinkState),
    /// Our link is gone.
    LinkGone,
    /// Addresses of our link changed.
    Addresses,
    /// Another link, or its addresses changed: it may be a VLAN's on ours.
    Elsewhere,
    /// Routes or rules changed, of whatever link.
    Routes,
    /// A neighbour entry, of whatever link.
    Neighbour(Hop, Finding),
    /// Announcements were lost or not understood.
    Lost,
}

/// A socket that hears the kernel's announcements.
pub(super) struct Monitor {
    socket: Socket,
    ifindex: u32,
}

impl Monitor {
    /// Listens in the calling thread's network namespace from now on.
    pub(super) fn open(ifindex: u32) -> Result<Self, NetlinkError> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        setsockopt(&socket, sockopt::RcvBuf, &RECEIVE_BUFFER).map_err(io::Error::from)?;
        socket.bind(&SocketAddr::new(0, GROUPS))?;
        socket.set_non_blocking(true)?;
        Ok(Self { socket, ifindex })
    }

    /// For `poll`: readable when there are announcements.
    pub(super) fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Appends what has been announced since the last call.
    pub(super) fn read(&self, changes: &mut Vec<Change>) -> Result<(), NetlinkError> {
        loop {
            match self.socket.recv_from_full() {
                Ok((bytes, sender)) if sender.port_number() == 0 => self.interpret(&bytes, changes),
                // Not from the kernel.
                Ok(_) => {}
                Err(error) => match Errno::try_from(error) {
                    Ok(Errno::EAGAIN) => return Ok(()),
                    Ok(Errno::EINTR) => {}
                    Ok(Errno::ENOBUFS) => changes.push(Change::Lost),
                    Ok(errno) => return Err(NetlinkError::Socket(errno.into())),
                    Err(error) => return Err(NetlinkError::Socket(error)),
                },
            }
        }
    }

    fn interpret(&self, bytes: &[u8], changes: &mut Vec<Change>) {
        for message in messages(bytes) {
            let change = match message {
                Ok(message) => match message.payload {
                    NetlinkPayload::InnerMessage(inner) => self.change(&inner),
                    NetlinkPayload::Overrun(_) => Some(Change::Lost),
                    _ => None,
                },
                Err(error) => {
                    tracing::debug!("an announcement of the kernel is not understood: {error}");
                    Some(Change::Lost)
                }
            };
            // Routes change in bursts; one mention is enough.
            changes.extend(change.filter(|change| changes.last() != Some(change)));
        }
    }

    fn change(&self, message: &RouteNetlinkMessage) -> Option<Change> {
        match message {
            RouteNetlinkMessage::NewLink(link) if link.header.index == self.ifindex => {
                Some(Change::Link(LinkState::of(link)))
            }
            RouteNetlinkMessage::DelLink(link) if link.header.index == self.ifindex => {
                Some(Change::LinkGone)
            }
            RouteNetlinkMessage::NewLink(_) | RouteNetlinkMessage::DelLink(_) => {
                Some(Change::Elsewhere)
            }
            RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message) => {
                Some(match message.header.index == self.ifindex {
                    true => Change::Addresses,
                    false => Change::Elsewhere,
                })
            }
            RouteNetlinkMessage::NewRoute(_)
            | RouteNetlinkMessage::DelRoute(_)
            | RouteNetlinkMessage::NewRule(_)
            | RouteNetlinkMessage::DelRule(_) => Some(Change::Routes),
            RouteNetlinkMessage::NewNeighbour(message) => {
                finding(message).map(|(hop, finding)| Change::Neighbour(hop, finding))
            }
            RouteNetlinkMessage::DelNeighbour(message) => {
                finding(message).map(|(hop, _)| Change::Neighbour(hop, Finding::Absent))
            }
            _ => None,
        }
    }
}
