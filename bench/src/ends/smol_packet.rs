//! smoltcp over AF_PACKET: what a user-space TCP is without AF_XDP. Its frames go by `read` and `write` on a raw socket of the
//! namespace's device, under an address that the kernel there does not have.

use std::net::Ipv4Addr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::Instant as Clock;

use anyhow::{Context, Result, anyhow, bail};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Medium, RawSocket};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpAddress, IpCidr};

use super::PATIENCE;
use super::bulk::{Bulk, Meter};
use super::exchange::{Account, Exchange};
use crate::cpu::Sample;
use crate::latency::Latencies;
use crate::netns::End;

/// Socket buffers in bytes.
const BUFFER: usize = 256 << 10;
/// Local port of the client.
const LOCAL_PORT: u16 = 49_152;

/// smoltcp's address at an end: the kernel's own, ten further on.
pub(super) fn address(end: &End) -> Ipv4Addr {
    let [a, b, c, last] = end.address.octets();
    Ipv4Addr::new(a, b, c, last + 10)
}

/// One host: raw socket, interface and one TCP socket.
struct Host {
    device: RawSocket,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    start: Clock,
}

impl Host {
    /// Call in the end's namespace.
    fn open(end: &End) -> Result<Self> {
        let mut device = RawSocket::new(end.device, Medium::Ethernet)
            .with_context(|| format!("no raw socket on {}", end.device))?;
        let config = Config::new(EthernetAddress(end.mac).into());
        let mut interface = Interface::new(config, &mut device, Instant::ZERO);
        let mut added = Ok(());
        interface.update_ip_addrs(|addresses| {
            added = addresses.push(IpCidr::new(IpAddress::Ipv4(address(end)), 24));
        });
        added.map_err(|_| anyhow!("smoltcp's interface takes no address"))?;
        let ring = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        let mut socket = tcp::Socket::new(ring(), ring());
        socket.set_nagle_enabled(false);
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(socket);
        Ok(Self {
            device,
            interface,
            sockets,
            handle,
            start: Clock::now(),
        })
    }

    fn listen(&mut self, port: u16) -> Result<()> {
        self.socket()
            .listen(port)
            .map_err(|error| anyhow!("smoltcp: {error:?}"))
    }

    fn connect(&mut self, server: (Ipv4Addr, u16)) -> Result<()> {
        let context = self.interface.context();
        let socket: &mut tcp::Socket<'_> = self.sockets.get_mut(self.handle);
        let remote = (IpAddress::Ipv4(server.0), server.1);
        socket
            .connect(context, remote, LOCAL_PORT)
            .map_err(|error| anyhow!("smoltcp: {error:?}"))?;
        while !self.socket().may_send() {
            self.poll();
            if self.start.elapsed() > PATIENCE {
                bail!("smoltcp's connection was not answered within {PATIENCE:?}");
            }
        }
        Ok(())
    }

    fn socket(&mut self) -> &mut tcp::Socket<'static> {
        self.sockets.get_mut(self.handle)
    }

    fn poll(&mut self) {
        let now = Instant::from_micros(self.start.elapsed().as_micros() as i64);
        self.interface
            .poll(now, &mut self.device, &mut self.sockets);
    }

    /// Bytes taken of those that wait.
    fn take(&mut self) -> Result<usize> {
        let mut taken = 0;
        while self.socket().can_recv() {
            let some = self.socket().recv(|bytes| (bytes.len(), bytes.len()));
            taken += some.map_err(|error| anyhow!("smoltcp: {error:?}"))?;
        }
        Ok(taken)
    }

    fn send(&mut self, bytes: &[u8]) -> Result<usize> {
        self.socket()
            .send_slice(bytes)
            .map_err(|error| anyhow!("smoltcp: {error:?}"))
    }
}

/// Adds up what arrives, until it is over.
pub(super) fn sink(end: &End, port: u16, meter: &Meter, ready: &Sender<()>) -> Result<()> {
    let mut host = Host::open(end)?;
    host.listen(port)?;
    // Whoever waited for this may have given up, and set `stop`.
    let _ = ready.send(());
    while !meter.is_over() {
        host.poll();
        let taken = host.take()?;
        meter.bytes.fetch_add(taken as u64, Ordering::Relaxed);
    }
    Ok(())
}

/// Hands over messages until it is over.
pub(super) fn source(end: &End, server: (Ipv4Addr, u16), bulk: &Bulk, meter: &Meter) -> Result<()> {
    let mut host = Host::open(end)?;
    host.connect(server)?;
    let message = vec![0x5a; bulk.message];
    let mut taken = 0;
    while !meter.is_over() {
        while host.socket().can_send() {
            taken += host.send(&message[taken..])?;
            if taken == message.len() {
                taken = 0;
            }
        }
        host.poll();
    }
    Ok(())
}

/// Echoes until it is over.
pub(super) fn answer(end: &End, port: u16, ready: &Sender<()>, stop: &AtomicBool) -> Result<()> {
    let mut host = Host::open(end)?;
    host.listen(port)?;
    let _ = ready.send(());
    let mut buffer = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        host.poll();
        while host.socket().can_recv() {
            let some = host.socket().recv(|bytes| {
                buffer.extend_from_slice(bytes);
                (bytes.len(), ())
            });
            some.map_err(|error| anyhow!("smoltcp: {error:?}"))?;
        }
        if !buffer.is_empty() && host.socket().can_send() {
            let sent = host.send(&buffer)?;
            buffer.drain(..sent);
            host.poll();
        }
    }
    Ok(())
}

/// Asks as the load wants.
pub(super) fn ask(end: &End, server: (Ipv4Addr, u16), exchange: &Exchange) -> Result<Account> {
    let mut host = Host::open(end)?;
    host.connect(server)?;
    let mut account = Account::new(exchange, Latencies::new()?);
    let before = Sample::now()?;
    let message = vec![7; exchange.size];
    let mut now = Clock::now();
    account.begin(now);
    while !account.is_over(now) {
        for _ in 0..account.due(now) {
            if host.send(&message)? < message.len() {
                bail!("smoltcp has no room for a request");
            }
        }
        host.poll();
        let taken = host.take()?;
        now = Clock::now();
        account.answered(taken, now);
    }
    account.end(now, before.until(&Sample::now()?));
    Ok(account)
}
