//! The cases with a TCP in them: kernel and kernel, kernel and us, us and us; and both stacks in memory.

use std::path::PathBuf;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use bywash::IdlePolicy;
use bywash_xdp::{AttachConfig, Demux, Mode, Settings, pin};

use crate::cpu::{self, CoreTime, Sample};
use crate::ends::command::{self, Program, Stack};
use crate::ends::kernel::{self, Wait};
use crate::ends::memory;
use crate::ends::ours;
use crate::ends::smol;
use crate::latency::Latencies;
use crate::netns::{Offloads, Testbed};
use crate::raw::join;
use crate::row::{Params, Setting};
use crate::run::{Case, Outcome};

const KERNEL: &str = "kernel TCP";
const US: &str = "Bywash";
/// Socket buffers of smoltcp in bytes: what suits it best depends on the cache.
const SMOLTCP_BUFFERS: [usize; 3] = [64 << 10, 256 << 10, 1 << 20];

/// What the user chose for all cases.
#[derive(Clone, Debug)]
pub(crate) struct Choice {
    /// The program.
    pub(crate) bywash: PathBuf,
    /// Native or generic XDP.
    pub(crate) xdp: Mode,
}

/// How the stack waits: what the tables call it, and `--idle`.
const IDLES: [(&str, Option<&'static str>); 2] = [("spin", Some("spin")), ("default", None)];

/// Bulk transfers in all three combinations over one testbed.
pub(crate) fn bulk<'a>(bed: &'a Testbed, offloads: Offloads, choice: &Choice) -> Vec<Case<'a>> {
    let stock = Program::Stock;
    let mut cases = vec![
        bulk_case(bed, choice, "", [stock(Some("cubic")), stock(None)]),
        bulk_case(bed, choice, "", [stock(None), stock(None)]),
    ];
    if offloads == Offloads::Default {
        cases.push(with_xdp(bed, choice));
    }
    for (name, idle) in IDLES {
        let us = || {
            let path = choice.bywash.clone();
            Program::Bywash(Stack {
                path,
                idle,
                xdp: mode_name(choice.xdp),
            })
        };
        cases.push(bulk_case(bed, choice, name, [stock(Some("cubic")), us()]));
        cases.push(bulk_case(bed, choice, name, [us(), stock(None)]));
        cases.push(bulk_case(bed, choice, name, [us(), us()]));
    }
    cases
}

/// Ping-pongs in all combinations.
pub(crate) fn ping<'a>(bed: &'a Testbed, choice: &Choice) -> Vec<Case<'a>> {
    let mut cases = Vec::new();
    for wait in [Wait::Spin, Wait::Block] {
        cases.push(ping_case(
            bed,
            KERNEL,
            KERNEL,
            wait.name(),
            choice,
            move |duration| {
                let ping = kernel::ping(bed, wait, duration)?;
                Ok((ping.latencies, ping.cores))
            },
        ));
    }
    for ((name, idle), wait) in IDLES.into_iter().zip([Wait::Spin, Wait::Block]) {
        let stack = Stack {
            path: choice.bywash.clone(),
            idle,
            xdp: mode_name(choice.xdp),
        };
        let policy = idle.map(|_| IdlePolicy::Spin);
        let xdp = choice.xdp;
        let both = if wait == Wait::Spin {
            "spin"
        } else {
            "default, kernel end blocking"
        };
        cases.push(ping_case(bed, US, KERNEL, both, choice, move |duration| {
            us_to_kernel(bed, policy, xdp, wait, duration)
        }));
        let echo = stack.clone();
        cases.push(ping_case(bed, KERNEL, US, both, choice, move |duration| {
            let server = command::echo(&echo, &bed.b, kernel::PORT)?;
            let ping = kernel::ping_to(
                &bed.a,
                command::address(&bed.b, kernel::PORT),
                wait,
                duration,
            )?;
            drop(server);
            Ok((ping.latencies, ping.cores))
        }));
        cases.push(ping_case(bed, US, US, name, choice, move |duration| {
            let server = command::echo(&stack, &bed.b, kernel::PORT)?;
            let ping = ours::ping(
                &bed.a,
                command::address(&bed.b, kernel::PORT),
                policy,
                xdp,
                duration,
            )?;
            drop(server);
            Ok((ping.latencies, ping.cores))
        }));
    }
    cases
}

