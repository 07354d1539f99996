//! What the kernel says of a device's XDP and NAPI: the generic netlink family `netdev`.
//!
//! The numbers are those of `include/uapi/linux/netdev.h`. A kernel before 6.3 does not have the family, one before 6.8 not
//! its NAPI part: [`Answer::Unknown`] then, which is not the same as "no".

use netlink_packet_core::{
    DecodeError, DefaultNla, Emitable, Nla, NlaBuffer, NlasIterator, Parseable,
    ParseableParametrized, emit_u32, parse_u32, parse_u64,
};
use netlink_packet_generic::ctrl::nlas::GenlCtrlAttrs;
use netlink_packet_generic::ctrl::{GenlCtrl, GenlCtrlCmd};
use netlink_packet_generic::{GenlFamily, GenlHeader, GenlMessage};
use nix::errno::Errno;

use super::netlink::{NetlinkError, Requests};

const DEV_GET: u8 = 1;
const NAPI_GET: u8 = 11;

/// `NETDEV_A_DEV_*`.
mod dev {
    pub(super) const IFINDEX: u16 = 1;
    pub(super) const XDP_FEATURES: u16 = 3;
    pub(super) const XDP_ZC_MAX_SEGS: u16 = 4;
    pub(super) const XSK_FEATURES: u16 = 6;
}

/// `NETDEV_A_NAPI_*`.
mod napi {
    pub(super) const IFINDEX: u16 = 1;
    pub(super) const ID: u16 = 2;
    pub(super) const IRQ: u16 = 3;
    pub(super) const PID: u16 = 4;
}

/// An answer of a kernel that may be too old for the question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer<T> {
    /// What the kernel says.
    Known(T),
    /// The kernel does not know the question.
    Unknown,
}

/// What a driver can do (`enum netdev_xdp_act`, `enum netdev_xsk_flags`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct XdpFeatures {
    bits: u64,
    xsk: u64,
    /// Buffers of one packet in zero-copy mode; 1: no jumbo frames there.
    pub zero_copy_segments: u32,
}

impl XdpFeatures {
    /// Native XDP (`NETDEV_XDP_ACT_BASIC`) with redirects (`_REDIRECT`).
    pub fn native(&self) -> bool {
        self.bits & 0b11 == 0b11
    }

    /// AF_XDP zero copy (`NETDEV_XDP_ACT_XSK_ZEROCOPY`).
    pub fn zero_copy(&self) -> bool {
        self.bits & 0b1000 != 0
    }

    /// Time stamps and checksums by TX metadata in hardware (`NETDEV_XSK_FLAGS_TX_CHECKSUM`).
    pub fn tx_checksum(&self) -> bool {
        self.xsk & 0b10 != 0
    }
}

/// A NAPI instance of a device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Napi {
    /// Its identifier, as `SO_INCOMING_NAPI_ID` gives it.
    pub id: u32,
    /// Its interrupt, if it has one.
    pub irq: Option<u32>,
    /// Its kernel thread, if it is threaded.
    pub pid: Option<u32>,
}

/// Asks for a device's XDP features.
///
/// # Errors
/// The socket, or a refusal other than ignorance.
pub fn xdp_features(ifindex: u32) -> Result<Answer<XdpFeatures>, NetlinkError> {
    let answers = ask(DEV_GET, dev::IFINDEX, ifindex, false)?;
    let Answer::Known(answers) = answers else {
        return Ok(Answer::Unknown);
    };
    let mut features = XdpFeatures::default();
    for nla in answers.iter().flat_map(|answer| &answer.attributes) {
        match nla.kind() {
            dev::XDP_FEATURES => features.bits = long(nla)?,
            dev::XSK_FEATURES => features.xsk = long(nla)?,
            dev::XDP_ZC_MAX_SEGS => features.zero_copy_segments = word(nla)?,
            _ => {}
        }
    }
    Ok(Answer::Known(features))
}

/// Asks for a device's NAPI instances. A driver that does not register them (veth, i40e) has none here: its queues
/// cannot be polled from user space (kernel since 6.13).
///
/// # Errors
/// The socket, or a refusal other than ignorance.
pub fn napis(ifindex: u32) -> Result<Answer<Vec<Napi>>, NetlinkError> {
    let Answer::Known(answers) = ask(NAPI_GET, napi::IFINDEX, ifindex, true)? else {
        return Ok(Answer::Unknown);
    };
    let mut found = Vec::new();
    for answer in answers {
        let mut one = Napi::default();
        for nla in &answer.attributes {
            match nla.kind() {
                napi::ID => one.id = word(nla)?,
                napi::IRQ => one.irq = Some(word(nla)?),
                napi::PID => one.pid = Some(word(nla)?),
                _ => {}
            }
        }
        found.push(one);
    }
    Ok(Answer::Known(found))
}

