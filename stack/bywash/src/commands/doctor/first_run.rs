//! `bywash doctor --first-run`: what to do, in which order, when a NIC meets Bywash for the first time.
//!
//! A zero-copy driver reads and writes our memory itself, so what goes wrong does not look like an error but like other
//! people's bytes. The list goes from what cannot hurt to what measures, and each step says what must be seen.

use std::io::{self, Write};

use bywash_engine::host::Device;

/// What is known of a driver in zero-copy mode.
struct Family {
    drivers: &'static [&'static str],
    known: &'static str,
}

const FAMILIES: [Family; 8] = [
    Family {
        drivers: &["virtio_net"],
        known: "run by this project's tests on an emulated device (tests/zero-copy.sh). Receiving since Linux 6.11, sending since 6.13, and only on a device with VIRTIO_F_ACCESS_PLATFORM. It sends by another NAPI than it receives by, so with --busy-poll only receiving polls.",
    },
    Family {
        drivers: &["igb"],
        known: "run by this project's tests on an emulated 82576 (tests/zero-copy.sh --device igb). Counts receive buffers in KiB: frames of 4096 bytes, or longer packets are cut off (the engine sees to it).",
    },
    Family {
        drivers: &["igc", "ixgbe"],
        known: "not tried. Registers as igb's: the engine takes frames of 4096 bytes. ixgbe names no NAPI, so no --busy-poll since Linux 6.13.",
    },
    Family {
        drivers: &["i40e"],
        known: "not tried. Names no NAPI, so no --busy-poll since Linux 6.13.",
    },
    Family {
        drivers: &["ice", "idpf", "gve", "stmmac", "tsnep"],
        known: "not tried. ice sends and receives by one NAPI: --busy-poll should do both.",
    },
    Family {
        drivers: &["nfp", "rvu_nicpf", "fsl_dpaa2_eth"],
        known: "not tried. One buffer a packet in zero-copy mode, as far as its source says.",
    },
    Family {
        drivers: &["mlx5_core"],
        known: "not tried. One buffer a packet in zero-copy mode.",
    },
    Family {
        drivers: &[
            "ena",
            "bnxt_en",
            "mana",
            "veth",
            "tun",
            "e1000e",
            "hv_netvsc",
            "vmxnet3",
        ],
        known: "has no AF_XDP zero copy: leave --require-zero-copy out of what follows; the rest holds.",
    },
];

/// What is known of this driver; nobody has tried most of them.
fn known(driver: Option<&str>) -> &'static str {
    let family = FAMILIES
        .iter()
        .find(|family| driver.is_some_and(|driver| family.drivers.contains(&driver)));
    family.map_or("not known to this project.", |family| family.known)
}

/// Prints the list for a device.
pub(super) fn print(device: &Device, out: &mut impl Write) -> io::Result<()> {
    let name = &device.name;
    let driver = device.driver.as_deref();
    writeln!(
        out,
        "First run on {name}: driver {}, {} receive queue(s), MTU {}.",
        driver.unwrap_or("unknown"),
        device.rx_queues,
        device.mtu
    )?;
    writeln!(out, "Driver: {}\n", known(driver))?;
    for (number, step) in steps(name).iter().enumerate() {
        writeln!(out, "{:>2}. {}", number + 1, step[0])?;
        for line in &step[1..] {
            writeln!(out, "      {line}")?;
        }
    }
    Ok(())
}

/// Each step, and below it what must be seen.
fn steps(name: &str) -> Vec<Vec<String>> {
    let text = [
        vec![
            "Keep a way in that is not this NIC. The watchdog gives the ports back after 5 s, but a driver that hangs takes the link along.".to_owned(),
        ],
        vec![
            format!("bywash doctor --dev {name}"),
            format!("Write down what ethtool -i {name} says: driver, its version, firmware. Whoever is asked about a fault asks for them."),
            "No FAIL. `queues`: one, or as many as --shards. `mtu` says how much it may be. Do what --tune prints.".to_owned(),
        ],
        vec![
            format!("dmesg -w, and beside it: bywash echo --dev {name} -p 7 --require-zero-copy --guard-tx -v"),
            "The ready line says zero-copy mode and native XDP. A refusal names the kernel's reason; the log may have the driver's.".to_owned(),
            "The driver may reset its queues at this moment: the link may be away for seconds.".to_owned(),
        ],
        vec![
            format!("from another host: ping the address of {name}; ssh to it, if it is the only one"),
            "The kernel still answers: what is not ours passes.".to_owned(),
        ],
        vec![
            format!("bywash recv FILE --dev {name} -p 9000 --require-zero-copy --guard-tx; from the other host 1 GiB: socat -u FILE:big TCP:ADDRESS:9000"),
            "The SHA-256 that recv prints is the one of the file. Then the other way, with bywash send.".to_owned(),
        ],
        vec![
            "bywash ss while it runs".to_owned(),
            "tx-guarded grows and tx-changed is 0: nobody rewrites a frame that is being sent. tx-invalid-descriptors 0.".to_owned(),
            "rx-dropped, rx-ring-full, fill-ring-empty: 0 or few. tx-stalls: 0. payload-bytes-copied grows by what is sent, not by what is received.".to_owned(),
            "On the other host no bad checksums: nstat TcpInCsumErrors. They would mean a driver that reads frames it has completed.".to_owned(),
        ],
        vec![
            format!("ethtool -S {name}, before and after; ethtool -a {name}"),
            "No tx_timeout and no resets in dmesg. Missed or dropped packets agree with fill-ring-empty. If pause frames are on (RX or TX), a NIC without receive buffers can stop its switch port: ethtool -A, off both ways.".to_owned(),
        ],
        vec![
            format!("ip link set {name} down; sleep 1; ip link set {name} up, in the middle of a transfer"),
            "It goes on, and the sums are the same. `bywash ss` still says zero-copy mode.".to_owned(),
        ],
        vec![
            "kill -9 the engine, start it again".to_owned(),
            "Zero copy again, at the latest after half a second. Otherwise: the driver holds the queue.".to_owned(),
        ],
        vec![
            "once more with --busy-poll 20".to_owned(),
            "`bywash ss` says on, or on for receiving, or why not. A transfer never stands still.".to_owned(),
        ],
        vec![
            format!("iperf3 against bywash iperf3 -s --dev {name}, without --guard-tx, which costs two hashes a frame"),
            "Only now figures mean something. Compare with --mode copy and --xdp generic on the same NIC.".to_owned(),
        ],
    ];
    text.into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_step_says_what_must_be_seen() {
        let steps = steps("eth9");
        assert!(steps.iter().skip(1).all(|step| step.len() > 1), "{steps:?}");
        let text = steps.concat().join("\n");
        for wanted in [
            "--require-zero-copy",
            "--guard-tx",
            "tx-changed",
            "eth9",
            "kill -9",
        ] {
            assert!(text.contains(wanted), "{wanted}");
        }
    }

    #[test]
    fn a_driver_is_in_one_family() {
        let mut all: Vec<&str> = FAMILIES
            .iter()
            .flat_map(|family| family.drivers)
            .copied()
            .collect();
        let count = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), count);
        assert!(known(Some("igb")).contains("82576"));
        assert!(known(None).contains("not known"));
    }
}
