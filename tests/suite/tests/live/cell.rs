//! One cell of the matrix: what both ends are told, and what the wire does.

use std::fmt;
use std::time::Duration;

use bywash::{CongestionControl, EcnMode, EngineConfig, VlanChoice, WantedVlan};
use bywash_link::{Impairment, Link, Tags};
use bywash_tests::frames::mac;
use bywash_tests::{Bed, Shape, Side};

use crate::cover::Row;

/// Which ends offer an option of TCP.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Offer {
    /// Both: it is used.
    Both,
    /// Only the kernel.
    Theirs,
    /// Only we.
    Ours,
}

/// Who asks for congestion notification, and whether the other end agrees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ecn {
    /// We ask, the kernel refuses.
    Refused,
    /// The kernel asks.
    Theirs,
    /// We ask.
    Ours,
    /// Whoever opens the connection asks.
    Both,
}

/// What the two devices and the path between them do.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Wire {
    /// A veth pair with the kernel's default offloads.
    Offloads,
    /// A veth pair without offloads.
    Plain,
    /// The link emulator with this, after 1 ms each way.
    Faulty(&'static str, Impairment),
}

const OFFERS: [Offer; 3] = [Offer::Both, Offer::Theirs, Offer::Ours];
const ECNS: [Ecn; 4] = [Ecn::Refused, Ecn::Theirs, Ecn::Ours, Ecn::Both];
/// The first is the least of the family: 576, or 1280 (RFC 8200 5). The last is the most that veth takes with XDP.
const MTUS: [u16; 3] = [0, 1500, 3498];

const NOTHING: Impairment = Impairment {
    delay: Duration::from_millis(1),
    jitter: Duration::ZERO,
    loss: 0.0,
    burst: None,
    reorder: 0.0,
    reorder_by: Duration::from_millis(1),
    duplicate: 0.0,
    mark: 0.0,
    corrupt: 0.0,
    truncate: 0.0,
    rate: None,
    queue: 256 * 1024,
};

const fn losing(loss: f64) -> Impairment {
    Impairment { loss, ..NOTHING }
}

/// The wires of the matrix.
pub(crate) const WIRES: [Wire; 10] = [
    Wire::Offloads,
    Wire::Plain,
    Wire::Faulty("loss 0.1%", losing(0.001)),
    Wire::Faulty("loss 1%", losing(0.01)),
    Wire::Faulty("loss 5%", losing(0.05)),
    Wire::Faulty(
        "reorder 5%",
        Impairment {
            reorder: 0.05,
            ..NOTHING
        },
    ),
    Wire::Faulty(
        "duplicate 5%",
        Impairment {
            duplicate: 0.05,
            ..NOTHING
        },
    ),
    Wire::Faulty(
        "flip 1%",
        Impairment {
            corrupt: 0.01,
            ..NOTHING
        },
    ),
    Wire::Faulty(
        "CE mark 5%",
        Impairment {
            mark: 0.05,
            ..NOTHING
        },
    ),
    Wire::Faulty(
        "all of them 1%",
        Impairment {
            loss: 0.01,
            reorder: 0.01,
            duplicate: 0.01,
            mark: 0.01,
            corrupt: 0.01,
            ..NOTHING
        },
    ),
];

/// Which VLAN the connections are in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tagged {
    /// None: no tag.
    Not,
    /// A customer's: 802.1Q.
    Customer,
    /// A provider's: 802.1ad.
    Service,
    /// A customer's inside a provider's.
    Stacked,
}

const TAGS: [Tagged; 4] = [
    Tagged::Not,
    Tagged::Customer,
    Tagged::Service,
    Tagged::Stacked,
];

/// Bytes of two tags. Not all devices carry more than one beyond their MTU.
const TWO_TAGS: u16 = 8;

impl Tagged {
    /// As the emulator of VLANs has it, and as our engine is told.
    fn names(self) -> Option<(Tags, &'static str)> {
        match self {
            Self::Not => None,
            Self::Customer => Some((Tags::customer(5), "5")),
            Self::Service => Some((Tags::service(5), "s5")),
            Self::Stacked => Some((Tags::stacked(5, 7), "s5.7")),
        }
    }
}

