//! What `proto/` becomes. KEDA's side is public, for whoever wants to ask a scaler as KEDA does.

#![allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::wildcard_enum_match_arm)] // generated

pub(crate) mod demand {
    tonic::include_proto!("gatewatch.demand.v1");
}

/// KEDA's external scaler, as generated from `proto/externalscaler.proto`.
pub mod keda {
    tonic::include_proto!("externalscaler");
}
