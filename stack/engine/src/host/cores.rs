//! Which core a shard runs on.
//!
//! A shard spins, so it wants a core of its own. Interrupts gather on the lowest core, hence cores
//! are given out from the highest number downwards unless the caller names them.

use core_affinity::CoreId;

/// Why cores could not be chosen or a thread not be pinned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CoreError {
    /// The system does not say which cores there are.
    #[error("the system does not say which cores this process may use (sched_getaffinity failed)")]
    Unknown,
    /// More shards than cores that this process may use.
    #[error(
        "{wanted} shards need as many cores, but this process may use {available}: \
         use fewer queues, or allow more cores (taskset, cpuset)"
    )]
    TooFew {
        /// Cores asked for.
        wanted: usize,
        /// Cores that the affinity mask of this process allows.
        available: usize,
    },
    /// A core that was asked for by number cannot be used.
    #[error("core {core} is not among those this process may use ({allowed})")]
    NotAllowed {
        /// The number asked for.
        core: usize,
        /// Numbers that may be used, comma-separated.
        allowed: String,
    },
    /// A core was named for two shards.
    #[error("core {core} was named twice: each shard spins on a core of its own")]
    Twice {
        /// The number named twice.
        core: usize,
    },
    /// `sched_setaffinity` refused.
    #[error("this thread could not be pinned to core {core} (sched_setaffinity failed)")]
    Pin {
        /// The core in question.
        core: usize,
    },
}

/// Chooses a core for each of `shards` shards: the named ones in their order, or else the highest
/// numbers that this process may use.
///
/// # Errors
/// See [`CoreError`]; the caller's fault except `Unknown`.
pub fn choose(shards: usize, named: Option<&[usize]>) -> Result<Vec<usize>, CoreError> {
    let allowed = core_affinity::get_core_ids().ok_or(CoreError::Unknown)?;
    choose_from(
        allowed.into_iter().map(|core| core.id).collect(),
        shards,
        named,
    )
}

fn choose_from(
    mut allowed: Vec<usize>,
    shards: usize,
    named: Option<&[usize]>,
) -> Result<Vec<usize>, CoreError> {
    allowed.sort_unstable();
    let Some(named) = named else {
        if shards > allowed.len() {
            return Err(CoreError::TooFew {
                wanted: shards,
                available: allowed.len(),
            });
        }
        return Ok(allowed.into_iter().rev().take(shards).collect());
    };
    if named.len() < shards {
        return Err(CoreError::TooFew {
            wanted: shards,
            available: named.len(),
        });
    }
    for (index, core) in named.iter().enumerate() {
        if !allowed.contains(core) {
            let allowed = allowed
                .iter()
                .map(usize::to_string)
                .collect::<Vec<_>>()
                .join(", ");
            return Err(CoreError::NotAllowed {
                core: *core,
                allowed,
            });
        }
        if named[..index].contains(core) {
            return Err(CoreError::Twice { core: *core });
        }
    }
    Ok(named[..shards].to_vec())
}

/// Pins the calling thread to a core.
///
/// # Errors
/// [`CoreError::Pin`] if the kernel refuses.
pub fn pin(core: usize) -> Result<(), CoreError> {
    if core_affinity::set_for_current(CoreId { id: core }) {
        Ok(())
    } else {
        Err(CoreError::Pin { core })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_core_is_given_out_last() {
        assert_eq!(choose_from(vec![0, 1, 2, 3], 3, None), Ok(vec![3, 2, 1]));
    }

    #[test]
    fn named_cores_keep_their_order_and_are_checked() {
        assert_eq!(choose_from(vec![0, 1, 2], 2, Some(&[0, 2])), Ok(vec![0, 2]));
        assert_eq!(
            choose_from(vec![0, 1], 2, Some(&[1, 1])),
            Err(CoreError::Twice { core: 1 })
        );
        let refused = choose_from(vec![0, 1], 1, Some(&[7]));
        assert_eq!(
            refused,
            Err(CoreError::NotAllowed {
                core: 7,
                allowed: "0, 1".into()
            })
        );
        let short = choose_from(vec![0, 1, 2], 2, Some(&[1]));
        assert_eq!(
            short,
            Err(CoreError::TooFew {
                wanted: 2,
                available: 1
            })
        );
    }

    #[test]
    fn a_thread_can_be_pinned_where_it_may_run() {
        let core = choose(1, None).unwrap()[0];
        std::thread::spawn(move || {
            pin(core).unwrap();
            assert_eq!(choose_from(vec![core], 1, None), Ok(vec![core]));
            assert_eq!(
                core_affinity::get_core_ids().unwrap(),
                vec![CoreId { id: core }]
            );
        })
        .join()
        .unwrap();
    }
}
