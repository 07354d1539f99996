//! Flows that share one queue, in virtual time.
//!
//! ```text
//!  sender 0 --+                                          +--> receiver 0
//!  sender 1 --+--> queue (bytes, marks CE) --> link -----+--> receiver 1     ACKs come back after the other half of the delay
//!     ..      |     drops what does not fit    (rate)    |       ..
//! ```
//! Every sender always has data, every receiver reads at once. The same flows give the same figures.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use bywash_tcp::time::{Duration, Instant};
use bywash_tcp::{Config, Connection, ListenOutcome, Listener};
use bywash_wire::{Ecn, Segment, SeqNumber, Tuple};

/// Headers that count on the link: IP and TCP with timestamps.
const OVERHEAD: usize = 52;

#[derive(Clone, Copy)]
pub(crate) struct Link {
    /// Bytes a second.
    pub(crate) rate: u64,
    /// Round trip without the queue.
    pub(crate) rtt: Duration,
    /// Bytes that may wait.
    pub(crate) buffer: usize,
    /// From so many waiting bytes on ECT packets are marked.
    pub(crate) mark_at: usize,
}

impl Link {
    /// `mbit` Mbit/s, with room for `buffer_percent` of what it carries in a round trip.
    pub(crate) fn new(mbit: u64, rtt_ms: u64, buffer_percent: u64) -> Self {
        let rate = mbit * 125_000;
        Self {
            rate,
            rtt: Duration::from_millis(rtt_ms),
            buffer: (rate * rtt_ms / 1_000 * buffer_percent / 100) as usize,
            mark_at: usize::MAX,
        }
    }
}

pub(crate) struct Flow {
    pub(crate) sender: Connection<Vec<u8>>,
    pub(crate) receiver: Option<Connection<Vec<u8>>>,
    listener: Listener,
    tuple: Tuple,
    pub(crate) received: u64,
    /// Whether there is something to send; a paused application gives nothing more.
    pub(crate) active: bool,
    start: Instant,
    /// When segments with data entered the network, and how they were marked.
    pub(crate) sent: Vec<(Instant, Segment, bool, Ecn)>,
    /// ACKs that the sender got.
    pub(crate) acks: Vec<Segment>,
}

enum Arrival {
    AtReceiver(usize, Segment, Vec<u8>, Ecn),
    AtSender(usize, Segment),
}

pub(crate) struct Model {
    pub(crate) now: Instant,
    pub(crate) link: Link,
    pub(crate) flows: Vec<Flow>,
    /// When the link has sent what waits.
    busy_until: Instant,
    arrivals: BinaryHeap<Reverse<(Instant, u64)>>,
    parcels: std::collections::HashMap<u64, Arrival>,
    count: u64,
    pub(crate) dropped: u64,
    pub(crate) marked: u64,
    /// Byte-nanoseconds of queue, for its mean.
    queue_sum: u128,
    queue_since: Instant,
    pub(crate) record: bool,
}

impl Model {
    /// A flow for each setting; they begin 100 ms apart.
    pub(crate) fn new(link: Link, configs: &[Config]) -> Self {
        let now = Instant::ZERO + Duration::from_secs(100);
        let flows = configs
            .iter()
            .enumerate()
            .map(|(index, config)| {
                let port = 40_000 + index as u16;
                let tuple = Tuple::tcp(
                    "10.0.0.1".parse().expect("an address"),
                    port,
                    "10.0.0.2".parse().expect("an address"),
                    80,
                );
                let iss = SeqNumber::new(1_000 * index as u32);
                let start = now + Duration::from_millis(100 * index as u64);
                Flow {
                    sender: Connection::connect(config, tuple, iss, 77 + index as u32, start),
                    receiver: None,
                    listener: Listener::new(config.clone()),
                    tuple,
                    received: 0,
                    active: true,
                    start,
                    sent: Vec::new(),
                    acks: Vec::new(),
                }
            })
            .collect();
        Self {
            now,
            link,
            flows,
            busy_until: now,
            arrivals: BinaryHeap::new(),
            parcels: std::collections::HashMap::new(),
            count: 0,
            dropped: 0,
            marked: 0,
            queue_sum: 0,
            queue_since: now,
            record: false,
        }
    }

    /// Bytes that wait for the link now.
    fn queued(&self) -> usize {
        (u128::from(self.busy_until.since(self.now).as_nanos()) * u128::from(self.link.rate)
            / 1_000_000_000) as usize
    }

    fn deliver_at(&mut self, at: Instant, arrival: Arrival) {
        self.arrivals.push(Reverse((at, self.count)));
        self.parcels.insert(self.count, arrival);
        self.count += 1;
    }

    /// Into the queue, or not.
    fn enqueue(&mut self, flow: usize, segment: Segment, payload: Vec<u8>, ecn: Ecn) {
        let len = payload.len() + OVERHEAD;
        let queued = self.queued();
        if queued + len > self.link.buffer {
            self.dropped += 1;
            return;
        }
        let ecn = if queued >= self.link.mark_at && ecn == Ecn::Ect0 {
            self.marked += 1;
            Ecn::Ce
        } else {
            ecn
        };
        let service = Duration::from_nanos(len as u64 * 1_000_000_000 / self.link.rate);
        let wait = self.busy_until.since(self.now) + service;
        self.queue_sum += u128::from(wait.as_nanos()) * len as u128;
        self.busy_until = self.busy_until.max(self.now) + service;
        let at = self.busy_until + self.link.rtt / 2;
        self.deliver_at(at, Arrival::AtReceiver(flow, segment, payload, ecn));
    }

