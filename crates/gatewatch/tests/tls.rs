//! What is within TLS: as the libraries' callers see it, tied to its socket; and what the handshake says in the open.

#![allow(clippy::unwrap_used, clippy::panic, clippy::indexing_slicing)]

mod common;

use std::{
    fs,
    path::Path,
    process::{Child, Command},
};

use common::{
    SOON, Turn, curl, free_port,
    pieces::{Seen, Stream, Talk, agrees, bytes},
    run,
    served::tool,
    wait_until,
};
use gatewatch_capture::{
    socket::{Content, Direction, Settings, Side, SocketProbe},
    tls::TlsAttachment,
};
use gatewatch_target::{process::ProcRoot, tls::Finder};
use tempfile::TempDir;

const TALK: &str = include_str!("sockets/tls.py");

/// A probe that looks into these processes' TLS.
fn probe(pids: &[u32], by_calls: bool) -> (SocketProbe, Vec<TlsAttachment>) {
    let mut probe = SocketProbe::load(&Settings { by_calls, ..Settings::default() }).unwrap();
    probe.attach().unwrap();
    let mut finder = Finder::default();
    let files = pids.iter().flat_map(|pid| finder.look(&ProcRoot::new("/proc"), *pid)).collect::<Vec<_>>();
    assert!(!files.is_empty(), "no TLS found");
    let attachments = files.iter().map(|file| probe.attach_tls(file).unwrap()).collect();
    (probe, attachments)
}

/// A directory with a certificate and its key.
fn certificate() -> (TempDir, String, String) {
    let directory = tempfile::tempdir().unwrap();
    let [cert, key] = ["cert.pem", "key.pem"].map(|name| directory.path().join(name).display().to_string());
    run(
        "openssl",
        &[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=name.test",
            "-out",
            &cert,
            "-keyout",
            &key,
        ],
    );
    (directory, cert, key)
}

/// Streams of decrypted bytes of a process.
fn decrypted(seen: &Seen, pid: u32) -> Vec<&Stream> {
    let streams = seen.streams.iter().filter(|(id, stream)| id.decrypted && stream.pid == pid);
    streams.map(|(_, stream)| stream).collect()
}

fn talk_of_python(kind: &str, by_calls: bool) {
    let _turn = Turn::alone();
    let (_directory, cert, key) = certificate();
    let talk = Talk::start("python3", &["-c", TALK, kind, &cert, &key]);
    let (probe, _attached) = probe(&[talk.pid()], by_calls);
    let mut seen = Seen::default();
    let told = talk.run(&probe, &mut seen).remove(0);
    let pid = u32::try_from(told["pid"].as_u64().unwrap()).unwrap();
    let ports = [told["client"].as_u64().unwrap(), told["server"].as_u64().unwrap()];
    let streams = decrypted(&seen, pid);
    assert_eq!(streams.len(), 2, "{kind}");
    for (ports, side, ways) in [
        ([ports[0], ports[1]], Side::Client, ["down", "up"]),
        ([ports[1], ports[0]], Side::Server, ["up", "down"]),
    ] {
        let is_end =
            |stream: &&&Stream| stream.local.is_some_and(|local| u64::from(local.port()) == ports[0]);
        let stream = streams.iter().find(is_end).unwrap_or_else(|| panic!("{kind}: no {side:?}"));
        assert_eq!(stream.side, Some(side));
        assert_eq!(stream.remote.map(|remote| u64::from(remote.port())), Some(ports[1]));
        assert!(!stream.joined);
        for (direction, key) in [Direction::Received, Direction::Sent].into_iter().zip(ways) {
            let sent = bytes(&told, key);
            let what = format!("{kind}, {side:?} {direction:?}");
            let found = agrees(stream, direction, &sent, &what);
            let heads = stream.pieces[&direction].iter().filter(|piece| {
                piece.bytes.starts_with(b"HTTP/1.1 200") || piece.bytes.starts_with(b"POST /secret")
            });
            assert_eq!(heads.count(), 3, "{what}");
            assert!(key == "down" || found == sent.len(), "{what}: {found} of {}", sent.len());
        }
        // On the wire only the handshake is looked at, with the name that is asked for.
        let wire = seen.end(ports[0], ports[1]).unwrap();
        assert!(wire.ended);
        let pieces: Vec<_> = wire.pieces.values().flatten().collect();
        assert!(pieces.iter().all(|piece| piece.content == Content::Handshake));
        let hello =
            &wire.pieces[&if side == Side::Client { Direction::Sent } else { Direction::Received }][0];
        assert_eq!(hello.bytes[..3], [22, 3, 1]);
        let has_name = |bytes: &[u8]| bytes.windows(9).any(|window| window == b"name.test");
        assert!(pieces.iter().any(|piece| has_name(&piece.bytes)));
        let copied: usize = pieces.iter().map(|piece| piece.bytes.len()).sum();
        assert!(copied < 6000, "{copied}");
    }
    assert_eq!(probe.tallies().lost, 0);
}

