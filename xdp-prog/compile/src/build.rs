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
