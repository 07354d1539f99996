//! What `bywash doctor` says of this kernel and this driver, held against what is tried here: each claim about a kernel is
//! true on that kernel, or its case fails. Nothing here knows which kernel it runs on but from doctor.

use std::path::Path;
use std::time::Duration;

use bywash::IdlePolicy;
use bywash::seams::xsk::{
    BindMode, BusyPoll, BusyPollConfig, TxBudget, TxChecksum, XskConfig, XskPort,
};

use crate::cases::{MIB, command, contains};
use crate::engine::{Running, doctor, finding, ss};
use crate::machine::Side;
use crate::raw::{Flags, try_bind};
use crate::traffic::{connect, ping_pong, there_and_back};
use crate::{Asked, Guest, Outcome};

/// Where nothing comes for so long, frames are dropped: far above what any transfer here has paused for.
const DROPPED: Duration = Duration::from_secs(15);
/// One byte more than a frame of 4096 holds beside XDP's room and the link header.
const BEYOND: u32 = 3819;
/// RX-only sockets on one queue.
const RECEIVERS: usize = 4;

pub(crate) fn all(guest: &mut Guest) {
    guest.case("doctor-af-xdp", abilities);
    guest.case("doctor-zero-copy", zero_copy);
    guest.case("doctor-driver", native);
    guest.case("doctor-busy-poll", busy_poll);
    guest.case("doctor-mtu", mtu);
    guest.case("doctor-pins", pins);
}

/// What was said and what was found.
struct Compared {
    text: Vec<String>,
    wrong: Vec<String>,
}

impl Compared {
    fn new() -> Self {
        Self {
            text: Vec::new(),
            wrong: Vec::new(),
        }
    }

    fn claim<E: std::fmt::Display>(&mut self, what: &str, said: bool, found: Result<(), E>) {
        let text = match &found {
            Ok(()) => format!("{what}: works"),
            Err(error) => format!("{what}: {error}"),
        };
        if said == found.is_ok() {
            self.text.push(text);
        } else {
            let said = if said { "has" } else { "lacks" };
            self.wrong.push(format!("doctor says {said}; {text}"));
        }
    }

    fn outcome(self) -> Outcome<String> {
        match self.wrong.is_empty() {
            true => Ok(self.text.join("; ")),
            false => Err(self.wrong.join("; ")),
        }
    }
}

/// Opens a port in copy mode, and gives what the kernel made of it.
fn port(side: &Side, change: fn(&mut XskConfig)) -> Outcome<Result<(TxBudget, BusyPoll), String>> {
    let device = side.device;
    side.run(move || {
        let mut config = XskConfig::new(device, 0);
        config.mode = BindMode::Copy;
        change(&mut config);
        XskPort::open(&config)
            .map(|port| (port.tx_budget(), port.modes().busy_poll.clone()))
            .map_err(|error| error.to_string())
    })
}

fn bound(side: &Side, flags: Flags, receivers: usize) -> Outcome<Result<Vec<bool>, String>> {
    let device = side.device;
    let outcome = side.run(move || try_bind(device, flags, receivers))??;
    Ok(outcome.map_err(|error| error.to_string()))
}

