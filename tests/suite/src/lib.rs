//! Integration tests in network namespaces, and the checks of the walls between crates.

pub mod workspace;
