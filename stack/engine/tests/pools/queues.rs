//! Packets on another queue than their flow's.
