//! `--vlan`: which VLANs of the device are served.

use bywash_engine::host::{VlanChoice, WantedVlan};
use bywash_engine::wire::ParseVlanError;

/// An item of `--vlan`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum VlanArg {
    All,
    One(WantedVlan),
}

/// `all`, `5`, `s5`, `s5.7`, or one of these with `=DEVICE` behind it.
pub(super) fn vlan(text: &str) -> Result<VlanArg, String> {
    if text == "all" {
        return Ok(VlanArg::All);
    }
    let (vlan, device) = match text.split_once('=') {
        None => (text, None),
        Some((_, "")) => {
            return Err("say which device has the VLAN's addresses, as in 5=br5".to_owned());
        }
        Some((vlan, device)) => (vlan, Some(device.to_owned())),
    };
    let vlan = vlan
        .parse()
        .map_err(|error: ParseVlanError| format!("{error}; or all"))?;
    Ok(VlanArg::One(WantedVlan { vlan, device }))
}

pub(super) fn vlan_choice(list: &[VlanArg]) -> Result<VlanChoice, String> {
    let mut wanted: Vec<WantedVlan> = Vec::new();
    for one in list {
        match one {
            VlanArg::All if list.len() == 1 => return Ok(VlanChoice::All),
            VlanArg::All => {
                return Err("--vlan all names every VLAN: drop the others".to_owned());
            }
            VlanArg::One(one) if wanted.iter().any(|other| other.vlan == one.vlan) => {
                return Err(format!("--vlan names {} twice: drop one", one.vlan));
            }
            VlanArg::One(one) => wanted.push(one.clone()),
        }
    }
    Ok(match wanted.is_empty() {
        true => VlanChoice::None,
        false => VlanChoice::These(wanted),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vlans_are_read() {
        let vlans = |text: &str| {
            let list: Result<Vec<VlanArg>, String> = text.split(',').map(vlan).collect();
            vlan_choice(&list?)
        };
        assert_eq!(vlan_choice(&[]), Ok(VlanChoice::None));
        assert_eq!(vlans("all"), Ok(VlanChoice::All));
        let wanted = |vlan: &str, device: Option<&str>| WantedVlan {
            vlan: vlan.parse().expect("a VLAN"),
            device: device.map(str::to_owned),
        };
        assert_eq!(
            vlans("5,s9=br9,s5.7"),
            Ok(VlanChoice::These(vec![
                wanted("5", None),
                wanted("s9", Some("br9")),
                wanted("s5.7", None)
            ]))
        );
        assert!(vlans("5,all").unwrap_err().contains("drop the others"));
        assert!(vlans("5,6,5=br5").unwrap_err().contains("names 5 twice"));
        for text in ["0", "5=", "eth1.5", "5.7", ""] {
            assert!(vlan(text).is_err(), "{text}");
        }
    }
}
