//! The VLANs of a device, and whether XDP sees their tags.

use bywash_engine::host::{Device, VlanDevice};

use super::Findings;

pub(super) fn look(findings: &mut Findings, device: &Device) {
    if device.vlans.is_empty() {
        findings.ok(
            "vlans",
            "no VLAN device on it: tagged packets are the kernel's",
        );
        return;
    }
    for vlan in &device.vlans {
        one(findings, device, vlan);
    }
}

fn one(findings: &mut Findings, device: &Device, vlan: &VlanDevice) {
    let text = format!("{vlan}, MTU {}; served with --vlan {}", vlan.mtu, vlan.vlan);
    if !vlan.up {
        findings.warn(
            "vlans",
            format!("{text}; it is down"),
            format!("ip link set {} up", vlan.name),
        );
    } else if vlan.addresses.is_empty() {
        findings.warn(
            "vlans",
            format!("{text}, but there is nothing to serve"),
            format!(
                "ip address add ADDRESS/LENGTH dev {}, or --vlan {}=DEVICE with the device that has the VLAN's addresses",
                vlan.name, vlan.vlan
            ),
        );
    } else if device.driver.as_deref() == Some("veth") {
        findings.warn(
            "vlans",
            format!("{text}; a veth's peer leaves tags to the hardware that there is not, and XDP does not see them"),
            "on the other end of the veth: ethtool -K PEER txvlan off (for 802.1ad: tx-vlan-stag-hw-insert off)",
        );
    } else {
        findings.ok("vlans", text);
    }
}

#[cfg(test)]
mod tests {
    use bywash_engine::wire::MacAddr;

    use super::super::Level;
    use super::*;

    fn device(driver: &str, vlans: Vec<VlanDevice>) -> Device {
        Device {
            name: "eth1".into(),
            ifindex: 1,
            netns: 1,
            mac: MacAddr([2; 6]),
            mtu: 1500,
            carrier: true,
            kind: None,
            driver: Some(driver.into()),
            rx_queues: 1,
            addresses: Vec::new(),
            wanted_vlans: Default::default(),
            vlans,
        }
    }

    fn vlan(up: bool, addresses: &[&str]) -> VlanDevice {
        VlanDevice {
            vlan: "5".parse().expect("a VLAN"),
            name: "eth1.5".into(),
            ifindex: 2,
            up,
            carrier: up,
            mtu: 1500,
            mac: MacAddr([2; 6]),
            addresses: addresses
                .iter()
                .map(|text| text.parse().expect("an address"))
                .collect(),
        }
    }

    #[test]
    fn each_vlan_is_shown_with_what_stands_in_its_way() {
        for (driver, vlans, level, words) in [
            ("ice", vec![], Level::Ok, "no VLAN device"),
            (
                "ice",
                vec![vlan(true, &["10.5.0.1"])],
                Level::Ok,
                "vlan 5 is eth1.5: 10.5.0.1, MTU 1500; served with --vlan 5",
            ),
            (
                "ice",
                vec![vlan(true, &[])],
                Level::Warn,
                "nothing to serve",
            ),
            (
                "ice",
                vec![vlan(false, &["10.5.0.1"])],
                Level::Warn,
                "is down",
            ),
            (
                "veth",
                vec![vlan(true, &["10.5.0.1"])],
                Level::Warn,
                "XDP does not see them",
            ),
        ] {
            let mut findings = Findings::default();
            look(&mut findings, &device(driver, vlans));
            let found = &findings.list[0];
            assert!(
                found.level == level && found.text.contains(words),
                "{found:?}"
            );
        }
    }
}
