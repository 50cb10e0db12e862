//! A real gateway, its upstream, and the agent, each a process of the test's own.
//!
//! Every test runs a copy of nginx under a name of its own: the agent under test looks for that name only,
//! so that tests do not see each other's gateways.

#![allow(dead_code, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, unreachable_pub)]

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    fs::{self, File},
    io::{BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, Shutdown, TcpListener, TcpStream},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    sync::{
        Arc, Mutex,
        atomic::{AtomicU16, Ordering},
    },
    thread,
    time::{Duration, Instant},
};

pub mod keda;
pub mod net;
pub mod nodes;
pub mod pieces;
pub mod served;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

/// How long anything may take that should be there soon.
pub const SOON: Duration = Duration::from_secs(20);

const NGINX: &str = "/usr/sbin/nginx";

/// Tests that load the machine, or measure time, run alone; the others beside each other. Held as long as it lives.
pub struct Turn {
    _file: File,
}

impl Turn {
    pub fn alone() -> Self {
        let file = Self::file();
        file.lock().unwrap();
        Self { _file: file }
    }

    pub fn shared() -> Self {
        let file = Self::file();
        file.lock_shared().unwrap();
        Self { _file: file }
    }

    fn file() -> File {
        assert!(
            rustix::process::geteuid().is_root(),
            "these tests load programs into the kernel: run them as root"
        );
        assert!(
            Path::new(NGINX).exists(),
            "these tests need Debian's nginx with its Lua module (libnginx-mod-http-lua)"
        );
        for tool in ["curl", "wrk", "h2load", "openssl", "iperf3", "python3"] {
            let found = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
                .any(|directory| directory.join(tool).exists());
            assert!(found, "these tests need {tool}");
        }
        let path = std::env::temp_dir().join("gatewatch-tests.lock");
        File::options().create(true).truncate(false).write(true).open(path).unwrap()
    }
}

/// Asks until the answer is `Some`; the last words are `told` after `limit`.
pub fn wait_for<T>(limit: Duration, told: impl Fn() -> String, mut ask: impl FnMut() -> Option<T>) -> T {
    let until = Instant::now() + limit;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < until, "waited {limit:?} in vain: {}", told());
        thread::sleep(Duration::from_millis(5));
    }
}

/// The same for a condition.
pub fn wait_until(limit: Duration, what: &str, mut holds: impl FnMut() -> bool) {
    wait_for(limit, || what.to_owned(), || holds().then_some(()));
}

/// A port nobody listens on, below those that clients are given.
pub fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    loop {
        let spread = u16::try_from(std::process::id() % 120).unwrap() * 100;
        let port = 20_000 + spread + NEXT.fetch_add(1, Ordering::Relaxed) % 700;
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

pub fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    kill_process(pid, signal).unwrap();
}

/// Copies a program, by another: were the copy ever open for writing in this process, a child that another test
/// forks at that moment would hold it open too, and it could not be run.
pub fn install(from: &Path, to: &Path) {
    run("cp", &[from.to_str().unwrap(), to.to_str().unwrap()]);
}

/// Runs a program to its end; its output, which must be a success.
pub fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap();
    assert!(output.status.success(), "{program} {args:?}: {}", text(&output.stderr));
    text(&output.stdout)
}

/// Runs `curl -s` with these arguments; how it ends is left to the caller.
pub fn curl(args: &[&str]) -> Output {
    Command::new("curl").args(["-sS", "--max-time", "20"]).args(args).output().unwrap()
}

