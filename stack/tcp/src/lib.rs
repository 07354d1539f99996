//! TCP as a state machine: no clock, no sockets, no frames.
#![forbid(unsafe_code)]
