//! `bywash doctor --tune`: the changes that findings ask for, as commands; made, recorded and undone on request.
//!
//! ```text
//! --tune            prints the commands
//! --tune --apply    runs them, each recorded before it runs:   /run/bywash/tune-<namespace>-<ifindex>.json
//! --revert          undoes what is recorded, the last one first, and forgets it
//! ```

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::Command;

use bywash_engine::host::Device;
use bywash_engine::host::lock::RUN_DIR;
use serde::{Deserialize, Serialize};

use crate::failure::Failure;

/// One step, in the words of a shell.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Step {
    /// A program with its arguments.
    Run(Vec<String>),
    /// A value for a file of `/proc` or `/sys`.
    Write {
        /// The file.
        path: PathBuf,
        /// What it is to hold.
        value: String,
    },
}

impl Step {
    /// `program arguments..`, split at spaces: none of our arguments has one.
    pub(super) fn run(line: &str) -> Self {
        Self::Run(line.split_whitespace().map(str::to_owned).collect())
    }

    pub(super) fn write(path: impl Into<PathBuf>, value: impl Into<String>) -> Self {
        Self::Write {
            path: path.into(),
            value: value.into(),
        }
    }

    fn take(&self) -> Result<(), String> {
        match self {
            Self::Write { path, value } => {
                fs::write(path, value).map_err(|error| format!("{}: {error}", path.display()))
            }
            Self::Run(words) => {
                let (program, arguments) = words.split_first().ok_or("an empty command")?;
                let output = Command::new(program)
                    .args(arguments)
                    .output()
                    .map_err(|error| format!("{program} cannot be run: {error}"))?;
                if output.status.success() {
                    return Ok(());
                }
                let said = String::from_utf8_lossy(&output.stderr);
                Err(format!("{}: {}", output.status, said.trim()))
            }
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Write { path, value } => write!(f, "echo {} > {}", quoted(value), path.display()),
            Self::Run(words) => {
                let words: Vec<String> = words.iter().map(|word| quoted(word)).collect();
                f.write_str(&words.join(" "))
            }
        }
    }
}

/// `word`, so that a shell takes it as one.
fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./=:,+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

/// A change of this machine, with what restores its present state.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Change {
    /// What it is good for.
    pub(super) why: String,
    /// Makes it.
    pub(super) apply: Step,
    /// Restores what is now.
    pub(super) undo: Step,
}

/// What has been applied to a device and not yet undone, in the order in which it was applied.
#[derive(Debug, Default, Serialize, Deserialize)]
struct Record {
    changes: Vec<Change>,
}

/// The record of one device.
pub(super) struct Ledger {
    path: PathBuf,
}

impl Ledger {
    pub(super) fn of(device: &Device) -> Self {
        Self::at(&Path::new(RUN_DIR).join(format!("tune-{}.json", device.key())))
    }

    fn at(path: &Path) -> Self {
        Self {
            path: path.to_owned(),
        }
    }

    fn load(&self) -> Result<Record, Failure> {
        match fs::read(&self.path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
                Failure::Failed(format!(
                    "{} cannot be understood ({error}): undo by hand what it lists, then remove it",
                    self.path.display()
                ))
            }),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Record::default()),
            Err(error) => Err(Failure::new(
                format!("cannot read {}", self.path.display()),
                &error,
            )),
        }
    }

    /// Through a second file, so that a crash leaves the old record or the new one.
    fn store(&self, record: &Record) -> Result<(), Failure> {
        let failed = |error: &io::Error| {
            Failure::new(format!("cannot write {}", self.path.display()), error)
        };
        if record.changes.is_empty() {
            return match fs::remove_file(&self.path) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => Err(failed(&error)),
                _ => Ok(()),
            };
        }
        if let Some(folder) = self.path.parent() {
            fs::create_dir_all(folder).map_err(|error| failed(&error))?;
        }
        let new = self.path.with_extension("new");
        fs::write(&new, serde_json::to_vec_pretty(record)?).map_err(|error| failed(&error))?;
        fs::rename(&new, &self.path).map_err(|error| failed(&error))
    }

    /// Runs `changes`, each recorded first. Stops at the first that fails; what was done before stays recorded.
    pub(super) fn apply(&self, changes: &[Change], out: &mut impl Write) -> Result<(), Failure> {
        let mut record = self.load()?;
        for change in changes {
            record.changes.push(change.clone());
            self.store(&record)?;
            if let Err(error) = change.apply.take() {
                record.changes.pop();
                self.store(&record)?;
                return Err(Failure::Failed(format!(
                    "`{}` failed: {error}. The {} before it are in force; `bywash doctor --revert` undoes them",
                    change.apply,
                    record.changes.len()
                )));
            }
            writeln!(out, "done  {}", change.apply)?;
        }
        if changes.is_empty() {
            writeln!(out, "nothing to change")?;
        }
        Ok(())
    }

    /// Undoes what is recorded, the last change first. What cannot be undone stays recorded.
    pub(super) fn revert(&self, out: &mut impl Write) -> Result<(), Failure> {
        let mut record = self.load()?;
        if record.changes.is_empty() {
            return Err(Failure::Failed(
                "there is nothing to revert: `bywash doctor --tune --apply` has changed nothing on this device".into(),
            ));
        }
        let mut failed = Vec::new();
        while let Some(change) = record.changes.pop() {
            match change.undo.take() {
                Ok(()) => writeln!(out, "undone  {}", change.undo)?,
                Err(error) => {
                    failed.push((change, error));
                    continue;
                }
            }
            self.store(&kept(&record, &failed))?;
        }
        self.store(&kept(&record, &failed))?;
        if failed.is_empty() {
            return Ok(());
        }
        let list: Vec<String> = failed
            .iter()
            .map(|(change, error)| format!("`{}`: {error}", change.undo))
            .collect();
        Err(Failure::Failed(format!(
            "could not be undone, and stays recorded: {}",
            list.join("; ")
        )))
    }
}

