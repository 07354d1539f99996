//! The committed object, loaded: a program that is ready to attach, and its maps.

use std::collections::BTreeSet;
use std::error::Error;
use std::os::fd::{AsFd, OwnedFd};

use aya::maps::{Array, HashMap, Map, MapData, PerCpuArray, XskMap};
use aya::programs::Xdp;
use aya::{Ebpf, EbpfLoader};
use nix::libc;

use crate::abi::{Config, FLOWS_PER_QUEUE, SLOTS_PER_QUEUE};
use crate::error::{AttachError, errno};
use crate::inherit::Inherited;
use crate::pin::PinDir;
use crate::vlan::{Vlan, outer_bits};

/// Built from `bpf/demux.bpf.c` by `cargo run -p bywash-xdp-compile`; its disassembly is beside it.
static OBJECT: &[u8] = aya::include_bytes_aligned!("../bpf/demux.bpf.o");

/// Name of the program's function in `bpf/demux.bpf.c`.
const PROGRAM: &str = "demux";

/// Every map of `bpf/maps.h`.
const MAPS: [&str; 11] = [
    "flows",
    "ports",
    "addresses",
    "config",
    "vlans",
    "vlan_pairs",
    "xsks",
    "dirty",
    "syn_prefixes",
    "accounts",
    "counters",
];

/// Entries of the `addresses` map, as in `bpf/maps.h`.
pub(crate) const ADDRESSES: u32 = 4096;

/// Entries of the `vlan_pairs` map, as in `bpf/maps.h`.
pub(crate) const VLAN_PAIRS: u32 = 4096;

/// The maps of `bpf/maps.h`. Keys and values are byte and word arrays: see `abi`.
pub(crate) struct Maps {
    pub(crate) flows: HashMap<MapData, [u8; 40], [u32; 3]>,
    pub(crate) ports: Array<MapData, u32>,
    pub(crate) addresses: HashMap<MapData, [u8; 16], u32>,
    pub(crate) config: Array<MapData, [u8; Config::LEN]>,
    pub(crate) vlans: Array<MapData, u32>,
    pub(crate) vlan_pairs: HashMap<MapData, u32, u32>,
    pub(crate) xsks: XskMap<MapData>,
    pub(crate) counters: PerCpuArray<MapData, u64>,
}

impl std::fmt::Debug for Maps {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Maps").finish_non_exhaustive()
    }
}

/// A loaded program with its maps still inside, until they are taken.
pub(crate) struct Object {
    ebpf: Ebpf,
}

impl std::fmt::Debug for Object {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Object").finish_non_exhaustive()
    }
}

impl Object {
    /// Creates the maps, sized for `queues`, and loads the program. Nothing is attached yet.
    pub(crate) fn load(queues: u32) -> Result<Self, AttachError> {
        let mut loader = EbpfLoader::new();
        loader
            .map_max_entries("xsks", queues * SLOTS_PER_QUEUE)
            .map_max_entries("flows", queues * FLOWS_PER_QUEUE)
            .map_max_entries("dirty", queues);
        Self::load_by(&mut loader)
    }

    /// Loads the program once more, with the maps that are pinned there. Their contents are as they are.
    pub(crate) fn load_with(pin_dir: &PinDir) -> Result<Self, AttachError> {
        let mut loader = EbpfLoader::new();
        for name in MAPS {
            // aya would create it and pin it there.
            if !pin_dir.contains(name) {
                return Err(load_error("finding its pinned maps", missing(name)));
            }
            loader.map_pin_path(name, pin_dir.path(name));
        }
        Self::load_by(&mut loader)
    }

    fn load_by(loader: &mut EbpfLoader<'_>) -> Result<Self, AttachError> {
        let mut ebpf = loader
            .load(OBJECT)
            .map_err(|error| load_error("creating its maps", error))?;
        program(&mut ebpf)?
            .load()
            .map_err(|error| load_error("the verifier", error))?;
        Ok(Self { ebpf })
    }

    /// Writes the configuration, before the program sees its first packet.
    pub(crate) fn write_config(&mut self, config: Config) -> Result<(), AttachError> {
        let mut map: Array<&mut MapData, [u8; Config::LEN]> = borrowed(&mut self.ebpf, "config")?;
        map.set(0, config.to_bytes(), 0)
            .map_err(|error| load_error("writing its configuration", error))
    }

    /// Makes addresses and ports ours, before the program sees its first packet.
    pub(crate) fn write_ours(
        &mut self,
        addresses: &[[u8; 16]],
        ports: &[u16],
        bits: u32,
    ) -> Result<(), AttachError> {
        let failed = |error| load_error("filling its maps", error);
        let mut map: HashMap<&mut MapData, [u8; 16], u32> = borrowed(&mut self.ebpf, "addresses")?;
        for address in addresses {
            map.insert(address, 1, 0).map_err(failed)?;
        }
        let mut map: Array<&mut MapData, u32> = borrowed(&mut self.ebpf, "ports")?;
        for port in ports {
            map.set(u32::from(*port), bits, 0).map_err(failed)?;
        }
        Ok(())
    }

