//! `bywash reload`: the XDP program of a running engine is replaced under traffic, and nobody notices.

use std::net::SocketAddr;

use bywash_tests::process::Running;
use bywash_tests::{Bed, LIMIT, Shape, bywash, kernel};

const PORT: u16 = 7;

fn program(bed: &Bed) -> u64 {
    let link = bed.host.link();
    link["xdp"]["prog"]["id"].as_u64().expect("a program")
}

#[test]
fn a_program_is_replaced_under_traffic() {
    let bed = Bed::new(Shape::default());
    let none = bywash::run(&bed.host, &["reload"], LIMIT);
    assert_eq!(none.status.code(), Some(1));
    assert!(none.stderr.contains("no engine runs on"), "{none:#?}");

    let server = bywash::serve(&bed.host, &["echo", "-p", "7"]);
    let first = program(&bed);
    let to = SocketAddr::new(bed.host.v4.into(), PORT);
    let client = bed.peer.spawn(move || -> std::io::Result<()> {
        let mut stream = kernel::connect(to)?;
        // A lost packet would be sent again and show in the counters; a reset would end it here.
        kernel::converse(&mut stream, 3, 4000, 3000)?;
        kernel::part(stream)
    });
    let mut last = first;
    let mut under_traffic = 0;
    for _ in 0..10 {
        let said = bywash::run(&bed.host, &["reload"], LIMIT).ok().stdout;
        assert!(said.contains("is replaced"), "{said}");
        let now = program(&bed);
        assert_ne!(now, last, "a new program has a new number");
        last = now;
        under_traffic += u32::from(!client.is_finished());
    }
    assert!(
        under_traffic > 0,
        "the traffic was over before the first replacement"
    );
    client
        .join()
        .expect("no panic")
        .expect("nothing disturbs it");
    // The counters stay, and what has come in between was counted on.
    let report = bywash::ss(&server);
    let segments: u64 = ["redirect-port", "redirect-flow"]
        .iter()
        .filter_map(|name| report["xdp"][name].as_u64())
        .sum();
    assert!(segments > 4000, "{report:#}");
    assert_eq!(report["xdp"]["drop-empty-slot"], 0, "{report:#}");
    bywash::end(server);
    let all = bed
        .host
        .run("ip", &["link", "show", &bed.host.device])
        .ok()
        .stdout;
    assert!(!all.contains("xdp"), "{all}");
    let help = Running::start(std::process::Command::new(bywash::binary()).args(["reload"]));
    assert_eq!(help.wait(LIMIT).status.code(), Some(2));
}
