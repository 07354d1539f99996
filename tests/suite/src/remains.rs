//! What an engine leaves behind: nothing, if it has ended cleanly.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::process::Running;
use crate::{LIMIT, Side};

/// How long the kernel may take to free a program after its last reference is gone (a grace period and a work queue).
const GRACE: Duration = Duration::from_secs(5);

/// Where an engine of a device keeps what has a path.
pub struct Traces {
    side: Side,
    folder: PathBuf,
}

impl Traces {
    /// Of an engine on this side's device.
    #[track_caller]
    pub fn of(side: &Side) -> Self {
        let namespace = std::fs::metadata(Path::new("/run/netns").join(&side.namespace))
            .expect("a namespace of this bed");
        let index = side.link()["ifindex"].as_u64().expect("an index");
        let folder = Path::new("/run/bywash").join(format!("{}-{index}", namespace.ino()));
        Self {
            side: side.clone(),
            folder,
        }
    }

    /// The XDP program on the device.
    #[track_caller]
    pub fn program(&self) -> Option<u64> {
        self.side.link()["xdp"]["prog"]["id"].as_u64()
    }

    /// Checks that a running or killed engine is seen, so that [`gone`](Self::gone) does not look in the wrong place; answers the
    /// program's id.
    #[track_caller]
    pub fn present(&self) -> u64 {
        assert!(self.folder.is_dir(), "no {}", self.folder.display());
        assert!(
            self.is_mounted(),
            "nothing is mounted below {}",
            self.folder.display()
        );
        let program = self.program().expect("an XDP program on the device");
        assert!(
            is_loaded(program),
            "bpftool does not show program {program}"
        );
        program
    }

    /// In the host's mount namespace, as pid 1 has it, or in this test's, where pid 1's may not be joined.
    fn is_mounted(&self) -> bool {
        let folder = self.folder.to_str().expect("a path in UTF-8");
        ["/proc/1/mountinfo", "/proc/self/mountinfo"]
            .iter()
            .any(|table| {
                let text = std::fs::read_to_string(table)
                    .unwrap_or_else(|error| panic!("{table}: {error}"));
                text.contains(folder)
            })
    }

    /// Checks that nothing is attached, pinned, mounted or left in `/run`; `programs` are the ids that were seen.
    #[track_caller]
    pub fn gone(&self, programs: &[u64]) {
        assert_eq!(
            self.program(),
            None,
            "an XDP program is still on {}",
            self.side.device
        );
        self.gone_with_device(programs);
    }

    /// As [`gone`](Self::gone), where the device cannot be asked any more.
    #[track_caller]
    pub fn gone_with_device(&self, programs: &[u64]) {
        assert!(
            !self.is_mounted(),
            "still mounted: {}",
            self.folder.display()
        );
        assert!(
            !self.folder.exists(),
            "{} is left behind",
            self.folder.display()
        );
        for program in programs {
            let deadline = Instant::now() + GRACE;
            while is_loaded(*program) {
                assert!(
                    Instant::now() < deadline,
                    "XDP program {program} is still loaded: a link or a pin holds it"
                );
                std::thread::sleep(Duration::from_millis(20));
            }
        }
    }
}

#[track_caller]
fn is_loaded(program: u64) -> bool {
    let id = program.to_string();
    Running::start(Command::new("bpftool").args(["-j", "prog", "show", "id", &id]))
        .wait(LIMIT)
        .status
        .success()
}