/// Both stacks without a kernel.
pub(crate) fn in_memory(mtu: u16) -> Vec<Case<'static>> {
    let case = |subject,
                mut run: Box<dyn FnMut(Duration) -> Result<(u64, Duration)> + Send>,
                detail: &str| Case {
        experiment: "stack",
        subject,
        peer: subject,
        params: Params::from([
            ("checksums", "computed and verified".to_owned()),
            ("cores", "both ends on one".to_owned()),
            ("buffers", detail.to_owned()),
        ]),
        setting: Setting::in_memory(mtu),
        run: Box::new(move |duration| {
            let before = Sample::now()?;
            let (bytes, elapsed) = on_one_core(|| run(duration))?;
            let cores = before.until(&Sample::now()?);
            Ok(Outcome {
                readings: vec![(
                    "goodput",
                    "Gbit/s",
                    bytes as f64 * 8e-9 / elapsed.as_secs_f64(),
                )],
                cores,
                ..Outcome::default()
            })
        }),
    };
    let us = Box::new(move |duration| memory::bulk(mtu, duration));
    let mut cases = vec![case(US, us, "the default")];
    for buffer in SMOLTCP_BUFFERS {
        let run = Box::new(move |duration| smol::bulk(buffer, mtu, duration));
        cases.push(case("smoltcp", run, &format!("{} KiB", buffer >> 10)));
    }
    cases
}

fn on_one_core<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    thread::scope(|scope| {
        join(scope.spawn(|| {
            let cores = core_affinity::get_core_ids().unwrap_or_default();
            let core = *cores
                .last()
                .context("cannot list the cores this process may use")?;
            ensure!(
                core_affinity::set_for_current(core),
                "cannot pin a thread to core {}",
                core.id
            );
            work()
        }))
    })
}

fn bulk_case<'a>(bed: &'a Testbed, choice: &Choice, idle: &str, ends: [Program; 2]) -> Case<'a> {
    let name = |program: &Program| match program {
        Program::Stock(_) => KERNEL,
        Program::Bywash(_) => US,
    };
    let [client, server] = ends;
    let (subject, peer) = (name(&client), name(&server));
    let mut params = Params::from([("offloads", bed.offloads.name().to_owned())]);
    if let Program::Stock(control) = client {
        params.insert(
            "congestion control",
            control.unwrap_or("system's default").to_owned(),
        );
    }
    let mut setting = bed.setting.clone();
    if !idle.is_empty() {
        setting = setting.waiting(idle);
        params.insert("idle", idle.to_owned());
        params.insert("xdp", mode_name(choice.xdp).to_owned());
    }
    let mut first = true;
    Case {
        experiment: "throughput",
        subject,
        peer,
        params,
        setting,
        run: Box::new(move |duration| {
            let want_offloads = std::mem::take(&mut first);
            let transfer = command::transfer(bed, &client, &server, duration, want_offloads)?;
            Ok(outcome(transfer))
        }),
    }
}

/// Kernel TCP with our demux attached at the receiver, where nothing is ours: what XDP alone costs.
fn with_xdp<'a>(bed: &'a Testbed, choice: &Choice) -> Case<'a> {
    let mode = choice.xdp;
    let program = || Program::Stock(Some("cubic"));
    let mut case = bulk_case(bed, choice, "", [program(), program()]);
    case.params
        .insert("receiver", "XDP program attached, passing all".to_owned());
    let mut run = case.run;
    case.run = Box::new(move |duration| {
        let (attached, finished) = (Barrier::new(2), Barrier::new(2));
        thread::scope(|scope| {
            let holder = bed.b.spawn(scope, |entered| {
                let demux = entered.and_then(|()| attach(bed, mode));
                attached.wait();
                finished.wait();
                let demux = demux?;
                let name = demux.mode().name();
                demux.detach()?;
                Ok(name)
            });
            attached.wait();
            let outcome = run(duration);
            finished.wait();
            let name = join(holder)?;
            let mut outcome = outcome?;
            outcome.params.insert("xdp", name.to_owned());
            Ok(outcome)
        })
    });
    case
}

