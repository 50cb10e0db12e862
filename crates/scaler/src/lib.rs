//! Demand for Services, from the nodes to KEDA: the nodes' side that tells it, and `gatewatch scaler`, that KEDA asks.

pub mod demand;
