//! The device as it is now, and what its changes mean for a running engine.
//!
//! | change | what follows |
//! |---|---|
//! | address added or removed | the demultiplexer takes it, or leaves it to the kernel; connections of a removed one are kept, as Linux keeps them: they go on if it comes back, and time out if not |
//! | link down, up | connections are kept; their segments wait or are lost, and are sent again |
//! | MTU | segments of all connections shrink with it; new connections grow with it, as far as a frame holds it |
//! | VLANs on the device | their tags are ours as far as they are wanted and there |
//! | MAC address | paths follow by themselves |
//! | device gone | the engine ends, with an error that says so |

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bywash_wire::MacAddr;
use bywash_xdp::{Demux, DemuxError};

use super::Shared;
use crate::directory::{ControlMessage, Directory};
use crate::host::{Device, HostEvent, VlanDevice};
use crate::steering::demultiplexed;

/// What `ss` shows of the device.
#[derive(Clone, Debug)]
pub(crate) struct Live {
    pub(crate) addresses: BTreeSet<IpAddr>,
    pub(crate) mtu: u16,
    pub(crate) mac: MacAddr,
    pub(crate) running: bool,
    pub(crate) vlans: Vec<VlanDevice>,
}

/// The device's present state; the host thread writes it, the control socket reads it.
#[derive(Debug)]
pub(crate) struct LiveDevice(Mutex<Live>);

impl LiveDevice {
    pub(super) fn new(device: &Device) -> Self {
        Self(Mutex::new(Live {
            addresses: device.served(),
            mtu: device.mtu,
            mac: device.mac,
            running: device.carrier,
            vlans: device.vlans.clone(),
        }))
    }

    pub(crate) fn now(&self) -> Live {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Live> {
        // Each change is one assignment: a holder that panicked left nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Does what the host thread's events ask for. Called on that thread.
pub(super) struct Follower {
    pub(super) device: String,
    pub(super) live: Arc<LiveDevice>,
    /// The engine's is the last strong reference: its drop detaches.
    pub(super) demux: Weak<Demux>,
    pub(super) directory: Arc<Directory>,
    pub(super) shared: Arc<Shared>,
}

impl Follower {
    pub(super) fn on_event(&self, event: HostEvent) {
        let device = self.device.as_str();
        match event {
            HostEvent::AddressAdded(address) => {
                tracing::info!(device, %address, "the device has a new address");
                self.live.lock().addresses.insert(address);
                self.demultiplex(|demux| demux.add_address(address));
            }
            HostEvent::AddressRemoved(address) => {
                tracing::warn!(device, %address, "an address is gone: its connections wait for it, and time out without it");
                self.live.lock().addresses.remove(&address);
                self.demultiplex(|demux| demux.remove_address(address));
            }
            HostEvent::Vlans(vlans) => {
                let shown: Vec<String> = vlans.iter().map(ToString::to_string).collect();
                tracing::warn!(device, vlans = shown.join(", "), "the VLANs changed");
                let tags: Vec<_> = vlans.iter().map(|one| demultiplexed(one.vlan)).collect();
                self.live.lock().vlans = vlans;
                self.demultiplex(|demux| demux.set_vlans(&tags));
            }
            HostEvent::LinkUp => {
                tracing::warn!(device, "the link is up again");
                self.live.lock().running = true;
            }
            HostEvent::LinkDown => {
                tracing::warn!(
                    device,
                    "the link is down: connections wait for it, and time out without it"
                );
                self.live.lock().running = false;
            }
            HostEvent::MtuChanged(mtu) => {
                tracing::warn!(device, mtu, "the MTU changed");
                self.live.lock().mtu = mtu;
                self.tell_shards(mtu);
            }
            HostEvent::MacChanged(mac) => {
                tracing::warn!(device, %mac, "the MAC address changed");
                self.live.lock().mac = mac;
            }
            HostEvent::DeviceGone => {
                tracing::error!(device, "the device is gone: the engine ends");
                self.live.lock().running = false;
                self.shared
                    .gone
                    .store(true, std::sync::atomic::Ordering::Relaxed);
                self.shared.stop(&self.directory);
            }
            HostEvent::Failed(error) => {
                tracing::error!(device, %error, "routes, neighbours and addresses are followed no more: restart the engine");
            }
        }
    }

    fn demultiplex(&self, change: impl FnOnce(&Demux) -> Result<(), DemuxError>) {
        // Without one the engine is ending.
        if let Some(demux) = self.demux.upgrade()
            && let Err(error) = change(&demux)
        {
            tracing::error!(%error, "the demultiplexer does not follow the device's addresses and VLANs");
        }
    }

    fn tell_shards(&self, mtu: u16) {
        for shard in 0..self.directory.shards() {
            if !self.directory.inbox(shard).send(ControlMessage::Mtu(mtu)) {
                tracing::error!(
                    shard,
                    mtu,
                    "the shard does not take messages: it keeps the old MTU"
                );
            }
        }
    }
}
