//! What is known of single drivers in zero-copy mode.
//!
//! The kernel says that a bind was refused, and with which number; why, only the driver's source says.

/// Drivers whose receive buffers are counted in KiB: of a chunk of 2048 bytes, of which XDP keeps 256, they would use 1024,
/// and cut longer frames off without a word (seen with igb; igc and ixgbe have the same register).
const KIB_BUFFERS: [&str; 3] = ["igb", "igc", "ixgbe"];

/// Whether the driver needs chunks of 4096 bytes to receive frames of 1514 in zero-copy mode.
pub fn needs_large_chunks(driver: Option<&str>) -> bool {
    driver.is_some_and(|driver| KIB_BUFFERS.contains(&driver))
}

/// What most likely stands in the way where zero copy was refused, as a clause to follow the kernel's own words.
pub fn hint(driver: Option<&str>, generic: bool) -> String {
    if generic {
        return "generic XDP works on the kernel's buffers and never has zero copy; attach in native mode".to_owned();
    }
    match driver {
        Some("virtio_net") => "virtio_net has it since Linux 6.13, and only on a device with VIRTIO_F_ACCESS_PLATFORM (QEMU: iommu_platform=on,disable-legacy=on) and without large-packet buffers".to_owned(),
        Some("veth" | "tun") => "a virtual device has no hardware to write into our memory".to_owned(),
        Some("ena" | "bnxt_en" | "mana" | "e1000e" | "vmxnet3" | "hv_netvsc") => {
            "this driver has none; ice, i40e, ixgbe, igb, igc, mlx5, gve, idpf and others have".to_owned()
        }
        Some(driver) => format!(
            "see the kernel log; {driver} may have none in this kernel, or not with this number of queues, this MTU or this ring size"
        ),
        None => "the device's driver is not known".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hint_fits_its_driver() {
        assert!(hint(Some("virtio_net"), false).contains("iommu_platform"));
        assert!(hint(Some("virtio_net"), true).contains("generic"));
        assert!(hint(Some("ice"), false).contains("ice may"));
        assert!(needs_large_chunks(Some("igb")) && !needs_large_chunks(Some("virtio_net")));
        assert!(!needs_large_chunks(None));
    }
}
