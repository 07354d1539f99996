//! smoltcp as the other end: a third TCP, with a link address of its own on the peer's device.
//!
//! ```text
//!  our engine  <- veth, or the link emulator ->  peer's device ─┬─ packet socket ─ smoltcp (10.88.0.3, fd88::3)
//!                                                               └─ the kernel, which drops what has a foreign link address
//! ```

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::thread::JoinHandle;
use std::time::{Duration, Instant as Clock};

use bywash_tests::{Bed, Side};
use smoltcp::iface::{Config, Interface, SocketHandle, SocketSet};
use smoltcp::phy::{Medium, RawSocket};
use smoltcp::socket::tcp;
use smoltcp::time::Instant;
use smoltcp::wire::{EthernetAddress, IpCidr};

/// Where it listens.
pub(crate) const PORT: u16 = 7001;
const MAC: EthernetAddress = EthernetAddress([2, 0, 0, 0, 0, 3]);
/// Of its socket in each direction, in bytes.
const BUFFER: usize = 65_535;
/// How often it looks for packets.
const GLANCE: Duration = Duration::from_micros(200);

/// Its address of one family.
pub(crate) fn address(v6: bool) -> IpAddr {
    if v6 {
        Ipv6Addr::new(0xfd88, 0, 0, 0, 0, 0, 0, 3).into()
    } else {
        Ipv4Addr::new(10, 88, 0, 3).into()
    }
}

/// One connection's worth of smoltcp.
struct Talk {
    device: RawSocket,
    interface: Interface,
    sockets: SocketSet<'static>,
    handle: SocketHandle,
    sent: usize,
    arrived: Vec<u8>,
}

impl Talk {
    fn new(side: &Side, v6: bool) -> Self {
        let device = RawSocket::new(&side.device, Medium::Ethernet);
        let mut device = device.expect("a packet socket, as root");
        let mut config = Config::new(MAC.into());
        config.random_seed = 1;
        let mut interface = Interface::new(config, &mut device, Instant::now());
        let prefix = if v6 { 64 } else { 24 };
        interface.update_ip_addrs(|addresses| {
            let own = IpCidr::new(address(v6).into(), prefix);
            addresses.push(own).expect("room for an address");
            // Neighbours ask from their link-local addresses, and want the answer there.
            let local = IpCidr::new(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 3).into(), 64);
            addresses.push(local).expect("room for another");
        });
        let buffer = || tcp::SocketBuffer::new(vec![0; BUFFER]);
        let mut sockets = SocketSet::new(Vec::new());
        let handle = sockets.add(tcp::Socket::new(buffer(), buffer()));
        Self {
            device,
            interface,
            sockets,
            handle,
            sent: 0,
            arrived: Vec::new(),
        }
    }

    /// Sends what there is room for and takes what has come; whether both directions have ended.
    fn turn(&mut self, out: &[u8]) -> bool {
        self.interface
            .poll(Instant::now(), &mut self.device, &mut self.sockets);
        let socket: &mut tcp::Socket<'_> = self.sockets.get_mut(self.handle);
        while socket.can_recv() {
            let all = |bytes: &mut [u8]| (bytes.len(), self.arrived.extend_from_slice(bytes));
            socket.recv(all).expect("it can receive");
        }
        if socket.can_send() {
            let took = socket.send_slice(&out[self.sent..]);
            self.sent += took.expect("it can send");
            if self.sent == out.len() {
                socket.close();
            }
        }
        let state = socket.state();
        self.sent == out.len() && matches!(state, tcp::State::TimeWait | tcp::State::Closed)
    }
}

/// Its end of a connection: connects to `server`, or waits for a connection to [`PORT`]; sends `out` and answers what came.
pub(crate) fn talk(
    bed: &Bed,
    v6: bool,
    server: Option<SocketAddr>,
    out: Vec<u8>,
    deadline: Clock,
) -> JoinHandle<Vec<u8>> {
    let side = bed.peer.clone();
    bed.peer.spawn(move || {
        let mut talk = Talk::new(&side, v6);
        let context = talk.interface.context();
        let socket: &mut tcp::Socket<'_> = talk.sockets.get_mut(talk.handle);
        match server {
            Some(server) => socket
                .connect(context, server, 50_000)
                .expect("a connection"),
            None => socket.listen(PORT).expect("nobody else listens"),
        }
        while !talk.turn(&out) {
            let state = talk.sockets.get::<tcp::Socket<'_>>(talk.handle).state();
            let (sent, arrived) = (talk.sent, talk.arrived.len());
            assert!(
                Clock::now() < deadline,
                "smoltcp in {state}: {sent} bytes sent, {arrived} arrived"
            );
            // Not its `wait`, which is select(2) and takes no descriptor above 1023.
            std::thread::sleep(GLANCE);
        }
        talk.arrived
    })
}
