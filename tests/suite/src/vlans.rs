//! VLANs over a bed's wire, for kernels without 802.1Q: [`Tagger`]s in both namespaces do what VLAN devices would.
//!
//! ```text
//!  bwv0 (10.89.0.1) ═ bwv0i ─ Tagger ─┐                              ┌─ Tagger ─ bwv0i ═ bwv0 (10.89.0.2)
//!  bwv1 (10.89.1.1) ═ bwv1i ─ Tagger ─┴─ host's device ─── peer's ───┴─ Tagger ─ bwv1i ═ bwv1 (10.89.1.2)
//! ```

use std::net::{Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use bywash_link::{Tagger, Tags};

use crate::bed::{ip, spawn_in};
use crate::{Bed, LIMIT, Side};

/// The emulation; ends when dropped, which must be before its bed goes.
pub struct Vlans {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Vlans {
    /// VLANs of these tags and MTUs on the bed's devices; answers the ends of each, the host's first.
    #[track_caller]
    pub fn over(bed: &Bed, wanted: &[(Tags, u16)]) -> (Self, Vec<[Side; 2]>) {
        let mut vlans = Self {
            stop: Arc::default(),
            threads: Vec::new(),
        };
        let mut ends = Vec::new();
        for (number, (_, mtu)) in wanted.iter().enumerate() {
            ends.push([(&bed.host, 1), (&bed.peer, 2)].map(|(trunk, last)| {
                let side = outlet(trunk, number as u8, last);
                make(&side, *mtu);
                side
            }));
        }
        for trunk in [&bed.host, &bed.peer] {
            let outlets: Vec<(Tags, String)> = wanted
                .iter()
                .enumerate()
                .map(|(number, (tags, _))| (tags.clone(), inner(number as u8)))
                .collect();
            vlans.start(trunk, outlets);
        }
        (vlans, ends)
    }

    fn start(&mut self, trunk: &Side, outlets: Vec<(Tags, String)>) {
        let (ready, opened) = std::sync::mpsc::channel();
        let (stop, device) = (self.stop.clone(), trunk.device.clone());
        self.threads.push(spawn_in(&trunk.namespace, move || {
            let mut tagger = Tagger::open(&device, &outlets).expect("the devices of this bed");
            ready.send(()).expect("a bed that waits");
            tagger.run(&stop, None).expect("devices that stay");
        }));
        opened
            .recv_timeout(LIMIT)
            .expect("an emulation that starts");
    }
}

impl Drop for Vlans {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            if thread.join().is_err() {
                eprintln!("WARNING: the emulation of VLANs has panicked");
            }
        }
    }
}

fn outlet(trunk: &Side, number: u8, last: u8) -> Side {
    Side {
        namespace: trunk.namespace.clone(),
        device: format!("bwv{number}"),
        v4: Ipv4Addr::new(10, 89, number, last),
        v6: Ipv6Addr::new(0xfd89, number.into(), 0, 0, 0, 0, 0, last.into()),
    }
}

/// The end of an outlet's pair that the emulation holds.
fn inner(number: u8) -> String {
    format!("bwv{number}i")
}

#[track_caller]
fn make(side: &Side, mtu: u16) {
    let (namespace, device, mtu) = (&side.namespace, &side.device, mtu.to_string());
    let inner = format!("{device}i");
    let pair = ["type", "veth", "peer", "name", &inner];
    ip(&[&["-n", namespace, "link", "add", device][..], &pair].concat());
    // It has no addresses and says nothing of its own.
    let quiet = format!("net.ipv6.conf.{inner}.disable_ipv6=1");
    side.run("sysctl", &["-qw", &quiet]).ok();
    ip(&["-n", namespace, "link", "set", &inner, "up"]);
    side.configure(false);
    // Last, since below 1280 a device has no IPv6, and what belongs to it cannot be set (RFC 8200 5).
    for end in [device, &inner] {
        ip(&["-n", namespace, "link", "set", end, "mtu", &mtu]);
    }
}