/// The end of a long text.
pub fn tail(text: &str) -> &str {
    let from = text.len().saturating_sub(3000);
    let from = (from..text.len()).find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[from..]
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// Sends bytes and reads until the other side closes.
pub fn raw(port: u16, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
    stream.set_read_timeout(Some(SOON)).unwrap();
    stream.set_nodelay(true).unwrap();
    // The gateway may answer and close before it has all of a request it refuses.
    let _refused = stream.write_all(bytes);
    let mut answer = Vec::new();
    let _reset = stream.read_to_end(&mut answer);
    answer
}

/// A small GET: status and body.
pub fn get(port: u16, path: &str) -> Option<(u16, String)> {
    let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()?;
    stream.set_read_timeout(Some(SOON)).unwrap();
    write!(stream, "GET {path} HTTP/1.0\r\nHost: test\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let status = answer.split(' ').nth(1)?.parse().ok()?;
    let (_, body) = answer.split_once("\r\n\r\n")?;
    Some((status, body.to_owned()))
}

/// A client that keeps its connection.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub fn new(port: u16) -> Self {
        let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, port)).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        stream.set_nodelay(true).unwrap();
        Self { stream: BufReader::new(stream) }
    }

    pub fn send(&mut self, bytes: &[u8]) {
        self.stream.get_mut().write_all(bytes).unwrap();
    }

    /// Reads one response whose length is told; its status.
    pub fn response(&mut self) -> u16 {
        let mut line = String::new();
        self.stream.read_line(&mut line).unwrap();
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no response but {line:?}"));
        let mut length = 0;
        loop {
            line.clear();
            self.stream.read_line(&mut line).unwrap();
            let header = line.trim_end().to_ascii_lowercase();
            if header.is_empty() {
                break;
            }
            if let Some(value) = header.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap();
            }
        }
        let mut body = vec![0; length];
        self.stream.read_exact(&mut body).unwrap();
        status
    }

    pub fn get(&mut self, path: &str, headers: &str) -> u16 {
        self.send(format!("GET {path} HTTP/1.1\r\nHost: test\r\n{headers}\r\n").as_bytes());
        self.response()
    }

    /// What comes next, as it comes.
    pub fn read(&mut self, len: usize) -> Vec<u8> {
        let mut bytes = vec![0; len];
        self.stream.read_exact(&mut bytes).unwrap();
        bytes
    }

    pub fn close(self) {
        let _gone = self.stream.get_ref().shutdown(Shutdown::Both);
    }
}

/// How an nginx is set up. In texts, `@PORT@`, `@TLS@` and `@DIR@` stand for its own.
#[derive(Clone)]
pub struct Setup {
    /// The process's name: at most 15 bytes.
    pub name: String,
    pub workers: u32,
    /// Load the Lua module.
    pub lua: bool,
    /// What stands in `http { }`.
    pub http: String,
    /// The binary it is a copy of.
    pub binary: PathBuf,
    /// Started by these words, which run what follows them.
    pub wrapper: Vec<String>,
    /// Instead of a port of its own.
    pub port: Option<u16>,
    /// Goes to the background.
    pub daemon: bool,
}

impl Setup {
    pub fn new(name: &str, http: impl Into<String>) -> Self {
        assert!(name.len() <= 15, "{name}: the kernel cuts names to 15 bytes");
        Self {
            name: name.to_owned(),
            workers: 1,
            lua: false,
            http: http.into(),
            binary: NGINX.into(),
            wrapper: Vec::new(),
            port: None,
            daemon: false,
        }
    }

    pub fn workers(mut self, workers: u32) -> Self {
        self.workers = workers;
        self
    }

    pub fn lua(mut self) -> Self {
        self.lua = true;
        self
    }

    pub fn binary(mut self, binary: &Path) -> Self {
        binary.clone_into(&mut self.binary);
        self
    }

    /// Goes to the background.
    pub fn daemon(mut self) -> Self {
        self.daemon = true;
        self
    }

    pub fn port(mut self, port: u16) -> Self {
        self.port = Some(port);
        self
    }

    pub fn start(self) -> Nginx {
        let nginx = self.prepare();
        nginx.start()
    }

