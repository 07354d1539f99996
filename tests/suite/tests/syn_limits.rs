//! XDP's limits on SYNs: they hold while handshakes are begun and not ended, and at no other time.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use bywash::{EngineConfig, Stack, XdpLimits, XdpRate};
use bywash_tests::frames::{self, Segment, Wire, flags};
use bywash_tests::{Bed, LIMIT, Shape, bywash as command, kernel};
use serde_json::Value;

const PORT: u16 = 7;
/// Half-open connections that are no flood yet.
const BACKLOG: u32 = 16;
/// Connections that are used, and SYNs of nobody: more than the backlog, and far more than the limit lets pass.
const MANY: u64 = 50;

/// What `ss` says of the engine in this very process.
fn own_report() -> Value {
    let asked = std::process::Command::new(command::binary())
        .args(["ss", "--json"])
        .output();
    let all: Value =
        serde_json::from_slice(&asked.expect("it runs").stdout).expect("a list of reports");
    let own = all.as_array().expect("a list").iter();
    own.clone()
        .find(|one| one["pid"] == std::process::id())
        .expect("this engine")
        .clone()
}

/// SYNs that were let pass, those that were not, and alarms.
fn counted() -> [u64; 3] {
    let report = own_report();
    let number = |value: &Value| value.as_u64().expect("a counter");
    [
        number(&report["xdp"]["redirect-syn"]),
        number(&report["xdp"]["drop-syn-prefix-limit"]),
        number(&report["shards"][0]["counters"]["syn-alarms"]),
    ]
}

/// SYNs from an address where nobody answers.
fn forge(bed: &Bed, from: Ipv4Addr) {
    let macs = (frames::mac(&bed.host.link()), frames::mac(&bed.peer.link()));
    let to = bed.host.address(false);
    let device = bed.peer.device.clone();
    bed.peer.inside(move || {
        let wire = Wire::open(&device);
        for number in 0..MANY {
            let segment = Segment {
                macs,
                addresses: (from.into(), to),
                ports: (1024 + number as u16, PORT),
                numbers: (1, 0),
                flags: flags::SYN,
                options: Vec::new(),
                payload: Vec::new(),
            };
            assert!(wire.send(&segment.frame()), "the device took no frame");
        }
    });
}

#[test]
fn who_ends_his_handshakes_meets_no_limit_and_a_flood_does() {
    let bed = Bed::new(Shape::default());
    let mut config = EngineConfig::new(bed.host.device.clone());
    config.shard.backlog = BACKLOG;
    // A SYN a second from each network.
    config.xdp_settings.limits = XdpLimits {
        syn_prefix: Some(XdpRate {
            per_second: 1,
            burst: 1,
        }),
        syn: None,
        ..config.xdp_settings.limits
    };
    let stack = bed.host.inside(move || Stack::start(config));
    let stack = stack.expect("the engine starts");
    let listener = stack.listen(PORT).expect("a free port");
    let to = SocketAddr::new(bed.host.address(false), PORT);
    let client = bed.peer.spawn(move || -> std::io::Result<()> {
        for number in 0..MANY {
            let mut stream = kernel::connect(to)?;
            kernel::converse(&mut stream, number, 1, 64)?;
            kernel::part(stream)?;
        }
        Ok(())
    });
    for _ in 0..MANY {
        let (served, _) = listener.accept().expect("the kernel has connected");
        served.set_read_timeout(Some(LIMIT));
        std::io::copy(&mut &served, &mut &served).expect("an echo");
    }
    client.join().expect("no panic").expect("it is served");
    let [passed, limited, alarms] = counted();
    assert!(passed >= MANY, "{passed} of {MANY} SYNs");
    assert_eq!([limited, alarms], [0, 0]);

    // Half-open connections to nobody stay what they are; but frames to it need a way.
    let nobody = Ipv4Addr::new(10, 88, 0, 77);
    let way = frames::mac(&bed.peer.link()).map(|byte| format!("{byte:02x}"));
    let (nobody_is, way) = (nobody.to_string(), way.join(":"));
    let arguments = ["neigh", "replace", &nobody_is, "lladdr", &way];
    let rest = ["dev", &bed.host.device, "nud", "permanent"];
    bed.host.run("ip", &[&arguments[..], &rest].concat()).ok();
    forge(&bed, nobody);
    let deadline = Instant::now() + LIMIT;
    while counted()[2] == 0 {
        assert!(Instant::now() < deadline, "no alarm: {:#}", own_report());
        std::thread::sleep(Duration::from_millis(10));
    }
    let before = counted();
    forge(&bed, nobody);
    let deadline = Instant::now() + LIMIT;
    let more = loop {
        let after = counted();
        if after[0] + after[1] == before[0] + before[1] + MANY {
            break after[1] - before[1];
        }
        assert!(Instant::now() < deadline, "{before:?}, then {after:?}");
        std::thread::sleep(Duration::from_millis(10));
    };
    // Each CPU has an account; a second or two may have passed.
    assert!(more > MANY / 2, "{more} of {MANY} were kept away");
    assert_eq!(counted()[2], 1, "one alarm for one flood");
    stack.stop().expect("a clean end");
}
