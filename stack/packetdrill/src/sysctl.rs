//! Kernel parameters as settings of the stack.
//!
//! Scripts set the kernel's parameters by shell commands (`sysctl -q net.ipv4.tcp_sack=0`) before they open a socket.
//! packetdrill runs those in the kernel, where they would say nothing to this stack; so the stack reads them back
//! from `/proc/sys` whenever a socket is made. A parameter that cannot be read leaves the stack's own default.

use std::path::{Path, PathBuf};

use bywash_engine::fast_open::{FastOpenKeys, KEY_LEN};
use bywash_engine::tcp::time::Duration;
use bywash_engine::tcp::{Config, EcnMode, KeepAlive, MtuProbing};

/// A tree of parameters, read anew at each question.
#[derive(Clone, Debug)]
pub struct Sysctls {
    root: Option<PathBuf>,
}

impl Sysctls {
    /// The tree under `root`; `None`: an empty one.
    pub fn new(root: Option<&Path>) -> Self {
        Self {
            root: root.map(Path::to_owned),
        }
    }

    /// The words of a parameter, such as `net/ipv4/tcp_rmem`.
    fn words(&self, name: &str) -> Option<Vec<String>> {
        let path = self.root.as_ref()?.join(name);
        let text = std::fs::read_to_string(path).ok()?;
        Some(text.split_whitespace().map(str::to_owned).collect())
    }

    /// The numbers of a parameter of `net.ipv4`.
    pub fn numbers(&self, name: &str) -> Option<Vec<u64>> {
        let words = self.words(&format!("net/ipv4/{name}"))?;
        words.iter().map(|word| word.parse().ok()).collect()
    }

    /// The only, or first, number of a parameter of `net.ipv4`.
    pub fn number(&self, name: &str) -> Option<u64> {
        self.numbers(name)?.first().copied()
    }

    /// The bits of `tcp_fastopen`, which scripts write in hexadecimal digits too.
    pub fn fast_open(&self) -> Option<u64> {
        let words = self.words("net/ipv4/tcp_fastopen")?;
        let word = words.first()?;
        match word.strip_prefix("0x") {
            Some(digits) => u64::from_str_radix(digits, 16).ok(),
            None => word.parse().ok(),
        }
    }

    /// `tcp_fastopen_key`: four words in hexadecimal digits, and perhaps, behind a comma, those of the key before.
    pub fn fast_open_keys(&self) -> Option<FastOpenKeys> {
        let words = self.words("net/ipv4/tcp_fastopen_key")?;
        let mut keys = words.first()?.split(',').map(fast_open_key);
        let current = keys.next()??;
        Some(FastOpenKeys::new(current, keys.next().flatten()))
    }

    fn switch(&self, name: &str, field: &mut bool) {
        if let Some(value) = self.number(name) {
            *field = value != 0;
        }
    }

    fn seconds(&self, name: &str, field: &mut Duration) {
        if let Some(value) = self.number(name) {
            *field = Duration::from_secs(value);
        }
    }

    fn count(&self, name: &str, field: &mut u8) {
        if let Some(value) = self.number(name) {
            *field = u8::try_from(value).unwrap_or(u8::MAX);
        }
    }