    fn turn_sender(&mut self, index: usize) {
        let flow = &mut self.flows[index];
        if flow.start > self.now {
            return;
        }
        while flow.sender.poll_event().is_some() {}
        while flow.active {
            let n = flow.sender.segment_limit().min(flow.sender.send_room());
            if n < flow.sender.segment_limit() || flow.sender.send(vec![0; n]).is_err() {
                break;
            }
        }
        let mut out = Vec::new();
        while let Some(transmit) = flow.sender.poll_transmit(self.now) {
            let payload = transmit.payload.map(|payload| payload.clone());
            out.push((
                transmit.segment,
                payload.unwrap_or_default(),
                transmit.ecn,
                transmit.retransmission,
            ));
        }
        for (segment, payload, ecn, again) in out {
            if self.record && !payload.is_empty() {
                self.flows[index].sent.push((self.now, segment, again, ecn));
            }
            self.enqueue(index, segment, payload, ecn);
        }
    }

    fn turn_receiver(&mut self, index: usize) {
        let (now, half) = (self.now, self.link.rtt / 2);
        let mut out = Vec::new();
        let flow = &mut self.flows[index];
        if let Some(receiver) = &mut flow.receiver {
            while receiver.poll_event().is_some() {}
            while let Some(payload) = receiver.recv() {
                flow.received += payload.len() as u64;
            }
            while let Some(transmit) = receiver.poll_transmit(now) {
                out.push(transmit.segment);
            }
        }
        for segment in out {
            self.deliver_at(now + half, Arrival::AtSender(index, segment));
        }
    }

    fn arrive(&mut self, arrival: Arrival) {
        let now = self.now;
        match arrival {
            Arrival::AtReceiver(index, segment, payload, ecn) => {
                let flow = &mut self.flows[index];
                let payload = (!payload.is_empty()).then_some(payload);
                match &mut flow.receiver {
                    Some(receiver) => {
                        receiver.on_packet(now, ecn, &segment, payload);
                    }
                    None => {
                        let tuple = flow.tuple.reversed();
                        let iss = SeqNumber::new(9_000);
                        let outcome = flow.listener.on_segment(now, tuple, &segment, iss, 5);
                        if let ListenOutcome::Connection(connection) = outcome {
                            flow.receiver = Some(connection);
                        }
                    }
                }
                self.turn_receiver(index);
            }
            Arrival::AtSender(index, segment) => {
                let flow = &mut self.flows[index];
                if self.record {
                    flow.acks.push(segment);
                }
                flow.sender.on_segment(now, &segment, None);
                self.turn_sender(index);
            }
        }
    }

    fn next(&self) -> Option<Instant> {
        let arrival = self.arrivals.peek().map(|Reverse((at, _))| *at);
        let timers = self.flows.iter().flat_map(|flow| {
            let receiver = flow.receiver.as_ref().and_then(Connection::next_timeout);
            [
                flow.sender.next_timeout(),
                flow.sender.next_send(),
                receiver,
                (flow.start > self.now).then_some(flow.start),
            ]
        });
        timers.chain([arrival]).flatten().min()
    }

    /// Runs for `span` and forgets what the queue did before.
    pub(crate) fn run(&mut self, span: Duration) {
        let end = self.now + span;
        self.queue_sum = 0;
        self.queue_since = self.now;
        for index in 0..self.flows.len() {
            self.turn_sender(index);
        }
        while let Some(next) = self.next()
            && next < end
        {
            self.now = self.now.max(next);
            while let Some(Reverse((at, key))) = self.arrivals.peek().copied()
                && at <= self.now
            {
                self.arrivals.pop();
                let arrival = self.parcels.remove(&key).expect("every key has a parcel");
                self.arrive(arrival);
            }
            for index in 0..self.flows.len() {
                self.turn_timers(index);
            }
        }
        self.now = end;
    }

    fn turn_timers(&mut self, index: usize) {
        let now = self.now;
        let flow = &mut self.flows[index];
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        if flow.start <= now && (due(flow.sender.next_timeout()) || due(flow.sender.next_send()))
            || flow.start == now
        {
            flow.sender.on_timeout(now);
            self.turn_sender(index);
        }
        let flow = &mut self.flows[index];
        if let Some(receiver) = &mut flow.receiver
            && due(receiver.next_timeout())
        {
            receiver.on_timeout(now);
            self.turn_receiver(index);
        }
    }

    /// Mean time in the queue since the last `run` began, by bytes, in milliseconds; with the link's own time for a packet.
    pub(crate) fn mean_queue_ms(&self) -> f64 {
        let carried = u128::from(self.now.since(self.queue_since).as_nanos())
            * u128::from(self.link.rate)
            / 1_000_000_000;
        self.queue_sum as f64 / carried.max(1) as f64 / 1e6
    }
}

/// Jain's index: 1 if all have the same, 1/n if one has all.
pub(crate) fn fairness(shares: &[u64]) -> f64 {
    let sum: f64 = shares.iter().map(|share| *share as f64).sum();
    let squares: f64 = shares.iter().map(|share| (*share as f64).powi(2)).sum();
    sum * sum / (shares.len() as f64 * squares)
}