fn attach(bed: &Testbed, mode: Mode) -> Result<Demux> {
    let device = bed.b.device;
    let ifindex =
        nix::net::if_::if_nametoindex(device).with_context(|| format!("no interface {device}"))?;
    let pin_dir = pin::directory(&pin::key(ifindex)?);
    Ok(Demux::attach(&AttachConfig {
        interface: device.to_owned(),
        ifindex,
        pin_dir,
        queues: 1,
        mode,
        settings: Settings::default(),
    })?)
}

fn outcome(transfer: command::Transfer) -> Outcome {
    let offloads = transfer.offloads.map(|[a, b]| format!("a: {a}; b: {b}"));
    let mut readings = vec![("goodput", "Gbit/s", transfer.bits_per_second * 1e-9)];
    if let Some(count) = transfer.retransmissions {
        readings.push(("retransmissions", "", count));
    }
    // Core time and bytes of the same second.
    let second = Duration::from_secs(1);
    let [busy, kernel] = cpu::spent(&transfer.cores, second);
    let per_kib = |spent: f64| spent * 1e9 * 1024.0 * 8.0 / transfer.bits_per_second.max(1.0);
    readings.push(("busy core time", "ns/KiB", per_kib(busy.1)));
    readings.push(("kernel core time", "ns/KiB", per_kib(kernel.1)));
    Outcome {
        readings,
        cores: transfer.cores,
        params: Params::new(),
        offloads,
    }
}

fn ping_case<'a>(
    bed: &'a Testbed,
    subject: &'static str,
    peer: &'static str,
    idle: &str,
    choice: &Choice,
    mut run: impl FnMut(Duration) -> Result<(Latencies, Vec<CoreTime>)> + 'a,
) -> Case<'a> {
    let mut params = Params::from([
        ("idle", idle.to_owned()),
        ("bytes", "1".to_owned()),
        ("offloads", bed.offloads.name().to_owned()),
    ]);
    if [subject, peer].contains(&US) {
        params.insert("xdp", mode_name(choice.xdp).to_owned());
    }
    Case {
        experiment: "latency",
        subject,
        peer,
        params,
        setting: bed.setting.waiting(idle),
        run: Box::new(move |duration| {
            let (latencies, cores) = run(duration)?;
            Ok(Outcome {
                readings: latencies.readings(),
                cores,
                ..Outcome::default()
            })
        }),
    }
}

fn us_to_kernel(
    bed: &Testbed,
    policy: Option<IdlePolicy>,
    xdp: Mode,
    wait: Wait,
    duration: Duration,
) -> Result<(Latencies, Vec<CoreTime>)> {
    let ready = Barrier::new(2);
    thread::scope(|scope| {
        let server = bed.b.spawn(scope, |entered| {
            let listener = entered.and_then(|()| kernel::listen(&bed.b));
            ready.wait();
            kernel::answer(&listener?, wait)
        });
        ready.wait();
        let ping = ours::ping(
            &bed.a,
            command::address(&bed.b, kernel::PORT),
            policy,
            xdp,
            duration,
        );
        let answered = join(server);
        let ping = ping?;
        answered?;
        Ok((ping.latencies, ping.cores))
    })
}

const fn mode_name(mode: Mode) -> &'static str {
    match mode {
        Mode::Auto => "auto",
        Mode::Native => "native",
        Mode::Generic => "generic",
    }
}
