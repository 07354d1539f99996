//! TCP around the kernel: the public API and the bywash command.