fn ask(
    command: u8,
    attribute: u16,
    ifindex: u32,
    dump: bool,
) -> Result<Answer<Vec<Netdev>>, NetlinkError> {
    let Some(family) = family()? else {
        return Ok(Answer::Unknown);
    };
    let mut requests: Requests<GenlMessage<Netdev>> = Requests::open_generic()?;
    let mut value = vec![0; 4];
    emit_u32(&mut value, ifindex).map_err(decode)?;
    let mut message = GenlMessage::from_payload(Netdev {
        command,
        attributes: vec![DefaultNla::new(attribute, value)],
    });
    message.set_resolved_family_id(family);
    let answers = if dump {
        requests.dump(&message)
    } else {
        requests.ask(message, 0)
    };
    match answers {
        Ok(answers) => Ok(Answer::Known(
            answers
                .into_iter()
                .map(|answer| answer.into_parts().1)
                .collect(),
        )),
        // An older kernel has the family without this command.
        Err(NetlinkError::Kernel(Errno::EOPNOTSUPP)) => Ok(Answer::Unknown),
        Err(error) => Err(error),
    }
}

/// Number of the family in this kernel; `None` if it has none.
fn family() -> Result<Option<u16>, NetlinkError> {
    let mut requests: Requests<GenlMessage<GenlCtrl>> = Requests::open_generic()?;
    let question = GenlMessage::from_payload(GenlCtrl {
        cmd: GenlCtrlCmd::GetFamily,
        nlas: vec![GenlCtrlAttrs::FamilyName(Netdev::family_name().to_owned())],
    });
    match requests.ask(question, 0) {
        Ok(answers) => Ok(answers
            .into_iter()
            .flat_map(|answer| answer.into_parts().1.nlas)
            .find_map(|attribute| match attribute {
                GenlCtrlAttrs::FamilyId(id) => Some(id),
                _ => None,
            })),
        Err(NetlinkError::Kernel(Errno::ENOENT)) => Ok(None),
        Err(error) => Err(error),
    }
}

fn decode(error: DecodeError) -> NetlinkError {
    NetlinkError::Decode(error.to_string())
}

fn word(nla: &DefaultNla) -> Result<u32, NetlinkError> {
    parse_u32(&value(nla)).map_err(decode)
}

fn long(nla: &DefaultNla) -> Result<u64, NetlinkError> {
    parse_u64(&value(nla)).map_err(decode)
}

fn value(nla: &DefaultNla) -> Vec<u8> {
    let mut bytes = vec![0; nla.value_len()];
    nla.emit_value(&mut bytes);
    bytes
}

/// A message of the family: a command with plain attributes.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Netdev {
    command: u8,
    attributes: Vec<DefaultNla>,
}

impl GenlFamily for Netdev {
    fn family_name() -> &'static str {
        "netdev"
    }

    fn command(&self) -> u8 {
        self.command
    }

    fn version(&self) -> u8 {
        1
    }
}

impl Emitable for Netdev {
    fn buffer_len(&self) -> usize {
        self.attributes.as_slice().buffer_len()
    }

    fn emit(&self, buffer: &mut [u8]) {
        self.attributes.as_slice().emit(buffer);
    }
}

impl ParseableParametrized<[u8], GenlHeader> for Netdev {
    fn parse_with_param(bytes: &[u8], header: GenlHeader) -> Result<Self, DecodeError> {
        let attributes = NlasIterator::new(bytes)
            .map(|nla: Result<NlaBuffer<_>, DecodeError>| DefaultNla::parse(&nla?))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            command: header.cmd,
            attributes,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_read_bit_by_bit() {
        let none = XdpFeatures::default();
        assert!(!none.native() && !none.zero_copy() && !none.tx_checksum());
        let all = XdpFeatures {
            bits: 0b1011,
            xsk: 0b10,
            zero_copy_segments: 1,
        };
        assert!(all.native() && all.zero_copy() && all.tx_checksum());
        let half = XdpFeatures {
            bits: 0b0001,
            ..none
        };
        assert!(!half.native());
    }

    #[test]
    fn a_message_survives_the_wire() {
        let message = Netdev {
            command: NAPI_GET,
            attributes: vec![
                DefaultNla::new(napi::ID, vec![1, 2, 0, 0]),
                DefaultNla::new(99, vec![7]),
            ],
        };
        let mut bytes = vec![0; message.buffer_len()];
        message.emit(&mut bytes);
        let header = GenlHeader {
            cmd: NAPI_GET,
            version: 1,
        };
        assert_eq!(
            Netdev::parse_with_param(&bytes, header).expect("our own"),
            message
        );
        // A length beyond the end.
        let mut broken = bytes;
        broken[0] = 200;
        assert!(Netdev::parse_with_param(&broken, header).is_err());
    }

    /// The loopback is in every namespace; it has no native XDP.
    #[test]
    fn the_kernel_answers_for_the_loopback() {
        match xdp_features(1).expect("an answer") {
            Answer::Known(features) => assert!(!features.zero_copy()),
            Answer::Unknown => eprintln!("SKIPPED: this kernel has no netdev family"),
        }
        if let Answer::Known(napis) = napis(1).expect("an answer") {
            assert!(napis.is_empty(), "{napis:?}");
        }
    }

    #[test]
    fn a_device_that_is_not_there_is_an_error() {
        if matches!(xdp_features(1), Ok(Answer::Known(_))) {
            assert!(matches!(
                xdp_features(0x7fff_fff0),
                Err(NetlinkError::Kernel(Errno::ENODEV))
            ));
        }
    }
}
