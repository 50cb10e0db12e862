"""From connect() to KEDA: `gatewatch node` and `gatewatch scaler`, a real API server, and who waits for the answer.

All of it in a network namespace without a way out, in which Services' addresses are the machine's own: who calls one
is refused at once, as kube-proxy refuses calls of a Service without endpoints.
"""

import json
import os
import pathlib
import re
import socket
import ssl
import statistics
import struct
import subprocess
import time
import urllib.request

import rig as rigs
from packets import CLONE_NEWNET, LIBC, Pair, checked, enter, ip
from rig import Failed

TOKEN = "the-benchmark-itself"
RANGE = "10.96.0.0/16"
CALLS = 250
GOAL_MS = 10
TESTS = [
    ("keda", "from_zero", r"(connect\(\) in a pod, push|Prometheus every [^:]*): (.*)$"),
    ("hold", "a_thousand_first_requests", r"\b(\d+ of \d+ answered)\.? (.*)$"),
]


class Namespace:
    """A network namespace of this thread's own until close()."""

    def __init__(self):
        self.home = Pair.current()
        checked(LIBC.unshare(CLONE_NEWNET), "unshare")
        ip("link set lo up")
        ip(f"route add local {RANGE} dev lo")

    def close(self):
        enter(self.home)
        os.close(self.home)


class Cluster:
    """etcd and an API server, as tools/envtest/build makes them."""

    def __init__(self, rig):
        assets = os.environ.get("KUBEBUILDER_ASSETS") or subprocess.run(
            [rigs.ROOT / "tools/envtest/build", "kubernetes"], check=True, capture_output=True, text=True).stdout
        assets, self.dir, self.rig = pathlib.Path(assets.strip()), rig.dir / "cluster", rig
        self.dir.mkdir()
        self.port, etcd, peer = (rigs.free_port() for _ in range(3))
        etcd, peer = f"http://127.0.0.1:{etcd}", f"http://127.0.0.1:{peer}"
        self.start([assets / "etcd", "--data-dir", self.dir / "etcd", "--unsafe-no-fsync",
                    "--listen-client-urls", etcd, "--advertise-client-urls", etcd, "--listen-peer-urls", peer,
                    "--initial-advertise-peer-urls", peer, "--initial-cluster", f"default={peer}"])
        key, tokens, certificates = self.dir / "key", self.dir / "tokens.csv", self.dir / "certificates"
        subprocess.run(["openssl", "genrsa", "-out", key, "2048"], check=True, capture_output=True)
        tokens.write_text(f"{TOKEN},bench,bench,system:masters\n", encoding="ascii")
        self.start([assets / "kube-apiserver", "--etcd-servers", etcd, "--cert-dir", certificates,
                    "--secure-port", self.port, "--token-auth-file", tokens, "--service-account-key-file", key,
                    "--service-account-signing-key-file", key, "--service-account-issuer", "https://127.0.0.1/",
                    "--bind-address", "127.0.0.1", "--advertise-address", "127.0.0.1",
                    "--service-cluster-ip-range", RANGE, "--authorization-mode", "RBAC",
                    "--disable-admission-plugins", "ServiceAccount", "--endpoint-reconciler-type", "none"])
        self.authority = certificates / "apiserver.crt"
        rigs.wait_for("the API server", lambda: self.authority.exists() and self.request("/readyz") == "ok", 90)
        self.kubeconfig = self.dir / "kubeconfig"
        self.kubeconfig.write_text(json.dumps({
            "apiVersion": "v1", "kind": "Config", "current-context": "bench",
            "clusters": [{"name": "bench", "cluster": {"server": f"https://127.0.0.1:{self.port}",
                                                       "certificate-authority": str(self.authority)}}],
            "users": [{"name": "bench", "user": {"token": TOKEN}}],
            "contexts": [{"name": "bench", "context": {"cluster": "bench", "user": "bench"}}]}), encoding="utf-8")

    def start(self, command):
        with open(self.dir / f"{pathlib.Path(command[0]).name}.log", "w", encoding="utf-8") as log:
            return self.rig.start(command, out=log)

    def request(self, path, body=None):
        headers = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json"}
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"https://127.0.0.1:{self.port}{path}", data, headers)
        with urllib.request.urlopen(request, timeout=20,
                                    context=ssl.create_default_context(cafile=self.authority)) as answer:
            return answer.read().decode()


