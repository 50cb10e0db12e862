//! A real Kubernetes control plane on loopback: etcd, kube-apiserver and, where wanted, kube-controller-manager. There are
//! no kubelets: nodes and pods are objects, and a pod has the address and the phase that a test gives it.
//!
//! Used as `#[path = "common/cluster.rs"] mod cluster;`. The programs are those in `KUBEBUILDER_ASSETS`, as the envtest
//! convention has it, else those that `tools/envtest/build` has built.

#![allow(dead_code, clippy::unwrap_used, clippy::panic, clippy::indexing_slicing, unreachable_pub)]

use std::{
    fmt::Debug,
    fs::{self, File},
    io::{Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::OnceLock,
    thread,
    time::{Duration, Instant},
};

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::Deployment,
        core::v1::{Namespace, Node, Pod, Service},
        discovery::v1::EndpointSlice,
    },
};
use kube::{
    Api, Client, Config, Resource,
    api::{DeleteParams, Patch, PatchParams, PostParams},
    config::{KubeConfigOptions, Kubeconfig},
};
use rustix::process::{Pid, Signal, kill_process};
use serde::{Serialize, de::DeserializeOwned};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

/// How long a program of the control plane may take to be there, on a machine with other things to do.
const STARTS: Duration = Duration::from_secs(90);
/// A user that may do everything.
const ADMIN: &str = "admin";

/// Where the programs are.
pub fn assets() -> &'static Path {
    static ASSETS: OnceLock<PathBuf> = OnceLock::new();
    ASSETS.get_or_init(|| {
        if let Some(path) = std::env::var_os("KUBEBUILDER_ASSETS") {
            return path.into();
        }
        built("kubernetes")
    })
}

/// KEDA's operator, and the directory with its custom resource definitions.
pub fn keda() -> (PathBuf, PathBuf) {
    let built = built("keda");
    (built.join("keda-operator"), built.join("keda-crds"))
}

fn built(part: &str) -> PathBuf {
    let build = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tools/envtest/build");
    let output = Command::new(build).arg(part).stderr(Stdio::inherit()).output().unwrap();
    assert!(output.status.success(), "tools/envtest/build {part} failed");
    String::from_utf8(output.stdout).unwrap().trim().into()
}

/// A program that ends with its owner, and with the thread that started it, however that ends.
pub struct Daemon {
    child: Child,
    log: PathBuf,
}

