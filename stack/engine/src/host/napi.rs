//! Threaded NAPI: the device's receive work in kernel threads that can be placed, instead of in
//! whatever interrupt comes.
//!
//! `/sys/class/net/<device>/threaded` switches it for the whole device. The threads are called
//! `napi/<device>-<id>`; those that appear when it is switched on are moved off the shards' cores: on
//! the core of a spinning shard such a thread gets half of it at best, and the fill ring starves. A
//! device that is taken down and up may get new threads, which are then where the kernel puts them.

use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::sched::{CpuSet, sched_getaffinity, sched_setaffinity};
use nix::unistd::Pid;

use super::device::{Device, on_sysfs};

/// Why NAPI does not run in threads as it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum NapiError {
    /// No core is left for the threads.
    #[error(
        "threaded NAPI needs a core beside those of the shards ({shards:?}): a NAPI thread on a shard's core starves its rings"
    )]
    NoCore {
        /// The shards' cores.
        shards: Vec<usize>,
    },
    /// No sysfs shows the device.
    #[error("no sysfs shows {0}: threaded NAPI cannot be switched there")]
    NoSysfs(String),
    /// The kernel refused.
    #[error("threaded NAPI of {device}: {error}")]
    Refused {
        /// The device.
        device: String,
        /// Its answer; "not supported" for a device without NAPI.
        error: io::Error,
    },
}

/// Threaded NAPI that we switched on; dropped, it is switched off.
#[derive(Debug)]
pub struct ThreadedNapi {
    device: Device,
    threads: Vec<Pid>,
}

impl ThreadedNapi {
    /// Switches it on and moves the threads off `shards`' cores. `None`: it was on already, and is
    /// left as it is.
    ///
    /// # Errors
    /// See [`NapiError`]; nothing has changed then.
    pub fn enable(device: &Device, shards: &[usize]) -> Result<Option<Self>, NapiError> {
        let refused = |error| NapiError::Refused {
            device: device.name.clone(),
            error,
        };
        let others = cores_beside(shards).map_err(|errno| refused(errno.into()))?;
        let Some(others) = others else {
            return Err(NapiError::NoCore {
                shards: shards.to_vec(),
            });
        };
        let before = threads(device).map_err(refused)?;
        let was_on = on_sysfs(device, |directory| {
            fs::read_to_string(directory.join("threaded"))
        })
        .ok_or_else(|| NapiError::NoSysfs(device.name.clone()))?
        .map_err(refused)?;
        if was_on.trim() != "0" {
            tracing::info!(
                device = device.name,
                "NAPI runs in threads already: left as it is"
            );
            return Ok(None);
        }
        switch(device, "1")?;
        // From here on an error undoes it.
        let mut this = Self {
            device: device.clone(),
            threads: Vec::new(),
        };
        let now = threads(device).map_err(refused)?;
        this.threads = now
            .difference(&before)
            .map(|pid| Pid::from_raw(*pid))
            .collect();
        for thread in &this.threads {
            sched_setaffinity(*thread, &others).map_err(|errno| refused(errno.into()))?;
        }
        tracing::info!(device = device.name, threads = ?this.threads, "NAPI runs in threads");
        Ok(Some(this))
    }

    /// The threads that were placed.
    #[must_use]
    pub fn threads(&self) -> usize {
        self.threads.len()
    }
}

impl Drop for ThreadedNapi {
    fn drop(&mut self) {
        if let Err(error) = switch(&self.device, "0") {
            tracing::warn!("threaded NAPI stays on: {error}");
        }
    }
}

fn switch(device: &Device, value: &str) -> Result<(), NapiError> {
    on_sysfs(device, |directory| {
        fs::write(directory.join("threaded"), value)
    })
    .ok_or_else(|| NapiError::NoSysfs(device.name.clone()))?
    .map_err(|error| NapiError::Refused {
        device: device.name.clone(),
        error,
    })
}

/// The cores that this process may use, without those of the shards; `None`: none are left.
fn cores_beside(shards: &[usize]) -> Result<Option<CpuSet>, Errno> {
    let ours = sched_getaffinity(Pid::from_raw(0))?;
    let mut others = CpuSet::new();
    let mut any = false;
    for core in 0..CpuSet::count() {
        if ours.is_set(core)? && !shards.contains(&core) {
            others.set(core)?;
            any = true;
        }
    }
    Ok(any.then_some(others))
}

/// Kernel threads that are named as those of the device. One of another network namespace may have
/// the same name: only what appears by our doing is ours.
fn threads(device: &Device) -> io::Result<BTreeSet<i32>> {
    let prefix = format!("napi/{}-", device.name);
    let mut found = BTreeSet::new();
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry
            .file_name()
            .to_str()
            .and_then(|name| name.parse().ok())
        else {
            continue;
        };
        // A process that has just ended has no name.
        if is_named(&entry.path(), &prefix) {
            found.insert(pid);
        }
    }
    Ok(found)
}

fn is_named(process: &Path, prefix: &str) -> bool {
    fs::read_to_string(process.join("comm")).is_ok_and(|name| name.starts_with(prefix))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shards_cores_are_left_out() {
        let ours = sched_getaffinity(Pid::from_raw(0)).unwrap();
        let all: Vec<usize> = (0..CpuSet::count())
            .filter(|core| ours.is_set(*core).unwrap())
            .collect();
        assert!(cores_beside(&all).unwrap().is_none());
        let first = all[0];
        match cores_beside(&[first]).unwrap() {
            Some(others) => assert!(!others.is_set(first).unwrap()),
            None => assert_eq!(all.len(), 1),
        }
    }
}