    /// Everything but the process.
    pub fn prepare(self) -> Prepared {
        let dir = tempfile::Builder::new().prefix("gwt-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let (port, tls) = (self.port.unwrap_or_else(free_port), free_port());
        let exe = dir.path().join(&self.name);
        install(&self.binary, &exe);
        fs::create_dir(dir.path().join("html")).unwrap();
        let place = |text: &str| {
            text.replace("@PORT@", &port.to_string())
                .replace("@TLS@", &tls.to_string())
                .replace("@DIR@", dir.path().to_str().unwrap())
        };
        if self.http.contains("@TLS@") {
            certificate(dir.path());
        }
        let modules = if self.lua {
            "load_module /usr/lib/nginx/modules/ndk_http_module.so;\nload_module /usr/lib/nginx/modules/ngx_http_lua_module.so;\n"
        } else {
            ""
        };
        let config = format!(
            "{modules}daemon {};\nmaster_process on;\nuser root;\nworker_processes {};\npid @DIR@/pid;\nerror_log @DIR@/error.log notice;\n\
             events {{ worker_connections 4096; }}\nhttp {{\n\
             access_log off;\nlingering_close off;\nkeepalive_requests 100000000;\n\
             client_body_temp_path @DIR@/body;\nproxy_temp_path @DIR@/proxy;\nfastcgi_temp_path @DIR@/fastcgi;\nuwsgi_temp_path @DIR@/uwsgi;\nscgi_temp_path @DIR@/scgi;\n\
             {}\n}}\n",
            if self.daemon { "on" } else { "off" },
            self.workers,
            self.http
        );
        fs::write(dir.path().join("nginx.conf"), place(&config)).unwrap();
        Prepared { dir, exe, port, tls, wrapper: self.wrapper }
    }
}

/// `cert.pem` and `key.pem` of localhost.
pub fn certificate(dir: &Path) {
    let (key, certificate) = (dir.join("key.pem"), dir.join("cert.pem"));
    let (key, certificate) = (key.to_str().unwrap(), certificate.to_str().unwrap());
    let subject = ["-subj", "/CN=localhost", "-days", "2", "-keyout", key, "-out", certificate];
    let mut args =
        vec!["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    args.extend(subject);
    run("openssl", &args);
}

/// An nginx that is set up and not running.
pub struct Prepared {
    pub dir: TempDir,
    pub exe: PathBuf,
    pub port: u16,
    pub tls: u16,
    wrapper: Vec<String>,
}

impl Prepared {
    pub fn spawn(&self) -> Child {
        let prefix = self.dir.path().to_str().unwrap().to_owned();
        let mut words = self.wrapper.clone();
        words.extend([self.exe.to_str().unwrap().to_owned(), "-p".to_owned(), prefix.clone()]);
        words.extend(["-c".to_owned(), format!("{prefix}/nginx.conf")]);
        let log = File::create(self.dir.path().join("stderr")).unwrap();
        let (program, args) = words.split_first().unwrap();
        Command::new(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap()
    }

    pub fn start(self) -> Nginx {
        let child = self.spawn();
        let mut nginx = Nginx { child, prepared: self };
        nginx.wait_listening();
        nginx
    }
}

/// A running nginx; ended when dropped.
pub struct Nginx {
    child: Child,
    pub prepared: Prepared,
}

impl Nginx {
    fn wait_listening(&mut self) {
        let port = self.port();
        let dir = self.prepared.dir.path().to_owned();
        let said = move || fs::read_to_string(dir.join("stderr")).unwrap_or_default();
        let child = &mut self.child;
        wait_for(
            SOON,
            || format!("nginx does not listen: {}", said()),
            || {
                let ended = child.try_wait().unwrap().is_some_and(|status| !status.success());
                assert!(!ended, "nginx has ended: {}", said());
                TcpStream::connect((Ipv4Addr::LOCALHOST, port)).ok()
            },
        );
    }

    pub fn port(&self) -> u16 {
        self.prepared.port
    }

    pub fn tls(&self) -> u16 {
        self.prepared.tls
    }

    pub fn dir(&self) -> &Path {
        self.prepared.dir.path()
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port())
    }

    /// The master that `pid` names.
    pub fn master(&self) -> u32 {
        let read = || fs::read_to_string(self.dir().join("pid")).ok()?.trim().parse().ok();
        wait_for(SOON, || "nginx writes its process number".to_owned(), read)
    }

    pub fn workers(&self) -> Vec<u32> {
        children(self.master())
    }

    /// nginx's own count of requests, this one included.
    pub fn stub_status(&self) -> u64 {
        let (_, body) = get(self.port(), "/stub").unwrap();
        let numbers = body.lines().nth(2).unwrap();
        numbers.split_whitespace().nth(2).unwrap().parse().unwrap()
    }

    /// The same once nothing but these questions moves it: a load that has ended leaves requests behind that nginx is
    /// still about to end.
    pub fn settled_status(&self) -> u64 {
        let mut last = self.stub_status();
        loop {
            thread::sleep(Duration::from_millis(150));
            let now = self.stub_status();
            if now == last + 1 {
                return now;
            }
            last = now;
        }
    }

    /// Ends it and keeps its directory, to start it again.
    pub fn stop(mut self) -> Prepared {
        self.end();
        let Self { prepared, .. } = &mut self;
        let empty = Prepared {
            dir: tempfile::tempdir().unwrap(),
            exe: PathBuf::new(),
            port: 0,
            tls: 0,
            wrapper: Vec::new(),
        };
        std::mem::replace(prepared, empty)
    }

    fn end(&mut self) {
        // After an upgrade the master is no child of ours.
        let master = fs::read_to_string(self.dir().join("pid")).ok().and_then(|pid| pid.trim().parse().ok());
        let master = master.filter(|pid| is_running(*pid, &self.prepared.exe));
        if let Some(pid) = master {
            signal(pid, Signal::TERM);
            let until = Instant::now() + Duration::from_secs(5);
            while is_running(pid, &self.prepared.exe)
                && Instant::now() < until
                && self.child.try_wait().is_ok()
            {
                thread::sleep(Duration::from_millis(5));
            }
        }
        if matches!(self.child.try_wait(), Ok(None)) {
            if master != Some(self.child.id()) {
                signal(self.child.id(), Signal::TERM);
            }
            let until = Instant::now() + Duration::from_secs(5);
            while matches!(self.child.try_wait(), Ok(None)) {
                if Instant::now() > until {
                    let _gone = self.child.kill();
                }
                thread::sleep(Duration::from_millis(5));
            }
        }
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        self.end();
    }
}

fn is_running(pid: u32, exe: &Path) -> bool {
    let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    let state = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let zombie = state.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z'));
    !zombie && exe.file_name().is_some_and(|name| name.to_str() == Some(comm.trim()))
}

pub fn children(pid: u32) -> Vec<u32> {
    let list = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    list.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

/// One line of the agent's output.
#[derive(Clone, Debug)]
pub struct Line {
    pub json: Value,
    pub raw: String,
    pub at: Instant,
}

impl Line {
    pub fn str(&self, key: &str) -> &str {
        self.json.get(key).and_then(Value::as_str).unwrap_or("")
    }

    /// `u64::MAX` where it is not there.
    pub fn u64(&self, key: &str) -> u64 {
        self.json.get(key).and_then(Value::as_u64).unwrap_or(u64::MAX)
    }

    pub fn is_request(&self) -> bool {
        self.str("msg") == "HTTP Request"
    }
}

#[derive(Default)]
struct Collected {
    lines: Mutex<Vec<Line>>,
    stderr: Mutex<Vec<u8>>,
}

/// How the agent is started.
pub struct AgentSetup {
    name: String,
    config: String,
    env: Vec<(String, String)>,
    args: Vec<String>,
    wrapper: Vec<String>,
    network: bool,
    role: &'static str,
}

impl AgentSetup {
    /// One that watches processes of this name.
    pub fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            config: String::new(),
            env: Vec::new(),
            args: Vec::new(),
            wrapper: Vec::new(),
            network: false,
            role: "gateway",
        }
    }

    /// `gatewatch node`, without a cluster unless an environment says otherwise.
    pub fn node() -> Self {
        Self { role: "node", ..Self::new("") }.env("MODE", "local")
    }

    /// Watches packets too: only one agent a network namespace can.
    pub fn network(mut self) -> Self {
        self.network = true;
        self
    }

    pub fn config(mut self, yaml: &str) -> Self {
        yaml.clone_into(&mut self.config);
        self
    }

    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn args(mut self, args: &[&str]) -> Self {
        self.args.extend(args.iter().map(|arg| (*arg).to_owned()));
        self
    }

    /// Starts it by these words, from a place that every user may read.
    pub fn wrapper(mut self, words: &[&str]) -> Self {
        self.wrapper.extend(words.iter().map(|word| (*word).to_owned()));
        self
    }

    /// Starts it; it serves, and may not have found a gateway yet.
    pub fn start(self) -> Agent {
        let mut agent = self.spawn();
        let port = agent.port;
        wait_for(
            SOON,
            || "the agent serves".to_owned(),
            || {
                if let Some(status) = agent.child.try_wait().unwrap() {
                    panic!("the agent has ended with {status}: {}", agent.stderr());
                }
                get(port, "/healthz").filter(|(status, _)| *status == 200)
            },
        );
        agent
    }

    /// Starts it and waits until it watches a gateway.
    pub fn watch(self) -> Agent {
        let agent = self.start();
        agent.wait_ready();
        agent
    }

    /// Only starts it.
    pub fn spawn(self) -> Agent {
        let dir = tempfile::Builder::new().prefix("gwa-").tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let port = free_port();
        let binary =
            std::env::var("GATEWATCH_BIN").unwrap_or_else(|_| env!("CARGO_BIN_EXE_gatewatch").to_owned());
        let mut words = self.wrapper;
        if words.is_empty() {
            words.push(binary);
        } else {
            let copy = dir.path().join("gatewatch");
            install(Path::new(&binary), &copy);
            words.push(copy.to_str().unwrap().to_owned());
        }
        words.extend([self.role.to_owned(), "--listen".to_owned(), format!("127.0.0.1:{port}")]);
        if !self.config.is_empty() {
            let file = dir.path().join("config.yaml");
            fs::write(&file, self.config).unwrap();
            words.extend(["--config".to_owned(), file.to_str().unwrap().to_owned()]);
        }
        if !self.network && self.role == "gateway" {
            words.push("--no-network".to_owned());
        }
        words.extend(self.args);
        let (program, args) = words.split_first().unwrap();
        let mut command = Command::new(program);
        for name in [
            "LOG_LEVEL",
            "ENABLE_JSON_LOG",
            "STATS_INTERVAL",
            "METRICS_ADDR",
            "GATEWATCH_CONFIG",
            "KUBECONFIG",
            "KUBERNETES_SERVICE_HOST",
        ] {
            command.env_remove(name);
        }
        let mut child = command
            .args(args)
            .env("KONG_PROCESS_NAME", &self.name)
            .envs(self.env)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let collected = Arc::new(Collected::default());
        let (stdout, mut stderr) = (child.stdout.take().unwrap(), child.stderr.take().unwrap());
        let of_stdout = Arc::clone(&collected);
        let lines = thread::spawn(move || {
            let mut stdout = BufReader::with_capacity(1 << 20, stdout);
            let mut bytes = Vec::new();
            while stdout.read_until(b'\n', &mut bytes).unwrap_or(0) > 0 {
                let at = Instant::now();
                let raw = text(&bytes);
                let json = serde_json::from_slice(&bytes).unwrap_or(Value::Null);
                of_stdout.lines.lock().unwrap().push(Line { json, raw, at });
                bytes.clear();
            }
        });
        let of_stderr = Arc::clone(&collected);
        let errors = thread::spawn(move || {
            let mut bytes = [0; 4096];
            while let Ok(n @ 1..) = stderr.read(&mut bytes) {
                of_stderr.stderr.lock().unwrap().extend_from_slice(&bytes[..n]);
            }
        });
        Agent { child, port, collected, readers: vec![lines, errors], _dir: dir }
    }
}

/// A running agent; ended when dropped.
pub struct Agent {
    child: Child,
    pub port: u16,
    collected: Arc<Collected>,
    readers: Vec<thread::JoinHandle<()>>,
    _dir: TempDir,
}

impl Agent {
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    pub fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }

