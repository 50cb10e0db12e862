//! What is watched: gateway processes, their binaries, and the layout of their structures.
//!
//! Knows procfs, ELF and DWARF; knows nothing about eBPF or requests.

pub mod binary;
pub mod conntrack;
pub mod counters;
mod dwarf;
pub mod interfaces;
pub mod layout;
pub mod lua;
pub mod process;
pub mod sockets;
pub mod table;
#[cfg(test)]
mod testing;
pub mod tls;
