//! From the attempt programs' records to events.

use std::net::SocketAddr;

use gatewatch_capture::attempt::{Outcome as Ended, Record, Stage};
use gatewatch_event::{Attempt, AttemptEnd, Caller, Outcome, connection::plain_address};

use crate::comm;

/// What a record tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Told {
    /// An attempt began.
    Began(Attempt),
    /// One ended.
    Ended(AttemptEnd),
}

const OUTCOMES: [(Ended, Outcome); 8] = [
    (Ended::ATTEMPT_ESTABLISHED, Outcome::Established),
    (Ended::ATTEMPT_REFUSED, Outcome::Refused),
    (Ended::ATTEMPT_TIMED_OUT, Outcome::TimedOut),
    (Ended::ATTEMPT_UNREACHABLE, Outcome::Unreachable),
    (Ended::ATTEMPT_RESET, Outcome::Reset),
    (Ended::ATTEMPT_NOT_SENT, Outcome::NotSent),
    (Ended::ATTEMPT_ABANDONED, Outcome::Abandoned),
    (Ended::ATTEMPT_FAILED, Outcome::Failed),
];

/// Reads a record; `None` where it is none of this version's.
#[must_use]
pub fn told(record: &Record) -> Option<Told> {
    let address = |bytes, port| SocketAddr::new(plain_address(bytes), port);
    let attempt = Attempt {
        socket: record.socket,
        at_ns: record.began_ns,
        asked: address(record.asked, record.asked_port),
        caller: Caller {
            pid: record.pid,
            comm: comm::clean(&record.comm.map(i8::cast_unsigned)),
            cgroup: record.cgroup,
            network_namespace: record.network_namespace,
        },
    };
    if u32::from(record.stage) == Stage::ATTEMPT_BEGAN.0 {
        return Some(Told::Began(attempt));
    }
    let outcome = OUTCOMES.iter().find(|(number, _)| number.0 == u32::from(record.outcome))?.1;
    let sent = record.sent != 0;
    let peer = address(record.peer, record.peer_port);
    Some(Told::Ended(AttemptEnd {
        outcome,
        duration_ns: record.ended_ns.saturating_sub(record.began_ns),
        local: sent.then(|| address(record.local, record.local_port)),
        translated: (sent && peer != attempt.asked).then_some(peer),
        attempt,
    }))
}

#[cfg(test)]
mod tests;
