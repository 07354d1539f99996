//! The device: what it is, who else is on it, what its driver can do.

use bywash_engine::host::Device;
use bywash_engine::host::control::{Operation, ask, engines};
use bywash_engine::host::netdev::{Answer, XdpFeatures, xdp_features};
use bywash_engine::host::netlink::{NetlinkError, Requests};
use bywash_engine::report::EngineReport;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::link::{LinkAttribute, LinkMessage, LinkXdp, XdpAttached};
use netlink_packet_route::neighbour::{NeighbourMessage, NeighbourState};

use super::{Findings, sysfs};

/// Largest MTU at which a veth takes an XDP program of single buffers. In one flow the best bulk configuration that was found
/// (`bywash-bench tune`).
const VETH_MTU: u16 = 3498;

/// The largest MTU whose frames come through a program of single buffers.
fn largest_mtu(driver: Option<&str>) -> u16 {
    match driver {
        Some("veth") => VETH_MTU,
        other => bywash_engine::engine::largest_mtu(other),
    }
}

/// Drivers whose peer's kernel hands over packets with only the pseudo-header summed.
const PSEUDO_CHECKSUM: [&str; 3] = ["veth", "tun", "virtio_net"];

pub(super) fn look(findings: &mut Findings, device: &Device) {
    identity(findings, device);
    queues(findings, device);
    mtu(findings, device);
    driver(findings, device);
    running(findings, device);
    match Requests::open() {
        Ok(mut requests) => {
            program(findings, device, &mut requests);
            neighbours(findings, device, &mut requests);
        }
        Err(error) => findings.warn(
            "netlink",
            format!("the kernel cannot be asked for XDP and neighbours: {error}"),
            "allow AF_NETLINK sockets",
        ),
    }
}

fn identity(findings: &mut Findings, device: &Device) {
    let addresses: Vec<String> = device.addresses.iter().map(ToString::to_string).collect();
    let text = format!("{} is up: {}", device.name, addresses.join(", "));
    if device.carrier {
        findings.ok("device", text);
    } else {
        findings.warn(
            "device",
            format!("{text}; no carrier"),
            "plug the cable in, or set the peer up",
        );
    }
}

fn queues(findings: &mut Findings, device: &Device) {
    let (name, queues) = (&device.name, device.rx_queues);
    if queues == 1 {
        findings.ok("queues", "one receive queue: one shard");
        return;
    }
    findings.warn(
        "queues",
        format!("{queues} receive queues: each needs a shard"),
        format!(
            "run with --shards {queues}, or give it fewer: ethtool -L {name} combined 1 (veth: ethtool -L {name} rx 1 tx 1)"
        ),
    );
}

fn mtu(findings: &mut Findings, device: &Device) {
    let most = largest_mtu(device.driver.as_deref());
    if device.mtu > most {
        findings.fail(
            "mtu",
            format!(
                "{} bytes are beyond single-buffer XDP; at most {most}",
                device.mtu
            ),
            format!(
                "ip link set {} mtu {most} (veth: its peer as well)",
                device.name
            ),
        );
        return;
    }
    findings.ok("mtu", format!("{} bytes; at most {most}", device.mtu));
    if device.driver.as_deref() == Some("veth") && device.mtu < most {
        findings.offers.push(format!(
            "bulk transfers: what a veth costs it costs by frame, so the largest MTU carries most; at both ends, and so by hand:\n\
             # ip link set {} mtu {most}    and the same for its peer",
            device.name
        ));
    }
}

