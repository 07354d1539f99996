//! Sizes: of the UMEM, of the rings, and the sum that keeps the two consistent.
//!
//! A receive frame is always in one of these hands: an RX ring that nobody has read yet, an application (lease or
//! reassembly), or the fill ring. If the hands together may hold more than there is, the fill ring runs empty and *every*
//! flow of the queue loses packets; so the sum is checked when a port is opened.

use core::time::Duration;

use crate::busy_poll::BusyPollConfig;
use crate::error::XskError;
use crate::socket::KERNEL_TX_BUDGET;
use crate::tx_checksum::TxChecksum;

/// How a UMEM is cut up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UmemConfig {
    /// Bytes of a chunk: 2048 or 4096, of a port in memory also a larger power of two, up to 65536. On receive the kernel
    /// keeps 256 of them for XDP.
    pub chunk_size: u32,
    /// Chunks for receiving: the first ones of the UMEM.
    pub rx_frames: u32,
    /// Chunks for sending: the rest.
    pub tx_frames: u32,
    /// Bytes before the empty window of a fresh TX frame, room for headers.
    pub headroom: u32,
    /// All pages are made at the start, so that none is missed when a packet comes. `false`: each when it is first touched, for
    /// simulations, which make many UMEMs and touch little of each.
    pub populate: bool,
}

impl Default for UmemConfig {
    fn default() -> Self {
        Self {
            chunk_size: 2048,
            rx_frames: 16_384,
            tx_frames: 8_192,
            headroom: 128,
            populate: true,
        }
    }
}

impl UmemConfig {
    /// All chunks.
    pub fn frames(&self) -> u32 {
        self.rx_frames + self.tx_frames
    }

    /// Bytes of the whole UMEM.
    pub fn bytes(&self) -> usize {
        self.frames() as usize * self.chunk_size as usize
    }

    pub(crate) fn check(&self) -> Result<(), XskError> {
        let fault = if !self.chunk_size.is_power_of_two()
            || !(2048..=65_536).contains(&self.chunk_size)
        {
            // The kernel wants less than that: see `XskConfig::check`. A descriptor's offset has 16 bits.
            format!(
                "chunk_size {} must be a power of two, 2048 to 65536",
                self.chunk_size
            )
        } else if self.headroom >= self.chunk_size {
            format!(
                "headroom {} leaves no room in a chunk of {}",
                self.headroom, self.chunk_size
            )
        } else if u64::from(self.rx_frames) + u64::from(self.tx_frames) > u64::from(MAX_FRAMES) {
            format!(
                "{} + {} frames are more than {MAX_FRAMES}",
                self.rx_frames, self.tx_frames
            )
        } else if self.frames() == 0 {
            "a UMEM without frames".to_owned()
        } else {
            return Ok(());
        };
        Err(XskError::Config(fault))
    }
}

/// Most chunks of a UMEM: 32 GiB at 2048 bytes. Keeps twice the index within the 30 bits of a lease word.
pub const MAX_FRAMES: u32 = 1 << 24;

/// Descriptors of each ring; every one a power of two.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RingSizes {
    /// RX ring of the primary socket.
    pub primary: u32,
    /// RX ring of the control pool: small, so that a flood of SYNs holds few frames.
    pub control: u32,
    /// TX ring of the primary socket.
    pub tx: u32,
    /// Fill ring. The completion ring is not a choice: it has room for every frame.
    pub fill: u32,
}

impl Default for RingSizes {
    fn default() -> Self {
        Self {
            primary: 2048,
            control: 256,
            tx: 2048,
            fill: 4096,
        }
    }
}

/// Descriptors in the ring of a flow pool, unless told otherwise: one more than veth's ring of 256 could bring at a time.
pub const POOL_RING: u32 = 256;

/// Flow pools of one size. A flow wants a ring that holds a whole window of segments: few flows have large ones, so large
/// rings are few.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PoolClass {
    /// How many.
    pub pools: u32,
    /// Descriptors of each one's RX ring, a power of two.
    pub ring: u32,
}