    /// Changes `config` to what the parameters say.
    pub fn apply(&self, config: &mut Config) {
        self.switch("tcp_timestamps", &mut config.timestamps);
        self.switch("tcp_sack", &mut config.sack);
        self.switch("tcp_window_scaling", &mut config.window_scale);
        self.count("tcp_retries2", &mut config.retries);
        self.count("tcp_syn_retries", &mut config.syn_retries);
        self.count("tcp_min_tso_segs", &mut config.burst_segments_min);
        self.seconds("tcp_fin_timeout", &mut config.fin_wait_2);
        self.switch(
            "tcp_slow_start_after_idle",
            &mut config.slow_start_after_idle,
        );
        match self.number("tcp_ecn") {
            Some(0) => config.ecn = EcnMode::Off,
            // 3 asks for AccECN, which is not there: the older kind is what is left.
            Some(1 | 3) => config.ecn = EcnMode::On,
            Some(_) => config.ecn = EcnMode::Accept,
            None => {}
        }
        match self.number("tcp_mtu_probing") {
            Some(0) => config.mtu_probing = MtuProbing::Off,
            Some(1) => config.mtu_probing = MtuProbing::OnBlackHole,
            Some(_) => config.mtu_probing = MtuProbing::Always,
            None => {}
        }
        // 0 is Linux's way to say the default.
        if let Some(count) = self.number("tcp_orphan_retries").filter(|count| *count > 0) {
            config.orphan_retries = u8::try_from(count).unwrap_or(u8::MAX);
        }
        if let Some(milliseconds) = self.number("tcp_invalid_ratelimit") {
            config.challenge_interval = Duration::from_millis(milliseconds);
        }
        if let Some(words) = self.words("net/ipv4/tcp_congestion_control")
            && let Some(Ok(algorithm)) = words.first().map(|name| name.parse())
        {
            config.congestion = algorithm;
        }
        if let Some(milliseconds) = self.number("tcp_rto_max_ms") {
            config.rto_max = Duration::from_millis(milliseconds);
        }
        if let Some([_, default, most]) = self.numbers("tcp_rmem").as_deref() {
            // Half of the kernel's buffer is for data, as with tcp_adv_win_scale = 1; the largest one decides the shift.
            config.receive_buffer = usize::try_from(*default / 2).unwrap_or(usize::MAX);
            config.receive_buffer_max = usize::try_from(*most).unwrap_or(usize::MAX);
        }
        if let Some([_, default, _]) = self.numbers("tcp_wmem").as_deref() {
            config.send_buffer = usize::try_from(*default).unwrap_or(usize::MAX);
        }
    }

    /// `tcp_keepalive_time`, `tcp_keepalive_intvl` and `tcp_keepalive_probes`, for sockets that ask for keep-alive.
    pub fn keep_alive(&self) -> KeepAlive {
        let mut keep_alive = KeepAlive::default();
        self.seconds("tcp_keepalive_time", &mut keep_alive.idle);
        self.seconds("tcp_keepalive_intvl", &mut keep_alive.interval);
        self.count("tcp_keepalive_probes", &mut keep_alive.probes);
        keep_alive
    }
}

/// Linux keeps each word of the key in little-endian order.
fn fast_open_key(text: &str) -> Option<[u8; KEY_LEN]> {
    let mut key = [0; KEY_LEN];
    let mut words = text.split('-');
    for octets in key.chunks_mut(4) {
        let word = u32::from_str_radix(words.next()?, 16).ok()?;
        octets.copy_from_slice(&word.to_le_bytes());
    }
    words.next().is_none().then_some(key)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_become_settings_and_missing_ones_change_nothing() {
        let root = std::env::temp_dir().join(format!("bywash-sysctl-{}", std::process::id()));
        let folder = root.join("net/ipv4");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join("tcp_sack"), "0\n").unwrap();
        std::fs::write(folder.join("tcp_wmem"), "4096\t262144\t4194304\n").unwrap();
        let mut config = Config::default();
        Sysctls::new(Some(&root)).apply(&mut config);
        std::fs::remove_dir_all(&root).unwrap();
        assert!(!config.sack);
        assert_eq!(config.send_buffer, 262_144);
        assert_eq!(config.syn_retries, Config::default().syn_retries);

        let mut untouched = Config::default();
        Sysctls::new(None).apply(&mut untouched);
        assert_eq!(untouched, Config::default());
    }

    #[test]
    fn keys_are_four_words_in_hexadecimal_digits() {
        let key = fast_open_key("00000001-a1a1a1a1-00000000-ffffff00").unwrap();
        assert_eq!(key[..8], [1, 0, 0, 0, 0xa1, 0xa1, 0xa1, 0xa1]);
        assert_eq!(key[12..], [0, 0xff, 0xff, 0xff]);
        for wrong in ["", "1-2-3", "1-2-3-4-5", "x-1-2-3"] {
            assert_eq!(fast_open_key(wrong), None, "{wrong}");
        }
    }
}