    pub fn wait_ready(&self) {
        wait_for(
            SOON,
            || format!("the agent watches a gateway; it said: {}{}", tail(&self.stdout()), self.stderr()),
            || get(self.port, "/readyz").filter(|(status, _)| *status == 200),
        );
    }

    pub fn lines(&self) -> Vec<Line> {
        self.collected.lines.lock().unwrap().clone()
    }

    pub fn requests(&self) -> Vec<Line> {
        self.collected.lines.lock().unwrap().iter().filter(|line| line.is_request()).cloned().collect()
    }

    pub fn requests_count(&self) -> usize {
        self.collected.lines.lock().unwrap().iter().filter(|line| line.is_request()).count()
    }

    /// The lines of requests, once there are so many.
    pub fn wait_requests(&self, count: usize) -> Vec<Line> {
        let told = || {
            format!(
                "{count} requests in the log; there are {}:\n{}",
                self.requests_count(),
                tail(&self.stdout())
            )
        };
        wait_for(SOON, told, || (self.requests_count() >= count).then_some(()));
        self.requests()
    }

    /// The first line this holds of.
    pub fn wait_line(&self, what: &str, holds: impl Fn(&Line) -> bool) -> Line {
        let find = || self.collected.lines.lock().unwrap().iter().find(|line| holds(line)).cloned();
        wait_for(SOON, || format!("{what}; it said:\n{}{}", tail(&self.stdout()), self.stderr()), find)
    }

