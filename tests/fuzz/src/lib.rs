//! Fuzz targets. Each is one function over bytes with an oracle of its own, run in three ways:
//!
//! ```text
//!              +-- cargo test: the committed corpus, and some thousand inputs of a seeded generator
//!  target(&[u8]) -- run.sh: libFuzzer, guided by coverage, two targets at a time
//!              +-- replay TARGET FILE: an input that was kept
//! ```
//! A target panics if something is wrong, and reads neither clock nor randomness: an input says everything.
//!
//! | target | against |
//! |---|---|
//! | `decode` | what is decoded, emitted and decoded again is the same |
//! | `options` | a parser that knows only kinds and lengths |
//! | `on_segment` | the peer's stream, windows, states, the ledger of payloads; from every state |
//! | `reassembly` | a set of numbers: acknowledgments, SACK blocks, bytes |
//! | `scoreboard` | an oracle that walks over every segment |
//! | `restore` | a snapshot that was read is written the same again |
//! | `memory_port` | queues of bytes, the ledgers of both memories |
//! | `rings` | two queues; a hostile other side |
//! | `control_socket` | the same line whole and in pieces |
//! | `iperf3` | the same bytes whole and in pieces; parameters told are parameters read |

mod input;
mod targets;

pub use input::Input;

/// A fuzz target.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name, which is also that of its folder below `corpus`.
    pub name: &'static str,
    /// Runs one input; panics if something is wrong.
    pub run: fn(&[u8]),
}

/// All of them.
pub const TARGETS: [Target; 10] = [
    Target {
        name: "decode",
        run: targets::decode::run,
    },
    Target {
        name: "options",
        run: targets::options::run,
    },
    Target {
        name: "on_segment",
        run: targets::on_segment::run,
    },
    Target {
        name: "reassembly",
        run: targets::reassembly::run,
    },
    Target {
        name: "scoreboard",
        run: bywash_tcp::fuzzing::scoreboard,
    },
    Target {
        name: "rings",
        run: targets::rings::run,
    },
    Target {
        name: "restore",
        run: targets::restore::run,
    },
    Target {
        name: "memory_port",
        run: targets::memory_port::run,
    },
    Target {
        name: "control_socket",
        run: targets::control_socket::run,
    },
    Target {
        name: "iperf3",
        run: targets::iperf3::run,
    },
];

/// The target of that name.
pub fn target(name: &str) -> Option<Target> {
    TARGETS.into_iter().find(|target| target.name == name)
}
