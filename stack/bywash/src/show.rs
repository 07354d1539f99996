//! What several commands print, and how they read a host's name.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::time::Duration;

use bywash_engine::engine::EngineDescription;
use bywash_engine::xsk::Mode;

use crate::failure::Failure;

/// The one line that says a server is ready, as in
/// `bywash echo: serving 10.0.0.1:7 on veth0 (copy mode, native XDP, 1 shard)`.
pub(crate) fn ready_line(what: &str, engine: &EngineDescription, port: u16) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "bywash {what}: {}", serving(engine, port))?;
    out.flush()
}

fn serving(engine: &EngineDescription, port: u16) -> String {
    let addresses: Vec<String> = engine
        .addresses
        .iter()
        .filter(|address| !is_link_local(address))
        .map(|address| SocketAddr::new(*address, port).to_string())
        .collect();
    let addresses = if addresses.is_empty() {
        format!("port {port}")
    } else {
        addresses.join(" ")
    };
    let shards = engine.cores.len();
    format!(
        "serving {addresses} on {} ({} mode, {} XDP, {shards} shard{})",
        engine.device,
        match engine.bind_mode {
            Mode::Copy => "copy",
            Mode::ZeroCopy => "zero-copy",
        },
        engine.xdp_mode,
        if shards == 1 { "" } else { "s" },
    )
}

fn is_link_local(address: &IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

/// The first address of a name, or the address that is written out, with or without brackets.
pub(crate) fn resolve(host: &str, port: u16) -> Result<SocketAddr, Failure> {
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    let mut addresses = (bare, port).to_socket_addrs().map_err(|error| {
        Failure::new(
            format!("{host} is neither an address nor a known name"),
            &error,
        )
    })?;
    addresses
        .next()
        .ok_or_else(|| Failure::Failed(format!("{host} has no address")))
}

/// `64.0 MiB`
pub(crate) fn size(bytes: u64) -> String {
    const UNITS: [&str; 5] = ["B", "KiB", "MiB", "GiB", "TiB"];
    let mut value = bytes as f64;
    let mut unit = 0;
    while value >= 1024.0 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    if unit == 0 {
        format!("{bytes} B")
    } else {
        format!("{value:.1} {}", UNITS[unit])
    }
}

/// `436.2 Mbit/s`
pub(crate) fn rate(bytes: u64, time: Duration) -> String {
    let bits = bytes as f64 * 8.0 / time.as_secs_f64().max(1e-9);
    match bits {
        b if b >= 1e9 => format!("{:.2} Gbit/s", b / 1e9),
        b if b >= 1e6 => format!("{:.1} Mbit/s", b / 1e6),
        b => format!("{:.1} kbit/s", b / 1e3),
    }
}

/// Bytes in lower-case hexadecimal, as `sha256sum` prints them.
pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// `received 64.0 MiB (67108864 bytes) in 1.23 s, 436.2 Mbit/s, SHA-256 9f8..`
pub(crate) fn transfer_line(
    done: &str,
    bytes: u64,
    time: Duration,
    sha256: &[u8],
) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(
        out,
        "{done} {} ({bytes} bytes) in {:.2} s, {}, SHA-256 {}",
        size(bytes),
        time.as_secs_f64(),
        rate(bytes, time),
        hex(sha256),
    )?;
    out.flush()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_rates_have_units() {
        assert_eq!(size(0), "0 B");
        assert_eq!(size(1023), "1023 B");
        assert_eq!(size(64 << 20), "64.0 MiB");
        assert_eq!(rate(1_250_000_000, Duration::from_secs(1)), "10.00 Gbit/s");
        assert_eq!(rate(125, Duration::from_secs(1)), "1.0 kbit/s");
        assert_eq!(hex(&[0, 255, 16]), "00ff10");
    }

    #[test]
    fn hosts_are_addresses_with_or_without_brackets() {
        for host in ["fd00::1", "[fd00::1]"] {
            let Ok(address) = resolve(host, 7) else {
                panic!("{host} did not resolve")
            };
            assert_eq!(address.to_string(), "[fd00::1]:7");
        }
    }
}