class Asking:
    """What KEDA does: StreamIsActive over gRPC, by hand, for this is all that is needed of HTTP/2 here."""

    def __init__(self, port):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout=10)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(4, 0, 0, b""))
        self.rest, self.next = b"", 1

    def ask(self, namespace, service):
        """Opens a stream; its number."""
        stream, self.next = self.next, self.next + 2
        pair = text(1, b"service") + text(2, service.encode())
        question = text(1, b"bench") + text(2, namespace.encode()) + text(3, pair)
        path, kind = b"/externalscaler.ExternalScaler/StreamIsActive", b"application/grpc"
        header = b"\x83\x86\x04" + short(path) + b"\x01" + short(b"bench") + b"\x0f\x10" + short(kind) \
            + b"\x00" + short(b"te") + short(b"trailers")
        self.socket.sendall(frame(1, 4, stream, header)
                            + frame(0, 1, stream, b"\0" + struct.pack(">I", len(question)) + question))
        return stream

    def answer(self, stream):
        """The next answer on that stream."""
        while True:
            kind, flags, number, payload = self.frame()
            if kind == 0 and number == stream and len(payload) >= 5:
                return payload[5:] == b"\x08\x01"
            if kind in (3, 7) or kind == 1 and flags & 1 and number == stream:
                raise Failed(f"the scaler ends the stream: {payload!r}")
            if kind == 4 and not flags & 1:
                self.socket.sendall(frame(4, 1, 0, b""))
            if kind == 6 and not flags & 1:
                self.socket.sendall(frame(6, 1, 0, payload))

    def frame(self):
        head = self.take(9)
        return head[3], head[4], struct.unpack(">I", head[5:])[0], self.take(int.from_bytes(head[:3], "big"))

    def take(self, length):
        while len(self.rest) < length:
            more = self.socket.recv(65536)
            if not more:
                raise Failed("the scaler ends the connection")
            self.rest += more
        taken, self.rest = self.rest[:length], self.rest[length:]
        return taken

    def end(self, stream):
        self.socket.sendall(frame(3, 0, stream, struct.pack(">I", 8)))

    def close(self):
        self.socket.close()


def frame(kind, flags, stream, payload):
    return len(payload).to_bytes(3, "big") + bytes([kind, flags]) + struct.pack(">I", stream) + payload


def short(value):
    return bytes([len(value)]) + value


def text(field, value):
    return bytes([field << 3 | 2, len(value)]) + value


