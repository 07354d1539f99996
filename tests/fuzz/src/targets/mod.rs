//! One file a target.

pub(crate) mod control_socket;
pub(crate) mod decode;
pub(crate) mod iperf3;
pub(crate) mod memory_port;
pub(crate) mod on_segment;
pub(crate) mod options;
pub(crate) mod reassembly;
pub(crate) mod restore;
pub(crate) mod rings;

mod frame;
mod stream;