impl PoolClass {
    /// This many pools of [`POOL_RING`].
    pub const fn small(pools: u32) -> Self {
        Self {
            pools,
            ring: POOL_RING,
        }
    }

    /// RX frames that the rings of these pools hold when they are full.
    pub fn frames(&self) -> u64 {
        u64::from(self.pools) * u64::from(self.ring)
    }
}

/// Sizes of all flow pools' rings, in the order of their ring indices.
pub(crate) fn pool_rings(classes: &[PoolClass]) -> impl Iterator<Item = u32> {
    classes
        .iter()
        .flat_map(|class| (0..class.pools).map(|_| class.ring))
}

/// Which receive and send path of the kernel is asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum BindMode {
    /// Zero copy where the driver has it, else copy; [`crate::XskPort::mode`] says which it became.
    #[default]
    Auto,
    /// Copy, whatever the driver can do.
    Copy,
    /// Zero copy or an error.
    ZeroCopy,
}

/// A queue of a device, and how to serve it.
#[derive(Clone, Debug)]
pub struct XskConfig {
    /// Interface name in the calling thread's network namespace.
    pub interface: String,
    /// Queue number.
    pub queue: u32,
    /// The queue's memory.
    pub umem: UmemConfig,
    /// Ring sizes.
    pub rings: RingSizes,
    /// Flow pools by class: RX-only sockets behind ring indices 2 and up, in this order.
    pub pools: Vec<PoolClass>,
    /// Copy or zero copy.
    pub mode: BindMode,
    /// Most frames that connections and applications hold at a time (the engine keeps to it).
    pub lease_cap: u32,
    /// Frames that are left for the fill ring when everything else holds its most.
    pub fill_reserve: u32,
    /// Most frames sent and not yet completed; `None`: the size of the TX ring. On veth a little under 256, the size of
    /// the peer's ring, which drops what does not fit.
    pub tx_outstanding_max: Option<u32>,
    /// Descriptors that one `sendto` may take in copy mode; `None` leaves the kernel's 32. Kernels without the option
    /// are told by [`crate::XskPort::tx_budget`].
    pub tx_budget: Option<u32>,
    /// Busy polling, if it is wanted; [`crate::XskPort::modes`] says what became of it.
    pub busy_poll: Option<BusyPollConfig>,
    /// Who completes the checksums of sent packets; in zero-copy mode always software.
    pub tx_checksum: TxChecksum,
    /// Watch over frames on their way: [`crate::Statistics::tx_changed`]. For tests: every byte sent is hashed twice.
    pub guard_tx: bool,
    /// How long a bind is retried while a former owner of the queue is still being torn down (7-20 ms is usual).
    pub bind_patience: Duration,
}

impl XskConfig {
    /// The defaults for a queue of an interface.
    pub fn new(interface: impl Into<String>, queue: u32) -> Self {
        Self {
            interface: interface.into(),
            queue,
            umem: UmemConfig::default(),
            rings: RingSizes::default(),
            pools: vec![PoolClass::small(16)],
            mode: BindMode::Auto,
            lease_cap: 6144,
            fill_reserve: 1024,
            tx_outstanding_max: None,
            tx_budget: Some(256),
            busy_poll: None,
            tx_checksum: TxChecksum::Software,
            guard_tx: false,
            bind_patience: Duration::from_millis(500),
        }
    }

