//! One file a command.

pub(crate) mod demo;
pub(crate) mod doctor;
pub(crate) mod echo;
pub(crate) mod iperf3;
pub(crate) mod ping;
pub(crate) mod recv;
pub(crate) mod reload;
pub(crate) mod send;
pub(crate) mod ss;
