//! What the events mean: groups, routes, counts, windows, and the ledger of what was lost.
//!
//! Never touches kernel, network or clock: time is an argument. Tested without root.

pub mod connections;
pub mod demand;
pub mod exchanges;
pub mod filter;
pub mod health;
pub mod ledger;
pub mod paths;
pub mod routes;
pub mod traffic;
