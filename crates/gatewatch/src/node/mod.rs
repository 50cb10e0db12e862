//! One node of a cluster.

pub mod hold;
