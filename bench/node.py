"""What `gatewatch node` costs those who are called and those who call, and itself."""

import contextlib
import pathlib
import re
import shutil
import signal
import socket
import statistics
import subprocess
import time

import rig as rigs
from rig import Agent, Bpftrace, Failed, Nginx

SERVER = "srv-bench"
AGENT = {"MODE": "local", "ENABLE_L7_HTTP": "false"}
L7 = {**AGENT, "ENABLE_L7_HTTP": "true"}

# A stretch between two others is compared with them: what else the host does changes more slowly than this, seconds.
STRETCH = 1.0

# name, what is attached: an agent's environment, a bpftrace script or nothing; what it is
VARIANTS = [
    ("off", None, "nothing: how far two equal things differ here"),
    ("l4", AGENT, "`MODE=local gatewatch node`"),
    ("bpftrace-l4", "attempts.bt", "`bench/attempts.bt`: a count by process, from the tracepoint of socket states"),
    ("l7", L7, "`ENABLE_L7_HTTP=true MODE=local gatewatch node`"),
    ("bpftrace-l7", "lengths.bt", "`bench/lengths.bt`: counts by process, from the two tracepoints of lengths"),
]
# name, who serves, what it is
LOADS = [
    ("keep-alive", "nginx", "`wrk -t1 -c64` on kept connections"),
    ("connect", "nginx", "`wrk -t1 -c64`, a connection for each request"),
    ("redis", "redis-server", "`redis-benchmark -t get -c 50`, which L7 does not read"),
]
# load, variant, most
GOALS = {("keep-alive", "l4"): 1.01, ("keep-alive", "l7"): 1.05, ("redis", "l4"): 1.005, ("redis", "l7"): 1.005}
# A peer's on such a machine, requests of a bare nginx: ratio, and its own CPU in µs.
PEER, PEER_RATIO, PEER_OWN = "coroot-node-agent", 1.19, 7.75


def middle(values):
    return statistics.median(values)


class NodeAgent(Agent):
    """`gatewatch node` with what the environment says."""

    def __init__(self, rig, binary, environment):
        self.rig, self.binary, self.out = rig, binary, rig.dir / "agent.out"
        self.url = f"http://127.0.0.1:{rigs.free_port()}"
        with open(self.out, "w", encoding="utf-8") as file:
            self.process = rig.start([binary, "node"], env={**environment, "METRICS_ADDR": self.url[7:]}, out=file)
        rigs.wait_for("the agent", self.ready, 60)

    def ready(self):
        self.check()
        return rigs.fetch(f"{self.url}/readyz")

    def seen(self):
        """Attempts of wrk and requests to the server counted by now, when it has read all that waited for it."""
        found = None
        for _ in range(20):
            time.sleep(1.1)  # a published figure is up to a second old
            text, before = self.metrics(), found
            found = {"connect": by_process(text, "internal_tcp_attempts_total", "wrk"),
                     "keep-alive": by_process(text, "internal_http_requests_total", SERVER), "redis": 0}
            if found == before:
                return found
        raise Failed("the agent goes on counting long after the load")

    def lost(self):
        return int(rigs.sum_of(self.metrics(), "gatewatch_lost_total"))


def by_process(text, name, comm):
    return int(sum(float(value) for value in re.findall(
        rf'^{name}\{{.*process_comm="{re.escape(comm)}".*\}} (\S+)', text, re.M)))


class Script(Bpftrace):
    """A bpftrace script on tracepoints, which are described in a file system of its own."""

    def __init__(self, rig, script):
        if not shutil.which("bpftrace"):
            raise Failed("bpftrace is not installed")
        self.rig, self.out = rig, rig.dir / "bpftrace.out"
        mounted = 'mount -t tracefs tracefs /sys/kernel/tracing && exec bpftrace -B line "$0"'
        with open(self.out, "w", encoding="utf-8") as file:
            self.process = rig.start(["unshare", "-m", "sh", "-c", mounted, rigs.HERE / script], out=file,
                                     stop=signal.SIGINT)
        rigs.wait_for("bpftrace to attach", self.attached, 60)
        time.sleep(0.5)  # it says so just before it does

    def programs(self):
        """Seconds and runs of its programs, by the kernel's statistics."""
        seconds = runs = 0
        for entry in pathlib.Path(f"/proc/{self.process.pid}/fdinfo").iterdir():
            try:
                fields = dict(line.split(":", 1) for line in rigs.read(entry).splitlines() if ":" in line)
            except OSError:
                continue
            if "run_cnt" in fields:
                seconds, runs = seconds + int(fields["run_time_ns"]) / 1e9, runs + int(fields["run_cnt"])
        return {"its programs": {"run_seconds": seconds, "runs": runs}}

    def cpu(self):
        return rigs.scheduled(self.process.pid)[0]


