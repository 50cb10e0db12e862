//! What `proto/` becomes.

#![allow(missing_docs, clippy::all, clippy::unwrap_used, clippy::wildcard_enum_match_arm)] // generated

pub(crate) mod demand {
    tonic::include_proto!("gatewatch.demand.v1");
}

pub(crate) mod keda {
    tonic::include_proto!("externalscaler");
}