/// need-wakeup, RX-only sockets, preferred busy polling, several buffers, checksums by metadata, larger sends.
fn abilities(guest: &Guest) -> Outcome<String> {
    let host = &guest.host;
    let findings = doctor(host)?;
    let (_, text) = finding(&findings, "af-xdp")?;
    let (has, lacks) = text
        .split_once("; lacks ")
        .ok_or_else(|| format!("doctor: {text}"))?;
    let mut compared = Compared::new();
    let mut claim =
        |name: &str, found: Result<(), String>| match (has.contains(name), lacks.contains(name)) {
            (said, other) if said == other => Err(format!("{name} is not once in: {text}")),
            (said, _) => {
                compared.claim(name, said, found);
                Ok(())
            }
        };
    let copy = Flags::XDP_COPY;
    let one = bound(host, copy | Flags::XDP_USE_NEED_WAKEUP, 0)?.map(drop);
    claim("need-wakeup", one)?;
    let several = bound(host, copy, RECEIVERS)?.map(drop);
    claim("RX-only sockets", several)?;
    let segments = bound(host, copy | Flags::XDP_USE_SG, 0)?.map(drop);
    claim("several buffers a packet", segments)?;
    let metadata = port(host, |config| config.tx_checksum = TxChecksum::Kernel)?;
    claim("checksums by TX metadata", metadata.map(drop))?;
    let budget = match port(host, |config| config.tx_budget = Some(256))?? {
        (TxBudget::Raised(_), _) => Ok(()),
        (other, _) => Err(format!("{other:?}")),
    };
    claim("larger sends", budget)?;
    let polling = match port(host, |config| {
        config.busy_poll = Some(BusyPollConfig::default())
    })?? {
        // The option comes first; without a NAPI it is not tried.
        (_, BusyPoll::Unavailable { reason }) if reason.starts_with("SO_PREFER") => Err(reason),
        _ => Ok(()),
    };
    claim("preferred busy polling", polling)?;
    compared.outcome()
}

/// Zero copy, and how many buffers a packet may have there. Who is told that the kernel does not say must find that it cannot
/// be asked.
fn zero_copy(guest: &Guest) -> Outcome<String> {
    let host = &guest.host;
    let findings = doctor(host)?;
    let (level, text) = finding(&findings, "zero-copy")?;
    let found = bound(host, Flags::XDP_ZEROCOPY, RECEIVERS)?;
    if let Ok(all) = &found
        && !all.iter().all(|zero_copy| *zero_copy)
    {
        return Err(format!("zero copy was granted to some only: {all:?}"));
    }
    if text.contains("does not tell") {
        // Zero copy of virtio_net and igb is younger than the kernel's telling.
        return match found {
            Ok(_) => Err(format!("doctor says {text:?}, and there is zero copy")),
            Err(error) => Ok(format!("not told, and not there: {error}")),
        };
    }
    let mut compared = Compared::new();
    compared.claim("zero copy", level == "ok", found.map(drop));
    if level == "ok" {
        let segments = bound(host, Flags::XDP_ZEROCOPY | Flags::XDP_USE_SG, 0)?;
        let said = text.contains("several buffers a packet");
        compared.claim("several buffers in zero copy", said, segments.map(drop));
    }
    compared.outcome()
}

/// Native XDP, with the object that is in the program: it loads on this kernel.
fn native(guest: &Guest) -> Outcome<String> {
    let host = &guest.host;
    let findings = doctor(host)?;
    let said = finding(&findings, "driver").map(|(_, text)| text.contains("native XDP"));
    let found = Running::start(host, Asked::DRIVER_COPY.config(host)).and_then(Running::stop);
    let mut compared = Compared::new();
    match said {
        Ok(said) => compared.claim("native XDP", said, found),
        // Before Linux 6.3 nobody knows, and doctor says nothing.
        Err(_) => {
            let (_, text) = finding(&findings, "zero-copy")?;
            contains(text, "does not tell")?;
            compared
                .text
                .push(format!("nothing is said; native XDP: {found:?}"));
        }
    }
    compared.outcome()
}

/// Busy polling, with traffic under it.
fn busy_poll(guest: &Guest) -> Outcome<String> {
    let host = &guest.host;
    let findings = doctor(host)?;
    let (_, said) = finding(&findings, "busy-poll")?;
    let mut config = Asked::AUTO.config(host);
    config.busy_poll = Some(BusyPollConfig::default());
    config.shard.idle = IdlePolicy::Spin;
    let running = Running::start(host, config)?;
    let to = running.address;
    guest.peer.run(move || ping_pong(connect(to)?, 20))??;
    let became = ss(host)?["busy_poll"].as_str().unwrap_or("").to_owned();
    running.stop()?;
    let found = match became.starts_with("unavailable") {
        true => Err(became),
        false => Ok(()),
    };
    let mut compared = Compared::new();
    compared.claim("busy polling", said.starts_with("possible"), found);
    compared.outcome()
}

