//! The host part of the engine against the kernel of this machine, in network namespaces of its own.
//!
//! Needs root and `ip`; fails, and says so, without. Nothing outside these namespaces is touched.

mod device;
mod lab;
mod links;
mod ports;
mod routes;
