//! Programs to look at: compiled from `gateway.c`, which looks like nginx and has structures of its own.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use crate::layout::{ConnectionLayout, Layout, RequestLayout, UpstreamStateLayout};

/// Debian's, from the package of that name.
pub(crate) const NGINX: &str = "/usr/sbin/nginx";

pub(crate) fn run(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is needed (`make setup`): {error}"));
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {errors}");
    String::from_utf8(output.stdout).unwrap()
}

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn source(name: &str) -> String {
    format!("{}/src/testing/{name}", env!("CARGO_MANIFEST_DIR"))
}

/// Compiles the program into `dir`.
pub(crate) fn compile(dir: &Path, compiler: &str, flags: &[&str]) -> PathBuf {
    let path = dir.join("gateway");
    let (other, gateway) = (source("other.c"), source("gateway.c"));
    let fixed = [other.as_str(), &gateway, "-Wl,--build-id", "-o", text(&path)];
    run(compiler, &[flags, &fixed].concat());
    path
}

/// The layout that the program itself says it has.
pub(crate) fn told(path: &Path) -> Layout {
    let numbers: Vec<u16> =
        run(text(path), &[]).split_whitespace().map(|number| number.parse().unwrap()).collect();
    let [r @ .., c0, c1, c2, c3, c4, c5, c6, c7, elt, u0, u1, u2, u3, u4, u5, u6] = &numbers[..] else {
        panic!("{numbers:?}")
    };
    assert_eq!(r.len(), 17);
    Layout {
        request: RequestLayout {
            size: r[0],
            connection: r[1],
            upstream_states: r[2],
            host: r[3],
            user_agent: r[4],
            server: r[5],
            status: r[6],
            start_sec: r[7],
            start_msec: r[8],
            method: r[9],
            http_version: r[10],
            request_line: r[11],
            unparsed_uri: r[12],
            method_name: r[13],
            main: r[14],
            request_length: r[15],
            err_status: r[16],
        },
        connection: ConnectionLayout {
            size: *c0,
            sent: *c1,
            sockaddr: *c2,
            socklen: *c3,
            pool: *c4,
            number: *c5,
            requests: *c6,
            ssl: (*c7 != 0).then_some(*c7),
        },
        table_elt_value: *elt,
        upstream_state: UpstreamStateLayout {
            size: *u0,
            status: *u1,
            response_time: *u2,
            connect_time: *u3,
            header_time: *u4,
            bytes_received: *u5,
            peer: *u6,
        },
    }
}

/// Numbers that look random and are the same in every run (xorshift64).
pub(crate) struct Noise(pub(crate) u64);

impl Noise {
    pub(crate) fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 1).unwrap() % end
    }
}