    /// Makes tagged frames ours, before the program sees its first packet.
    pub(crate) fn write_vlans(&mut self, vlans: &BTreeSet<Vlan>) -> Result<(), AttachError> {
        let failed = |error| load_error("filling its maps", error);
        let mut pairs: HashMap<&mut MapData, u32, u32> = borrowed(&mut self.ebpf, "vlan_pairs")?;
        for pair in vlans.iter().filter(|vlan| vlan.is_pair()) {
            pairs.insert(pair.bits(), 1, 0).map_err(failed)?;
        }
        let mut tags: Array<&mut MapData, u32> = borrowed(&mut self.ebpf, "vlans")?;
        for (id, bits) in outer_bits(vlans) {
            tags.set(u32::from(id), bits, 0).map_err(failed)?;
        }
        Ok(())
    }

    /// Undoes [`Object::write_ours`] and [`Object::write_vlans`].
    pub(crate) fn forget(&mut self, inherited: &Inherited) -> Result<(), AttachError> {
        self.write_ours(&[], &inherited.ports, 0)?;
        let mut map: HashMap<&mut MapData, [u8; 16], u32> = borrowed(&mut self.ebpf, "addresses")?;
        for address in &inherited.addresses {
            map.remove(address)
                .map_err(|error| load_error("clearing its maps", error))?;
        }
        // A pair is nobody's without its outer tag's bits.
        let mut tags: Array<&mut MapData, u32> = borrowed(&mut self.ebpf, "vlans")?;
        for vlan in &inherited.vlans {
            tags.set(u32::from(vlan.outer()), 0, 0)
                .map_err(|error| load_error("clearing its maps", error))?;
        }
        Ok(())
    }

    /// The program, loaded.
    pub(crate) fn program(&mut self) -> Result<&mut Xdp, AttachError> {
        program(&mut self.ebpf)
    }

    /// Every map with its name, for pinning.
    pub(crate) fn maps(&self) -> impl Iterator<Item = (&str, &Map)> {
        self.ebpf.maps().filter(|(name, _)| !name.starts_with('.'))
    }

    /// Takes the maps out. What remains is the program, to be attached once more if need be.
    /// The second part is the `dirty` map, which nobody looks up: it is mapped.
    pub(crate) fn take_maps(&mut self) -> Result<(Maps, OwnedFd), AttachError> {
        let maps = Maps {
            flows: typed(&mut self.ebpf, "flows")?,
            ports: typed(&mut self.ebpf, "ports")?,
            addresses: typed(&mut self.ebpf, "addresses")?,
            config: typed(&mut self.ebpf, "config")?,
            vlans: typed(&mut self.ebpf, "vlans")?,
            vlan_pairs: typed(&mut self.ebpf, "vlan_pairs")?,
            xsks: typed(&mut self.ebpf, "xsks")?,
            counters: typed(&mut self.ebpf, "counters")?,
        };
        Ok((maps, descriptor(&mut self.ebpf, "dirty")?))
    }
}

fn program(ebpf: &mut Ebpf) -> Result<&mut Xdp, AttachError> {
    let program = ebpf
        .program_mut(PROGRAM)
        .ok_or_else(|| load_error("finding the program", missing(PROGRAM)))?;
    program
        .try_into()
        .map_err(|error| load_error("the program's type", error))
}

fn typed<T>(ebpf: &mut Ebpf, name: &'static str) -> Result<T, AttachError>
where
    T: TryFrom<Map>,
    T::Error: Error + Send + Sync + 'static,
{
    let map = ebpf
        .take_map(name)
        .ok_or_else(|| load_error("finding its maps", missing(name)))?;
    T::try_from(map).map_err(|error| load_error("the layout of its maps", error))
}

fn descriptor(ebpf: &mut Ebpf, name: &'static str) -> Result<OwnedFd, AttachError> {
    let Some(Map::Array(data)) = ebpf.take_map(name) else {
        return Err(load_error("finding its maps", missing(name)));
    };
    let fd = data.fd().as_fd().try_clone_to_owned();
    fd.map_err(|error| load_error("copying a map's descriptor", error))
}

fn borrowed<'a, T>(ebpf: &'a mut Ebpf, name: &'static str) -> Result<T, AttachError>
where
    T: TryFrom<&'a mut Map>,
    T::Error: Error + Send + Sync + 'static,
{
    let map = ebpf
        .map_mut(name)
        .ok_or_else(|| load_error("finding its maps", missing(name)))?;
    T::try_from(map).map_err(|error| load_error("the layout of its maps", error))
}

fn missing(name: &str) -> std::io::Error {
    std::io::Error::new(
        std::io::ErrorKind::NotFound,
        format!("the object has no `{name}`"),
    )
}

fn load_error(step: &'static str, error: impl Error + Send + Sync + 'static) -> AttachError {
    match errno(&error) {
        Some(code @ (libc::EPERM | libc::EACCES))
            if step != "the verifier" || code == libc::EPERM =>
        {
            AttachError::NotPrivileged {
                operation: "loading the XDP program",
                source: std::io::Error::from_raw_os_error(code),
            }
        }
        _ => AttachError::Load {
            step,
            source: Box::new(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::MAPS;

    /// A map that is missing in the list would be a new and empty one in a program that replaces another.
    #[test]
    fn the_list_of_maps_is_that_of_the_source() {
        let source = include_str!("../bpf/maps.h");
        let named = source.lines().filter_map(|line| {
            line.strip_prefix("} ")
                .and_then(|rest| rest.strip_suffix(" MAP;"))
        });
        assert!(
            named.eq(MAPS),
            "bpf/maps.h has other maps, or another order"
        );
    }
}
