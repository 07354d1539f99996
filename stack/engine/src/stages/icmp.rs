//! ICMP errors that XDP gave us because they quote one of our flows: to the connection that they concern.

use bywash_tcp::Disposition;
use bywash_wire::{DropReason, IcmpKind, decode_icmp};
use bywash_xsk::{Frame, Port};

use crate::shard::Core;

impl<P: Port> Core<P> {
    /// A frame that is not TCP. The error may have arrived on another queue than its flow: RSS hashes the router's address.
    #[cold]
    pub(crate) fn on_icmp_frame(&mut self, frame: Frame) {
        let error = match decode_icmp(frame.bytes()) {
            Ok(error) => error,
            Err(reason) => return self.count_drop(reason),
        };
        let Some(index) = self.connection_of(&error.tuple) else {
            return match self.directory.owner(&error.tuple) {
                Some(owner) if owner != self.config.index => self.hand_over(owner, frame),
                _ => self.count_drop(DropReason::IcmpNoConnection),
            };
        };
        let now = self.now;
        let Some(conn) = self.conns.by_index(index) else {
            return;
        };
        match conn.tcp.on_icmp(now, error) {
            Disposition::Dropped(reason) => return self.count_drop(reason),
            Disposition::Accepted => self.counters.icmp_errors += 1,
        }
        if let IcmpKind::PacketTooBig { .. } = error.kind {
            let mtu = conn.tcp.path_mtu();
            self.path_mtus.learn(error.tuple.remote, mtu, now);
        }
        self.mark_dirty(index);
    }
}

#[cfg(test)]
mod tests {
    use std::cell::{Cell, RefCell};
    use std::net::SocketAddr;
    use std::rc::Rc;
    use std::time::Duration;

    use bywash_wire::{DropReason, checksum};
    use bywash_xsk::{Fate, MemoryConfig, MemoryPort, Port};

    use crate::clock::ManualClock;
    use crate::config::ShardConfig;
    use crate::context::{ConnOptions, Context};
    use crate::memory::{ADDRESSES_B, MemoryPair};
    use crate::service::{Event, Recv, Service};

    const PORT: u16 = 9;
    const BYTES: usize = 200_000;
    const NARROW: usize = 1_000;

    #[derive(Default)]
    struct Sink(usize);

