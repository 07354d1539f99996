//! `/sys/class/net/DEVICE`, which may show another network namespace than ours.

use std::fs;
use std::io;
use std::path::PathBuf;

use bywash_engine::host::Device;

/// What to do where [`read`] fails.
pub(super) const REMEDY: &str =
    "run doctor by `ip netns exec`, which mounts a /sys of the namespace";

pub(super) fn path(device: &Device, name: &str) -> PathBuf {
    PathBuf::from(format!("/sys/class/net/{}/{name}", device.name))
}

/// The trimmed content of a file of the device.
///
/// # Errors
/// In words: no such file, or the device of this name there is another one.
pub(super) fn read(device: &Device, name: &str) -> Result<String, String> {
    find(device, name)?.ok_or_else(|| format!("there is no {}", path(device, name).display()))
}

/// As [`read`], and `None` if the device has no such file.
///
/// # Errors
/// As [`read`]'s others.
pub(super) fn find(device: &Device, name: &str) -> Result<Option<String>, String> {
    let index = fs::read_to_string(path(device, "ifindex"))
        .map_err(|error| format!("{}: {error}", path(device, "ifindex").display()))?;
    if index.trim() != device.ifindex.to_string() {
        return Err("/sys shows another network namespace".into());
    }
    match fs::read_to_string(path(device, name)) {
        Ok(text) => Ok(Some(text.trim().to_owned())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(format!("{}: {error}", path(device, name).display())),
    }
}
