//! AF_XDP sockets, rings and frames, and an in-memory wire with the same types.