class Activation:
    """connect() → StreamIsActive true, over the real path."""

    def __init__(self, bench, say):
        self.bench, self.rig, self.say = bench, bench.rig, say

    def start(self, name, options, environment, metrics):
        out = self.rig.dir / f"{name}.out"
        with open(out, "w", encoding="utf-8") as file:
            process = self.rig.start([self.bench.agent, name, *options], env=environment, out=file)

        def ready():
            if process.poll() is not None:
                raise Failed(f"gatewatch {name} ended: {rigs.read(out)[-400:]}")
            return rigs.fetch(f"http://127.0.0.1:{metrics}/readyz")
        rigs.wait_for(f"gatewatch {name}", ready, 60)

    def measure(self):
        """Milliseconds of each call."""
        cluster = Cluster(self.rig)
        cluster.request("/api/v1/namespaces", {"metadata": {"name": "market"}})
        for i in range(CALLS):
            cluster.request("/api/v1/namespaces/market/services", {
                "metadata": {"name": f"shop{i}"}, "spec": {"clusterIP": address(i), "ports": [{"port": 80}]}})
        demand, node, asked, scaler = (rigs.free_port() for _ in range(4))
        config = self.rig.dir / "node.yaml"
        config.write_text(f"node: {{ demand: {{ listen: '127.0.0.1:{demand}' }} }}\n", encoding="ascii")
        self.start("node", ["--config", config, "--listen", f"127.0.0.1:{node}"],
                   {"MODE": "cluster", "KUBECONFIG": str(cluster.kubeconfig)}, node)
        self.start("scaler", ["--listen", f"127.0.0.1:{asked}", "--nodes", f"127.0.0.1:{demand}",
                              "--metrics", f"127.0.0.1:{scaler}"], {}, scaler)
        known = f'destination_service="shop{CALLS - 1}"'
        rigs.wait_for("the Services", lambda: known in rigs.fetch(f"http://127.0.0.1:{node}/metrics"), 30)
        asking, taken = Asking(asked), []
        for i in range(CALLS):
            stream = asking.ask("market", f"shop{i}")
            if asking.answer(stream):
                raise Failed(f"shop{i} is active before it was called")
            time.sleep(0.005)
            began = time.monotonic()
            with socket.socket() as caller:
                caller.connect_ex((address(i), 80))
            while not asking.answer(stream):
                pass
            taken.append((time.monotonic() - began) * 1e3)
            asking.end(stream)
        asking.close()
        return taken

    def run(self):
        found = list(self.rig.processes)
        namespace = Namespace()
        try:
            taken = sorted(self.measure())
        finally:
            for process in reversed(list(self.rig.processes)):
                if process not in found:
                    self.rig.stop(process)
            namespace.close()
        self.bench.raw["activation"] = taken
        return taken


def address(i):
    return f"10.96.{1 + i // 250}.{1 + i % 250}"


def at(values, share):
    return values[min(int(len(values) * share), len(values) - 1)]


def tests(say):
    """What the tests of KEDA and of the hold tell by themselves: test, what, figures."""
    rows = []
    for file, name, pattern in TESTS:
        command = [os.environ.get(f"BENCH_{file.upper()}_TEST")]
        if not command[0]:
            command = ["cargo", "test", "--release", "-q", "-p", "gatewatch", "--test", file, "--"]
        command += [name, "--nocapture", "--test-threads=1"]
        say(" ".join(command))
        done = subprocess.run(command, cwd=rigs.ROOT / "crates/gatewatch", capture_output=True, text=True)
        told = re.findall(pattern, done.stdout, re.M)
        rows += [(f"`{file}`", what, figures) for what, figures in told]
        if not told or done.returncode != 0:
            rows.append((f"`{file}`", name, f"failed: {(done.stdout + done.stderr)[-300:].strip()!r}"))
    return rows


def part(bench, table, commands, say):
    """The part `activation`. True: all of it was measured."""
    bench.stats.set(0)
    print("## Activation\n")
    with rigs.turn():
        taken = Activation(bench, say).run()
    p50, p99 = statistics.median(taken), at(taken, 0.99)
    print("`connect()` on a Service without a pod, through `gatewatch node` and `gatewatch scaler`, to the answer of "
          "`StreamIsActive`, each Service called once.\n")
    table(("calls", "p50, ms", "p90, ms", "p99, ms", "most, ms", "goal"), [
        (len(taken), f"{p50:.2f}", f"{at(taken, 0.9):.2f}", f"{p99:.2f}", f"{taken[-1]:.2f}",
         f"p99 ≤ {GOAL_MS}: " + ("**met**" if p99 <= GOAL_MS else "**missed**"))])
    rows = tests(say)
    print("KEDA's own operator, and the hold of first requests, as their tests tell:\n")
    table(("test", "what", "figures"), rows)
    commands([f"cargo test --release -p gatewatch --test {file} {name} -- --nocapture" for file, name, _ in TESTS])
    return not any(figures.startswith("failed") for *_, figures in rows)