/// Frames of the largest MTU that doctor names come through. One more is too much for doctor and for an engine.
fn mtu(guest: &Guest) -> Outcome<String> {
    let host = &guest.host;
    let most = said_of_mtu(host)?.1;
    let mut compared = Compared::new();
    for mtu in [1500, most] {
        set_mtu(guest, mtu)?;
        let said = said_of_mtu(host);
        let found = carries(guest);
        set_mtu(guest, 1500)?;
        compared.claim(&format!("MTU {mtu}"), said?.0, found);
    }
    for mtu in [most + 1, BEYOND] {
        set_mtu(guest, mtu)?;
        let said = said_of_mtu(host);
        let started = Running::start(host, guest.config(host));
        set_mtu(guest, 1500)?;
        if said?.0 {
            compared.wrong.push(format!("doctor takes an MTU of {mtu}"));
        }
        if let Ok(running) = started {
            running.stop()?;
            compared
                .wrong
                .push(format!("an engine took an MTU of {mtu}"));
        }
    }
    compared.outcome()
}

/// A transfer in segments as long as the MTU lets them be.
fn carries(guest: &Guest) -> Outcome<()> {
    let running = Running::start(&guest.host, guest.config(&guest.host))?;
    let to = running.address;
    let carried = guest.peer.run(move || {
        let stream = connect(to)?;
        stream
            .set_read_timeout(Some(DROPPED))
            .and_then(|()| stream.set_write_timeout(Some(DROPPED)))
            .map_err(|error| error.to_string())?;
        there_and_back(stream, MIB / 4, 10)
    });
    running.stop().and(carried?)
}

fn set_mtu(guest: &Guest, mtu: u32) -> Outcome<()> {
    for side in [&guest.peer, &guest.host] {
        side.ip(&["link", "set", side.device, "mtu", &mtu.to_string()])?;
    }
    Ok(())
}

/// Whether the MTU is one that doctor takes, and the largest that it would.
fn said_of_mtu(host: &Side) -> Outcome<(bool, u32)> {
    let findings = doctor(host)?;
    let (level, text) = finding(&findings, "mtu")?;
    let most = text
        .split_once("at most ")
        .and_then(|(_, most)| most.parse().ok())
        .ok_or_else(|| format!("doctor says {text:?} of the MTU"))?;
    Ok((level != "fail", most))
}

/// Where doctor says that pins go, they are seen from there, and are there when the engine is dead.
fn pins(guest: &Guest) -> Outcome<String> {
    let host = &guest.host;
    let findings = doctor(host)?;
    let (level, text) = finding(&findings, "mounts")?;
    let mut child = command(host, Asked::AUTO)?;
    child
        .kill()
        .and_then(|()| child.wait())
        .map_err(|error| format!("kill: {error}"))?;
    // This thread is the machine's first: it is in the first namespaces.
    let found = pinned(Path::new("/run/bywash"))?;
    Running::start(host, Asked::AUTO.config(host))?.stop()?;
    let left = pinned(Path::new("/run/bywash"))?;
    let mut compared = Compared::new();
    let seen = match found {
        0 => Err("no pins are to be seen".to_owned()),
        _ => Ok(()),
    };
    compared.claim(text, level == "ok", seen);
    if left != 0 {
        compared.wrong.push(format!("{left} pins are left"));
    }
    compared
        .text
        .push(format!("{found} after kill -9, none after the next engine"));
    compared.outcome()
}

/// Files below a folder, which may not be there.
fn pinned(folder: &Path) -> Outcome<usize> {
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(format!("{}: {error}", folder.display())),
    };
    let mut count = 0;
    for entry in entries {
        let path = entry.map_err(|error| error.to_string())?.path();
        count += if path.is_dir() { pinned(&path)? } else { 1 };
    }
    Ok(count)
}
