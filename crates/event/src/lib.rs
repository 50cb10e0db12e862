//! The vocabulary of events: what every crate behind the kernel speaks of.
//!
//! Plain types, no behaviour beyond reading them. Not serialisable: the edges own their formats.

pub mod application;
pub mod connection;
pub mod request;

pub use application::{Application, Tls, TlsVersion, Transport};
