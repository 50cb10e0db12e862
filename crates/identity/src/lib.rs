//! Who an address, a port and a process are in a Kubernetes cluster: Services, pods, nodes, their owners.
//!
//! The only crate that knows Kubernetes. [`directory`] answers, without I/O and without a clock; the watch fills it.

pub mod directory;
