//! How a command ends when it does not succeed: one line, one exit status.

use std::error::Error;
use std::process::ExitCode;

/// Why a command did not do what it was asked to.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The command line asks for something that cannot be (exit status 2).
    Usage(String),
    /// Something stood in the way (exit status 1).
    Failed(String),
    /// Interrupted by this signal before it was done (exit status 128 + signal).
    Interrupted(i32),
    /// The output says already what is wrong (exit status 1).
    Reported,
}

impl Failure {
    /// `what: cause: cause of the cause`.
    pub(crate) fn new(what: impl std::fmt::Display, error: &dyn Error) -> Self {
        Self::Failed(format!("{what}: {}", chain(error)))
    }

    /// Tells standard error, and gives the exit status.
    pub(crate) fn report(self) -> ExitCode {
        match self {
            Self::Usage(text) => {
                eprintln!("bywash: {text}");
                ExitCode::from(2)
            }
            Self::Failed(text) => {
                eprintln!("bywash: {text}");
                ExitCode::FAILURE
            }
            Self::Interrupted(signal) => {
                eprintln!("bywash: interrupted");
                // Signal numbers are below 65.
                ExitCode::from(u8::try_from(128 + signal).unwrap_or(130))
            }
            Self::Reported => ExitCode::FAILURE,
        }
    }
}

impl<E: Error> From<E> for Failure {
    fn from(error: E) -> Self {
        Self::Failed(chain(&error))
    }
}

/// An error with its sources, on one line. Texts that already end with their source's (as those of
/// `transparent` errors do) do not say it twice.
fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let next = cause.to_string();
        if !text.contains(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        source = cause.source();
    }
    text.replace('\n', " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("cannot open the device")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("no right:\nrun as root")]
    struct Inner;

    #[test]
    fn a_chain_is_one_line() {
        let Failure::Failed(text) = Failure::from(Outer(Inner)) else {
            panic!("not Failed")
        };
        assert_eq!(text, "cannot open the device: no right: run as root");
    }

    #[derive(Debug, thiserror::Error)]
    #[error("outer says {0}")]
    struct Saying(#[source] std::fmt::Error);

    #[test]
    fn nothing_is_said_twice() {
        let error = Saying(std::fmt::Error);
        assert_eq!(chain(&error), format!("outer says {}", std::fmt::Error));
    }
}
