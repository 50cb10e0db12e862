//! The edges: log lines, metrics, HTTP. The only crate that knows output formats.
//!
//! Nothing here can slow the hot loop: it hands over finished lines and immutable snapshots, and goes on.

pub mod figures;
pub mod hot_loop;
pub mod http;
pub mod log;
pub mod metrics;
pub mod network;
pub mod node;
mod port;
pub mod snapshot;
mod stream;
mod text;
