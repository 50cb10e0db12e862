//! A real control plane on loopback: etcd, kube-apiserver and some controllers, each a process of the test's own; and
//! KEDA's operator beside it. No kubelet: pods are objects.

use std::{
    fs::{self, File},
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{free_port, run, tail, wait_for};

/// How long a control plane may take to begin.
const START: Duration = Duration::from_secs(60);
const TOKEN: &str = "the-test-itself";

/// A process that ends with the test. What it says goes to a file.
pub struct Process {
    child: Child,
    pub log: PathBuf,
}

impl Process {
    pub fn start(command: &mut Command, log: PathBuf) -> Self {
        let file = File::create(&log).unwrap();
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("{command:?}: {error}"));
        Self { child, log }
    }

    pub fn said(&self) -> String {
        fs::read_to_string(&self.log).unwrap_or_default()
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Fails when it has ended by itself.
    pub fn assert_alive(&mut self) {
        let ended = self.child.try_wait().unwrap();
        assert!(ended.is_none(), "{} has ended: {}", self.log.display(), tail(&self.said()));
    }

    /// Ends it by SIGTERM; how it ended.
    pub fn stop(mut self) -> std::process::ExitStatus {
        super::signal(self.id(), rustix::process::Signal::TERM);
        wait_for(super::SOON, || "it ends".to_owned(), || self.child.try_wait().unwrap())
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// The programs' directory: `KUBEBUILDER_ASSETS`, else built once into a cache.
fn assets(part: &str) -> PathBuf {
    if part == "kubernetes"
        && let Some(assets) = std::env::var_os("KUBEBUILDER_ASSETS")
    {
        return assets.into();
    }
    let build = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tools/envtest/build");
    run(build, &[part]).trim().into()
}

/// A control plane; ended when dropped.
pub struct Cluster {
    // Ended in this order.
    processes: Vec<Process>,
    dir: TempDir,
    port: u16,
}

impl Cluster {
    /// With these of kube-controller-manager's controllers.
    pub fn start(controllers: &[&str]) -> Self {
        let assets = assets("kubernetes");
        let dir = tempfile::Builder::new().prefix("gwt-cluster-").tempdir().unwrap();
        let mut cluster = Self { processes: Vec::new(), dir, port: free_port() };
        let etcd = cluster.start_etcd(&assets);
        cluster.start_apiserver(&assets, etcd);
        if !controllers.is_empty() {
            let mut command = Command::new(assets.join("kube-controller-manager"));
            command
                .arg(format!("--kubeconfig={}", cluster.kubeconfig().display()))
                .arg(format!("--controllers={}", controllers.join(",")))
                .arg(format!("--secure-port={}", free_port()))
                .arg(format!("--cert-dir={}", cluster.path("controller-manager").display()))
                .args(["--bind-address=127.0.0.1", "--leader-elect=false"]);
            cluster.spawn(&mut command, "controller-manager.log");
        }
        cluster
    }

    fn start_etcd(&mut self, assets: &Path) -> String {
        let (client, peer) = (free_port(), free_port());
        let (client, peer) = (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let mut command = Command::new(assets.join("etcd"));
        command
            .arg(format!("--data-dir={}", self.path("etcd").display()))
            .args([format!("--listen-client-urls={client}"), format!("--advertise-client-urls={client}")])
            .args([format!("--listen-peer-urls={peer}"), format!("--initial-advertise-peer-urls={peer}")])
            .arg(format!("--initial-cluster=default={peer}"))
            .arg("--unsafe-no-fsync");
        self.spawn(&mut command, "etcd.log");
        client
    }

    fn start_apiserver(&mut self, assets: &Path, etcd: String) {
        let key = self.path("service-accounts.key");
        run("openssl", &["genrsa", "-out", key.to_str().unwrap(), "2048"]);
        fs::write(self.path("tokens.csv"), format!("{TOKEN},test,test,system:masters\n")).unwrap();
        let mut command = Command::new(assets.join("kube-apiserver"));
        command
            .arg(format!("--etcd-servers={etcd}"))
            .arg(format!("--cert-dir={}", self.path("apiserver").display()))
            .arg(format!("--secure-port={}", self.port))
            .arg(format!("--token-auth-file={}", self.path("tokens.csv").display()))
            .arg(format!("--service-account-key-file={}", key.display()))
            .arg(format!("--service-account-signing-key-file={}", key.display()))
            .args(["--bind-address=127.0.0.1", "--advertise-address=127.0.0.1"])
            .args(["--service-account-issuer=https://127.0.0.1/", "--service-cluster-ip-range=10.96.0.0/16"])
            .args(["--authorization-mode=RBAC", "--disable-admission-plugins=ServiceAccount"])
            .args(["--endpoint-reconciler-type=none", "--allow-privileged=true"]);
        self.spawn(&mut command, "apiserver.log");
        let began = Instant::now();
        loop {
            for process in &mut self.processes {
                process.assert_alive();
            }
            if self.path("apiserver/apiserver.crt").exists() && self.request("GET", "/readyz", None).0 == 200
            {
                break;
            }
            assert!(began.elapsed() < START, "no API server: {}", tail(&self.said("apiserver.log")));
            thread::sleep(Duration::from_millis(100));
        }
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.port),
                "certificate-authority": self.path("apiserver/apiserver.crt"),
            }}],
            "users": [{"name": "test", "user": {"token": TOKEN}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        fs::write(self.kubeconfig(), config.to_string()).unwrap();
    }

    /// Ends the API server, for good.
    pub fn stop_apiserver(&mut self) {
        let at = self.processes.iter().position(|process| process.log.ends_with("apiserver.log")).unwrap();
        self.processes.remove(at);
    }

    fn spawn(&mut self, command: &mut Command, log: &str) {
        let process = Process::start(command, self.path(log));
        self.processes.insert(0, process);
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn said(&self, log: &str) -> String {
        fs::read_to_string(self.path(log)).unwrap_or_default()
    }

    /// An administrator's.
    pub fn kubeconfig(&self) -> PathBuf {
        self.path("kubeconfig")
    }

    fn curl(&self) -> Command {
        let mut curl = Command::new("curl");
        curl.arg("-sN")
            .args(["--cacert", self.path("apiserver/apiserver.crt").to_str().unwrap()])
            .args(["-H", &format!("Authorization: Bearer {TOKEN}")]);
        curl
    }

    fn url(&self, path: &str) -> String {
        format!("https://127.0.0.1:{}{path}", self.port)
    }

    /// Asks the API server: status, and what it answers.
    pub fn request(&self, method: &str, path: &str, body: Option<(&str, &str)>) -> (u16, String) {
        let mut curl = self.curl();
        curl.args(["-X", method, "-w", "\n%{http_code}", "--max-time", "20", &self.url(path)]);
        if let Some((kind, content)) = body {
            let file = self.path(&format!("body-{:?}", thread::current().id()));
            fs::write(&file, content).unwrap();
            let data = format!("@{}", file.display());
            curl.args(["-H", &format!("Content-Type: {kind}"), "--data-binary", &data]);
        }
        let output = super::text(&curl.output().unwrap().stdout);
        let (answer, status) = output.rsplit_once('\n').unwrap_or_default();
        (status.parse().unwrap_or(0), answer.to_owned())
    }

    pub fn get(&self, path: &str) -> Option<Value> {
        let (status, answer) = self.request("GET", path, None);
        (status == 200).then(|| serde_json::from_str(&answer).unwrap())
    }

    /// Creates an object in the collection at `path`.
    pub fn create(&self, path: &str, object: &Value) -> Value {
        let (status, answer) = self.request("POST", path, Some(("application/json", &object.to_string())));
        assert_eq!(status, 201, "{path}: {answer}");
        serde_json::from_str(&answer).unwrap()
    }

    pub fn create_yaml(&self, path: &str, yaml: &str) {
        let (status, answer) = self.request("POST", path, Some(("application/yaml", yaml)));
        assert_eq!(status, 201, "{path}: {answer}");
    }

    pub fn merge(&self, path: &str, patch: &Value) {
        let body = patch.to_string();
        let (status, answer) = self.request("PATCH", path, Some(("application/merge-patch+json", &body)));
        assert_eq!(status, 200, "{path}: {answer}");
    }

    pub fn delete(&self, path: &str) {
        let (status, answer) = self.request("DELETE", path, None);
        assert!(status == 200 || status == 202, "{path}: {answer}");
    }

    /// What becomes of the objects of a collection, from now on, with when it was told.
    pub fn watch(&self, path: &str) -> Watch {
        let list = self.get(path).unwrap();
        let version = list["metadata"]["resourceVersion"].as_str().unwrap();
        let url = self.url(&format!("{path}?watch=true&resourceVersion={version}"));
        let mut child = self.curl().arg(url).stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let (sender, events) = mpsc::channel();
        thread::spawn(move || {
            for line in lines {
                let (at, Ok(line)) = (Instant::now(), line) else { return };
                let Ok(event) = serde_json::from_str(&line) else { return };
                if sender.send((at, event)).is_err() {
                    return;
                }
            }
        });
        Watch { child, events }
    }
}

/// Events of a collection.
pub struct Watch {
    child: Child,
    events: Receiver<(Instant, Value)>,
}

impl Watch {
    /// When the first object came for which it holds.
    pub fn until(&self, limit: Duration, what: &str, holds: impl Fn(&Value) -> bool) -> Instant {
        let end = Instant::now() + limit;
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let (at, event) =
                self.events.recv_timeout(left).unwrap_or_else(|_| panic!("waited {limit:?} in vain: {what}"));
            if holds(&event["object"]) {
                return at;
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let _ended_already = self.child.kill();
        let _gone = self.child.wait();
    }
}

/// KEDA's definitions in this cluster, and its operator beside it.
pub fn start_keda(cluster: &Cluster) -> Process {
    let assets = assets("keda");
    for file in fs::read_dir(assets.join("keda-crds")).unwrap() {
        let yaml = fs::read_to_string(file.unwrap().path()).unwrap();
        cluster.create_yaml("/apis/apiextensions.k8s.io/v1/customresourcedefinitions", &yaml);
    }
    cluster.create("/api/v1/namespaces", &json!({"metadata": {"name": "keda"}}));
    // For its service towards the API server, which nobody uses here.
    let certificates = cluster.path("keda-certificates");
    fs::create_dir(&certificates).unwrap();
    self_signed(&certificates, "tls.crt", "tls.key");
    fs::copy(certificates.join("tls.crt"), certificates.join("ca.crt")).unwrap();
    let served = |path: &str| cluster.get(path).is_some();
    wait_for(
        START,
        || "KEDA's definitions".to_owned(),
        || served("/apis/keda.sh/v1alpha1/scaledobjects").then_some(()),
    );
    let probe = free_port();
    let mut command = Command::new(assets.join("keda-operator"));
    command
        .arg(format!("--kubeconfig={}", cluster.kubeconfig().display()))
        .arg(format!("--cert-dir={}", certificates.display()))
        .arg(format!("--ca-dir={}", certificates.display()))
        .arg(format!("--metrics-bind-address=127.0.0.1:{}", free_port()))
        .arg(format!("--metrics-service-bind-address=127.0.0.1:{}", free_port()))
        .arg(format!("--health-probe-bind-address=127.0.0.1:{probe}"))
        .envs([
            ("WATCH_NAMESPACE", ""),
            ("POD_NAMESPACE", "keda"),
            ("KEDA_CLUSTER_OBJECT_NAMESPACE", "keda"),
        ]);
    let mut keda = Process::start(&mut command, cluster.path("keda.log"));
    let log = keda.log.clone();
    let told = || format!("KEDA is not ready: {}", tail(&fs::read_to_string(&log).unwrap_or_default()));
    wait_for(START, told, || {
        keda.assert_alive();
        super::get(probe, "/readyz").filter(|(status, _)| *status == 200)
    });
    keda
}

/// A certificate for `localhost` that vouches for itself.
pub fn self_signed(dir: &Path, certificate: &str, key: &str) {
    let (certificate, key) = (dir.join(certificate), dir.join(key));
    let (certificate, key) = (certificate.to_str().unwrap(), key.to_str().unwrap());
    let mut args =
        vec!["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"];
    args.extend(["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost", "-days", "2"]);
    args.extend(["-keyout", key, "-out", certificate]);
    run("openssl", &args);
}
