//! The committed files against a fresh build of the committed source.
//!
//! With the recorded clang every byte must agree. Another clang may order, name or optimise otherwise: then the report says so,
//! and only the same instructions pass as explained. What is left is a difference that a person has to look at.

use std::fmt;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use crate::build::{DISASSEMBLY, OBJECT, VERSION};

/// Lines of a difference that are printed.
const LINES_SHOWN: usize = 20;

/// What a check found.
pub(crate) struct Report {
    recorded: String,
    found: String,
    same_object: bool,
    code: Code,
}

/// How the two disassemblies compare.
enum Code {
    Same,
    Differs {
        /// First differing line, counted from 1, and the lines from there on in both.
        line: usize,
        committed: Vec<String>,
        built: Vec<String>,
        count: usize,
    },
}

/// Compares the files of `committed` with those that were just built with the clang of this version.
pub(crate) fn compare(committed: &Path, built: &Path, found: &str) -> Result<Report> {
    let recorded = text(committed, VERSION)?.trim().to_owned();
    let same_object = bytes(committed, OBJECT)? == bytes(built, OBJECT)?;
    let code = compare_code(&text(committed, DISASSEMBLY)?, &text(built, DISASSEMBLY)?);
    Ok(Report {
        recorded,
        found: found.to_owned(),
        same_object,
        code,
    })
}

impl Report {
    /// Whether nothing differs, or only the compiler's version and with it bytes that are not instructions.
    pub(crate) fn is_explained(&self) -> bool {
        let same_code = matches!(self.code, Code::Same);
        same_code && (self.same_object || self.recorded != self.found)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "recorded: {}", self.recorded)?;
        writeln!(f, "found:    {}", self.found)?;
        match (&self.code, self.same_object) {
            (Code::Same, true) => writeln!(
                f,
                "ok: {OBJECT} and {DISASSEMBLY} are what the source compiles to"
            )?,
            (Code::Same, false) if self.recorded != self.found => writeln!(
                f,
                "ok: the instructions are the same; other bytes of {OBJECT} differ, as the clang versions do"
            )?,
            (Code::Same, false) => writeln!(
                f,
                "FAILED: same clang and same instructions, but {OBJECT} has other bytes: maps, BTF or line information changed; rebuild with \
                 `cargo run -p bywash-xdp-compile` and commit all three files"
            )?,
            (
                Code::Differs {
                    line,
                    committed,
                    built,
                    count,
                },
                _,
            ) => {
                writeln!(
                    f,
                    "FAILED: {count} lines of {DISASSEMBLY} differ, the first is line {line}:"
                )?;
                committed
                    .iter()
                    .try_for_each(|line| writeln!(f, "  - {line}"))?;
                built
                    .iter()
                    .try_for_each(|line| writeln!(f, "  + {line}"))?;
                if self.recorded == self.found {
                    writeln!(
                        f,
                        "Rebuild with `cargo run -p bywash-xdp-compile` and commit all three files."
                    )?;
                } else {
                    writeln!(
                        f,
                        "The clang versions differ, which may be why: check with the recorded one (`--clang`), or rebuild and review."
                    )?;
                }
            }
        }
        Ok(())
    }
}

fn compare_code(committed: &str, built: &str) -> Code {
    let committed: Vec<&str> = committed.lines().collect();
    let built: Vec<&str> = built.lines().collect();
    let longest = committed.len().max(built.len());
    let differs = |i: &usize| committed.get(*i) != built.get(*i);
    let count = (0..longest).filter(differs).count();
    let Some(first) = (0..longest).find(differs) else {
        return Code::Same;
    };
    let excerpt = |lines: &[&str]| {
        let lines = lines.iter().skip(first).take(LINES_SHOWN);
        lines.map(|line| (*line).to_owned()).collect()
    };
    Code::Differs {
        line: first + 1,
        committed: excerpt(&committed),
        built: excerpt(&built),
        count,
    }
}

fn text(directory: &Path, name: &str) -> Result<String> {
    let path = directory.join(name);
    fs::read_to_string(&path).with_context(|| format!("reading {}", path.display()))
}

fn bytes(directory: &Path, name: &str) -> Result<Vec<u8>> {
    let path = directory.join(name);
    fs::read(&path).with_context(|| format!("reading {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn report(recorded: &str, found: &str, same_object: bool, built: &str) -> Report {
        Report {
            recorded: recorded.into(),
            found: found.into(),
            same_object,
            code: compare_code("a\nb\n", built),
        }
    }

    #[test]
    fn only_a_difference_beside_the_instructions_is_explained_by_another_clang() {
        assert!(report("14", "14", true, "a\nb\n").is_explained());
        assert!(report("14", "15", false, "a\nb\n").is_explained());
        assert!(!report("14", "14", false, "a\nb\n").is_explained());
        assert!(!report("14", "14", false, "a\nc\n").is_explained());
        assert!(!report("14", "15", false, "a\nc\n").is_explained());
    }

    #[test]
    fn a_difference_is_shown_with_its_line_and_both_versions() {
        let text = report("clang 14", "clang 15", false, "a\nc\nd\n").to_string();
        assert!(
            text.contains("2 lines of demux.dis.txt differ, the first is line 2"),
            "{text}"
        );
        assert!(text.contains("  - b\n  + c\n  + d\n"), "{text}");
        assert!(
            text.contains("recorded: clang 14\nfound:    clang 15\n"),
            "{text}"
        );
        assert!(text.contains("may be why"), "{text}");
    }
}
