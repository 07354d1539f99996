//! What is found out about a device, and why some are refused.

use bywash_engine::host::{Device, DeviceError};

use crate::lab::{Lab, address, ip};

#[test]
fn a_veth_is_described() {
    let lab = Lab::new();
    let device = lab.inside(|| Device::open("bwh0").unwrap());
    assert_eq!(device.name, "bwh0");
    assert_eq!(
        (device.kind.as_deref(), device.driver.as_deref()),
        (Some("veth"), Some("veth"))
    );
    assert_eq!((device.mtu, device.carrier), (1500, true));
    assert!(device.rx_queues >= 1);
    assert_eq!(device.addresses[0], address("192.0.2.1"));
    assert!(device.addresses.contains(&address("2001:db8::1")));
    assert!(device.addresses.contains(&address("fe80::1")));
    assert_eq!(device.addresses.len(), 3, "{:?}", device.addresses);
    let inode = std::fs::metadata(format!("/run/netns/{}", lab.near)).map(|file| {
        use std::os::unix::fs::MetadataExt;
        file.ino()
    });
    assert_eq!(device.netns, inode.unwrap());
    assert_eq!(device.key(), format!("{}-{}", device.netns, device.ifindex));
}

#[test]
fn queues_are_counted_and_checked() {
    let lab = Lab::new();
    let near = &lab.near;
    ip(&[
        "-n",
        near,
        "link",
        "add",
        "bwhq",
        "numrxqueues",
        "2",
        "numtxqueues",
        "2",
        "type",
        "veth",
        "peer",
        "bwhr",
    ]);
    lab.near("address add 198.18.0.1/24 dev bwhq");
    lab.near("link set bwhq up");
    let device = lab.inside(|| Device::open("bwhq").unwrap());
    assert_eq!(device.rx_queues, 2);
    device.check_queue(1).unwrap();
    let error = device.check_queue(2).unwrap_err();
    assert!(
        matches!(
            error,
            DeviceError::QueueOutOfRange {
                queue: 2,
                queues: 2,
                ..
            }
        ),
        "{error}"
    );
    assert!(!device.carrier);
}

#[test]
fn what_cannot_be_used_is_refused_with_the_remedy() {
    let lab = Lab::new();
    let refuse = |name: &str| lab.inside(|| Device::open(name).unwrap_err());
    let error = refuse("bwh7");
    assert!(
        matches!(&error, DeviceError::Unknown { existing, .. } if existing == "lo, bwh0"),
        "{error}"
    );
    assert!(matches!(refuse("lo"), DeviceError::NotEthernet { .. }));
    lab.near("address flush dev bwh0");
    assert!(refuse("bwh0").to_string().contains("ip address add"));
    lab.near("link set bwh0 down");
    assert!(refuse("bwh0").to_string().contains("ip link set bwh0 up"));
}
