//! Active opens whose path is not known yet. Found by simulation: one that was given up in the turn in which its path was found
//! was opened all the same.

use std::cell::Cell;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::rc::Rc;

use bywash_engine::clock::ManualClock;
use bywash_engine::config::ShardConfig;
use bywash_engine::context::{ConnOptions, Context};
use bywash_engine::host::{Path, Resolution, Routes};
use bywash_engine::random::SeededRandom;
use bywash_engine::service::{ConnId, Event, Service};
use bywash_engine::shard::{Environment, Shard};
use bywash_engine::steering::NoSteering;
use bywash_engine::tcp::CloseReason;
use bywash_engine::wire::MacAddr;
use bywash_engine::xsk::{MemoryConfig, Port, VirtualPort};

const OWN: [IpAddr; 1] = [IpAddr::V4(Ipv4Addr::new(10, 0, 0, 1))];
const REMOTE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 0, 0, 2));

/// A kernel that answers when it is told to.
#[derive(Clone, Default)]
struct LateRoutes {
    known: Rc<Cell<bool>>,
    told: bool,
}

impl Routes for LateRoutes {
    fn resolve(&mut self, _: IpAddr) -> Resolution {
        if !self.known.get() {
            return Resolution::Pending;
        }
        Resolution::Ready(Path {
            source: OWN[0],
            source_mac: MacAddr([2, 0, 0, 0, 0, 1]),
            destination_mac: MacAddr([2, 0, 0, 0, 0, 2]),
            vlan: None,
            mtu: 1500,
        })
    }

    fn poll(&mut self, changed: &mut Vec<IpAddr>) {
        if self.known.get() && !self.told {
            self.told = true;
            changed.push(REMOTE);
        }
    }

    fn sources(&self) -> &[IpAddr] {
        &OWN
    }
}

#[derive(Default)]
struct Caller {
    conn: Option<ConnId>,
    ended: Option<CloseReason>,
}

impl Service for Caller {
    fn on_event<P: Port>(&mut self, cx: &mut Context<'_, P>, event: Event) {
        match event {
            Event::Started => {
                let remote = SocketAddr::new(REMOTE, 7);
                self.conn = cx.connect(remote, ConnOptions::default()).ok();
            }
            Event::Closed { reason, .. } => self.ended = Some(reason),
            _ => {}
        }
    }
}

#[test]
fn giving_up_just_before_the_path_is_known_is_final() {
    for gives_up in [false, true] {
        let routes = LateRoutes::default();
        let known = Rc::clone(&routes.known);
        let (port, queue) = VirtualPort::open(&MemoryConfig::default()).expect("memory");
        let env = Environment {
            clock: Box::new(ManualClock::new()),
            random: Box::new(SeededRandom(1)),
            routes: Box::new(routes),
            steering: Box::new(NoSteering),
        };
        let mut shard = Shard::new(ShardConfig::default(), port, Caller::default(), env);
        shard.turn();
        if gives_up {
            shard.with_context(|caller, cx| {
                cx.abort(caller.conn.expect("begun")).expect("it lives");
            });
        }
        known.set(true);
        shard.turn();
        shard.turn();
        assert_eq!(queue.transmitted().is_some(), !gives_up, "a SYN");
        let ended = gives_up.then_some(CloseReason::Aborted);
        assert_eq!(shard.service().ended, ended);
        assert_eq!(shard.report().connections.len(), usize::from(!gives_up));
    }
}
