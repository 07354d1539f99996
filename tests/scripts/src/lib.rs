//! Scripts of packets and system calls, played against the stack in virtual time.
//!
//! The language is packetdrill's, as far as scripts about TCP use it; parser, player and scripts (`pkt/`) are our own. The
//! player is to the stack what packetdrill is: it calls the table of
//! [`packetdrill_interface_init`](bywash_packetdrill::abi::packetdrill_interface_init), in two threads, and nothing else.
//!
//! ```text
//!  FILE.pkt -> script: text to events -> run: one event after the other
//!                                         |  packets in and out   packet, run::wire
//!                                         |  system calls         run::calls (blocking ones in a second thread)
//!                                         |  `sysctl ...`         run::commands: files that the stack reads
//!                                         |  %{ assert .. }%      run::code: Python's expressions over TCP_INFO
//!                                         v
//!                                        table: the plug-in's functions
//! ```
#![deny(unsafe_code)]

pub mod packet;
pub mod run;
pub mod script;
pub mod symbols;
pub mod table;