    pub fn wait_said(&self, part: &str) -> Line {
        self.wait_line(&format!("a line with {part:?}"), |line| line.raw.contains(part))
    }

    pub fn stdout(&self) -> String {
        self.collected.lines.lock().unwrap().iter().fold(String::new(), |mut all, line| {
            all.push_str(&line.raw);
            all
        })
    }

    pub fn stderr(&self) -> String {
        text(&self.collected.stderr.lock().unwrap())
    }

    pub fn metrics(&self) -> Metrics {
        let (status, body) = get(self.port, "/metrics").unwrap();
        assert_eq!(status, 200);
        Metrics::parse(&body)
    }

    /// The metrics, once this holds of them.
    pub fn wait_metrics(&self, limit: Duration, what: &str, holds: impl Fn(&Metrics) -> bool) -> Metrics {
        let last = std::cell::RefCell::new(Metrics::default());
        wait_for(
            limit,
            || format!("{what}; last:\n{}", last.borrow().brief()),
            || {
                let metrics = self.metrics();
                if holds(&metrics) {
                    return Some(metrics);
                }
                *last.borrow_mut() = metrics;
                None
            },
        )
    }

    /// Waits until so many are reported, and reports that it stays so.
    /// Waits until packets of an interface are counted.
    pub fn wait_attached(&self, interface: &str) -> Metrics {
        self.wait_metrics(SOON, "the interface is watched", |metrics| {
            metrics.select("gatewatch_network_attached", &[("interface", interface)]).next().is_some()
        })
    }