impl Daemon {
    pub fn start(program: &Path, args: &[String], log: PathBuf) -> Self {
        let output = File::options().create(true).append(true).open(&log).unwrap();
        let child = Command::new("setpriv")
            .args(["--pdeathsig", "KILL"])
            .arg(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(output.try_clone().unwrap())
            .stderr(output)
            .spawn()
            .unwrap();
        Self { child, log }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.child), signal).unwrap();
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The end of what it said.
    pub fn said(&self) -> String {
        let text = String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned();
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(15)..].join("\n")
    }

    fn is_running(&mut self) -> bool {
        matches!(self.child.try_wait(), Ok(None))
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// How it is started.
#[derive(Clone, Default)]
pub struct ControlPlaneSetup {
    controllers: bool,
    dual_stack: bool,
}

impl ControlPlaneSetup {
    /// With those controllers that need no kubelet: Deployments make pods, Services get their slices.
    pub fn controllers(mut self) -> Self {
        self.controllers = true;
        self
    }

    /// Services may have IPv4 and IPv6.
    pub fn dual_stack(mut self) -> Self {
        self.dual_stack = true;
        self
    }

    pub fn start(self) -> ControlPlane {
        let dir = tempfile::Builder::new().prefix("gwk-").tempdir().unwrap();
        let (etcd_port, api_port) = (free_port(), free_port());
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let url = format!("http://127.0.0.1:{etcd_port}");
        let etcd = Daemon::start(
            &assets().join("etcd"),
            &words(&[
                ("data-dir", &path("etcd")),
                ("listen-client-urls", &url),
                ("advertise-client-urls", &url),
                ("listen-peer-urls", "http://127.0.0.1:0"),
                ("unsafe-no-fsync", "true"),
                ("log-level", "error"),
            ]),
            dir.path().join("etcd.log"),
        );
        let key = path("service-accounts.key");
        let made = Command::new("openssl")
            .args(["ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", &key])
            .status()
            .unwrap();
        assert!(made.success());
        // Whoever comes with a name as his token is of that name; what he may do, RBAC says.
        let tokens = format!("{ADMIN},{ADMIN},{ADMIN},system:masters\n");
        let users =
            ["node", "one-namespace", "nobody"].map(|name| format!("{name},{name},{name}\n")).concat();
        fs::write(path("tokens"), tokens + &users).unwrap();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let api = start_api(&self, dir.path(), etcd_port, api_port);
        let mut plane = ControlPlane {
            setup: self,
            runtime,
            api: Some(api),
            etcd,
            controllers: None,
            dir,
            etcd_port,
            api_port,
            client: None,
        };
        plane.wait_ready();
        if plane.setup.controllers {
            plane.start_controllers();
        }
        plane
    }
}

fn start_api(setup: &ControlPlaneSetup, dir: &Path, etcd_port: u16, api_port: u16) -> Daemon {
    let path = |name: &str| dir.join(name).to_str().unwrap().to_owned();
    let range = if setup.dual_stack { "10.96.0.0/16,fd00:96::/112" } else { "10.96.0.0/16" };
    Daemon::start(
        &assets().join("kube-apiserver"),
        &words(&[
            ("etcd-servers", &format!("http://127.0.0.1:{etcd_port}")),
            ("bind-address", "127.0.0.1"),
            ("advertise-address", "127.0.0.1"),
            ("secure-port", &api_port.to_string()),
            ("cert-dir", &path("certificates")),
            ("service-cluster-ip-range", range),
            ("endpoint-reconciler-type", "none"),
            ("authorization-mode", "RBAC"),
            ("token-auth-file", &path("tokens")),
            // Accounts are made by a controller that a test may not have started.
            ("disable-admission-plugins", "ServiceAccount"),
            ("service-account-issuer", "https://127.0.0.1"),
            ("service-account-key-file", &path("service-accounts.key")),
            ("service-account-signing-key-file", &path("service-accounts.key")),
            ("allow-privileged", "true"),
        ]),
        dir.join("kube-apiserver.log"),
    )
}

fn words(flags: &[(&str, &str)]) -> Vec<String> {
    flags.iter().map(|(name, value)| format!("--{name}={value}")).collect()
}

/// One that nobody listens on now.
fn free_port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// A running control plane; ended when dropped.
pub struct ControlPlane {
    setup: ControlPlaneSetup,
    runtime: Runtime,
    client: Option<Client>,
    controllers: Option<Daemon>,
    api: Option<Daemon>,
    etcd: Daemon,
    etcd_port: u16,
    api_port: u16,
    dir: TempDir,
}

impl ControlPlane {
    /// With etcd and the API server only.
    pub fn start() -> Self {
        ControlPlaneSetup::default().start()
    }

    pub fn with_controllers() -> Self {
        ControlPlaneSetup::default().controllers().start()
    }

    fn wait_ready(&mut self) {
        let until = Instant::now() + STARTS;
        loop {
            let api = self.api.as_mut().unwrap();
            assert!(api.is_running(), "kube-apiserver has ended: {}", api.said());
            // Its certificate is there when it is about to listen.
            if self.dir.path().join("certificates/apiserver.crt").exists() {
                let client = self.connect(ADMIN);
                let ready = http::Request::get("/readyz").body(Vec::new()).unwrap();
                if self.runtime.block_on(client.request_text(ready)).is_ok() {
                    self.client = Some(client);
                    return;
                }
            }
            assert!(
                Instant::now() < until,
                "kube-apiserver does not get ready: {}",
                self.api.as_ref().unwrap().said()
            );
            thread::sleep(Duration::from_millis(50));
        }
    }

    fn start_controllers(&mut self) {
        // None that waits for kubelets' signs of life.
        let names = [
            "deployment-controller",
            "replicaset-controller",
            "statefulset-controller",
            "daemonset-controller",
            "job-controller",
            "cronjob-controller",
            "endpointslice-controller",
            "namespace-controller",
            "garbage-collector-controller",
            "serviceaccount-controller",
        ];
        let path = |name: &str| self.dir.path().join(name).to_str().unwrap().to_owned();
        self.controllers = Some(Daemon::start(
            &assets().join("kube-controller-manager"),
            &words(&[
                ("kubeconfig", self.kubeconfig().to_str().unwrap()),
                ("authentication-kubeconfig", self.kubeconfig().to_str().unwrap()),
                ("authorization-kubeconfig", self.kubeconfig().to_str().unwrap()),
                ("controllers", &names.join(",")),
                ("leader-elect", "false"),
                ("bind-address", "127.0.0.1"),
                ("secure-port", &free_port().to_string()),
                ("cert-dir", &path("controller-certificates")),
                ("service-account-private-key-file", &path("service-accounts.key")),
            ]),
            self.dir.path().join("kube-controller-manager.log"),
        ));
    }

    /// A user's who may do everything.
    pub fn kubeconfig(&self) -> PathBuf {
        self.kubeconfig_of(ADMIN)
    }

    /// One of `node`, `one-namespace` and `nobody`, who may do what a test lets them.
    pub fn kubeconfig_of(&self, user: &str) -> PathBuf {
        let path = self.dir.path().join(format!("kubeconfig-{user}"));
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "it",
            "clusters": [{ "name": "it", "cluster": {
                "server": format!("https://127.0.0.1:{}", self.api_port),
                "certificate-authority": self.dir.path().join("certificates/apiserver.crt"),
            }}],
            "users": [{ "name": user, "user": { "token": user } }],
            "contexts": [{ "name": "it", "context": { "cluster": "it", "user": user } }],
        });
        fs::write(&path, config.to_string()).unwrap();
        path
    }

    fn connect(&self, user: &str) -> Client {
        let file = Kubeconfig::read_from(self.kubeconfig_of(user)).unwrap();
        self.runtime.block_on(async {
            let config = Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.unwrap();
            Client::try_from(config).unwrap()
        })
    }

    pub fn client(&self) -> Client {
        self.client.clone().unwrap()
    }

    /// What runs the harness's own calls, and may run a test's.
    pub fn runtime(&self) -> &Runtime {
        &self.runtime
    }

    pub fn api_port(&self) -> u16 {
        self.api_port
    }

    pub fn api_pid(&self) -> u32 {
        self.api.as_ref().unwrap().pid()
    }

    /// The API server dies, as of a fault. Its connections are reset.
    pub fn kill_api(&mut self) {
        self.api = None;
    }

    /// It is back, on the same port, with the same certificate.
    pub fn restart_api(&mut self) {
        self.api = Some(start_api(&self.setup, self.dir.path(), self.etcd_port, self.api_port));
        self.wait_ready();
    }

    /// It stands still with all its connections open, until `resume_api`.
    pub fn stall_api(&self) {
        self.api.as_ref().unwrap().signal(Signal::STOP);
    }

    pub fn resume_api(&self) {
        self.api.as_ref().unwrap().signal(Signal::CONT);
    }

    /// Any object, in a namespace.
    pub fn create<K>(&self, namespace: &str, object: Value) -> K
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Serialize + Debug,
        K::DynamicType: Default,
    {
        let api = Api::<K>::namespaced(self.client(), namespace);
        let object = serde_json::from_value(object).unwrap();
        self.runtime.block_on(api.create(&PostParams::default(), &object)).unwrap()
    }

    /// A merge patch.
    pub fn patch<K>(&self, namespace: &str, name: &str, patch: Value) -> K
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        let api = Api::<K>::namespaced(self.client(), namespace);
        self.runtime.block_on(api.patch(name, &PatchParams::default(), &Patch::Merge(patch))).unwrap()
    }

    pub fn patch_status<K>(&self, namespace: &str, name: &str, status: Value) -> K
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        let api = Api::<K>::namespaced(self.client(), namespace);
        let patch = Patch::Merge(json!({ "status": status }));
        self.runtime.block_on(api.patch_status(name, &PatchParams::default(), &patch)).unwrap()
    }

    pub fn get<K>(&self, namespace: &str, name: &str) -> K
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        self.runtime.block_on(Api::<K>::namespaced(self.client(), namespace).get(name)).unwrap()
    }

    pub fn list<K>(&self, namespace: &str) -> Vec<K>
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        let api = Api::<K>::namespaced(self.client(), namespace);
        self.runtime.block_on(api.list(&kube::api::ListParams::default())).unwrap().items
    }

    /// At once, without waiting for a kubelet that is not there.
    pub fn delete<K>(&self, namespace: &str, name: &str)
    where
        K: Resource<Scope = NamespaceResourceScope> + Clone + DeserializeOwned + Debug,
        K::DynamicType: Default,
    {
        let api = Api::<K>::namespaced(self.client(), namespace);
        let at_once = DeleteParams { grace_period_seconds: Some(0), ..DeleteParams::default() };
        let _deleted = self.runtime.block_on(api.delete(name, &at_once)).unwrap();
    }

    /// Any objects of whatever kind, also custom ones, as `kubectl apply` does.
    pub fn apply(&self, object: &Value) {
        let text = |path: &str| object.pointer(path).and_then(Value::as_str).unwrap_or_default().to_owned();
        let (version, kind, name) = (text("/apiVersion"), text("/kind"), text("/metadata/name"));
        let (group, version) = version.split_once('/').unwrap_or(("", &version));
        let kind = kube::core::GroupVersionKind::gvk(group, version, &kind);
        let resource = kube::core::ApiResource::from_gvk(&kind);
        let namespace = text("/metadata/namespace");
        let api: Api<kube::core::DynamicObject> = if namespace.is_empty() {
            Api::all_with(self.client(), &resource)
        } else {
            Api::namespaced_with(self.client(), &namespace, &resource)
        };
        let how = PatchParams::apply("gatewatch-tests").force();
        self.runtime.block_on(api.patch(&name, &how, &Patch::Apply(object))).unwrap();
    }

    pub fn namespace(&self, name: &str) {
        let api = Api::<Namespace>::all(self.client());
        let object = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
        let _made = self.runtime.block_on(api.create(&PostParams::default(), &object)).unwrap();
    }

    /// A node with this internal address.
    pub fn node(&self, name: &str, address: &str) {
        let api = Api::<Node>::all(self.client());
        let object = serde_json::from_value(json!({ "metadata": { "name": name } })).unwrap();
        let _made = self.runtime.block_on(api.create(&PostParams::default(), &object)).unwrap();
        let status = json!({ "status": {
            "addresses": [{ "type": "InternalIP", "address": address }, { "type": "Hostname", "address": name }],
            "conditions": [{ "type": "Ready", "status": "True" }],
        }});
        let (how, status) = (PatchParams::default(), Patch::Merge(status));
        let _patched = self.runtime.block_on(api.patch_status(name, &how, &status)).unwrap();
    }

    /// A Service with one TCP port; `spec` comes on top. Its slices are written by the controllers, if there are any, and it
    /// has a selector.
    pub fn service(&self, namespace: &str, name: &str, port: u16, spec: &Value) -> Service {
        let mut whole = json!({ "ports": [{ "name": "tcp", "port": port, "protocol": "TCP" }] });
        whole.as_object_mut().unwrap().extend(spec.as_object().unwrap().clone());
        self.create(namespace, json!({ "metadata": { "name": name }, "spec": whole }))
    }

    /// A slice `SERVICE-NUMBER`, as a controller of somebody's own writes it.
    pub fn slice(&self, namespace: &str, service: &str, number: u32, port: u16, endpoints: &[(&str, bool)]) {
        let name = format!("{service}-{number}");
        let _made: EndpointSlice = self.create(namespace, slice(&name, service, port, endpoints));
    }

    /// The endpoints of a slice that is there.
    pub fn set_slice(&self, namespace: &str, service: &str, number: u32, endpoints: &[(&str, bool)]) {
        let name = format!("{service}-{number}");
        let whole = slice(&name, service, 1, endpoints);
        let _patched: EndpointSlice =
            self.patch(namespace, &name, json!({ "endpoints": whole["endpoints"] }));
    }

    /// A pod on a node; it runs with this address, if one is given. `metadata` and `spec` come on top.
    pub fn pod(&self, namespace: &str, name: &str, node: &str, address: Option<&str>, more: &Value) -> Pod {
        let mut object = json!({
            "metadata": { "name": name },
            "spec": { "nodeName": node, "containers": [{ "name": "main", "image": "none" }] },
        });
        merge(&mut object, more);
        object["metadata"]["name"] = name.into();
        let made: Pod = self.create(namespace, object);
        match address {
            Some(address) => self.run_pod(namespace, name, address),
            None => made,
        }
    }

    /// It runs and is ready, with this address.
    pub fn run_pod(&self, namespace: &str, name: &str, address: &str) -> Pod {
        self.patch_status(namespace, name, running(address))
    }

    pub fn deployment(&self, namespace: &str, name: &str, replicas: u32) -> Deployment {
        let labels = json!({ "app": name });
        self.create(
            namespace,
            json!({
                "metadata": { "name": name },
                "spec": {
                    "replicas": replicas,
                    "selector": { "matchLabels": labels },
                    "template": {
                        "metadata": { "labels": labels },
                        "spec": { "containers": [{ "name": "main", "image": "none" }] },
                    },
                },
            }),
        )
    }

    /// A user of `kubeconfig_of` may do this in the whole cluster, or in one namespace. Each rule: group, resources, verbs.
    pub fn allow(&self, user: &str, namespace: Option<&str>, rules: &[(&str, &[&str], &[&str])]) {
        let rules: Vec<Value> = rules
            .iter()
            .map(|(group, resources, verbs)| json!({ "apiGroups": [group], "resources": resources, "verbs": verbs }))
            .collect();
        let (role, binding) =
            if namespace.is_some() { ("Role", "RoleBinding") } else { ("ClusterRole", "ClusterRoleBinding") };
        let version = "rbac.authorization.k8s.io/v1";
        let name = json!({ "name": format!("test-{user}"), "namespace": namespace });
        self.apply(&json!({ "apiVersion": version, "kind": role, "metadata": name, "rules": rules }));
        self.apply(&json!({
            "apiVersion": version, "kind": binding, "metadata": name,
            "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": format!("test-{user}") },
            "subjects": [{ "apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": user }],
        }));
    }

    /// Writes objects past the API server into its store, a hundred at a time: tens of thousands in seconds. Each with its
    /// place there, `/registry/pods/NAMESPACE/NAME`, and with all that the API server would have filled in.
    pub fn store(&self, objects: impl Iterator<Item = (String, Value)>) {
        let mut objects = objects.peekable();
        while objects.peek().is_some() {
            let puts: Vec<Value> = objects
                .by_ref()
                .take(100)
                .map(|(key, value)| {
                    json!({ "requestPut": { "key": base64(key.as_bytes()), "value": base64(value.to_string().as_bytes()) } })
                })
                .collect();
            let body = json!({ "success": puts }).to_string();
            let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.etcd_port)).unwrap();
            let length = body.len();
            write!(
                stream,
                "POST /v3/kv/txn HTTP/1.1\r\nHost: etcd\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}"
            )
            .unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
        }
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        if thread::panicking() {
            for daemon in
                [self.api.as_ref(), self.controllers.as_ref(), Some(&self.etcd)].into_iter().flatten()
            {
                eprintln!("--- {}\n{}", daemon.log.display(), daemon.said());
            }
        }
        // The others complain of one that is gone.
        self.controllers = None;
        self.api = None;
    }
}

