//! Demand for Services, from the nodes to KEDA.
//!
//! - [`demand`]: the nodes' side. The hot loop tells a [`demand::Board`] each call; [`demand::serve`] streams it.
//! - [`Scaler`]: follows all nodes, and answers KEDA's questions as an external scaler.
//!
//! All of it is soft state: a scaler that starts anew has the whole picture as soon as it has met the nodes.

pub mod demand;
mod error;
mod figures;
mod history;
mod keda;
mod nodes;
mod picture;
mod proto;
mod scaler;
mod service;
mod transport;

pub use error::Error;
pub use figures::Figures;
pub use history::KEPT;
pub use proto::keda as externalscaler;
pub use scaler::{Limits, Scaler, Settings, Tls};
pub use service::Service;
pub use transport::{ClientTls, ServerTls};

#[cfg(test)]
mod tests;
