//! Loader and map ABI of the XDP demultiplexer.
