//! Against a device of our own: a table of rules and an indirection, by the layout of the kernel's header.

use std::collections::BTreeMap;

use super::*;
use crate::wire::Request;

/// What a NIC would do.
struct Nic {
    rules: BTreeMap<u32, Vec<u8>>,
    size: u32,
    chooses_places: bool,
    table: Vec<u32>,
}

fn nic(size: u32, chooses_places: bool) -> Queues<Nic> {
    Queues::new(Nic {
        rules: BTreeMap::new(),
        size,
        chooses_places,
        table: vec![0, 1, 2, 3, 0, 1, 2, 3],
    })
}

fn word(bytes: &[u8], at: usize) -> u32 {
    u32::from_ne_bytes(bytes[at..at + 4].try_into().expect("four bytes"))
}

fn put(bytes: &mut [u8], at: usize, value: u32) {
    bytes[at..at + 4].copy_from_slice(&value.to_ne_bytes());
}

impl Ethtool for Nic {
    fn device(&self) -> &str {
        "nic0"
    }

    fn call(&mut self, request: &mut Request) -> io::Result<()> {
        let error = |errno| Err(io::Error::from_raw_os_error(errno));
        let bytes = request.bytes_mut();
        match word(bytes, 0) {
            0x2e => {
                put(bytes, 184, self.rules.len() as u32);
                let special = u64::from(self.chooses_places) << 31;
                bytes[8..16].copy_from_slice(&(u64::from(self.size) | special).to_ne_bytes());
            }
            0x30 => {
                assert!(
                    word(bytes, 184) as usize >= self.rules.len(),
                    "no room for all places"
                );
                for (index, place) in self.rules.keys().enumerate() {
                    put(bytes, 188 + 4 * index, *place);
                }
                put(bytes, 184, self.rules.len() as u32);
            }
            0x31 => {
                let place = word(bytes, 176);
                if self.rules.remove(&place).is_none() {
                    return error(libc::ENOENT);
                }
            }
            0x32 => {
                let mut place = word(bytes, 176);
                if place == u32::MAX {
                    if !self.chooses_places {
                        return error(libc::EINVAL);
                    }
                    place = (0..self.size)
                        .find(|place| !self.rules.contains_key(place))
                        .expect("room");
                    put(bytes, 176, place);
                }
                self.rules.insert(place, bytes[16..184].to_vec());
            }
            0x38 => {
                let room = word(bytes, 4) as usize;
                put(bytes, 4, self.table.len() as u32);
                if room > 0 {
                    for (entry, queue) in self.table.iter().enumerate() {
                        put(bytes, 8 + 4 * entry, *queue);
                    }
                }
            }
            0x39 => {
                let size = word(bytes, 4) as usize;
                self.table = (0..size).map(|entry| word(bytes, 8 + 4 * entry)).collect();
            }
            other => panic!("request {other:#x}"),
        }
        Ok(())
    }
}

#[test]
fn a_flow_s_rule_says_what_the_header_asks_for() {
    let mut queues = nic(16, true);
    let what = Match::flow(
        ("192.0.2.1".parse().expect("an address"), 61440),
        ("198.51.100.9".parse().expect("an address"), 443),
    );
    let rule = queues.insert(what, 3).expect("a rule");
    let spec = &queues.ethtool().rules[&rule.place()];
    assert_eq!(word(spec, 0), 1, "TCP_V4_FLOW");
    // As it arrives: from the remote end, to the local one.
    assert_eq!(
        spec[4..16],
        [198, 51, 100, 9, 192, 0, 2, 1, 1, 0xbb, 0xf0, 0]
    );
    assert_eq!(spec[76..88], [0xff; 12]);
    assert!(
        spec[88..148].iter().all(|byte| *byte == 0),
        "nothing else is matched"
    );
    assert_eq!(spec[152..160], 3u64.to_ne_bytes());
    queues.remove(rule).expect("there");
    assert!(queues.ethtool().rules.is_empty());
    assert!(matches!(
        queues.remove(rule),
        Err(QueueError::System { .. })
    ));
}

#[test]
fn ipv6_has_its_own_places() {
    let mut queues = nic(16, true);
    let what = Match::flow(
        ("2001:db8::1".parse().expect("an address"), 7),
        ("2001:db8::2".parse().expect("an address"), 9),
    );
    let rule = queues.insert(what, 1).expect("a rule");
    let spec = &queues.ethtool().rules[&rule.place()];
    assert_eq!(word(spec, 0), 5, "TCP_V6_FLOW");
    assert_eq!((spec[4 + 15], spec[4 + 31]), (2, 1));
    assert_eq!(spec[36..40], [0, 9, 0, 7]);
    assert_eq!(spec[76..112], [0xff; 36]);
    let port = queues.insert(Match::PortV6(8080), 2).expect("a rule");
    let spec = &queues.ethtool().rules[&port.place()];
    assert_eq!(spec[38..40], 8080u16.to_be_bytes());
    assert_eq!(spec[76..112].iter().filter(|byte| **byte != 0).count(), 2);
}

#[test]
fn places_that_are_ours_to_choose_are_the_last_free_ones() {
    let mut queues = nic(4, false);
    let places: Vec<u32> = (0..4)
        .map(|n| {
            queues
                .insert(Match::PortV4(100 + n), 0)
                .expect("room")
                .place()
        })
        .collect();
    assert_eq!(places, [3, 2, 1, 0]);
    let full = queues.insert(Match::PortV4(200), 0).expect_err("no room");
    assert!(matches!(full, QueueError::Full { rules: 4, .. }), "{full}");
    queues.remove(RuleId::at(2)).expect("there");
    assert_eq!(
        queues.insert(Match::PortV4(200), 0).expect("room").place(),
        2
    );
}

#[test]
fn flows_are_spread_over_the_queues_and_the_table_can_be_put_back() {
    let mut queues = nic(0, false);
    let before = queues.spread(3).expect("a table");
    assert_eq!(before, [0, 1, 2, 3, 0, 1, 2, 3]);
    assert_eq!(queues.ethtool().table, [0, 1, 2, 0, 1, 2, 0, 1]);
    queues.set_indirection(&before).expect("a table");
    assert_eq!(queues.indirection().expect("a table"), before);
    for impossible in [0, 9] {
        assert!(matches!(
            queues.spread(impossible),
            Err(QueueError::Table { .. })
        ));
    }
}

/// The loopback device has neither rules nor a table, and the kernel says so.
#[test]
fn what_a_device_cannot_do_is_told() {
    let mut queues = Queues::new(Device::open("lo").expect("a socket"));
    let error = queues.insert(Match::PortV4(7), 0).expect_err("no rules");
    assert!(matches!(error, QueueError::Unsupported { .. }), "{error}");
    assert!(
        error.to_string().contains("lo cannot steer flows"),
        "{error}"
    );
    let error = queues.spread(1).expect_err("no table");
    assert!(matches!(error, QueueError::Unsupported { .. }), "{error}");
    let mut nobody = Queues::new(Device::open("bwe-no-such").expect("a socket"));
    assert!(matches!(nobody.spread(1), Err(QueueError::System { .. })));
    assert!(Device::open("").is_err());
}