/// The status of a pod that runs and is ready.
pub fn running(address: &str) -> Value {
    json!({
        "phase": "Running",
        "podIP": address,
        "podIPs": [{ "ip": address }],
        "conditions": [{ "type": "Ready", "status": "True" }],
    })
}

fn slice(name: &str, service: &str, port: u16, endpoints: &[(&str, bool)]) -> Value {
    let v6 = endpoints.first().is_some_and(|(address, _)| address.contains(':'));
    let endpoints: Vec<Value> = endpoints
        .iter()
        .map(|(address, ready)| json!({ "addresses": [address], "conditions": { "ready": ready } }))
        .collect();
    json!({
        "metadata": { "name": name, "labels": { "kubernetes.io/service-name": service } },
        "addressType": if v6 { "IPv6" } else { "IPv4" },
        "endpoints": endpoints,
        "ports": [{ "name": "tcp", "port": port, "protocol": "TCP" }],
    })
}

fn merge(into: &mut Value, more: &Value) {
    match (into, more) {
        (Value::Object(into), Value::Object(more)) => {
            for (key, value) in more {
                merge(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, more) => *into = more.clone(),
    }
}

fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for part in bytes.chunks(3) {
        let number = (0..3)
            .fold(0_usize, |number, at| (number << 8) | usize::from(part.get(at).copied().unwrap_or(0)));
        for at in 0..4 {
            let letter = LETTERS[(number >> (18 - 6 * at)) & 63];
            text.push(if at <= part.len() { char::from(letter) } else { '=' });
        }
    }
    text
}
