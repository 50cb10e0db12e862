//! Who an address, a port and a process are in a Kubernetes cluster: Services, pods, nodes, their owners.
//!
//! The only crate that knows Kubernetes. [`watch`] follows the API server on the async side and tells [`change`]s;
//! [`directory`] takes them and answers, without I/O and without a clock; [`cgroup`] reads who a process is from its
//! control group.

pub mod cgroup;
pub mod change;
pub mod directory;
pub mod watch;