fn driver(findings: &mut Findings, device: &Device) {
    let name = device.driver.as_deref().unwrap_or("the driver");
    match xdp_features(device.ifindex) {
        Ok(Answer::Known(features)) => {
            native(findings, name, features);
            if features.zero_copy() && virtio_refuses(device) {
                findings.warn(
                    "zero-copy",
                    format!("{name} has AF_XDP zero copy, but not on this device: it is not behind an IOMMU (VIRTIO_F_ACCESS_PLATFORM)"),
                    "the hypervisor decides: QEMU wants iommu_platform=on,disable-legacy=on; else the kernel copies each frame",
                );
            } else {
                zero_copy(findings, name, features);
            }
        }
        Ok(Answer::Unknown) => findings.warn(
            "zero-copy",
            format!("{name}: this kernel does not tell what its drivers can (Linux 6.3 does)"),
            "look at the ready line, or insist with --require-zero-copy",
        ),
        Err(error) => findings.warn(
            "zero-copy",
            format!("{name}: the kernel does not tell what it can: {error}"),
            "look at the ready line, or insist with --require-zero-copy",
        ),
    }
    if PSEUDO_CHECKSUM.contains(&name) {
        findings.ok(
            "checksum",
            format!(
                "{name}: a TCP checksum of the pseudo-header alone is accepted beside the full one, as the peer's kernel may send it"
            ),
        );
    } else {
        findings.ok("checksum", "every TCP checksum is verified in full");
    }
}

/// What the driver says of XDP (`include/uapi/linux/netdev.h`).
fn native(findings: &mut Findings, name: &str, features: XdpFeatures) {
    if features.native() {
        findings.ok("driver", format!("{name}: native XDP"));
    } else {
        findings.warn(
            "driver",
            format!("{name} has no native XDP: the program runs in generic mode, after the kernel has made its buffers"),
            "nothing to do on this device",
        );
    }
}

/// What the driver says of AF_XDP.
fn zero_copy(findings: &mut Findings, name: &str, features: XdpFeatures) {
    if !features.zero_copy() {
        findings.warn(
            "zero-copy",
            format!("{name} has no AF_XDP zero copy: the kernel copies each frame"),
            "nothing to do on virtual devices; else a NIC of ice, i40e, ixgbe, igc, mlx5 or the like",
        );
        return;
    }
    let jumbo = match features.zero_copy_segments {
        0 | 1 => "one buffer a packet, so no jumbo frames",
        _ => "several buffers a packet",
    };
    let sums = if features.tx_checksum() {
        "; can fill in checksums by TX metadata"
    } else {
        ""
    };
    findings.ok(
        "zero-copy",
        format!("{name} has AF_XDP zero copy, {jumbo}{sums}; whether a queue gives it shows at the start"),
    );
}

/// The number of `VIRTIO_F_ACCESS_PLATFORM` (virtio 1.2, 6): the device keeps to the addresses that the guest maps for it.
const VIRTIO_F_ACCESS_PLATFORM: usize = 33;

/// A virtio device without an IOMMU in front of it takes no memory of ours; `false` if that cannot be seen.
fn virtio_refuses(device: &Device) -> bool {
    let features = sysfs::read(device, "device/features");
    features.is_ok_and(|bits| bits.as_bytes().get(VIRTIO_F_ACCESS_PLATFORM) == Some(&b'0'))
}

/// What an engine that runs on the device has become: that is measured, the rest is expectation.
fn running(findings: &mut Findings, device: &Device) {
    let engines = match engines() {
        Ok(engines) => engines,
        // `engines` above tells of it.
        Err(_) => return,
    };
    for engine in engines.iter().filter(|engine| engine.key == device.key()) {
        let report = ask(engine, Operation::Ss)
            .map_err(|error| error.to_string())
            .and_then(|answer| {
                serde_json::from_value::<EngineReport>(answer).map_err(|error| error.to_string())
            });
        match report {
            Ok(report) => mode(findings, &report),
            Err(error) => findings.warn(
                "mode",
                format!("the engine on {} does not answer: {error}", device.name),
                "look at its log",
            ),
        }
    }
}

