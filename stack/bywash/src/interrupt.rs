//! SIGINT and SIGTERM, as something that the main thread looks at.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;

/// How often a waiting main thread looks around. Nothing on the data path waits for it.
const WATCH: Duration = Duration::from_millis(20);

/// Whether the process was asked to end. Made before an engine is started, so that there is no
/// moment in which a signal would leave something attached.
pub(crate) struct Interrupt {
    stop: Arc<AtomicBool>,
    signal: Arc<AtomicUsize>,
}

impl Interrupt {
    pub(crate) fn install() -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let signal = Arc::new(AtomicUsize::new(0));
        // A signal in the middle of this would find a handler that does nothing yet: it waits until
        // all is in place. There is one thread so far.
        let both: SigSet = [Signal::SIGINT, Signal::SIGTERM].into_iter().collect();
        both.thread_block()?;
        let registered = Self::register(&stop, &signal);
        both.thread_unblock()?;
        registered?;
        Ok(Self { stop, signal })
    }

    fn register(stop: &Arc<AtomicBool>, signal: &Arc<AtomicUsize>) -> io::Result<()> {
        for number in [SIGINT, SIGTERM] {
            flag::register_usize(number, Arc::clone(signal), number as usize)?;
            flag::register(number, Arc::clone(stop))?;
        }
        Ok(())
    }

    /// Set as long as the process lives, once a signal has come.
    pub(crate) fn flag(&self) -> Arc<AtomicBool> {
        Arc::clone(&self.stop)
    }

    /// The signal that came, if one did.
    pub(crate) fn signal(&self) -> Option<i32> {
        self.stop.load(Ordering::SeqCst).then(|| {
            // The number is stored before the flag.
            i32::try_from(self.signal.load(Ordering::SeqCst)).unwrap_or(SIGINT)
        })
    }

    /// Waits until `done`, or a signal; returns the signal.
    pub(crate) fn wait_until(&self, mut done: impl FnMut() -> bool) -> Option<i32> {
        loop {
            if let Some(signal) = self.signal() {
                return Some(signal);
            }
            if done() {
                return None;
            }
            std::thread::sleep(WATCH);
        }
    }
}
