//! Which receive queue a flow lands on: ntuple rules and RSS indirection.
//!
//! ```text
//!   NIC: packet -> ntuple rule that matches? -- yes --> the rule's queue
//!                        | no
//!                        v
//!                  hash of the flow -> indirection table [0 1 2 3 0 1 2 3 ..] -> queue
//! ```
//! Both are set by `ioctl(SIOCETHTOOL)`. Ethtool's netlink family can read and, since Linux 6.17, write the indirection; it has
//! no message for rules as of 6.18, so the ioctl is the one interface for both, on every kernel.
//!
//! [`Ethtool`] is what is asked; [`Device`] asks the kernel; tests answer by a table of their own, since virtual devices have
//! neither. What a driver cannot do it answers with EOPNOTSUPP, and that is [`QueueError::Unsupported`]: never silence.

mod ioctl;
mod wire;

use std::io;
use std::net::{IpAddr, SocketAddr};

pub use ioctl::Device;
pub use wire::{Request, Rule, RuleId};

/// Why the device's queues cannot be told.
#[derive(Debug, thiserror::Error)]
pub enum QueueError {
    /// The driver has no such thing, or has it switched off.
    #[error("{device} cannot {what} (not supported by its driver){remedy}")]
    Unsupported {
        /// The device.
        device: String,
        /// What it cannot.
        what: &'static str,
        /// What to try, with a separator before it; empty: nothing.
        remedy: &'static str,
    },
    /// No place for another rule.
    #[error("{device} has no room for another rule (it has {rules})")]
    Full {
        /// The device.
        device: String,
        /// Rules that it has.
        rules: u32,
    },
    /// A table that cannot be: no queues, or more than the table has entries.
    #[error("{device}: {queues} queues do not fit an indirection table of {entries} entries")]
    Table {
        /// The device.
        device: String,
        /// Queues asked for.
        queues: u32,
        /// Entries of the table.
        entries: u32,
    },
    /// Anything else.
    #[error("{device}: {what}: {source}")]
    System {
        /// The device.
        device: String,
        /// What was being done.
        what: &'static str,
        /// The kernel's answer.
        source: io::Error,
    },
}

/// Whoever answers ethtool requests for one device.
pub trait Ethtool {
    /// Name of the device, for messages.
    fn device(&self) -> &str;

    /// Puts one request, which begins with its command, and takes the answer in its place.
    ///
    /// # Errors
    /// The kernel's.
    fn call(&mut self, request: &mut Request) -> io::Result<()>;
}

impl<E: Ethtool + ?Sized> Ethtool for Box<E> {
    fn device(&self) -> &str {
        (**self).device()
    }

    fn call(&mut self, request: &mut Request) -> io::Result<()> {
        (**self).call(request)
    }
}

/// What a flow rule is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Match {
    /// TCP to this port, over IPv4.
    PortV4(u16),
    /// TCP to this port, over IPv6.
    PortV6(u16),
    /// TCP of this one flow, as it arrives.
    Flow {
        /// Who sends.
        source: SocketAddr,
        /// To whom: of the same family.
        destination: SocketAddr,
    },
}

impl Match {
    /// The flow between a local and a remote end, as its packets arrive.
    #[must_use]
    pub fn flow(local: (IpAddr, u16), remote: (IpAddr, u16)) -> Self {
        Self::Flow {
            source: remote.into(),
            destination: local.into(),
        }
    }
}

/// Requests by name over anything that answers them.
pub struct Queues<E> {
    ethtool: E,
}

/// Whether the device takes VLAN tags out of the frames that it receives, of 802.1Q at least (`rx-vlan-offload`).
///
/// # Errors
/// The kernel's; a device without offloads to set says that it has none.
pub fn rx_vlan_offload(ethtool: &mut impl Ethtool) -> io::Result<bool> {
    let mut request = Request::flags();
    match ethtool.call(&mut request) {
        Ok(()) => Ok(request.value() & wire::FLAG_RX_VLAN != 0),
        Err(error) if error.raw_os_error() == Some(libc::EOPNOTSUPP) => Ok(false),
        Err(error) => Err(error),
    }
}

