"""What the benchmark runs: processes, gateways, load, agents. Whatever is started here is ended here."""

import contextlib
import ctypes
import fcntl
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import urllib.request

from packets import enter

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent
START, END = "ngx_http_process_request", "ngx_http_free_request"
LIBC = ctypes.CDLL(None)
PR_SET_PDEATHSIG = 1


class Failed(Exception):
    """A measurement that could not be made, and why."""


def read(path):
    return pathlib.Path(path).read_text(encoding="utf-8", errors="replace")


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def fetch(url):
    with urllib.request.urlopen(url, timeout=10) as response:
        return response.read().decode()


def wait_for(what, condition, seconds=10.0):
    end = time.monotonic() + seconds
    while True:
        try:
            value = condition()
            if value:
                return value
        except OSError:
            pass
        if time.monotonic() > end:
            raise Failed(f"waited {seconds:g} s for {what}")
        time.sleep(0.03)


def scheduled(pid):
    """Nanoseconds all threads of a process ran, and waited for a CPU."""
    ran = waited = 0
    for task in os.listdir(f"/proc/{pid}/task"):
        try:
            fields = read(f"/proc/{pid}/task/{task}/schedstat").split()
        except OSError:
            continue  # ended meanwhile
        ran += int(fields[0])
        waited += int(fields[1])
    return ran, waited


def children(pid):
    return [int(child) for child in read(f"/proc/{pid}/task/{pid}/children").split()]


@contextlib.contextmanager
def turn():
    """Alone on this machine, but for what knows nothing of it: agents that tests run would watch what is measured."""
    with open(pathlib.Path(tempfile.gettempdir()) / "gatewatch-tests.lock", "a", encoding="ascii") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class Rig:
    """A directory, CPUs, and processes, all given back by close()."""

    def __init__(self):
        self.dir = pathlib.Path(tempfile.mkdtemp(prefix="gatewatch-bench."))
        self.processes = []
        cpus = sorted(os.sched_getaffinity(0))
        apart = len(cpus) > 1 and os.environ.get("BENCH_PIN", "1") != "0"
        self.gateway_cpus = {cpus[-1]} if apart else set(cpus)
        self.other_cpus = set(cpus) - self.gateway_cpus if apart else set(cpus)
        self.all_cpus = set(cpus)

    def start(self, command, cpus=None, env=None, out=None, stop=signal.SIGTERM, namespace=None):
        """Starts a process that dies with this one; in another network namespace where that is given."""
        def prepare():
            if namespace is not None:
                enter(namespace)
            LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
            os.sched_setaffinity(0, cpus or self.other_cpus)

        process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL,
                                   stdout=out or subprocess.DEVNULL, stderr=subprocess.STDOUT if out else None,
                                   env={**os.environ, **(env or {})}, start_new_session=True, preexec_fn=prepare)
        process.ends_by = stop
        self.processes.append(process)
        return process

    def stop(self, process):
        if process not in self.processes:
            return
        offspring = []
        if process.poll() is None:
            offspring = children(process.pid)
            process.send_signal(process.ends_by)
            try:
                process.wait(10)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                for pid in offspring:  # workers of an nginx master that had to be killed
                    try:
                        os.kill(pid, signal.SIGKILL)
                    except ProcessLookupError:
                        pass
        self.processes.remove(process)

    def close(self):
        for process in reversed(list(self.processes)):
            self.stop(process)
        shutil.rmtree(self.dir, ignore_errors=True)


def nginx_binary():
    found = os.environ.get("BENCH_NGINX") or shutil.which("nginx") or "/usr/sbin/nginx"
    if not os.access(found, os.X_OK):
        raise Failed("nginx is not installed (apt-get install nginx libnginx-mod-http-lua), or set BENCH_NGINX")
    return found