/// What is still to be undone, oldest first: what nobody has tried yet, then what has failed.
fn kept(record: &Record, failed: &[(Change, String)]) -> Record {
    let again = failed.iter().rev().map(|(change, _)| change.clone());
    Record {
        changes: record.changes.iter().cloned().chain(again).collect(),
    }
}

/// The commands, to be read or to be piped into a shell.
pub(super) fn print(changes: &[Change], out: &mut impl Write) -> io::Result<()> {
    if changes.is_empty() {
        return writeln!(out, "# nothing to change");
    }
    for change in changes {
        writeln!(out, "# {}", change.why)?;
        writeln!(out, "{}", change.apply)?;
    }
    writeln!(out, "# `--tune --apply` runs these; then `--revert` runs:")?;
    for change in changes.iter().rev() {
        writeln!(out, "#   {}", change.undo)?;
    }
    Ok(())
}

/// Shows what could be done besides, by hand.
pub(super) fn offer(offers: &[String], out: &mut impl Write) -> io::Result<()> {
    for offer in offers {
        writeln!(out, "# {offer}")?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Scratch(PathBuf);

    impl Scratch {
        fn new(name: &str) -> Self {
            let path =
                std::env::temp_dir().join(format!("bywash-tune-{}-{name}", std::process::id()));
            fs::create_dir(&path).expect("a fresh folder");
            Self(path)
        }

        fn change(&self, name: &str) -> Change {
            let path = self.0.join(name);
            fs::write(&path, "old").expect("a file");
            Change {
                why: "a test".into(),
                apply: Step::write(&path, "new"),
                undo: Step::write(&path, "old"),
            }
        }

        fn holds(&self, name: &str) -> String {
            fs::read_to_string(self.0.join(name)).expect("the file")
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            fs::remove_dir_all(&self.0).expect("the folder of this test");
        }
    }

    #[test]
    fn what_is_applied_can_be_reverted_once() {
        let scratch = Scratch::new("once");
        let ledger = Ledger::at(&scratch.0.join("record.json"));
        let changes = [scratch.change("one"), scratch.change("two")];
        ledger.apply(&changes, &mut io::sink()).expect("applied");
        assert_eq!(
            (scratch.holds("one"), scratch.holds("two")),
            ("new".into(), "new".into())
        );
        let mut said = Vec::new();
        ledger.revert(&mut said).expect("reverted");
        assert_eq!(
            (scratch.holds("one"), scratch.holds("two")),
            ("old".into(), "old".into())
        );
        let said = String::from_utf8(said).expect("text");
        assert!(said.find("/two") < said.find("/one"), "last first: {said}");
        assert!(!ledger.path.exists());
        assert!(ledger.revert(&mut io::sink()).is_err());
    }

    #[test]
    fn a_change_that_fails_is_not_recorded_and_those_before_it_are() {
        let scratch = Scratch::new("fails");
        let ledger = Ledger::at(&scratch.0.join("record.json"));
        let bad = Change {
            why: "fails".into(),
            apply: Step::run("false"),
            undo: Step::run("false"),
        };
        let changes = [scratch.change("one"), bad, scratch.change("two")];
        ledger
            .apply(&changes, &mut io::sink())
            .expect_err("the second fails");
        assert_eq!(
            (scratch.holds("one"), scratch.holds("two")),
            ("new".into(), "old".into())
        );
        ledger.revert(&mut io::sink()).expect("the first is undone");
        assert_eq!(scratch.holds("one"), "old");
    }

    #[test]
    fn what_cannot_be_undone_stays_recorded() {
        let scratch = Scratch::new("stays");
        let ledger = Ledger::at(&scratch.0.join("record.json"));
        let mut stubborn = scratch.change("one");
        stubborn.undo = Step::run("false");
        let changes = [scratch.change("two"), stubborn.clone()];
        ledger.apply(&changes, &mut io::sink()).expect("applied");
        ledger.revert(&mut io::sink()).expect_err("one stays");
        assert_eq!(scratch.holds("two"), "old");
        assert_eq!(ledger.load().expect("a record").changes, [stubborn]);
    }

    #[test]
    fn commands_survive_a_shell() {
        assert_eq!(
            Step::run("ethtool -K eth1 lro off").to_string(),
            "ethtool -K eth1 lro off"
        );
        let odd = Step::Run(vec!["ip".into(), "it's".into(), String::new()]);
        assert_eq!(odd.to_string(), r"ip 'it'\''s' ''");
        let write = Step::write("/proc/sys/x", "1 2");
        assert_eq!(write.to_string(), "echo '1 2' > /proc/sys/x");
        assert!(Step::run("no-such-program-of-bywash").take().is_err());
    }

    #[test]
    fn what_is_printed_is_a_script() {
        let change = Change {
            why: "so".into(),
            apply: Step::run("true"),
            undo: Step::run("false"),
        };
        let mut out = Vec::new();
        print(&[change], &mut out).expect("memory");
        let text = String::from_utf8(out).expect("text");
        let commands: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(commands, ["true"]);
    }
}
