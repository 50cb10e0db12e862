//! The kernel side: loads, configures and attaches the eBPF programs, and hands out what they saw.
//!
//! The only crate with `unsafe`. A probe is a pair of files with one stem: `bpf/x.bpf.c`, `src/x.rs`. Record
//! layouts are declared once, in `bpf/x.h`; their Rust side is generated. Knows nothing of HTTP.

mod attach;
pub mod attempt;
#[doc(hidden)]
pub mod balancer;
pub mod clock;
pub mod connection;
mod error;
pub mod hold;
pub mod kernel;
pub mod network;
pub mod nginx;
mod packet_socket;
pub mod pin;
pub mod process;
mod ring;
mod skeleton;
pub mod socket;
pub mod tls;
mod values;
mod verifier;
#[doc(hidden)]
pub mod yardstick;

pub use attach::Mode;
pub use error::CaptureError;
pub use ring::wait;
pub use values::MapMemory;
