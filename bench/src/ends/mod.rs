//! What stands at an end of the wire: programs, kernel sockets, our services, smoltcp.

pub(crate) mod command;
pub(crate) mod kernel;
pub(crate) mod memory;
pub(crate) mod ours;
pub(crate) mod smol;