    /// The connections it tells of.
    pub fn connections(&self) -> Vec<Value> {
        let (status, body) = get(self.port, "/api/v1/connections").unwrap();
        assert_eq!(status, 200, "{body}");
        body.lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }

    pub fn wait_reported(&self, count: u64) -> Metrics {
        self.wait_metrics(SOON, &format!("{count} requests are reported"), |metrics| {
            metrics.reported() >= count
        })
    }

    /// Waits for its end by itself.
    pub fn wait_end(&mut self) -> std::process::ExitStatus {
        let child = &mut self.child;
        let status = wait_for(SOON, || "the agent ends".to_owned(), || child.try_wait().unwrap());
        for reader in self.readers.drain(..) {
            reader.join().unwrap();
        }
        status
    }

    /// Ends it as a user does, and waits until all it said is collected.
    pub fn end(&mut self) -> std::process::ExitStatus {
        signal(self.pid(), Signal::TERM);
        self.wait_end()
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
        if thread::panicking() {
            let stderr = self.stderr();
            if !stderr.is_empty() {
                eprintln!("the agent's stderr: {stderr}");
            }
        }
    }
}

/// One sample of `/metrics`.
#[derive(Clone, Debug)]
pub struct Sample {
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub value: f64,
}

impl Sample {
    pub fn label(&self, name: &str) -> &str {
        self.labels.get(name).map_or("", String::as_str)
    }
}

