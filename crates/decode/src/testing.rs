//! Records as the kernel writes them, for the tests of this crate.

use gatewatch_capture::nginx::{Flags, LUA_PHASES, Record, Try, bytes_of_record, bytes_of_try, limits};

/// 2026-11-21, in nanoseconds since 1970: when the tests judge.
pub(crate) const NOW: u64 = 1_795_000_000_000_000_000;

/// What nginx held, and how the kernel program would report it.
#[derive(Clone)]
pub(crate) struct Held {
    pub(crate) head: Record,
    pub(crate) line: Vec<u8>,
    pub(crate) host: Vec<u8>,
    /// Bytes that stand behind the host in nginx's memory.
    pub(crate) behind: Vec<u8>,
    pub(crate) agent: Vec<u8>,
    pub(crate) peers: Vec<Vec<u8>>,
    pub(crate) upstream: [Try; 4],
    pub(crate) lua_ns: Option<[u64; LUA_PHASES]>,
}

impl Default for Held {
    /// A plain request that was proxied once.
    fn default() -> Self {
        let mut head = Record {
            start_ns: 5_000_000_000,
            end_ns: 5_012_345_678,
            connection: 17,
            connection_requests: 3,
            request_bytes: 120,
            response_bytes: 4096,
            start_sec: NOW / 1_000_000_000,
            start_msec: 250,
            flags: Flags::NGINX_STARTED.0,
            pid: 100,
            tid: 101,
            worker: 2,
            method: 0x2,
            http_version: 1001,
            status: 200,
            tries: 1,
            family: 2,
            port: 40_000u16.to_be(),
            ..Record::default()
        };
        head.address[..4].copy_from_slice(&[192, 0, 2, 7]);
        let tried = Try {
            bytes_received: 4000,
            response_ms: 12,
            connect_ms: 1,
            header_ms: 11,
            status: 200,
            ..Try::default()
        };
        Self {
            head,
            line: b"GET /v1/users?id=7 HTTP/1.1".to_vec(),
            host: b"api.example.com".to_vec(),
            behind: b"\r\nUser-".to_vec(),
            agent: b"curl/8.0".to_vec(),
            peers: vec![b"10.0.0.1:8080".to_vec()],
            upstream: [tried, Try::default(), Try::default(), Try::default()],
            lua_ns: None,
        }
    }
}

impl Held {
    /// Head and text. Bytes that belong to no text stand between the texts, as in a stretch read in one go.
    pub(crate) fn parts(&self) -> (Record, Vec<u8>) {
        let mut head = self.head;
        let told = usize::from(head.tries).min(self.upstream.len());
        let mut upstream = self.upstream;
        for (peer, tried) in self.peers.iter().zip(&mut upstream) {
            tried.peer_len = u16::try_from(peer.len().min(limits::PEER)).unwrap();
        }
        let mut text: Vec<u8> = upstream[..told].iter().flat_map(bytes_of_try).collect();
        text.extend_from_slice(b"\x00noise");
        let mut put = |bytes: &[u8], limit: usize| {
            let kept = &bytes[..bytes.len().min(limit)];
            let at = text.len();
            text.extend_from_slice(kept);
            (u16::try_from(at).unwrap(), u16::try_from(kept.len()).unwrap())
        };
        (head.line_at, head.line_captured) = put(&self.line, limits::LINE);
        (head.host_at, head.host_captured) = put(&self.host, limits::HOST);
        head.host_behind = put(&self.behind, 8).1;
        (head.agent_at, head.agent_captured) = put(&self.agent, limits::AGENT);
        head.peers_at = put(b"", 0).0;
        for peer in self.peers.iter().take(told) {
            put(peer, limits::PEER);
        }
        if let Some(phases) = self.lua_ns {
            head.flags |= Flags::NGINX_LUA.0;
            text.extend(phases.into_iter().flat_map(u64::to_ne_bytes));
        }
        let len = |bytes: &[u8]| u32::try_from(bytes.len()).unwrap();
        (head.line_len, head.host_len, head.agent_len) = (len(&self.line), len(&self.host), len(&self.agent));
        (head, text)
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let (head, text) = self.parts();
        bytes_of_record(&head, &text)
    }

    /// The same with something changed.
    pub(crate) fn with(change: impl FnOnce(&mut Self)) -> Self {
        let mut held = Self::default();
        change(&mut held);
        held
    }

    pub(crate) fn of_line(line: &[u8]) -> Self {
        Self::with(|held| held.line = line.to_vec())
    }
}

/// Numbers that look random and are the same in every run (xorshift64).
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Vec<u8> {
        let words = std::iter::repeat_with(|| self.next().to_ne_bytes());
        words.take(len / 8 + 1).flatten().take(len).collect()
    }
}