/// Number of settings.
pub(crate) const SETTINGS: usize = 11;

/// How many values each setting has, in the order of [`Cell::of`].
pub(crate) const COUNTS: Row<SETTINGS> = [WIRES.len(), 4, 3, 3, 3, 3, 3, 3, 2, 2, TAGS.len()];

/// A cell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Cell {
    /// Path between the ends.
    pub(crate) wire: Wire,
    /// Congestion notification.
    pub(crate) ecn: Ecn,
    /// Of both devices, in bytes.
    pub(crate) mtu: u16,
    /// Timestamps.
    pub(crate) timestamps: Offer,
    /// Selective acknowledgments.
    pub(crate) sack: Offer,
    /// Window scaling.
    pub(crate) scale: Offer,
    /// Our congestion control.
    pub(crate) ours: CongestionControl,
    /// The kernel's.
    pub(crate) theirs: &'static str,
    /// IPv6.
    pub(crate) v6: bool,
    /// Buffers of some ten segments at both ends, instead of the defaults.
    pub(crate) small: bool,
    /// VLAN.
    pub(crate) tagged: Tagged,
    /// Of the link's draws.
    pub(crate) seed: u64,
}

impl Cell {
    /// Of a row of indices below [`COUNTS`].
    pub(crate) fn of(row: Row<SETTINGS>, seed: u64) -> Self {
        let [
            wire,
            ecn,
            mtu,
            timestamps,
            sack,
            scale,
            ours,
            theirs,
            v6,
            small,
            tagged,
        ] = row;
        let v6 = v6 == 1;
        let least = if v6 { 1280 } else { 576 };
        Self {
            wire: WIRES[wire],
            ecn: ECNS[ecn],
            mtu: MTUS[mtu].max(least),
            timestamps: OFFERS[timestamps],
            sack: OFFERS[sack],
            scale: OFFERS[scale],
            ours: CongestionControl::ALL[ours],
            theirs: CongestionControl::ALL[theirs].name(),
            v6,
            small: small == 1,
            tagged: TAGS[tagged],
            seed,
        }
    }

    /// Bytes in each of the four directions: less where each loss may cost a time-out of 200 ms, as without SACK.
    pub(crate) fn bytes(&self) -> usize {
        match self.wire {
            Wire::Faulty(_, impairment) if impairment.loss >= 0.05 => 1 << 18,
            _ => 1 << 20,
        }
    }

    /// Its namespaces, with the peer's kernel told its part.
    pub(crate) fn bed(&self) -> Bed {
        let link = match self.wire {
            Wire::Faulty(_, impairment) => Some(Link::both(impairment, self.seed)),
            Wire::Offloads | Wire::Plain => None,
        };
        let mut bed = Bed::new(Shape {
            offloads: matches!(self.wire, Wire::Offloads),
            link,
            ..Shape::default()
        });
        match self.tagged.names() {
            None => bed.set_mtu(self.mtu),
            Some((tags, _)) => {
                let most = MTUS[MTUS.len() - 1];
                bed.set_mtu((self.mtu + TWO_TAGS).min(most));
                bed.enter_vlan(tags, self.mtu.min(most - TWO_TAGS));
            }
        }
        self.tell_the_kernel(&bed.peer);
        // A bit flipped in ARP, which has no checksum, would teach a wrong address: not what is looked at here.
        if link.is_some_and(|link| link.forth.corrupt > 0.0) {
            know(&bed.host, &bed.peer, self.v6);
            know(&bed.peer, &bed.host, self.v6);
        }
        bed
    }

    fn tell_the_kernel(&self, peer: &Side) {
        let ecn = match self.ecn {
            Ecn::Refused => 0,
            Ecn::Theirs | Ecn::Both => 1,
            Ecn::Ours => 2,
        };
        let theirs = |offer: Offer| u8::from(offer != Offer::Ours);
        let mut settings = vec![
            format!("tcp_ecn={ecn}"),
            format!("tcp_timestamps={}", theirs(self.timestamps)),
            format!("tcp_sack={}", theirs(self.sack)),
            format!("tcp_window_scaling={}", theirs(self.scale)),
        ];
        if self.small {
            settings.push("tcp_rmem=4096 32768 32768".to_owned());
            settings.push("tcp_wmem=4096 16384 32768".to_owned());
        }
        let settings: Vec<String> = settings
            .iter()
            .map(|one| format!("net.ipv4.{one}"))
            .collect();
        let mut arguments = vec!["-qw"];
        arguments.extend(settings.iter().map(String::as_str));
        peer.run("sysctl", &arguments).ok();
    }

