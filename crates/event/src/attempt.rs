//! An attempt to connect: what a program asked for, and what became of it.

use std::net::SocketAddr;

/// The program that asked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Caller {
    /// Its process id in the agent's PID namespace; 0: none there.
    pub pid: u32,
    /// The kernel's name of the thread that asked, cleaned: at most 15 characters.
    pub comm: String,
    /// The id of its control group (cgroup v2); 0: unknown.
    pub cgroup: u64,
    /// The inode of its network namespace.
    pub network_namespace: u32,
}

/// One attempt, as it begins.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attempt {
    /// The kernel's number of the socket: the same when the attempt ends.
    pub socket: u64,
    /// CLOCK_MONOTONIC, nanoseconds.
    pub at_ns: u64,
    /// What the program asked for, before anything translated it. IPv4 is never written as IPv6.
    pub asked: SocketAddr,
    /// Who asked.
    pub caller: Caller,
}

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Outcome {
    /// The other side answered.
    Established,
    /// It refused, or a rule on the way did.
    Refused,
    /// Nobody answered in time.
    TimedOut,
    /// No way there.
    Unreachable,
    /// Reset while it was opened.
    Reset,
    /// No packet was sent: another program refused the call, or there was no route or no port.
    NotSent,
    /// The program gave up.
    Abandoned,
    /// Any other error.
    Failed,
}

/// One attempt, as it ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AttemptEnd {
    /// The attempt.
    pub attempt: Attempt,
    /// How it ended.
    pub outcome: Outcome,
    /// From asking to the end, nanoseconds.
    pub duration_ns: u64,
    /// The socket's own address, where it had one.
    pub local: Option<SocketAddr>,
    /// What the socket was connected to, where that is another address than was asked for.
    pub translated: Option<SocketAddr>,
}