    /// Sizes that fit together, or what does not.
    pub(crate) fn check(&self) -> Result<(), XskError> {
        if self.umem.chunk_size > 4096 {
            // Aligned mode: not above the page size.
            return Err(XskError::Config(format!(
                "chunk_size {} must be 2048 or 4096",
                self.umem.chunk_size
            )));
        }
        self.umem.check()?;
        let rings = &self.rings;
        for (name, size) in [
            ("primary", rings.primary),
            ("control", rings.control),
            ("tx", rings.tx),
            ("fill", rings.fill),
        ]
        .into_iter()
        .chain(self.pools.iter().map(|class| ("pool", class.ring)))
        {
            if !size.is_power_of_two() {
                return Err(XskError::Config(format!(
                    "ring size {name} = {size} is not a power of two"
                )));
            }
        }
        if let Some(budget) = self.tx_budget
            && !(KERNEL_TX_BUDGET..=rings.tx).contains(&budget)
        {
            let range = format!("{KERNEL_TX_BUDGET}..={} (the TX ring)", rings.tx);
            return Err(XskError::Config(format!(
                "tx_budget {budget} is not in {range}"
            )));
        }
        if self.tx_outstanding_max == Some(0) {
            return Err(XskError::Config(
                "tx_outstanding_max = 0 would never send".to_owned(),
            ));
        }
        if self.fill_reserve > rings.fill {
            return Err(XskError::Config(format!(
                "fill_reserve {} is beyond the fill ring of {}: lower it or raise rings.fill",
                self.fill_reserve, rings.fill
            )));
        }
        self.check_tx_frames()?;
        self.check_rx_frames()
    }

    /// Something must be left to send ACKs with while as many frames as may be are under way.
    fn check_tx_frames(&self) -> Result<(), XskError> {
        match self.tx_outstanding_max {
            Some(most) if most > self.umem.tx_frames => Err(XskError::Config(format!(
                "tx_outstanding_max {most} is more than the {} TX frames: lower it or raise tx_frames",
                self.umem.tx_frames
            ))),
            _ if self.umem.tx_frames == 0 => Err(XskError::Config(
                "tx_frames = 0 would never send: raise it".to_owned(),
            )),
            _ => Ok(()),
        }
    }

    /// RX frames >= sum of RX ring sizes + lease cap + fill reserve.
    fn check_rx_frames(&self) -> Result<(), XskError> {
        let pools = self.pools.iter().map(|class| {
            let name = format!("pools {} x {}", class.pools, class.ring);
            (name, class.frames())
        });
        let term = |name: &str, frames: u32| (name.to_owned(), u64::from(frames));
        let rings = [
            term("rings.primary", self.rings.primary),
            term("rings.control", self.rings.control),
        ];
        let others = [
            term("lease_cap", self.lease_cap),
            term("fill_reserve", self.fill_reserve),
        ];
        let terms: Vec<(String, u64)> = rings.into_iter().chain(pools).chain(others).collect();
        let need: u64 = terms.iter().map(|(_, value)| value).sum();
        if need <= u64::from(self.umem.rx_frames) {
            return Ok(());
        }
        let mut largest = &terms[0];
        for term in &terms {
            if term.1 > largest.1 {
                largest = term;
            }
        }
        let spelt: Vec<String> = terms
            .iter()
            .map(|(name, value)| format!("{name} = {value}"))
            .collect();
        Err(XskError::TooFewRxFrames {
            rx_frames: self.umem.rx_frames,
            need,
            term: largest.0.clone(),
            value: largest.1,
            terms: spelt.join(" + "),
        })
    }
}

/// Both ends of a wire in memory; they are alike.
#[derive(Clone, Debug)]
pub struct MemoryConfig {
    /// Memory of each end.
    pub umem: UmemConfig,
    /// Ring sizes; `fill` has no meaning here, and sizes need not be powers of two.
    pub rings: RingSizes,
    /// Flow pools by class, behind ring indices 2 and up.
    pub pools: Vec<PoolClass>,
    /// Most frames sent and not yet completed; `None`: all TX frames. A frame completes here only when the peer's
    /// application has let go of it, so a cap near the TX ring's size would let a slow reader stop ACKs.
    pub tx_outstanding_max: Option<u32>,
}