const RULES: &str = "steer flows by ntuple rules";
const INDIRECTION: &str = "spread flows by RSS indirection";
const NTUPLE_OFF: &str = "; if it has them switched off: ethtool -K <device> ntuple on";

impl<E: Ethtool> Queues<E> {
    /// Over this device.
    pub fn new(ethtool: E) -> Self {
        Self { ethtool }
    }

    /// Who is asked.
    pub fn ethtool(&self) -> &E {
        &self.ethtool
    }

    fn call(
        &mut self,
        request: &mut Request,
        what: &'static str,
        remedy: &'static str,
    ) -> Result<(), QueueError> {
        self.ethtool.call(request).map_err(|source| {
            let device = self.ethtool.device().to_owned();
            match source.raw_os_error() {
                Some(libc::EOPNOTSUPP) => QueueError::Unsupported {
                    device,
                    what,
                    remedy,
                },
                _ => QueueError::System {
                    device,
                    what,
                    source,
                },
            }
        })
    }

    /// Sends what matches to a queue. Returns the rule's place, for [`remove`](Self::remove).
    ///
    /// # Errors
    /// See [`QueueError`].
    pub fn insert(&mut self, what: Match, queue: u32) -> Result<RuleId, QueueError> {
        let location = self.free_location()?;
        let mut request = Rule {
            what,
            queue,
            location,
        }
        .insertion();
        self.call(&mut request, RULES, NTUPLE_OFF)?;
        Ok(request.location())
    }

    /// How many rules there are: an error says that there cannot be any.
    ///
    /// # Errors
    /// See [`QueueError`].
    pub fn rules(&mut self) -> Result<u32, QueueError> {
        let mut count = Request::rule_count();
        self.call(&mut count, RULES, NTUPLE_OFF)?;
        Ok(count.counts().0)
    }

    /// Removes a rule.
    ///
    /// # Errors
    /// See [`QueueError`].
    pub fn remove(&mut self, rule: RuleId) -> Result<(), QueueError> {
        self.call(&mut Request::removal(rule), RULES, NTUPLE_OFF)
    }

    /// A place that the driver chooses, or else the last one that is free: drivers that leave the choice to us match the
    /// first places first, and those may be an administrator's.
    fn free_location(&mut self) -> Result<RuleId, QueueError> {
        let mut count = Request::rule_count();
        self.call(&mut count, RULES, NTUPLE_OFF)?;
        let (used, size) = count.counts();
        let Some(size) = size else {
            return Ok(RuleId::ANY);
        };
        let mut all = Request::all_rules(used);
        self.call(&mut all, RULES, NTUPLE_OFF)?;
        let taken = all.locations();
        (0..size)
            .rev()
            .map(RuleId::at)
            .find(|place| !taken.contains(place))
            .ok_or_else(|| QueueError::Full {
                device: self.ethtool.device().to_owned(),
                rules: used,
            })
    }

    /// The indirection table: a queue for each value of the hash.
    ///
    /// # Errors
    /// See [`QueueError`].
    pub fn indirection(&mut self) -> Result<Vec<u32>, QueueError> {
        let mut size = Request::indirection(0);
        self.call(&mut size, INDIRECTION, "")?;
        let mut table = Request::indirection(size.table_size());
        self.call(&mut table, INDIRECTION, "")?;
        Ok(table.table())
    }

    /// Sets the indirection table.
    ///
    /// # Errors
    /// See [`QueueError`].
    pub fn set_indirection(&mut self, table: &[u32]) -> Result<(), QueueError> {
        self.call(&mut Request::set_indirection(table), INDIRECTION, "")
    }

    /// Spreads all flows evenly over queues `0..queues`. Returns the table as it was.
    ///
    /// # Errors
    /// See [`QueueError`].
    pub fn spread(&mut self, queues: u32) -> Result<Vec<u32>, QueueError> {
        let before = self.indirection()?;
        let entries = before.len() as u32;
        if queues == 0 || queues > entries {
            return Err(QueueError::Table {
                device: self.ethtool.device().to_owned(),
                queues,
                entries,
            });
        }
        let even: Vec<u32> = (0..entries).map(|entry| entry % queues).collect();
        if even != before {
            self.set_indirection(&even)?;
        }
        Ok(before)
    }
}

#[cfg(test)]
mod tests;