fn mode(findings: &mut Findings, report: &EngineReport) {
    let text = format!(
        "the engine on {} runs in {} mode, {} XDP, frames of {} bytes",
        report.device, report.bind_mode, report.xdp_mode, report.chunk_size
    );
    let changed: u64 = report
        .shards
        .iter()
        .filter_map(|shard| shard.counters.get("tx-changed"))
        .sum();
    if changed > 0 {
        findings.fail(
            "mode",
            format!("{text}; {changed} frames were changed on their way to the device"),
            "this is a fault of Bywash: please report it with the log of a run under -vv",
        );
    } else if let Some(why) = &report.zero_copy_refusal {
        findings.warn(
            "mode",
            format!("{text}: zero copy was refused: {why}"),
            "insist with --require-zero-copy, if frames must not be copied",
        );
    } else {
        findings.ok("mode", text);
    }
}

fn program(findings: &mut Findings, device: &Device, requests: &mut Requests) {
    match attached(device.ifindex, requests) {
        Ok(None) => findings.ok("xdp", "no XDP program on the device"),
        Ok(Some(text)) => findings.warn(
            "xdp",
            format!("{text} on the device"),
            format!(
                "a Bywash there (see `engines` above) has to end first; anything else: ip link set {} xdp off, or its own tool",
                device.name
            ),
        ),
        Err(error) => findings.warn(
            "xdp",
            format!("the kernel does not say whether a program is attached: {error}"),
            format!("look with ip link show dev {}", device.name),
        ),
    }
}

/// `native XDP program 42`
fn attached(ifindex: u32, requests: &mut Requests) -> Result<Option<String>, NetlinkError> {
    let mut message = LinkMessage::default();
    message.header.index = ifindex;
    let answers = requests.ask(RouteNetlinkMessage::GetLink(message), 0)?;
    let attributes = answers.into_iter().filter_map(|answer| match answer {
        RouteNetlinkMessage::NewLink(link) => Some(link.attributes),
        _ => None,
    });
    let (mut mode, mut id) = (None, None);
    for attribute in attributes.flatten() {
        let LinkAttribute::Xdp(xdp) = attribute else {
            continue;
        };
        for one in xdp {
            match one {
                LinkXdp::Attached(XdpAttached::None) => {}
                LinkXdp::Attached(XdpAttached::Driver) => mode = Some("a native"),
                LinkXdp::Attached(XdpAttached::SocketBuffer) => mode = Some("a generic"),
                LinkXdp::Attached(XdpAttached::Hardware) => mode = Some("an offloaded"),
                LinkXdp::Attached(_) => mode = Some("more than one"),
                LinkXdp::ProgId(number) => id = Some(number),
                _ => {}
            }
        }
    }
    Ok(mode.map(|mode| match id {
        Some(id) => format!("{mode} XDP program (id {id})"),
        None => format!("{mode} XDP program"),
    }))
}

fn neighbours(findings: &mut Findings, device: &Device, requests: &mut Requests) {
    let question = RouteNetlinkMessage::GetNeighbour(NeighbourMessage::default());
    let answers = match requests.dump(&question) {
        Ok(answers) => answers,
        Err(error) => {
            findings.warn(
                "neighbours",
                format!("cannot be read: {error}"),
                "ip neighbour show",
            );
            return;
        }
    };
    let (mut known, mut failed) = (0, 0);
    for answer in answers {
        let RouteNetlinkMessage::NewNeighbour(entry) = answer else {
            continue;
        };
        if entry.header.ifindex != device.ifindex {
            continue;
        }
        match entry.header.state {
            NeighbourState::Failed | NeighbourState::Incomplete => failed += 1,
            NeighbourState::Noarp | NeighbourState::None => {}
            _ => known += 1,
        }
    }
    if failed == 0 {
        findings.ok(
            "neighbours",
            format!("{known} known; others are resolved when needed"),
        );
    } else {
        findings.warn(
            "neighbours",
            format!("{known} known, {failed} that do not answer"),
            format!("ip neighbour show dev {}; ping them", device.name),
        );
    }
}
