//! The vocabulary of events: what every crate behind the kernel speaks of.
//!
//! Plain types, no behaviour beyond reading them. Not serialisable: the edges own their formats.

pub mod application;
pub mod attempt;
pub mod connection;
pub mod exchange;
pub mod request;

pub use application::{Application, Tls, TlsVersion, Transport};
pub use attempt::{Attempt, AttemptEnd, Caller, Outcome};
pub use exchange::{Exchange, HttpVersion};