class Nginx:
    """One nginx with one worker, run from a copy of the binary under a name of its own."""

    def __init__(self, rig, name, http, modules=(), cpus=None):
        self.rig, self.name = rig, name
        self.binary = rig.dir / name
        self.port, status_port = free_port(), free_port()
        self.status_url = f"http://127.0.0.1:{status_port}/"
        self.conf = rig.dir / f"{name}.conf"
        if not self.binary.exists():
            shutil.copy(nginx_binary(), self.binary)
        listing = subprocess.run([nginx_binary(), "-V"], capture_output=True, text=True, check=True).stderr
        where = re.search(r"--modules-path=(\S+)", listing)
        loads = "".join(f"load_module {where[1] if where else 'modules'}/{module};\n" for module in modules)
        temporary = "".join(f"    {kind}_temp_path {rig.dir}/{name}.tmp;\n"
                            for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi"))
        self.conf.write_text(f"""\
{loads}daemon off;
user root;
worker_processes 1;
pid {rig.dir}/{name}.pid;
error_log {rig.dir}/{name}.error.log warn;
events {{ worker_connections 4096; }}
http {{
{temporary}    access_log off;
    keepalive_requests 1000000000;
    server {{
        listen 127.0.0.1:{status_port};
        location / {{ stub_status; }}
    }}
{http.replace("PORT", str(self.port))}}}
""", encoding="utf-8")
        self.process = rig.start([self.binary, "-e", f"{rig.dir}/{name}.error.log", "-p", rig.dir, "-c", self.conf],
                                 cpus=cpus)
        try:
            self.requests()
        except Failed as failure:
            log = rig.dir / f"{name}.error.log"
            raise Failed(f"{name} does not start: {read(log)[-400:] if log.exists() else failure}") from None
        self.worker = wait_for("a worker", lambda: children(self.process.pid))[0]

    def requests(self):
        """All requests so far, with this one."""
        def ask():
            if self.process.poll() is not None:
                raise Failed(f"{self.name} has ended")
            return re.search(r"requests\s+\d+ \d+ (\d+)", fetch(self.status_url))
        return int(wait_for(f"{self.name}'s stub_status", ask)[1])

    def stop(self):
        self.rig.stop(self.process)


URL = "/api/v1/items/42?page=3"
LUA_MODULES = ("ndk_http_module.so", "ngx_http_lua_module.so")
JSON_FORMAT = """\
    log_format json escape=json '{"level":"info","msg":"HTTP Request","method":"$request_method","host":"$host",'
        '"path":"$request_uri","status_code":$status,"response_time":$request_time,"timestamp":"$time_iso8601",'
        '"gateway":"$server_name:$server_port","service":"","route":"$uri","protocol":"$server_protocol",'
        '"tls":"$https","remote_addr":"$remote_addr","user_agent":"$http_user_agent",'
        '"request_bytes":$request_length,"response_bytes":$bytes_sent,"pid":$pid,"upstream":"$upstream_addr",'
        '"upstream_status":"$upstream_status","upstream_time":"$upstream_response_time"}';
"""


def upstream(rig):
    return Nginx(rig, "up-bench", f"""\
    server {{
        listen 127.0.0.1:PORT backlog=4096;
        location / {{ return 200 "{'.' * 200}\\n"; }}
    }}
""")


def gateway(rig, name, origin, http="", location="", modules=()):
    return Nginx(rig, name, f"""\
{http}    upstream origin {{
        server 127.0.0.1:{origin.port};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:PORT backlog=4096;
        location / {{
{location}            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_pass http://origin;
        }}
    }}
""", modules, rig.gateway_cpus)


def burning(rig, name, origin, turns):
    """A gateway that burns so many turns of Lua in the access phase of each request."""
    block = f"""\
            access_by_lua_block {{
                local text = "gatewatch"
                for _ = 1, {turns} do text = ngx.md5(text) end
                if text == "" then ngx.exit(500) end
            }}
"""
    return gateway(rig, name, origin, location=block, modules=LUA_MODULES)


def load_command(port, seconds, script=None):
    command = ["wrk", "-t1", "-c64", f"-d{seconds}s"]
    return command + (["-s", str(script)] if script else []) + [f"http://127.0.0.1:{port}{URL}"]


def load_check(output):
    done = re.search(r"(\d+) requests in", output)
    errors = re.findall(r"(?:Socket errors|Non-2xx).*", output)
    if not done or int(done[1]) == 0 or errors:
        raise Failed(f"wrk: {'; '.join(errors) or output[-300:]}")
    return int(done[1])


def load(rig, port, seconds, script=None):
    out = rig.dir / "wrk.out"
    with open(out, "w", encoding="utf-8") as file:
        process = rig.start(load_command(port, seconds, script), out=file)
        try:
            process.wait(seconds + 30)
        finally:
            rig.stop(process)
    return load_check(read(out))


class Agent:
    """`gatewatch gateway` on one gateway."""

    def __init__(self, rig, binary, target, options=(), lines=False):
        self.rig, self.target, self.binary = rig, target, binary
        self.options = list(options) + ([] if lines else ["--no-requests"])
        # What requests cost is measured alone; packets have a section of their own, with a configuration.
        if not {"--config", "--no-network"} & set(self.options):
            self.options.append("--no-network")
        self.url = f"http://127.0.0.1:{free_port()}"
        self.out = "/dev/null" if lines else rig.dir / "agent.out"
        self.start(target.name)
        wait_for("the agent to see a request", self.sees, 20)
        requests = target.requests()
        time.sleep(1.3)  # a published figure is up to a second old
        self.before = requests - int(self.value("gatewatch_http_requests_total"))

    def start(self, name):
        with open(self.out, "w", encoding="utf-8") as file:
            self.process = self.rig.start([self.binary, "gateway", *self.options, "--listen", self.url[7:]],
                                          env={"KONG_PROCESS_NAME": name}, out=file)

    def check(self):
        if self.process.poll() is not None:
            raise Failed(f"gatewatch ended with {self.process.returncode}: {self.said()}")

    def sees(self):
        self.check()
        fetch(f"http://127.0.0.1:{self.target.port}{URL}")
        time.sleep(0.1)
        return self.value("gatewatch_http_requests_total") > 0

    def said(self):
        return "(its lines went to /dev/null)" if self.out == "/dev/null" else read(self.out)[-600:].strip()

    def metrics(self):
        return fetch(f"{self.url}/metrics")

    def value(self, name):
        return sum_of(self.metrics(), name)

    def programs(self):
        """Seconds and runs of each kernel program."""
        text, programs = self.metrics(), {}
        for kind, program, value in re.findall(
                r'^gatewatch_program_(run_seconds|runs)_total\{program="([^"]+)"\} (\S+)', text, re.M):
            programs.setdefault(program, {})[kind] = float(value)
        return programs

    def missed(self):
        """Requests the gateway counted since the agent started and the agent did not report, and its ledger."""
        now = self.target.requests()
        end = time.monotonic() + 5
        while True:
            text = self.metrics()
            missed = now - self.before - int(sum_of(text, "gatewatch_http_requests_total"))
            if missed == 0 or time.monotonic() > end:
                return missed, int(sum_of(text, "gatewatch_lost_total"))
            time.sleep(0.1)

    def cpu(self):
        return scheduled(self.process.pid)[0]

    def memory(self):
        """Resident KiB: all, and what no file backs."""
        status = read(f"/proc/{self.process.pid}/status")
        return tuple(int(re.search(rf"^{field}:\s+(\d+)", status, re.M)[1]) for field in ("VmRSS", "RssAnon"))

    def mapped(self):
        """Resident KiB of BPF maps in the agent's address space."""
        total, inside = 0, False
        for line in read(f"/proc/{self.process.pid}/smaps").splitlines():
            if re.match(r"[0-9a-f]+-", line):
                inside = line.endswith("bpf-map")
            elif inside and line.startswith("Rss:"):
                total += int(line.split()[1])
        return total

    def stop(self):
        self.rig.stop(self.process)


def sum_of(metrics, name):
    return sum(float(value) for value in re.findall(rf"^{name}(?:\{{.*\}})? (\S+)", metrics, re.M))


class Bpftrace:
    """A bpftrace script on one gateway's binary."""

    def __init__(self, rig, target, script):
        if not shutil.which("bpftrace"):
            raise Failed("bpftrace is not installed")
        self.rig, self.out = rig, rig.dir / "bpftrace.out"
        self.script = rig.dir / "script.bt"
        self.script.write_text(script.replace("BINARY", str(target.binary)), encoding="utf-8")
        with open(self.out, "w", encoding="utf-8") as file:
            self.process = rig.start(["bpftrace", "-B", "line", self.script], out=file, stop=signal.SIGINT)
        wait_for("bpftrace to attach", self.attached, 30)
        time.sleep(0.5)  # it says so just before it does

    def attached(self):
        if self.process.poll() is not None:
            raise Failed(f"bpftrace ended: {read(self.out)[-400:].strip()}")
        return "Attaching" in read(self.out)

    def stop(self):
        """Ends it; how many requests its histogram has."""
        self.rig.stop(self.process)
        return sum(int(count) for count in re.findall(r"^[\[(].*[\])]\s+(\d+) \|", read(self.out), re.M))


class BpfStatistics:
    """kernel.bpf_stats_enabled: off, on for one measurement, and as it was found."""

    PATH = "/proc/sys/kernel/bpf_stats_enabled"

    def __init__(self):
        self.found = read(self.PATH).strip()

    def set(self, value):
        if read(self.PATH).strip() != str(value):
            pathlib.Path(self.PATH).write_text(f"{value}\n", encoding="ascii")

    def close(self):
        self.set(self.found)
