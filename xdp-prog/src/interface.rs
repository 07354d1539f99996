//! What the kernel says about an interface: its MTU and the XDP program on it. One netlink request and its answer.

use std::io;

use netlink_packet_core::{NLM_F_REQUEST, NetlinkHeader, NetlinkMessage, NetlinkPayload};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached};
use netlink_sys::{Socket, SocketAddr, protocols::NETLINK_ROUTE};

use crate::demux::AttachedMode;

/// An interface of this thread's network namespace.
#[derive(Debug)]
pub(crate) struct Interface {
    /// In bytes.
    pub(crate) mtu: u32,
    /// The program on it, if there is one.
    pub(crate) xdp: Option<AttachedProgram>,
}

/// An XDP program on an interface.
#[derive(Debug)]
pub(crate) struct AttachedProgram {
    /// Program id; 0 if the kernel did not tell one (programs in two modes at once).
    pub(crate) id: u32,
    /// Native or generic; none for hardware and for several at once, which we never make.
    pub(crate) mode: Option<AttachedMode>,
}

/// Asks for the interface with this index. None: there is no such interface.
pub(crate) fn query(ifindex: u32) -> io::Result<Option<Interface>> {
    let mut socket = Socket::new(NETLINK_ROUTE)?;
    socket.bind_auto()?;
    socket.connect(&SocketAddr::new(0, 0))?;
    let mut request = LinkMessage::default();
    request.header.index = ifindex;
    let mut packet = NetlinkMessage::new(
        NetlinkHeader::default(),
        NetlinkPayload::from(RouteNetlinkMessage::GetLink(request)),
    );
    packet.header.flags = NLM_F_REQUEST;
    packet.finalize();
    let mut bytes = vec![0; packet.buffer_len()];
    packet.serialize(&mut bytes);
    socket.send(&bytes, 0)?;

    let (answer, _) = socket.recv_from_full()?;
    let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(&answer)
        .map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    match message.payload {
        NetlinkPayload::InnerMessage(RouteNetlinkMessage::NewLink(link)) => {
            Ok(Some(interface(&link.attributes)))
        }
        NetlinkPayload::Error(error) => match error.to_io() {
            error if error.raw_os_error() == Some(nix::libc::ENODEV) => Ok(None),
            error => Err(error),
        },
        other => Err(io::Error::new(
            io::ErrorKind::InvalidData,
            format!("unexpected answer to RTM_GETLINK: {other:?}"),
        )),
    }
}

fn interface(attributes: &[LinkAttribute]) -> Interface {
    let mut found = Interface { mtu: 0, xdp: None };
    for attribute in attributes {
        match attribute {
            LinkAttribute::Mtu(mtu) => found.mtu = *mtu,
            LinkAttribute::Xdp(xdp) => found.xdp = attached(xdp),
            _ => {}
        }
    }
    found
}

fn attached(attributes: &[LinkXdp]) -> Option<AttachedProgram> {
    let mut id = 0;
    let mut mode = None;
    let mut any = false;
    for attribute in attributes {
        match attribute {
            LinkXdp::Attached(XdpAttached::None) => {}
            LinkXdp::Attached(how) => {
                any = true;
                mode = match how {
                    XdpAttached::Driver => Some(AttachedMode::Native),
                    XdpAttached::SocketBuffer => Some(AttachedMode::Generic),
                    _ => None,
                };
            }
            LinkXdp::ProgId(program) => id = *program,
            _ => {}
        }
    }
    any.then_some(AttachedProgram { id, mode })
}
