//! What is watched: gateway processes, their binaries, and the layout of their structures.
//!
//! Knows procfs, ELF and DWARF; knows nothing about eBPF or requests.

pub mod layout;
