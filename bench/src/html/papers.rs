//! What the papers measured, as tables. Figures that they show as curves only are given by the values that their text names.
//!
//! Thekkath, Nguyen, Moy, Lazowska: *Implementing Network Protocols at User Level* (1993). Braun, Diot, Hoglander, Roca: *An Experimental
//! User Level Implementation of TCP* (INRIA RR-2650, 1995). Edwards, Muir: *Experiences Implementing a High Performance TCP in User-Space*
//! (1995).

/// A table of a paper.
pub(super) struct Table {
    /// Which it is.
    pub(super) title: &'static str,
    /// Column titles; the first is that of the row titles.
    pub(super) columns: &'static [&'static str],
    /// Rows, each beginning with its title.
    pub(super) rows: &'static [&'static [&'static str]],
    /// What the text says beside it.
    pub(super) note: &'static str,
}

/// Tables by the experiment that reproduces them.
pub(super) fn tables(experiment: &str) -> &'static [Table] {
    match experiment {
        "mechanism" => MECHANISM,
        "throughput" => THROUGHPUT,
        "latency" => LATENCY,
        "setup" => SETUP,
        "demux" => DEMUX,
        "cpu" => CPU,
        _ => &[],
    }
}

const MECHANISM: &[Table] = &[Table {
    title: "Thekkath, Table 1: cost of the mechanism (10 Mb/s Ethernet)",
    columns: &["", "Mb/s", "of the link's 9.6 Mb/s"],
    rows: &[&["user to user, standalone", "8.5", "89 %"]],
    note: "9.6 Mb/s is what the link carries of user data. A veth has no bit rate: its limit is what two cores move.",
}];

const THROUGHPUT: &[Table] = &[
    Table {
        title: "Thekkath, Table 2: throughput in Mb/s by user packet size",
        columns: &["", "512 B", "1024 B", "2048 B", "4096 B"],
        rows: &[
            &["Ethernet: Ultrix 4.2A", "5.8", "7.6", "7.6", "7.6"],
            &["Ethernet: Mach 3.0/UX", "2.1", "2.5", "3.2", "3.5"],
            &["Ethernet: theirs, user level", "4.3", "4.6", "4.8", "5.0"],
            &["AN1: Ultrix 4.2A", "4.8", "10.2", "11.9", "11.9"],
            &["AN1: theirs, user level", "6.7", "8.1", "9.4", "11.9"],
        ],
        note: "User level by kernel (Ultrix): Ethernet 0.74, 0.61, 0.63, 0.66; AN1 1.40, 0.79, 0.79, 1.00.",
    },
    Table {
        title: "Braun, Figures 6 and 7: throughput by message size, loopback, 16 KB socket buffers",
        columns: &["", "result"],
        rows: &[&[
            "SPARCstation 10 and DPX/20",
            "user TCP below the BSD TCP at every size",
        ]],
        note: "Curves without numbers in the text; \"still far from a kernel implementation\".",
    },
    Table {
        title: "Edwards, Figure 2: netperf throughput by message size, Jetstream, 245,760-byte buffers, 61,504-byte PDUs",
        columns: &["", "Mbit/s", "of the single-copy kernel"],
        rows: &[&[
            "user-space TCP, all variants",
            "about 160",
            "80 %, above the dual-copy kernel",
        ]],
        note: "The receiver was always the bottleneck.",
    },
];

const LATENCY: &[Table] = &[Table {
    title: "Thekkath, Table 3: round trip in ms by size",
    columns: &["", "1 B", "512 B", "1460 B"],
    rows: &[
        &["Ethernet: Ultrix 4.2A", "1.6", "3.5", "6.2"],
        &["Ethernet: Mach 3.0/UX", "7.8", "10.8", "16.0"],
        &["Ethernet: theirs, user level", "2.8", "5.2", "9.9"],
        &["AN1: Ultrix 4.2A", "1.8", "2.7", "3.2"],
        &["AN1: theirs, user level", "2.7", "3.4", "4.7"],
    ],
    note: "User level took 1.5 to 1.75 of the kernel's time on Ethernet.",
}];

const SETUP: &[Table] = &[
    Table {
        title: "Thekkath, Table 4: connection set-up in ms",
        columns: &["", "Ethernet", "AN1"],
        rows: &[
            &["Ultrix 4.2A", "2.6", "2.9"],
            &["Mach 3.0/UX", "6.8", ""],
            &["theirs, user level", "11.9", "12.3"],
        ],
        note: "",
    },
    Table {
        title: "What the 11.9 ms were made of",
        columns: &["part", "ms", "here"],
        rows: &[
            &["to the remote peer and back", "4.6", "handshake"],
            &["identifiers, beginning", "1.5", "begin"],
            &[
                "user channels to the device",
                "3.4",
                "a ring of its own: dedicated against shared",
            ],
            &[
                "application to server and back",
                "0.9",
                "none: the service runs on the shard's thread",
            ],
            &["TCP state to user level", "1.4", "none: it is there"],
        ],
        note: "",
    },
];

const DEMUX: &[Table] = &[Table {
    title: "Thekkath, Table 5: demultiplexing a packet, us",
    columns: &["", "us"],
    rows: &[
        &["software (Lance Ethernet)", "52"],
        &["hardware, BQI (AN1)", "50"],
    ],
    note: "",
}];

const CPU: &[Table] = &[Table {
    title: "Edwards, Figure 3: send-side CPU at full throughput",
    columns: &["", "CPU, %"],
    rows: &[
        &["user space, both optimisations", "about 82"],
        &["user space, neither", "about 88"],
        &["kernel", "about 72"],
    ],
    note: "",
}];
