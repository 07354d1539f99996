//! `bywash-vm-pack OUT NAME=FILE..`: an initial RAM file system of a few files.
//!
//! The format is "newc" of cpio, as the kernel's `Documentation/driver-api/early-userspace/buffer-format.rst` has it: for
//! each file a header of 110 hexadecimal characters, its name, its bytes; name and bytes padded to four; at the end an entry
//! named `TRAILER!!!`.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, BufWriter, Write};
use std::path::Path;
use std::process::ExitCode;

const FOLDER: u32 = 0o040_755;
const PROGRAM: u32 = 0o100_755;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.split_first() {
        Some((out, files)) if !files.is_empty() => match pack(Path::new(out), files) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("bywash-vm-pack: {error}");
                ExitCode::FAILURE
            }
        },
        _ => {
            eprintln!("usage: bywash-vm-pack OUT NAME=FILE..");
            ExitCode::from(2)
        }
    }
}

fn pack(out: &Path, files: &[String]) -> io::Result<()> {
    let mut archive = Archive::new(BufWriter::new(fs::File::create(out)?));
    for folder in ["dev", "proc", "sys", "run", "tmp"] {
        archive.folder(folder)?;
    }
    for file in files {
        let (name, source) = file
            .split_once('=')
            .ok_or_else(|| io::Error::other(format!("{file}: say NAME=FILE")))?;
        let bytes =
            fs::read(source).map_err(|error| io::Error::other(format!("{source}: {error}")))?;
        archive.program(name.trim_start_matches('/'), &bytes)?;
    }
    archive.finish()
}

/// An archive under way.
struct Archive<W: Write> {
    out: W,
    written: usize,
    entries: u32,
    folders: BTreeSet<String>,
}

impl<W: Write> Archive<W> {
    fn new(out: W) -> Self {
        Self {
            out,
            written: 0,
            entries: 0,
            folders: BTreeSet::new(),
        }
    }

    /// A folder, and those above it.
    fn folder(&mut self, name: &str) -> io::Result<()> {
        if let Some((above, _)) = name.rsplit_once('/') {
            self.folder(above)?;
        }
        match self.folders.insert(name.to_owned()) {
            true => self.entry(name, FOLDER, &[]),
            false => Ok(()),
        }
    }

    fn program(&mut self, name: &str, bytes: &[u8]) -> io::Result<()> {
        if let Some((above, _)) = name.rsplit_once('/') {
            self.folder(above)?;
        }
        self.entry(name, PROGRAM, bytes)
    }

    fn entry(&mut self, name: &str, mode: u32, bytes: &[u8]) -> io::Result<()> {
        self.entries += 1;
        let size = u32::try_from(bytes.len())
            .map_err(|_| io::Error::other(format!("{name} is larger than the format can say")))?;
        // inode, mode, uid, gid, links, mtime, size, device and its node (two numbers each), name's length, checksum.
        let fields = [
            self.entries,
            mode,
            0,
            0,
            1,
            0,
            size,
            0,
            0,
            0,
            0,
            name.len() as u32 + 1,
            0,
        ];
        let mut header = b"070701".to_vec();
        for field in fields {
            header.extend_from_slice(format!("{field:08x}").as_bytes());
        }
        header.extend_from_slice(name.as_bytes());
        header.push(0);
        self.padded(&header)?;
        self.padded(bytes)
    }

    fn padded(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.out.write_all(bytes)?;
        let padding = bytes.len().next_multiple_of(4) - bytes.len();
        self.out.write_all(&[0; 3][..padding])?;
        self.written += bytes.len() + padding;
        Ok(())
    }

    fn finish(mut self) -> io::Result<()> {
        self.entry("TRAILER!!!", 0, &[])?;
        self.out.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_is_header_name_and_bytes_in_fours() {
        let mut bytes = Vec::new();
        let mut archive = Archive::new(&mut bytes);
        archive.program("bin/x", b"hello").unwrap();
        let entries = archive.entries;
        archive.finish().unwrap();
        assert_eq!(entries, 2, "the folder, and the file");
        assert_eq!(bytes.len() % 4, 0);
        // The folder: 110 + "bin\0" = 114, padded to 116.
        let file = &bytes[116..];
        assert_eq!(&file[..6], b"070701");
        assert_eq!(&file[14..22], b"000081ed", "a file that may be run by all");
        assert_eq!(&file[54..62], b"00000005");
        assert_eq!(&file[110..116], b"bin/x\0");
        assert_eq!(&file[116..121], b"hello");
        assert_eq!(
            &file[124..130],
            b"070701",
            "the trailer begins at a multiple of four"
        );
    }
}
