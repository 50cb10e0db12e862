//! From raw records to requests: every byte of the network is parsed, checked and masked here.
//!
//! Bad bytes become a named outcome, never a panic. Knows nothing of metrics or of what the kernel is asked.

pub mod attempt;
pub mod comm;
mod hpack;
pub mod http;
pub mod network;
pub mod nginx;
pub mod proof;
pub mod protocol;

pub mod mask;

#[cfg(test)]
mod testing;
