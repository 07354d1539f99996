//! One compilation: clang by way of libbpf-cargo, then the disassembly and the compiler's version as text.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail, ensure};
use libbpf_cargo::SkeletonBuilder;

/// The file names, in `xdp-prog/bpf`.
pub(crate) const SOURCE: &str = "demux.bpf.c";
pub(crate) const OBJECT: &str = "demux.bpf.o";
pub(crate) const DISASSEMBLY: &str = "demux.dis.txt";
pub(crate) const VERSION: &str = "demux.clang.txt";

/// The programs that are run.
pub(crate) struct Tools {
    pub(crate) clang: PathBuf,
    pub(crate) objdump: PathBuf,
}

/// What a build tells about itself.
pub(crate) struct Built {
    /// First line of `clang --version`.
    pub(crate) version: String,
}

/// Compiles `sources/demux.bpf.c` and writes object, disassembly and version into `target`.
pub(crate) fn build(tools: &Tools, sources: &Path, target: &Path) -> Result<Built> {
    let version = clang_version(&tools.clang)?;
    let object = target.join(OBJECT);
    // Beside the target, and renamed at the end: a failed build leaves the committed object as it was.
    let scratch = tempfile::tempdir_in(target).context("making a directory beside the object")?;
    let fresh = scratch.path().join(OBJECT);
    SkeletonBuilder::new()
        .source(sources.join(SOURCE))
        .obj(&fresh)
        .clang(&tools.clang)
        .clang_args(clang_arguments(sources))
        .build()
        .context("compiling with clang (Debian: `apt-get install clang llvm libelf-dev`)")?;
    let disassembly = disassemble(&tools.objdump, scratch.path())?;
    fs::rename(&fresh, &object).with_context(|| format!("writing {}", object.display()))?;
    write(&target.join(DISASSEMBLY), &disassembly)?;
    write(&target.join(VERSION), &format!("{version}\n"))?;
    Ok(Built { version })
}

fn clang_arguments(sources: &Path) -> Vec<OsString> {
    // BTF's line information names source files. With the checkout's path cut off it is the same from any directory.
    let mut prefix_map = OsString::from("-ffile-prefix-map=");
    prefix_map.push(sources);
    prefix_map.push("=.");
    vec![
        "-Wall".into(),
        "-Wextra".into(),
        "-Werror".into(),
        // 32-bit arithmetic and jumps; Linux 5.1 and newer know them.
        "-mcpu=v3".into(),
        "-fdebug-compilation-dir=.".into(),
        prefix_map,
    ]
}

fn clang_version(clang: &Path) -> Result<String> {
    let output = Command::new(clang).arg("--version").output();
    let output = output.with_context(|| {
        format!(
            "running `{} --version` (Debian: `apt-get install clang`)",
            clang.display()
        )
    })?;
    ensure!(
        output.status.success(),
        "`{} --version` ended with {}",
        clang.display(),
        output.status
    );
    let text = String::from_utf8(output.stdout).context("clang's version")?;
    match text.lines().next() {
        Some(line) if line.contains("clang version") => Ok(line.trim().to_owned()),
        other => bail!("`{}` says {other:?}, not a clang version", clang.display()),
    }
}

/// Instructions with the relocations to maps between them. Run inside the directory, so that the header names no path.
fn disassemble(objdump: &Path, directory: &Path) -> Result<String> {
    let output = Command::new(objdump)
        .args(["--disassemble", "--reloc", "--no-show-raw-insn", OBJECT])
        .current_dir(directory)
        .output()
        .with_context(|| {
            format!(
                "running `{}` (Debian: `apt-get install llvm`)",
                objdump.display()
            )
        })?;
    ensure!(
        output.status.success(),
        "`{}` ended with {}: {}",
        objdump.display(),
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).context("the disassembly")
}

fn write(path: &Path, text: &str) -> Result<()> {
    fs::write(path, text).with_context(|| format!("writing {}", path.display()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare;

    fn tools() -> Tools {
        Tools {
            clang: "clang".into(),
            objdump: "llvm-objdump".into(),
        }
    }

    fn committed() -> PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).with_file_name("bpf")
    }

    /// A copy of the sources, with this change to the program.
    fn copy(change: impl Fn(String) -> String) -> tempfile::TempDir {
        let directory = tempfile::tempdir().expect("a temporary directory");
        for entry in fs::read_dir(committed()).expect("the sources") {
            let path = entry.expect("an entry").path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .expect("UTF-8");
            if name != SOURCE && !name.ends_with(".h") {
                continue;
            }
            let text = fs::read_to_string(&path).expect("a source");
            let text = if name == SOURCE { change(text) } else { text };
            fs::write(directory.path().join(name), text).expect("a copy");
        }
        directory
    }

    #[test]
    fn the_object_is_the_same_from_any_directory() {
        let sources = copy(|text| text);
        let built = build(&tools(), sources.path(), sources.path()).expect("a build");
        let report = compare::compare(&committed(), sources.path(), &built.version).expect("files");
        assert!(report.is_explained(), "{report}");
        let object = fs::read(sources.path().join(OBJECT)).expect("the object");
        let path = sources.path().to_str().expect("UTF-8").as_bytes();
        assert!(
            !object.windows(path.len()).any(|window| window == path),
            "the object names the directory it was built in"
        );
    }

    #[test]
    fn a_change_of_the_source_is_found() {
        let sources = copy(|text| text.replace("finish(DROP_NO_SHARD)", "finish(DROP_EMPTY_SLOT)"));
        let built = build(&tools(), sources.path(), sources.path()).expect("a build");
        let report = compare::compare(&committed(), sources.path(), &built.version).expect("files");
        assert!(!report.is_explained(), "{report}");
    }

    #[test]
    fn a_source_that_does_not_compile_leaves_the_old_object() {
        let sources = copy(|text| text + "\nthis is no C\n");
        fs::write(sources.path().join(OBJECT), "old").expect("an object");
        assert!(build(&tools(), sources.path(), sources.path()).is_err());
        let object = fs::read_to_string(sources.path().join(OBJECT)).expect("the object");
        assert_eq!(object, "old");
    }

    #[test]
    fn a_missing_clang_is_named() {
        let mut tools = tools();
        tools.clang = "/nonexistent/clang".into();
        let sources = copy(|text| text);
        let error = build(&tools, sources.path(), sources.path())
            .err()
            .expect("an error");
        assert!(
            format!("{error:#}").contains("/nonexistent/clang --version"),
            "{error:#}"
        );
    }
}
