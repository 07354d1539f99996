//! Sizes: of the UMEM, of the rings, and the sum that keeps the two consistent.
//!
//! A receive frame is always in one of these hands: an RX ring that nobody has read yet, an application (lease or
//! reassembly), or the fill ring. If the hands together may hold more than there is, the fill ring runs empty and *every*
//! flow of the queue loses packets; so the sum is checked when a port is opened.

use core::time::Duration;

use crate::error::XskError;
use crate::socket::KERNEL_TX_BUDGET;

/// How a UMEM is cut up.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UmemConfig {
    /// Bytes of a chunk: 2048 or 4096. On receive the kernel keeps 256 of them for XDP.
    pub chunk_size: u32,
    /// Chunks for receiving: the first ones of the UMEM.
    pub rx_frames: u32,
    /// Chunks for sending: the rest.
    pub tx_frames: u32,
    /// Bytes before the empty window of a fresh TX frame, room for headers.
    pub headroom: u32,
}

impl Default for UmemConfig {
    fn default() -> Self {
        Self {
            chunk_size: 2048,
            rx_frames: 16_384,
            tx_frames: 8_192,
            headroom: 128,
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
        let fault = if !matches!(self.chunk_size, 2048 | 4096) {
            // Aligned mode: a power of two from 2048 to the page size.
            format!("chunk_size {} must be 2048 or 4096", self.chunk_size)
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
    /// RX ring of each flow pool.
    pub pool: u32,
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
            pool: 256,
            tx: 2048,
            fill: 4096,
        }
    }
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
    /// Flow pools: RX-only sockets behind ring indices 2 and up.
    pub pools: u32,
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
            pools: 16,
            mode: BindMode::Auto,
            lease_cap: 6144,
            fill_reserve: 1024,
            tx_outstanding_max: None,
            tx_budget: Some(256),
            bind_patience: Duration::from_millis(500),
        }
    }

    /// Sizes that fit together, or what does not.
    pub(crate) fn check(&self) -> Result<(), XskError> {
        self.umem.check()?;
        let rings = &self.rings;
        for (name, size) in [
            ("primary", rings.primary),
            ("control", rings.control),
            ("pool", rings.pool),
            ("tx", rings.tx),
            ("fill", rings.fill),
        ] {
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
        self.check_rx_frames()
    }

    /// RX frames >= sum of RX ring sizes + lease cap + fill reserve.
    fn check_rx_frames(&self) -> Result<(), XskError> {
        let terms = [
            ("rings.primary", u64::from(self.rings.primary)),
            ("rings.control", u64::from(self.rings.control)),
            (
                "pools x rings.pool",
                u64::from(self.pools) * u64::from(self.rings.pool),
            ),
            ("lease_cap", u64::from(self.lease_cap)),
            ("fill_reserve", u64::from(self.fill_reserve)),
        ];
        let need: u64 = terms.iter().map(|(_, value)| value).sum();
        if need <= u64::from(self.umem.rx_frames) {
            return Ok(());
        }
        let mut largest = terms[0];
        for term in terms {
            if term.1 > largest.1 {
                largest = term;
            }
        }
        let spelt = terms
            .map(|(name, value)| format!("{name} {value}"))
            .join(" + ");
        Err(XskError::TooFewRxFrames {
            rx_frames: self.umem.rx_frames,
            need,
            term: largest.0,
            value: largest.1,
            terms: spelt,
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
    /// Flow pools behind ring indices 2 and up.
    pub pools: u32,
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
                pool: 256,
                tx: 1024,
                fill: 1024,
            },
            pools: 4,
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
    fn the_defaults_fit_together() {
        XskConfig::new("eth0", 0).check().expect("defaults");
    }

    #[test]
    fn too_few_rx_frames_names_the_largest_term() {
        let text = fault(|config| config.pools = 64);
        assert_eq!(
            text,
            "caller: 16384 RX frames are fewer than 25856 = rings.primary 2048 + rings.control 256 \
             + pools x rings.pool 16384 + lease_cap 6144 + fill_reserve 1024; \
             lower pools x rings.pool (16384, the largest term) or raise rx_frames"
        );
        assert!(fault(|config| config.lease_cap = 20_000).contains("lower lease_cap (20000"));
        assert!(fault(|config| config.fill_reserve = u32::MAX).contains("lower fill_reserve"));
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
        assert!(fault(|config| config.rings.pool = 100).contains("ring size pool = 100"));
        assert!(fault(|config| config.rings.tx = 0).contains("ring size tx = 0"));
        assert!(fault(|config| config.tx_budget = Some(31)).contains("tx_budget 31"));
        assert!(fault(|config| config.tx_budget = Some(2049)).contains("32..=2048"));
        assert!(fault(|config| config.tx_outstanding_max = Some(0)).contains("tx_outstanding_max"));
    }
}
