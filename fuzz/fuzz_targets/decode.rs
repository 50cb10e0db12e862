//! Records of the kernel: any bytes, and heads that are right in front of any text.
#![no_main]

use gatewatch_capture::nginx::{RawRecord, Record, limits};
use gatewatch_decode::{nginx, proof};
use libfuzzer_sys::fuzz_target;

const NOW: u64 = 1_800_000_000_000_000_000;

fuzz_target!(|bytes: &[u8]| {
    read(bytes);
    let Some(RawRecord { mut head, text }) = RawRecord::new(bytes) else {
        return;
    };
    // The same head as the kernel would write it for this text: line, host, agent and peers one after the other.
    let mut at = 0u16;
    let mut place = |wanted: u16, limit: usize| {
        let room = text.len().saturating_sub(usize::from(at)).min(limit);
        let taken = wanted.min(u16::try_from(room).unwrap_or(u16::MAX));
        let from = at;
        at += taken;
        (from, taken)
    };
    (head.line_at, head.line_captured) = place(head.line_captured, limits::LINE);
    (head.host_at, head.host_captured) = place(head.host_captured, limits::HOST);
    (head.agent_at, head.agent_captured) = place(head.agent_captured, limits::AGENT);
    for tried in &mut head.upstream {
        tried.peer_len = place(tried.peer_len, limits::PEER).1;
    }
    head.peers_at = head.agent_at + head.agent_captured;
    head.flags &= !(gatewatch_capture::nginx::Flags::NGINX_NO_REQUEST.0
        | gatewatch_capture::nginx::Flags::NGINX_BAD_SIGNATURE.0
        | gatewatch_capture::nginx::Flags::NGINX_NOT_MAIN.0);
    // SAFETY: `Record` is generated from integers and arrays of integers without padding.
    let fixed = unsafe {
        std::slice::from_raw_parts(std::ptr::from_ref(&head).cast::<u8>(), size_of::<Record>())
    };
    let whole = [fixed, text].concat();
    assert!(nginx::request(&whole).is_ok(), "a well-formed record is a request");
    read(&whole);
});

fn read(bytes: &[u8]) {
    let _verdict = proof::judge(bytes, NOW);
    let _started = nginx::started_by_nginx(bytes);
    if let Ok(request) = nginx::request(bytes) {
        let _path = request.path();
        let _tries = (request.told_tries().len(), request.upstream_ms(), request.upstream_header_ms());
        let _remote = request.remote.to_string();
    }
}
