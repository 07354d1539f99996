//! The service that the tests run on Bywash's side: it sends back what it receives, and looks at each frame on the way.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::Sender;
use std::time::Duration;

use bywash::seams::xsk::{RegionView, RxLease};
use bywash::{ConnId, ConnOptions, Context, Event, Port, Recv, Service};

/// Where a driver in zero-copy mode puts the first byte of a frame: XDP's room is before it (`XDP_PACKET_HEADROOM`).
const XDP_HEADROOM: usize = 256;
/// The header that a virtio device writes before each frame (virtio 1.2, 5.1.6): its last two bytes are the number of
/// buffers, 1.
const VIRTIO_HEADER: usize = 12;
/// What we leave there, so that the device has to write it again.
const USED: u8 = 0xA5;

/// While it is set, a mirror that gets data stands still, and its shard with it.
pub(crate) static HOLD: AtomicBool = AtomicBool::new(false);

/// What the mirror has seen.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    /// Payload bytes received.
    pub(crate) received: AtomicU64,
    /// Payload bytes given to `send`.
    pub(crate) sent: AtomicU64,
    /// Frames received.
    pub(crate) frames: AtomicU64,
    /// Frames outside of the receive chunks of the UMEM: somebody has copied them.
    pub(crate) elsewhere: AtomicU64,
    /// Frames before which the device's own fresh header stands.
    pub(crate) by_device: AtomicU64,
}

/// The port of every mirror.
pub(crate) const PORT: u16 = 7777;

/// What the mirror does with what comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Manner {
    /// It sends it back.
    Echo,
    /// It counts it.
    Count,
}

pub(crate) struct Mirror {
    manner: Manner,
    seen: Arc<Seen>,
    listening: Sender<Result<(), String>>,
    region: Option<RegionView>,
    held: BTreeMap<ConnId, (RxLease, usize)>,
}

impl Mirror {
    pub(crate) fn new(
        manner: Manner,
        seen: Arc<Seen>,
        listening: Sender<Result<(), String>>,
    ) -> Self {
        Self {
            manner,
            seen,
            listening,
            region: None,
            held: BTreeMap::new(),
        }
    }

    /// Whether the frame lies where the device put it.
    fn look(&self, frame: &mut bywash::Frame) {
        let seen = &self.seen;
        seen.frames.fetch_add(1, Ordering::Relaxed);
        seen.received
            .fetch_add(frame.len() as u64, Ordering::Relaxed);
        let place = self
            .region
            .as_ref()
            .and_then(|region| region.place_of(frame.bytes()));
        // From the device's header to the payload.
        let before = place
            .filter(|(chunk, _)| *chunk == frame.id() && *chunk < frame.umem().config().rx_frames)
            .and_then(|(_, at)| at.checked_sub(XDP_HEADROOM))
            .map(|behind| behind + VIRTIO_HEADER);
        let Some(head) = before.and_then(|before| frame.head_mut(before)) else {
            seen.elsewhere.fetch_add(1, Ordering::Relaxed);
            return;
        };
        let header = &mut head[..VIRTIO_HEADER];
        if header[..10].iter().all(|byte| *byte == 0) && header[10..] == [1, 0] {
            seen.by_device.fetch_add(1, Ordering::Relaxed);
        }
        header.fill(USED);
    }

    fn push<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) -> bool {
        let Some((bytes, sent)) = self.held.get_mut(&conn) else {
            return true;
        };
        match cx.send(conn, &bytes[*sent..]) {
            Ok(n) => {
                *sent += n;
                self.seen.sent.fetch_add(n as u64, Ordering::Relaxed);
            }
            Err(_) => *sent = bytes.len(),
        }
        let done = *sent == bytes.len();
        if done {
            self.held.remove(&conn);
        }
        done
    }

    fn pump<P: Port>(&mut self, cx: &mut Context<'_, P>, conn: ConnId) {
        while HOLD.load(Ordering::Relaxed) {
            std::thread::sleep(Duration::from_millis(1));
        }
        if !self.push(cx, conn) {
            return;
        }
        loop {
            let mut frame = match cx.recv(conn) {
                Ok(Recv::Data(frame)) => frame,
                Ok(Recv::End) => {
                    // Unknown: it closed in this very turn.
                    let _ = cx.shutdown(conn);
                    return;
                }
                Ok(Recv::Empty) | Err(_) => return,
            };
            self.look(&mut frame);
            if self.manner == Manner::Count {
                continue;
            }
            let Ok(sent) = cx.send(conn, frame.bytes()) else {
                return;
            };
            self.seen.sent.fetch_add(sent as u64, Ordering::Relaxed);
            if sent < frame.len() {
                frame.advance(sent);
                let lease = self
                    .region
                    .as_ref()
                    .and_then(|region| region.open(frame.lend()));
                let Some(lease) = lease else {
                    unreachable!("a lease of our own opens once");
                };
                self.held.insert(conn, (lease, 0));
                return;
            }
        }
    }
}

impl Service for Mirror {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                self.region = Some(cx.region());
                let outcome = cx
                    .listen(PORT, ConnOptions::default())
                    .map(drop)
                    .map_err(|error| error.to_string());
                // Whoever starts an engine waits for it.
                let _ = self.listening.send(outcome);
            }
            Event::Readable { conn } | Event::Writable { conn } => self.pump(cx, conn),
            Event::Closed { conn, .. } => {
                self.held.remove(&conn);
            }
            Event::Stopping => cx.stop(),
            Event::Accepted { .. }
            | Event::Connected { .. }
            | Event::Unreachable { .. }
            | Event::Timer { .. } => {}
        }
    }
}