/// What `/metrics` answered.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    pub text: String,
    pub samples: Vec<Sample>,
}

impl Metrics {
    pub fn parse(text: &str) -> Self {
        let lines = text.lines().filter(|line| !line.starts_with('#') && !line.is_empty());
        Self { text: text.to_owned(), samples: lines.map(sample).collect() }
    }

    pub fn select<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&'a str, &'a str)],
    ) -> impl Iterator<Item = &'a Sample> + 'a {
        self.samples
            .iter()
            .filter(move |s| s.name == name && labels.iter().all(|(key, value)| s.label(key) == *value))
    }

    /// The sum of the samples that bear these labels.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> u64 {
        let sum: f64 =
            self.select(name, labels).map(|sample| sample.value).fold(0.0, |sum, value| sum + value);
        assert!(sum >= 0.0 && sum.fract() == 0.0, "{name} is no count: {sum}");
        format!("{sum:.0}").parse().unwrap()
    }

    pub fn reported(&self) -> u64 {
        self.sum("gatewatch_http_requests_total", &[])
    }

    /// Requests that are counted as lost.
    pub fn lost(&self) -> u64 {
        self.sum("gatewatch_lost_total", &[]) - self.sum("gatewatch_lost_total", &[("stage", "export")])
    }

    /// Only what tells of packets and connections, for messages.
    pub fn network(&self) -> String {
        let told = ["network", "connection", "application", "attached", "tcp_", "repairs"];
        let line = |line: &&str| {
            told.iter().any(|name| line.contains(name))
                && !line.starts_with('#')
                && !line.contains("_bucket")
                && !line.contains("_map_")
        };
        self.text.lines().filter(line).collect::<Vec<_>>().join("\n")
    }

    /// Only what tells of counts, for messages.
    pub fn brief(&self) -> String {
        let told = [
            "gatewatch_http_requests_total",
            "gatewatch_lost_total",
            "gatewatch_gateway",
            "gatewatch_capture",
            "in_flight",
        ];
        self.text
            .lines()
            .filter(|line| told.iter().any(|name| line.contains(name)) && !line.starts_with('#'))
            .fold(String::new(), |mut all, line| {
                let _infallible = writeln!(all, "{line}");
                all
            })
    }
}

/// `name{label="value",…} number`
fn sample(line: &str) -> Sample {
    let bad = || -> ! { panic!("not a sample: {line:?}") };
    let end = line.find(['{', ' ']).unwrap_or_else(|| bad());
    let (name, mut rest) = line.split_at(end);
    let mut labels = BTreeMap::new();
    if let Some(inside) = rest.strip_prefix('{') {
        rest = inside;
        while !rest.starts_with('}') {
            let (key, value) = rest.split_once("=\"").unwrap_or_else(|| bad());
            let mut text = String::new();
            let mut chars = value.char_indices();
            let end = loop {
                match chars.next() {
                    Some((_, '\\')) => match chars.next() {
                        Some((_, 'n')) => text.push('\n'),
                        Some((_, c)) => text.push(c),
                        None => bad(),
                    },
                    Some((at, '"')) => break at,
                    Some((_, c)) => text.push(c),
                    None => bad(),
                }
            };
            labels.insert(key.to_owned(), text);
            rest = &value[end + 1..];
            rest = rest.strip_prefix(',').unwrap_or(rest);
        }
        rest = &rest[1..];
    }
    let value = rest.trim().split(' ').next().unwrap_or_else(|| bad());
    Sample { name: name.to_owned(), labels, value: value.parse().unwrap_or_else(|_| bad()) }
}
