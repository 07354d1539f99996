//! An emulated path between two namespaces, by `bywash-link`: its own namespace in the middle, and a thread that carries the frames.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use bywash_link::lab::{DEVICES, Lab};
use bywash_link::{Bridge, Impairment, Link};

use super::{End, Offloads, Testbed, serial, two_cores};
use crate::row::Setting;

/// Bits a second of the path.
const RATE: u64 = 200_000_000;
/// Bytes that may wait for it.
const QUEUE: usize = 1 << 20;
/// Decides which packets are lost.
const SEED: u64 = 1;

/// The path; gone with its namespaces when dropped.
#[derive(Debug)]
pub(super) struct EmulatedPath {
    stop: Arc<AtomicBool>,
    carrier: Option<JoinHandle<Result<()>>>,
    // Dropped last: the namespaces that the thread works in.
    _lab: Arc<Lab>,
}

impl Testbed {
    /// Two namespaces with a path between them that delays each packet and loses some: `loss` is a probability.
    pub(crate) fn over_link(mtu: u16, delay: Duration, loss: f64) -> Result<Self> {
        let names =
            ["a", "b"].map(|side| format!("bwb-{}-{}-{side}", std::process::id(), serial()));
        let lab = Arc::new(Lab::new(&names[0], &names[1], mtu)?);
        let impairment = Impairment {
            delay,
            loss,
            rate: Some(RATE),
            queue: QUEUE,
            ..Impairment::default()
        };
        let path = EmulatedPath::start(lab, Link::both(impairment, SEED))?;
        let [name_a, name_b] = names;
        let cores = two_cores()?;
        let end = |namespace: String, last: u8, core| -> Result<End> {
            let mut end = End {
                namespace,
                device: "eth0",
                address: Ipv4Addr::new(10, 99, 0, last),
                mac: [0; 6],
                core,
            };
            end.mac = end.read_mac()?;
            end.run(&["sysctl", "-qw", "net.ipv4.tcp_no_metrics_save=1"])?;
            Ok(end)
        };
        let (a, b) = (end(name_a, 1, cores[0])?, end(name_b, 2, cores[1])?);
        let [offloads_a, offloads_b] = [a.offloads()?, b.offloads()?];
        let setting = Setting {
            driver: format!(
                "veth, emulated path of {} Mbit/s with a queue of {} KiB",
                RATE / 1_000_000,
                QUEUE >> 10
            ),
            offloads: format!("a: {offloads_a}; b: {offloads_b}"),
            mtu: mtu.to_string(),
            napi: "softirq on the sending core (threaded NAPI off)".to_owned(),
            idle: String::new(),
        };
        Ok(Self {
            a,
            b,
            mtu,
            offloads: Offloads::Off,
            setting,
            path: Some(path),
        })
    }
}

impl EmulatedPath {
    fn start(lab: Arc<Lab>, link: Link) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let (told, ready) = std::sync::mpsc::channel();
        let carrier = {
            let (lab, stop) = (Arc::clone(&lab), Arc::clone(&stop));
            thread::spawn(move || {
                lab.enter()?;
                let mut bridge = Bridge::open(DEVICES[0], DEVICES[1], &link)?;
                // Whoever waits for this is the one who joins the thread.
                let _ = told.send(());
                bridge.run(&stop, None)
            })
        };
        let mut path = Self {
            stop,
            carrier: Some(carrier),
            _lab: lab,
        };
        if ready.recv().is_err() {
            path.end().context("the emulated path did not start")?;
        }
        Ok(path)
    }

    fn end(&mut self) -> Result<()> {
        self.stop.store(true, Ordering::Release);
        match self.carrier.take() {
            Some(carrier) => carrier
                .join()
                .map_err(|_| anyhow!("the emulated path's thread panicked"))?,
            None => Ok(()),
        }
    }
}

impl Drop for EmulatedPath {
    fn drop(&mut self) {
        if let Err(error) = self.end() {
            eprintln!("warning: the emulated path: {error:#}");
        }
    }
}
