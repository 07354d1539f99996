//! Shell commands that are about kernel parameters. Nothing is executed: the parameters become files under a directory that
//! the plug-in reads in place of `/proc/sys`.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use super::{Outcome, unsupported};

/// What Linux's suites set before each script (their `defaults.sh`): the parameters that have an effect here, by values of
/// a production kernel.
const DEFAULTS: [(&str, &str); 21] = [
    ("tcp_rmem", "4096 540000 15728640"),
    ("tcp_wmem", "4096 262144 4194304"),
    ("tcp_timestamps", "1"),
    ("tcp_syn_retries", "5"),
    ("tcp_synack_retries", "5"),
    ("tcp_frto", "2"),
    ("tcp_sack", "1"),
    ("tcp_dsack", "1"),
    ("tcp_reordering", "3"),
    ("tcp_congestion_control", "cubic"),
    ("tcp_slow_start_after_idle", "0"),
    ("tcp_early_retrans", "4"),
    ("tcp_recovery", "1"),
    ("tcp_ecn", "0"),
    ("tcp_pacing_ss_ratio", "200"),
    ("tcp_pacing_ca_ratio", "120"),
    ("tcp_notsent_lowat", "4294967295"),
    ("tcp_fastopen", "3"),
    ("tcp_fastopen_key", "a1a1a1a1-b2b2b2b2-c3c3c3c3-d4d4d4d4"),
    ("tcp_syncookies", "1"),
    ("tcp_shrink_window", "0"),
];

/// The directory, gone with the player.
pub(super) struct Parameters {
    root: PathBuf,
}

impl Parameters {
    pub(super) fn new() -> Self {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        let name = format!("bywash-scripts-{}-{count}", std::process::id());
        let root = std::env::temp_dir().join(name);
        std::fs::create_dir_all(root.join("net/ipv4")).expect("a directory for parameters");
        Self { root }
    }

    pub(super) fn root(&self) -> &Path {
        &self.root
    }

    fn set(&self, name: &str, value: &str) -> Outcome {
        let path = self.root.join(name);
        let folder = path.parent().unwrap_or(&self.root);
        let written = std::fs::create_dir_all(folder).and_then(|()| std::fs::write(&path, value));
        match written {
            Ok(()) => Ok(()),
            Err(error) => unsupported(format!("{}: {error}", path.display())),
        }
    }

    /// Does what a command does to parameters.
    pub(super) fn command(&self, text: &str) -> Outcome {
        let text = text.replace("\\\n", " ");
        for line in text.lines().flat_map(|line| line.split(';')) {
            self.line(line.trim())?;
        }
        Ok(())
    }

    fn line(&self, line: &str) -> Outcome {
        let words = words(line);
        let Some(program) = words.first() else {
            return Ok(());
        };
        let name = program.rsplit('/').next().unwrap_or(program);
        match name {
            "defaults.sh" => DEFAULTS
                .iter()
                .try_for_each(|(name, value)| self.set(&format!("net/ipv4/{name}"), value)),
            "sysctl" | "set_sysctls.py" => words[1..]
                .iter()
                .filter(|word| word.contains('='))
                .try_for_each(|word| self.assignment(word)),
            // They look at the kernel's counters, or end what was never begun here.
            "nstat" | "ethtool" | "ip" | "tc" | "true" | "sleep" | "echo" | "grep" | "ss" => Ok(()),
            name if name.starts_with("sysctl_restore_") => Ok(()),
            _ => unsupported(format!("the command {program:?}")),
        }
    }

    /// `net.ipv4.tcp_sack=0` or `/proc/sys/net/ipv4/tcp_sack=0`.
    fn assignment(&self, word: &str) -> Outcome {
        let (name, value) = word.split_once('=').unwrap_or((word, ""));
        let name = match name.strip_prefix("/proc/sys/") {
            Some(path) => path.to_owned(),
            None => name.replace('.', "/"),
        };
        if name.split('/').any(|part| part == "..") {
            return unsupported(format!("the parameter {name:?}"));
        }
        self.set(&name, &arithmetic(value))
    }
}

impl Drop for Parameters {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.root) {
            eprintln!("{}: {error}", self.root.display());
        }
    }
}

/// Words of a shell line; quotes hold words together.
fn words(line: &str) -> Vec<String> {
    let mut all = vec![String::new()];
    let mut quote = None;
    for letter in line.chars() {
        match (quote, letter) {
            (Some(open), _) if letter == open => quote = None,
            (None, '"' | '\'') => quote = Some(letter),
            (None, ' ' | '\t') => all.push(String::new()),
            (None, '#') if all.last().is_some_and(String::is_empty) => break,
            _ => all.last_mut().expect("never empty").push(letter),
        }
    }
    all.retain(|word| !word.is_empty());
    all
}

/// Replaces `$((a*b))` by its value; products only.
fn arithmetic(value: &str) -> String {
    let mut out = value.to_owned();
    while let Some(start) = out.find("$((") {
        let Some(length) = out[start..].find("))") else {
            return out;
        };
        let inside = &out[start + 3..start + length];
        let product: u64 = inside
            .split('*')
            .map(|factor| factor.trim().parse::<u64>().unwrap_or(0))
            .product();
        out.replace_range(start..start + length + 2, &product.to_string());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_become_files() {
        let parameters = Parameters::new();
        let command = "./defaults.sh\nsysctl -q net.ipv4.tcp_rmem=\"4096 32768 $((32*1024*1024))\" net.ipv4.tcp_sack=0 \\\n net.ipv4.tcp_ecn=1";
        assert!(parameters.command(command).is_ok());
        let read =
            |name| std::fs::read_to_string(parameters.root().join("net/ipv4").join(name)).unwrap();
        assert_eq!(read("tcp_rmem"), "4096 32768 33554432");
        assert_eq!(read("tcp_sack"), "0");
        assert_eq!(read("tcp_ecn"), "1");
        assert_eq!(read("tcp_frto"), "2");
        assert!(parameters.command("rm -rf x").is_err());
    }
}
