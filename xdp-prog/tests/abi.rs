//! The two halves of the ABI: names and values in `bpf/abi.h` against those of this crate.

use std::collections::BTreeMap;

use bywash_xdp::{Counter, Limits, Rate, Vlan, abi};

const HEADER: &str = include_str!("../bpf/abi.h");

/// `NAME value` of every `#define`, and `NAME = value` of every enumerator.
fn numbers() -> BTreeMap<String, u32> {
    let mut numbers = BTreeMap::new();
    for line in HEADER.lines() {
        let words: Vec<&str> = line
            .split_whitespace()
            .map(|word| word.trim_end_matches(','))
            .collect();
        if let ["#define", name, value, ..] | [name, "=", value, ..] = words[..]
            && let Ok(value) = value.parse()
        {
            let doubled = numbers.insert(name.to_owned(), value);
            assert_eq!(doubled, None, "{name} twice");
        }
    }
    numbers
}

/// `PassNotIp` as C spells it: `PASS_NOT_IP`.
fn spelled_in_c(counter: Counter) -> String {
    let mut spelled = String::new();
    for letter in format!("{counter:?}").chars() {
        if letter.is_uppercase() && !spelled.is_empty() {
            spelled.push('_');
        }
        spelled.push(letter.to_ascii_uppercase());
    }
    spelled
}

#[test]
fn every_counter_has_the_same_value_on_both_sides_and_there_are_no_others() {
    let numbers = numbers();
    let in_c: BTreeMap<&str, u32> = numbers
        .iter()
        .filter(|(name, _)| {
            ["PASS_", "REDIRECT_", "DROP_"]
                .iter()
                .any(|verdict| name.starts_with(verdict))
        })
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    let spelled: Vec<(String, u32)> = Counter::ALL
        .iter()
        .map(|counter| (spelled_in_c(*counter), *counter as u32))
        .collect();
    let in_rust: BTreeMap<&str, u32> = spelled
        .iter()
        .map(|(name, value)| (name.as_str(), *value))
        .collect();
    assert_eq!(in_c, in_rust);
    assert_eq!(
        numbers.get("BYWASH_COUNTERS"),
        Some(&u32::try_from(Counter::ALL.len()).expect("a few"))
    );
    // The map's order is that of ALL: `counters()` relies on it.
    for (index, counter) in Counter::ALL.iter().enumerate() {
        assert_eq!(*counter as usize, index);
    }
}

#[test]
fn constants_have_the_same_value_on_both_sides() {
    let numbers = numbers();
    for (name, value) in [
        ("BYWASH_ABI_VERSION", abi::ABI_VERSION),
        ("BYWASH_SLOTS_PER_QUEUE", abi::SLOTS_PER_QUEUE),
        ("BYWASH_MARK_DIRTY", abi::MARK_DIRTY),
        ("BYWASH_STRICT", abi::STRICT),
        ("BYWASH_VLAN_CUSTOMER", abi::VLAN_CUSTOMER),
        ("BYWASH_VLAN_SERVICE", abi::VLAN_SERVICE),
        ("BYWASH_VLAN_STACKED", abi::VLAN_STACKED),
        ("BYWASH_LIMITS", u32::try_from(abi::LIMITS).expect("a few")),
        ("BYWASH_RING_PRIMARY", abi::RING_PRIMARY),
        ("BYWASH_RING_CONTROL", abi::RING_CONTROL),
        ("BYWASH_PORT_TCP_LISTEN", abi::PORT_TCP_LISTEN),
        ("BYWASH_PORT_TCP_OURS", abi::PORT_TCP_OURS),
    ] {
        assert_eq!(numbers.get(name), Some(&value), "{name}");
    }
}

#[test]
fn a_key_as_bytes_is_the_struct_that_c_reads() {
    let key = abi::FlowKey::new(
        "10.1.2.3".parse().expect("an address"),
        0x1f90,
        "fd00::2".parse().expect("an address"),
        0x9c40,
        Some(Vlan::Stacked {
            service: 0x0123,
            customer: 0x0456,
        }),
        6,
    );
    let mut expected = vec![0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 1, 2, 3];
    expected.extend([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2]);
    expected.extend([0x1f, 0x90, 0x9c, 0x40]);
    expected.extend(0x0612_3456_u32.to_ne_bytes());
    assert_eq!(key.to_bytes().as_slice(), expected);
    let value = abi::FlowValue {
        slot: 1,
        generation: 2,
        queue: 3,
    };
    assert_eq!(abi::FlowValue::from_words(value.to_words()), value);
    assert_eq!(abi::slot(2, 3), 2 * abi::SLOTS_PER_QUEUE + 3);
}

#[test]
fn the_configuration_survives_the_way_through_bytes_and_limits_are_in_the_order_of_c() {
    let numbers = numbers();
    let rate = |per_second| {
        Some(Rate {
            per_second,
            burst: per_second,
        })
    };
    let limits = Limits {
        syn_prefix: rate(1),
        syn: rate(10),
        ack: rate(100),
        icmp: rate(1000),
    };
    let config = abi::Config {
        abi_version: abi::ABI_VERSION,
        flags: 0x0102_0304,
        queues: 5,
        local_port_first: 6,
        local_port_last: 7,
        limits: limits.to_abi(),
    };
    assert_eq!(abi::Config::from_bytes(&config.to_bytes()), config);
    for (name, interval) in [
        ("BYWASH_LIMIT_SYN_PREFIX", 1_000_000_000),
        ("BYWASH_LIMIT_SYN", 100_000_000),
        ("BYWASH_LIMIT_ACK", 10_000_000),
        ("BYWASH_LIMIT_ICMP", 1_000_000),
    ] {
        let index = numbers[name] as usize;
        assert_eq!(config.limits[index].interval, interval, "{name}");
        let bytes = &config.to_bytes()[16 + 16 * index..];
        assert_eq!(bytes[..8], u64::to_ne_bytes(interval), "{name}");
    }
}
