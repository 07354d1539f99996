//! smoltcp over memory: both ends on the calling thread, frames passed from one to the other in the buffers they were written in.
//!
//! smoltcp itself copies payload three times (application → socket buffer → frame → socket buffer); its receiver here reads in place.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::{Duration, Instant as Clock};

use anyhow::{Result, anyhow, bail};
use nix::time::ClockId;
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{self, ChecksumCapabilities, Device, DeviceCapabilities, Medium};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};

/// Frames that wait in one direction at most.
const QUEUE: usize = 256;
/// Bytes of Ethernet header, which the MTU does not count and smoltcp's device does.
const ETHERNET: usize = 14;

/// Frames on the way in one direction.
#[derive(Debug, Default)]
struct Lane {
    frames: VecDeque<Vec<u8>>,
}

/// One end of the wire. Buffers come from and go back to `spare`, so that nothing is allocated per frame.
struct Wire {
    incoming: Rc<RefCell<Lane>>,
    outgoing: Rc<RefCell<Lane>>,
    spare: Rc<RefCell<Vec<Vec<u8>>>>,
    frame_len: usize,
}

struct Received {
    frame: Vec<u8>,
    spare: Rc<RefCell<Vec<Vec<u8>>>>,
}

struct Sending<'a>(&'a Wire);

impl phy::RxToken for Received {
    fn consume<R, F: FnOnce(&[u8]) -> R>(self, read: F) -> R {
        let result = read(&self.frame);
        self.spare.borrow_mut().push(self.frame);
        result
    }
}

impl phy::TxToken for Sending<'_> {
    fn consume<R, F: FnOnce(&mut [u8]) -> R>(self, len: usize, write: F) -> R {
        let mut frame = self
            .0
            .spare
            .borrow_mut()
            .pop()
            .unwrap_or_else(|| vec![0; self.0.frame_len]);
        frame.resize(len, 0);
        let result = write(&mut frame);
        self.0.outgoing.borrow_mut().frames.push_back(frame);
        result
    }
}

impl Device for Wire {
    type RxToken<'a> = Received;
    type TxToken<'a> = Sending<'a>;

    fn receive(&mut self, _now: Instant) -> Option<(Received, Sending<'_>)> {
        let frame = self.incoming.borrow_mut().frames.pop_front()?;
        let received = Received {
            frame,
            spare: Rc::clone(&self.spare),
        };
        Some((received, Sending(self)))
    }

    fn transmit(&mut self, _now: Instant) -> Option<Sending<'_>> {
        let room = self.outgoing.borrow().frames.len() < QUEUE;
        room.then_some(Sending(self))
    }

    fn capabilities(&self) -> DeviceCapabilities {
        let mut capabilities = DeviceCapabilities::default();
        capabilities.medium = Medium::Ethernet;
        capabilities.max_transmission_unit = self.frame_len;
        capabilities.checksum = ChecksumCapabilities::default(); // computed on send, verified on receive
        capabilities
    }
}

/// One host: interface, sockets, and its end of the wire.
struct Host {
    wire: Wire,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
}

impl Host {
    fn new(wire: Wire, last: u8, buffer: usize) -> Result<Self> {
        let mut wire = wire;
        let config = Config::new(EthernetAddress([2, 0, 0, 0, 0, last]).into());
        let mut interface = Interface::new(config, &mut wire, Instant::ZERO);
        let mut added = Ok(());
        interface.update_ip_addrs(|addresses| {
            added = addresses.push(IpCidr::new(IpAddress::v4(10, 0, 0, last), 24));
        });
        added.map_err(|_| anyhow!("smoltcp's interface takes no address"))?;
        let ring = || tcp::SocketBuffer::new(vec![0; buffer]);
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(tcp::Socket::new(ring(), ring()));
        Ok(Self {
            wire,
            interface,
            sockets,
            handle,
        })
    }

    fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    fn poll(&mut self, now: Instant) {
        self.interface.poll(now, &mut self.wire, &mut self.sockets);
    }
}

/// A client that sends as much as it can, and a server that reads it.
struct Transfer {
    client: Host,
    server: Host,
    start: Clock,
    source: Vec<u8>,
    received: u64,
}

impl Transfer {
    /// Two hosts with socket buffers of `buffer` bytes, and one established connection between them.
    fn new(buffer: usize, mtu: u16) -> Result<Self> {
        let (there, back, spare) = (Rc::default(), Rc::default(), Rc::default());
        let wire = |incoming: &Rc<RefCell<Lane>>, outgoing: &Rc<RefCell<Lane>>| Wire {
            incoming: Rc::clone(incoming),
            outgoing: Rc::clone(outgoing),
            spare: Rc::clone(&spare),
            frame_len: usize::from(mtu) + ETHERNET,
        };
        let mut transfer = Self {
            client: Host::new(wire(&back, &there), 1, buffer)?,
            server: Host::new(wire(&there, &back), 2, buffer)?,
            start: Clock::now(),
            source: (0..128 * 1024).map(|at: usize| at as u8).collect(),
            received: 0,
        };
        transfer
            .server
            .socket()
            .listen(5201)
            .map_err(|error| anyhow!("smoltcp: {error:?}"))?;
        let context = transfer.client.interface.context();
        let socket: &mut tcp::Socket<'_> = transfer.client.sockets.get_mut(transfer.client.handle);
        socket
            .connect(context, (IpAddress::v4(10, 0, 0, 2), 5201), 49152)
            .map_err(|error| anyhow!("smoltcp: {error:?}"))?;
        for _ in 0..1000 {
            transfer.turn()?;
            if transfer.client.socket().may_send() {
                return Ok(transfer);
            }
        }
        bail!("smoltcp's two ends did not connect in 1000 turns")
    }

    /// Fills the send buffer, lets both ends work, empties the receive buffer.
    fn turn(&mut self) -> Result<()> {
        let now = Instant::from_micros(self.start.elapsed().as_micros() as i64);
        let Self {
            client,
            server,
            source,
            received,
            ..
        } = self;
        if client.socket().can_send() {
            client
                .socket()
                .send_slice(source)
                .map_err(|error| anyhow!("smoltcp: {error:?}"))?;
        }
        client.poll(now);
        server.poll(now);
        while server.socket().can_recv() {
            let taken = server.socket().recv(|bytes| (bytes.len(), bytes.len()));
            *received += taken.map_err(|error| anyhow!("smoltcp: {error:?}"))? as u64;
        }
        Ok(())
    }
}

/// Payload bytes that arrived, and the time of the core that it took, for a run of at least the given length.
pub(crate) fn bulk(buffer: usize, mtu: u16, duration: Duration) -> Result<(u64, Duration)> {
    let mut transfer = Transfer::new(buffer, mtu)?;
    let core = core_time()?;
    let start = Clock::now();
    while start.elapsed() < duration {
        for _ in 0..16 {
            transfer.turn()?;
        }
    }
    Ok((transfer.received, core_time()?.saturating_sub(core)))
}

fn core_time() -> Result<Duration> {
    Ok(Duration::from(ClockId::CLOCK_THREAD_CPUTIME_ID.now()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_arrive_and_no_frame_is_longer_than_the_wire_takes() {
        let mut transfer = Transfer::new(1 << 20, 1500).unwrap();
        for _ in 0..100 {
            transfer.turn().unwrap();
            let lane = transfer.client.wire.outgoing.borrow();
            assert!(lane.frames.iter().all(|frame| frame.len() <= 1514));
        }
        assert!(
            transfer.received > 1 << 20,
            "only {} bytes arrived",
            transfer.received
        );
    }
}
