//! Ethernet, VLAN, IPv4, IPv6 and TCP formats: decode, emit, checksum. no_std, no alloc.
#![forbid(unsafe_code)]
