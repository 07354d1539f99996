//! A program with something of everything, for the fixtures.

use anyhow::Result;
use bywash_xdp::{Counter, FlowKey, RING_CONTROL, RING_PRIMARY, Verdict, Vlan, abi, slot};
use socket2::Socket;

use crate::packet::{OUR_V4, OUR_V6, Packet};
use crate::run::{Action, Fate, Harness};

/// Listening.
pub const PORT: u16 = 8080;
/// Ours without a listener.
pub const HELD: u16 = 8081;
/// In the range for active opens.
pub const LOCAL: u16 = 50_005;
/// Not ours.
pub const KERNELS: u16 = 22;
/// Ours by a customer tag.
pub const VLAN: u16 = 100;

/// A program with both addresses, a listener, a held port, a local range, a VLAN, and sockets in the first two queues.
pub struct Setup {
    /// The program.
    pub demux: Harness,
    _sockets: Vec<Socket>,
}

impl Setup {
    /// Needs root.
    pub fn new() -> Result<Self> {
        let mut demux = Harness::new()?;
        demux.address(OUR_V4.into())?;
        demux.address(OUR_V6.into())?;
        demux.listen(PORT)?;
        demux.port(HELD, abi::PORT_TCP_OURS)?;
        demux.local_ports(50_000..=50_010)?;
        demux.vlan(VLAN, abi::VLAN_CUSTOMER)?;
        let mut sockets = Vec::new();
        for queue in 0..2 {
            for ring in [RING_PRIMARY, RING_CONTROL, 2] {
                sockets.push(demux.socket(slot(queue, ring))?);
            }
        }
        Ok(Self {
            demux,
            _sockets: sockets,
        })
    }

    /// Runs the program on a frame that came on this queue.
    ///
    /// # Panics
    /// If it does not count under `counter`, or its answer is not this counter's.
    #[track_caller]
    pub fn expect(&self, queue: u32, frame: &[u8], counter: Counter) {
        let fate = self.demux.fate(queue, frame).expect("a run");
        let action = match counter.verdict() {
            Verdict::Pass => Action::Pass,
            Verdict::Redirect => Action::Redirect,
            Verdict::Drop => Action::Drop,
        };
        assert_eq!(
            fate,
            Fate { action, counter },
            "queue {queue}, frame {frame:02x?}"
        );
    }

    /// The same on queue 0.
    ///
    /// # Panics
    /// As above.
    #[track_caller]
    pub fn expect_packet(&self, packet: &Packet, counter: Counter) {
        self.expect(0, &packet.build(), counter);
    }
}

/// The packet's flow, in this VLAN.
pub fn flow(packet: &Packet, vlan: Option<Vlan>) -> FlowKey {
    FlowKey::new(
        packet.destination,
        packet.port,
        packet.source,
        packet.source_port,
        vlan,
        6,
    )
}