    /// What our engine is told.
    pub(crate) fn config(&self, bed: &Bed) -> EngineConfig {
        let mut config = EngineConfig::new(bed.trunk());
        if let Some((_, vlan)) = self.tagged.names() {
            config.vlans = VlanChoice::These(vec![WantedVlan {
                vlan: vlan.parse().expect("a VLAN"),
                // The kernels of these machines need no 802.1Q: the suite has an emulation.
                device: Some(bed.host.device.clone()),
            }]);
        }
        let tcp = &mut config.shard.tcp;
        tcp.ecn = match self.ecn {
            Ecn::Refused | Ecn::Ours | Ecn::Both => EcnMode::On,
            Ecn::Theirs => EcnMode::Accept,
        };
        let ours = |offer: Offer| offer != Offer::Theirs;
        tcp.timestamps = ours(self.timestamps);
        tcp.sack = ours(self.sack);
        tcp.window_scale = ours(self.scale);
        tcp.congestion = self.ours;
        if self.small {
            tcp.receive_buffer = 16 * 1024;
            tcp.receive_buffer_max = 16 * 1024;
            tcp.send_buffer = 16 * 1024;
        }
        config
    }

    /// Checks what `ss` says in the peer's namespace of a connection that was opened by us, or by the kernel.
    ///
    /// # Errors
    /// What the kernel says is not what the two ends were told.
    pub(crate) fn agreed(&self, said: &str, by_us: bool) -> Result<(), String> {
        let words: Vec<&str> = said.split_whitespace().collect();
        let ecn = match self.ecn {
            Ecn::Refused => false,
            Ecn::Both => true,
            Ecn::Ours => by_us,
            Ecn::Theirs => !by_us,
        };
        // RFC 3168 6.1.1.1: a SYN that was lost with its question is sent again without.
        let lossy = matches!(self.wire, Wire::Faulty(..));
        let ecn = ecn && (!lossy || words.contains(&"ecn"));
        let wanted = [
            ("ts", self.timestamps == Offer::Both),
            ("sack", self.sack == Offer::Both),
            ("ecn", ecn),
            (self.theirs, true),
        ];
        for (word, is_there) in wanted {
            if words.contains(&word) != is_there {
                return Err(format!("`{word}` should be there: {is_there}; {said}"));
            }
        }
        if words.iter().any(|word| word.starts_with("wscale:")) != (self.scale == Offer::Both) {
            return Err(format!("window scaling is for {:?}: {said}", self.scale));
        }
        Ok(())
    }
}

/// A neighbour that needs not be asked for.
fn know(side: &Side, other: &Side, v6: bool) {
    let bytes = mac(&other.link()).map(|byte| format!("{byte:02x}"));
    let address = other.address(v6).to_string();
    let arguments = ["neigh", "replace", &address, "lladdr", &bytes.join(":")];
    let rest = ["dev", &side.device, "nud", "permanent"];
    side.run("ip", &[&arguments[..], &rest].concat()).ok();
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let wire = match self.wire {
            Wire::Offloads => "offloads",
            Wire::Plain => "plain",
            Wire::Faulty(name, _) => name,
        };
        let family = if self.v6 { "IPv6" } else { "IPv4" };
        let buffers = if self.small { "small" } else { "ample" };
        write!(
            f,
            "{wire:14} {family} vlan {:8} mtu {:4} {buffers} {:>5}/{:5} ts {:6} sack {:6} ws {:6} ecn {:7}",
            format!("{:?}", self.tagged).to_lowercase(),
            self.mtu,
            self.ours.name(),
            self.theirs,
            format!("{:?}", self.timestamps).to_lowercase(),
            format!("{:?}", self.sack).to_lowercase(),
            format!("{:?}", self.scale).to_lowercase(),
            format!("{:?}", self.ecn).to_lowercase(),
        )
    }
}
