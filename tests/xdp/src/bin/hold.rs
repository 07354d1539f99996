//! An engine's life without the engine, for the loader's tests: attaches, prints a line such as `ready native host new`, and waits
//! until it is killed, or until its standard input ends, which is a clean end.

use std::io::Read;

use anyhow::{Context, Result};
use bywash_xdp::pin::{self, Scope};
use bywash_xdp::{AttachConfig, Demux, Mode, Settings};
use bywash_xdp_tests::namespace;

fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let interface = arguments
        .next()
        .context("usage: hold INTERFACE [native|generic] [PORT]")?;
    let mode = match arguments.next().as_deref() {
        Some("native") => Mode::Native,
        Some("generic") => Mode::Generic,
        _ => Mode::Auto,
    };
    let ifindex = namespace::ifindex(&interface)?;
    let demux = Demux::attach(&AttachConfig {
        interface,
        ifindex,
        pin_dir: pin::directory(&pin::key(ifindex)?),
        queues: 1,
        mode,
        settings: Settings::default(),
    })?;
    if let Some(port) = arguments.next() {
        demux.add_address("10.1.1.1".parse()?)?;
        demux.listen(port.parse()?)?;
    }
    let mode = demux.mode().name();
    let scope = match demux.pin_scope() {
        Scope::Host => "host",
        Scope::Ancestor { .. } => "ancestor",
        Scope::Process { .. } => "process",
    };
    let link = if demux.took_over() {
        "taken-over"
    } else {
        "new"
    };
    println!("ready {mode} {scope} {link}");
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(demux.detach()?)
}