impl Default for MemoryConfig {
    fn default() -> Self {
        Self {
            umem: UmemConfig {
                rx_frames: 64,
                tx_frames: 4096,
                ..UmemConfig::default()
            },
            rings: RingSizes {
                primary: 1024,
                control: 128,
                tx: 1024,
                fill: 1024,
            },
            pools: vec![PoolClass::small(4)],
            tx_outstanding_max: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fault(change: impl FnOnce(&mut XskConfig)) -> String {
        let mut config = XskConfig::new("eth0", 0);
        change(&mut config);
        config.check().expect_err("it cannot work").to_string()
    }

    #[test]
    fn the_kernel_takes_no_chunk_above_a_page() {
        let mut config = XskConfig::new("eth0", 0);
        config.umem.chunk_size = 8192;
        let fault = config.check().expect_err("it cannot work").to_string();
        assert!(fault.contains("chunk_size 8192"), "{fault}");
    }

    #[test]
    fn the_defaults_fit_together() {
        XskConfig::new("eth0", 0).check().expect("defaults");
    }

    #[test]
    fn too_few_rx_frames_names_the_largest_term() {
        let text = fault(|config| {
            config.pools = vec![
                PoolClass::small(64),
                PoolClass {
                    pools: 2,
                    ring: 1024,
                },
            ];
        });
        assert_eq!(
            text,
            "caller: 16384 RX frames are fewer than 27904 = rings.primary = 2048 + rings.control = 256 \
             + pools 64 x 256 = 16384 + pools 2 x 1024 = 2048 + lease_cap = 6144 + fill_reserve = 1024; \
             lower pools 64 x 256 (16384, the largest term) or raise rx_frames"
        );
    }

    /// Each term of the sum can be the one that is too large, and is then the one that is named.
    #[test]
    fn every_term_of_the_sum_is_checked_and_named() {
        let large = 1 << 15;
        let named = |name: &str, change: fn(&mut XskConfig, u32)| {
            let text = fault(|config| change(config, large));
            assert!(text.contains(&format!("lower {name} ({large}")), "{text}");
            let mut without = XskConfig::new("eth0", 0);
            without.umem.rx_frames = large + (1 << 14);
            change(&mut without, large);
            without.check().expect("with more frames there is room");
        };
        named("rings.primary", |config, n| config.rings.primary = n);
        named("rings.control", |config, n| config.rings.control = n);
        named("pools 128 x 256", |config, n| {
            config.pools = vec![PoolClass::small(n / 256)];
        });
        named("lease_cap", |config, n| config.lease_cap = n);
        named("fill_reserve", |config, n| {
            (config.fill_reserve, config.rings.fill) = (n, n);
        });
    }

    #[test]
    fn transmit_frames_are_checked_too() {
        assert!(fault(|config| config.umem.tx_frames = 0).contains("tx_frames = 0"));
        let text = fault(|config| config.tx_outstanding_max = Some(9000));
        assert!(
            text.contains("9000 is more than the 8192 TX frames"),
            "{text}"
        );
        let text = fault(|config| config.fill_reserve = 5000);
        assert!(
            text.contains("fill_reserve 5000 is beyond the fill ring of 4096"),
            "{text}"
        );
    }

    #[test]
    fn the_sum_may_use_up_every_frame() {
        let mut config = XskConfig::new("eth0", 0);
        config.umem.rx_frames = 13_568;
        config.check().expect("exactly enough");
        config.umem.rx_frames -= 1;
        config.check().expect_err("one too few");
    }

    #[test]
    fn values_that_cannot_work_are_named() {
        assert!(fault(|config| config.pools[0].ring = 100).contains("ring size pool = 100"));
        assert!(fault(|config| config.rings.tx = 0).contains("ring size tx = 0"));
        assert!(fault(|config| config.tx_budget = Some(31)).contains("tx_budget 31"));
        assert!(fault(|config| config.tx_budget = Some(2049)).contains("32..=2048"));
        assert!(fault(|config| config.tx_outstanding_max = Some(0)).contains("tx_outstanding_max"));
    }
}