#[test]
fn libssl_on_sockets_of_its_own() {
    talk_of_python("sockets", false);
}

#[test]
fn libssl_fed_from_memory() {
    talk_of_python("memory", false);
}

#[test]
fn libssl_where_only_system_calls_tell() {
    talk_of_python("sockets", true);
    talk_of_python("memory", true);
}

struct Nginx {
    child: Child,
    port: u16,
}

impl Nginx {
    fn start(directory: &Path, cert: &str, key: &str) -> Self {
        let port = free_port();
        let at = directory.display();
        let config = format!(
            "daemon off; master_process off; pid {at}/pid; error_log {at}/error.log; events {{}}
             http {{ access_log off; server {{ listen 127.0.0.1:{port} ssl http2; ssl_certificate {cert};
             ssl_certificate_key {key}; location / {{ return 200 \"hello of nginx\"; }} }} }}"
        );
        let path = directory.join("nginx.conf");
        fs::write(&path, config).unwrap();
        let child = Command::new("nginx").arg("-c").arg(&path).spawn().unwrap();
        wait_until(SOON, "nginx listens", || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok());
        Self { child, port }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _gone = self.child.wait();
    }
}

#[test]
fn curl_and_nginx() {
    let _turn = Turn::alone();
    let (directory, cert, key) = certificate();
    let nginx = Nginx::start(directory.path(), &cert, &key);
    let (probe, _attached) = probe(&[nginx.child.id()], false);
    let mut seen = Seen::default();
    for version in ["--http1.1", "--http2"] {
        let url = |path| format!("https://127.0.0.1:{}/{path}", nginx.port);
        assert!(curl(&["-k", version, &url("one"), &url("two")]).status.success());
        wait_until(SOON, "the end of the connection", || {
            seen.drain(&probe);
            seen.streams.values().any(|stream| stream.ended && stream.comm == "nginx")
        });
        let streams = decrypted(&seen, nginx.child.id());
        assert_eq!(streams.len(), 1, "{version}");
        let server = streams[0];
        let client = seen
            .streams
            .iter()
            .find(|(id, stream)| id.decrypted && stream.comm == "curl" && stream.local == server.remote)
            .map(|(_, stream)| stream)
            .unwrap();
        let all = |stream: &Stream, direction| -> Vec<u8> {
            stream.pieces[&direction].iter().flat_map(|piece| piece.bytes.clone()).collect()
        };
        // What one end was given to encrypt, the other has decrypted.
        assert_eq!(all(client, Direction::Sent), all(server, Direction::Received), "{version}");
        assert_eq!(all(server, Direction::Sent), all(client, Direction::Received), "{version}");
        let start: &[u8] = if version == "--http2" { b"PRI * HTTP/2.0\r\n" } else { b"GET /one HTTP/1.1" };
        assert!(all(server, Direction::Received).starts_with(start), "{version}");
        seen = Seen::default();
    }
}

#[test]
fn gos_own_tls_with_symbols_and_without() {
    let _turn = Turn::alone();
    let (directory, cert, key) = certificate();
    let source = directory.path().join("main.go");
    fs::write(&source, include_str!("sockets/go/main.go")).unwrap();
    for (flags, by_calls) in [("", false), ("-s -w", true)] {
        let program = directory.path().join("go-talk");
        let built = Command::new(tool("go"))
            .args(["build", "-ldflags", flags, "-o"])
            .args([&program, &source])
            .env("GOCACHE", directory.path().join("cache"))
            .env("GOPROXY", "off")
            .env("GO111MODULE", "off")
            .status();
        assert!(built.unwrap().success());
        let talk = Talk::start(program.to_str().unwrap(), &[&cert, &key]);
        let pid = talk.pid();
        let (probe, _attached) = probe(&[pid], by_calls);
        let mut seen = Seen::default();
        talk.run(&probe, &mut seen);
        let streams = decrypted(&seen, pid);
        // HTTP/1.1 and HTTP/2, both ends of each.
        assert_eq!(streams.len(), 4, "{flags}: {streams:?}");
        for client in streams.iter().filter(|stream| stream.side == Some(Side::Client)) {
            let server =
                streams.iter().find(|stream| stream.local == client.remote && stream.remote == client.local);
            let server = server.unwrap_or_else(|| panic!("{flags}: no other end of {client:?}"));
            for (from, to) in [(client, server), (server, client)] {
                let sent: Vec<u8> =
                    from.pieces[&Direction::Sent].iter().flat_map(|p| p.bytes.clone()).collect();
                let mut received = 0;
                for piece in &to.pieces[&Direction::Received] {
                    let at = usize::try_from(piece.position).unwrap();
                    assert_eq!(at, received, "{flags}");
                    assert_eq!(piece.bytes, sent[at..at + piece.bytes.len()], "{flags}");
                    received += piece.bytes.len();
                }
                // A last goodbye may come when nobody reads any more.
                assert!(sent.len() - received < 64, "{flags}: {received} of {}", sent.len());
            }
        }
        assert_eq!(probe.tallies().lost, 0);
    }
}