class Redis:
    """redis-server that keeps nothing."""

    def __init__(self, rig):
        self.port = rigs.free_port()
        self.process = rig.start(["redis-server", "--port", self.port, "--bind", "127.0.0.1", "--save", "",
                                  "--appendonly", "no", "--dir", rig.dir], cpus=rig.gateway_cpus)
        self.worker = self.process.pid
        rigs.wait_for("redis-server", self.requests)

    def requests(self):
        """All commands so far."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(b"INFO stats\r\n")
            text = b""
            while b"total_commands_processed:" not in text or not text.endswith(b"\r\n"):
                more = connection.recv(65536)
                if not more:
                    raise Failed("redis-server ends connections")
                text += more
        return int(re.search(rb"total_commands_processed:(\d+)", text)[1])


class Node:
    """The part `node`."""

    def __init__(self, bench, table, commands, say):
        self.bench, self.rig = bench, bench.rig
        self.table, self.commands, self.say = table, commands, say
        self.nginx = Nginx(self.rig, SERVER, f"""\
    server {{
        listen 127.0.0.1:PORT backlog=4096;
        location / {{ return 200 "{'.' * 200}\\n"; }}
    }}
""", cpus=self.rig.gateway_cpus)
        self.redis = Redis(self.rig) if shutil.which("redis-server") and shutil.which("redis-benchmark") else None
        self.loads = [load for load in LOADS if load[0] != "redis" or self.redis]
        self.measured, self.programs = {}, {}

    # ---- a measurement

    def attach(self, what):
        if what is None:
            return None
        if isinstance(what, str):
            return Script(self.rig, what)
        return NodeAgent(self.rig, self.bench.agent, what)

    def client(self, load, out):
        if load == "redis":
            command = ["redis-benchmark", "-p", self.redis.port, "-t", "get", "-c", 50, "-n", 1_000_000_000, "-q"]
        else:
            command = rigs.load_command(self.nginx.port, 3600)  # ended when all is measured
            if load == "connect":
                command[1:1] = ["-H", "Connection: close"]
        return self.rig.start(command, out=out)

    @contextlib.contextmanager
    def loaded(self, load):
        out = self.rig.dir / "client.out"
        with open(out, "w", encoding="utf-8") as file:
            client = self.client(load, file)
        try:
            time.sleep(0.5)  # connections, caches
            yield client
        finally:
            if client.poll() is None:
                client.ends_by = signal.SIGINT
            self.rig.stop(client)

    def server(self, load):
        return self.redis if load == "redis" else self.nginx

    def stretch(self, load, client, seconds, attached=None):
        """CPU of server, client and what is attached, in µs a request, in the midst of a load."""
        server = self.server(load)
        own, first = attached.cpu() if attached else 0, self.read(server, client)
        time.sleep(seconds)
        last, more = self.read(server, client), attached.cpu() if attached else 0
        requests, served, waited, called, took = (b - a for a, b in zip(first, last, strict=True))
        requests -= 1  # the question itself is counted
        if requests <= 0:
            raise Failed(f"{load}: no request: {rigs.read(self.rig.dir / 'client.out')[-300:]}")
        result = {"us": served / requests / 1e3, "client_us": called / requests / 1e3,
                  "waited": waited / max(served, 1), "busy": served / took / 1e9}
        return result | ({"own_us": (more - own) / requests / 1e3} if attached else {})

    def beside(self, load, line, client, before, failed):
        """Each variant between two stretches without any; the last of these."""
        for name, what, _ in line:
            if name in failed:
                continue
            try:
                attached = self.attach(what)
                try:
                    time.sleep(0.3 if attached else 1)
                    here = self.stretch(load, client, STRETCH, attached)
                    if isinstance(attached, NodeAgent):
                        here["lost"] = attached.lost()
                finally:
                    if attached:
                        attached.stop()
            except (Failed, OSError, subprocess.TimeoutExpired) as failure:
                failed[name] = str(failure).replace("\n", " ")
                self.say(f"  {name}: {failed[name]}")
                continue
            time.sleep(0.3)
            after = self.stretch(load, client, STRETCH)
            for field in ("us", "client_us"):
                here[f"{field}_ratio"] = 2 * here[field] / (before[field] + after[field])
            self.measured.setdefault((load, name), []).append(here)
            before = after
        return before

    def whole(self, load, attached):
        """A whole load, and what of it the agent has not seen when it has read all that waited for it."""
        server = self.server(load)
        agent = attached if isinstance(attached, NodeAgent) else None
        seen = agent.seen() if agent else {}
        before = server.requests()
        with self.loaded(load) as client:
            result = self.stretch(load, client, self.bench.seconds, attached)
        result["all"] = server.requests() - before - 3  # less these questions
        if agent:
            now = agent.seen()
            # Requests are the questions' too; attempts are the load's alone, some of which wait to be accepted.
            asked = 4 if load == "keep-alive" else 0
            result["unseen"] = max(0, result["all"] + asked - (now[load] - seen[load]))
            result["lost"] = agent.lost()
        return result

    def read(self, server, client):
        if client.poll() is not None:
            raise Failed(f"the load has ended with {client.returncode}: {rigs.read(self.rig.dir / 'client.out')[-300:]}")
        requests = server.requests()
        ran, waited = rigs.scheduled(server.worker)
        return (requests, ran, waited, rigs.scheduled(client.pid)[0], time.monotonic())

    def counted(self, name, what):
        """Whole loads, with the kernel's statistics of what is attached."""
        attached = self.attach(what)
        try:
            for load, *_ in self.loads:
                before = attached.programs()
                result = self.whole(load, attached)
                result["programs"] = difference(before, attached.programs(), result)
                self.programs.setdefault((load, name), []).append(result)
        finally:
            attached.stop()

    # ---- what is printed

    def rows(self, load, failed):
        for name, _, what in VARIANTS:
            if name in failed:
                yield (name, "–", "–", "–", "–", "–", "–", f"not measured: {failed[name]}", what)
                continue
            results = self.measured[load, name]
            own = [result["own_us"] for result in results if "own_us" in result]
            ratios, callers = ([result[f"{of}_ratio"] for result in results] for of in ("us", "client_us"))
            goals, goal = [], GOALS.get((load, name))
            if goal:
                goals.append(f"≤ {goal}: {verdict(middle(ratios) <= goal)}")
            if (load, name) == ("keep-alive", "l7"):
                met = middle(ratios) < PEER_RATIO and middle(own) < PEER_OWN
                goals.append(f"below {PEER}'s {PEER_RATIO} and {PEER_OWN} µs: {verdict(met)}")
            quarters = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
            yield (name, f"{middle([r['us'] for r in results]):.2f}", f"{middle(ratios):.3f}",
                   f"{quarters[0]:.3f}–{quarters[2]:.3f}", f"{middle([r['client_us'] for r in results]):.2f}",
                   f"{middle(callers):.3f}", f"{middle(own):.2f} ({min(own):.2f}–{max(own):.2f})" if own else "",
                   "; ".join(goals), what)

    def cost(self):
        self.bench.stats.set(0)
        failed, rounds = {}, 2 * self.bench.rounds
        for load, *_ in self.loads:
            with rigs.turn(), self.loaded(load) as client:
                before = self.stretch(load, client, STRETCH)
                for turn in range(1, rounds + 1):
                    line = list(VARIANTS)
                    self.bench.order.shuffle(line)
                    before = self.beside(load, line, client, before, failed)
                    self.say(f"node: {load} {turn}/{rounds}  " + "  ".join(
                        f"{name} {self.measured[load, name][-1]['us_ratio']:.3f}"
                        for name, *_ in VARIANTS if name not in failed))
        print("## The node\n\nCPU of who serves, of who calls and of what is attached, µs a request. Under a load that "
              f"goes on, each variant {rounds} times for {STRETCH:g} s, between two such stretches without any: a ratio is "
              "to the mean of these. Medians, and the middle half.\n")
        for load, server, what in self.loads:
            print(f"### {server}: {load}\n\n{what}.\n")
            self.table(("attached", f"{server}, µs", "ratio", "middle half", "client, µs", "ratio", "own, µs", "goal",
                        "what it is"), list(self.rows(load, failed)))
            results = [r for (of, _), results in self.measured.items() if of == load for r in results]
            waits = [r["waited"] for r in results]
            print(f"The server had {middle([r['busy'] for r in results]):.0%} of its CPU; for each second it ran it waited "
                  f"{middle(waits):.2f} s for it (at most {max(waits):.2f}): above some hundredths, something else was "
                  "running here.\n")
        if not self.redis:
            print("redis-server is not measured: it is not installed (apt-get install redis-server redis-tools).\n")
        lost = max((r.get("lost", 0) for results in self.measured.values() for r in results), default=0)
        print(f"In an agent's ledger of losses at most: {lost:,}.\n")
        self.commands([" ".join(rigs.load_command(8080, self.bench.seconds)),
                       "wrk -H 'Connection: close' -t1 -c64 …", "redis-benchmark -t get -c 50 -q",
                       "cat /proc/$PID/task/*/schedstat  # first fields"])
        self.bench.raw["node"] = [{"load": load, "variant": name, "results": results}
                                  for (load, name), results in self.measured.items()]

    def kernel(self):
        """Run time of the kernel programs, by the kernel's statistics: on for this alone. And whether all was seen."""
        variants = [variant for variant in VARIANTS if variant[1] is not None]
        rounds, failed = min(self.bench.rounds, 3), {}
        self.bench.stats.set(1)
        try:
            for turn in range(1, rounds + 1):
                with rigs.turn():
                    for name, what, _ in variants:
                        try:
                            self.counted(name, what)
                        except (Failed, OSError, subprocess.TimeoutExpired) as failure:
                            failed[name] = str(failure).replace("\n", " ")
                            self.say(f"  {name}: {failed[name]}")
                self.say(f"node: programs {turn}/{rounds}")
        finally:
            self.bench.stats.set(0)
        rows = []
        for load, *_ in self.loads:
            for name, *_ in variants:
                if name in failed:
                    continue
                results = [result["programs"] for result in self.programs[load, name]]
                for program in sorted(set().union(*results)):
                    values = [result[program] for result in results if program in result]
                    rows.append((load, name, f"`{program}`", f"{middle([ns for ns, _ in values]):,.0f}",
                                 f"{middle([runs for _, runs in values]):.2f}"))
                rows.append((load, name, "**all, a request**", "**{:,.0f}**".format(middle(
                    [sum(ns * runs for ns, runs in result.values()) for result in results])), ""))
        print("### Run time of the node's kernel programs\n\nBy `kernel.bpf_stats_enabled`, on only here: what the "
              "statistics cost is in each figure. In the server and in the client together, medians of "
              f"{rounds}.\n")
        for name, why in failed.items():
            print(f"{name} was not measured: {why}\n")
        self.table(("load", "attached", "program", "ns a run", "runs a request"), rows)
        unseen = {load: [result["unseen"] for (of, name), results in self.programs.items() if of == load
                         for result in results if "unseen" in result and load != "redis"
                         and (load == "connect" or name.startswith("l7"))]
                  for load, *_ in self.loads}
        lost = sum(result.get("lost", 0) for results in self.programs.values() for result in results)
        print("Not seen by the agent, of these whole loads: " + ", ".join(
            f"{sum(numbers):,} {'attempts' if load == 'connect' else 'requests'} of `{load}`"
            for load, numbers in unseen.items() if numbers) + f"; in its ledger: {lost:,}.\n")
        self.commands(["sysctl kernel.bpf_stats_enabled=1  # and back to 0",
                       "curl -s 127.0.0.1:9102/metrics | grep gatewatch_program_"])


def difference(before, after, result):
    """By program: nanoseconds a run, and runs a request. The stretches before and after the load weigh little."""
    grown = {}
    for program, values in after.items():
        was = before.get(program, {})
        runs = values.get("runs", 0) - was.get("runs", 0)
        seconds = values.get("run_seconds", 0) - was.get("run_seconds", 0)
        if runs:
            grown[program] = (seconds * 1e9 / runs, runs / result["all"])
    return grown


def verdict(met):
    return "**met**" if met else "**missed**"