    impl Service for Sink {
        fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
            match event {
                Event::Started => {
                    cx.listen(PORT, ConnOptions::default()).expect("free");
                }
                Event::Readable { conn } => loop {
                    match cx.recv(conn) {
                        Ok(Recv::Data(frame)) => self.0 += frame.len(),
                        Ok(Recv::End) => break cx.close(conn).expect("open at our end"),
                        Ok(Recv::Empty) | Err(_) => break,
                    }
                },
                _ => {}
            }
        }
    }

    struct Source;

    impl Service for Source {
        fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
            match event {
                Event::Connected { conn } => {
                    assert_eq!(cx.send(conn, &[7; BYTES]), Ok(BYTES));
                }
                Event::Started => call(cx, 0),
                _ => {}
            }
        }
    }

    fn call<P: Port>(cx: &mut Context<'_, P>, family: usize) {
        let sink = SocketAddr::new(ADDRESSES_B[family], PORT);
        cx.connect(sink, ConnOptions::default()).expect("a path");
    }

    /// What a router between the two says of `frame`, which it has not forwarded.
    fn too_big(frame: &[u8]) -> Vec<u8> {
        let v4 = frame[12] == 8;
        let (addresses, quoted) = if v4 { (26..34, 28) } else { (22..54, 48) };
        let (kind, code): (u8, u8) = if v4 { (3, 4) } else { (2, 0) };
        let mut message = vec![kind, code, 0, 0];
        // An IPv6 link cannot be narrower than 1280.
        message.extend((NARROW as u32).to_be_bytes());
        message.extend(&frame[14..14 + quoted]);
        let half = addresses.len() / 2;
        let (us, them) = frame[addresses].split_at(half);
        let mut out = [&frame[6..12], &frame[..6], &frame[12..14]].concat();
        if v4 {
            let sum = checksum::sum(&message).finish();
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            let len = 20 + message.len() as u16;
            let mut header = vec![
                0x45,
                0,
                (len >> 8) as u8,
                len as u8,
                0,
                0,
                0,
                0,
                64,
                1,
                0,
                0,
            ];
            header.extend([them, us].concat());
            let sum = checksum::sum(&header).finish();
            header[10..12].copy_from_slice(&sum.to_be_bytes());
            out.extend(header);
        } else {
            let address = |octets: &[u8]| {
                let octets: [u8; 16] = octets.try_into().expect("an IPv6 address");
                std::net::Ipv6Addr::from(octets)
            };
            let len = message.len() as u32;
            let pseudo = checksum::pseudo_v6(address(them), address(us), 58, len);
            let sum = pseudo.then(checksum::sum(&message)).finish();
            message[2..4].copy_from_slice(&sum.to_be_bytes());
            out.extend([0x60, 0, 0, 0, 0, len as u8, 58, 64]);
            out.extend([them, us].concat());
        }
        out.extend(message);
        out
    }

    fn post(port: &mut MemoryPort, bytes: &[u8]) {
        let mut frame = port.umem().alloc_tx().expect("a frame");
        let room = frame.tail_mut().expect("not queued");
        room[..bytes.len()].copy_from_slice(bytes);
        frame.extend(bytes.len());
        assert!(port.transmit(&frame, 0));
    }

    /// A router in the middle that forwards no packet above its MTU, and says so.
    fn world(family: usize) {
        let limit = if family == 0 { NARROW } else { 1_280 };
        let dropped = Rc::new(RefCell::new(Vec::new()));
        let (mut port_a, port_b) = MemoryPort::pair(&MemoryConfig::default());
        let seen = dropped.clone();
        port_a.set_fault_hook(move |_, frame| {
            if frame.len() <= 14 + limit {
                return Fate::Deliver;
            }
            seen.borrow_mut().push(frame.to_vec());
            Fate::Drop
        });
        let config = ShardConfig {
            tcp: bywash_tcp::Config {
                send_buffer: 1 << 20,
                ..ShardConfig::default().tcp
            },
            ..ShardConfig::default()
        };
        let clock = ManualClock::new();
        let ports = (port_a, port_b);
        let mut pair = MemoryPair::seeded(&config, ports, Source, Sink::default(), &clock, 1);
        if family == 1 {
            pair.a.with_context(|_, cx| call(cx, 1));
        }
        let run = |pair: &mut MemoryPair<Source, Sink>, bytes: usize| {
            for _ in 0..20_000 {
                pair.turn();
                for frame in dropped.borrow_mut().drain(..) {
                    post(&mut pair.b.core.port, &too_big(&frame));
                }
                clock.advance(Duration::from_micros(100));
                if pair.b.service().0 == bytes {
                    return;
                }
            }
            panic!("{} of {bytes} octets arrived", pair.b.service().0);
        };
        run(&mut pair, BYTES * (family + 1));
        let first = pair.a.core.counters.icmp_errors;
        assert!(first > 0);
        let conns = pair.a.core.conns.iter();
        let timeouts: u64 = conns.map(|(_, conn)| conn.tcp.info().timeouts).sum();
        assert_eq!(timeouts, 0, "nobody waited");

        // The next connection to the same host does not have to learn it again.
        pair.a.with_context(|_, cx| call(cx, family));
        run(&mut pair, BYTES * (family + 2));
        assert_eq!(pair.a.core.counters.icmp_errors, first);
        assert!(dropped.borrow().is_empty());

        // An error about nobody's flow is counted, and changes nothing.
        let none = pair.a.core.count_of(DropReason::IcmpNoConnection);
        let mut frame = vec![0; 100];
        frame[12..14].copy_from_slice(&[8, 0]);
        frame[14] = 0x45;
        frame[23] = 6;
        frame[26..34].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
        frame[34..38].copy_from_slice(&[0, 7, 0, 9]);
        post(&mut pair.b.core.port, &too_big(&frame));
        pair.turn();
        pair.turn();
        assert_eq!(pair.a.core.count_of(DropReason::IcmpNoConnection), none + 1);
    }

    const SEARCH: usize = 4 * BYTES;

    /// As [`Source`], and its connections end when all is sent.
    struct Once;

    impl Service for Once {
        fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
            match event {
                Event::Connected { conn } => {
                    // As much as a search takes to its end.
                    assert_eq!(cx.send(conn, &[7; SEARCH]), Ok(SEARCH));
                    cx.close(conn).expect("it is open");
                }
                Event::Started => call(cx, 0),
                _ => {}
            }
        }
    }

    #[test]
    fn a_path_mtu_that_was_searched_for_is_known_to_the_next_connection() {
        // Above where searches begin, 1024 and headers.
        const SWALLOWED_ABOVE: usize = 1_300;
        let swallowed = Rc::new(Cell::new(0));
        let (mut port_a, port_b) = MemoryPort::pair(&MemoryConfig::default());
        let count = swallowed.clone();
        port_a.set_fault_hook(move |_, frame| {
            if frame.len() <= 14 + SWALLOWED_ABOVE {
                return Fate::Deliver;
            }
            count.set(count.get() + 1);
            Fate::Drop
        });
        let config = ShardConfig {
            tcp: bywash_tcp::Config {
                send_buffer: 1 << 20,
                mtu_probing: bywash_tcp::MtuProbing::Always,
                ..ShardConfig::default().tcp
            },
            ..ShardConfig::default()
        };
        let clock = ManualClock::new();
        let mut pair =
            MemoryPair::seeded(&config, (port_a, port_b), Once, Sink::default(), &clock, 1);
        let mut run = |bytes: usize, call_again: bool| {
            if call_again {
                pair.a.with_context(|_, cx| call(cx, 0));
            }
            for _ in 0..20_000 {
                pair.turn();
                clock.advance(Duration::from_micros(100));
                if pair.b.service().0 == bytes && pair.a.core.conns.len() == 0 {
                    return;
                }
            }
            panic!("{} of {bytes} octets arrived", pair.b.service().0);
        };
        run(SEARCH, false);
        let lost = swallowed.get();
        assert!(lost > 0, "nobody has probed");
        run(2 * SEARCH, true);
        assert_eq!(swallowed.get(), lost, "searched again");
    }

    impl<P: Port> super::Core<P> {
        fn count_of(&self, reason: DropReason) -> u64 {
            self.counters.drops[reason.index()]
        }
    }

    #[test]
    fn a_narrow_path_is_found_by_what_its_router_says() {
        world(0);
    }

    #[test]
    fn over_ipv6_too() {
        world(1);
    }
}
