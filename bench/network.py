"""What watching packets and connections costs, in network namespaces made for it."""

import json
import os
import re
import shutil
import statistics
import subprocess
import sys
import time

import rig as rigs
from packets import HERE, INTERFACE, Pair
from rig import Agent, Failed, Nginx

FLOWS = 10_000
RATE = 100_000

# hook, what is attached, what it is
PROGRAMS = [
    ("XDP", "empty", "a program that only returns"),
    ("XDP", "gatewatch", "`network_xdp`"),
    ("ingress", "empty", "a program that only returns"),
    ("ingress", "counter", "packets and bytes in a hash map by 5-tuple, IPv4 only"),
    ("ingress", "gatewatch", "`network_ingress`"),
    ("egress", "empty", "a program that only returns"),
    ("egress", "gatewatch", "`network_egress`"),
]
YARDSTICK = {("XDP", "empty"): "xdp", ("ingress", "empty"): "ingress", ("ingress", "counter"): "counter",
             ("egress", "empty"): "egress"}
COUNTED = {"XDP": "network_xdp", "ingress": "network_ingress", "egress": "network_egress"}

# name, the agent's options (none: no agent), what it is
LATENCIES = [
    ("none", None, "no agent"),
    ("no-network", ("--no-network",), "requests only"),
    ("no-network-again", ("--no-network",), "the same once more"),
    ("network", (), "requests, packets and connections"),
]
LATENCY_BASE = {"no-network": "none", "no-network-again": "no-network", "network": "no-network"}


def verdict(met):
    return "**met**" if met else "**missed**"


def middle(values):
    return statistics.median(values)


class Watcher(Agent):
    """`gatewatch gateway` on the packets of this network namespace, with no gateway."""

    def __init__(self, rig, binary, ingress="tc"):
        self.rig, self.binary, self.out = rig, binary, rig.dir / "agent.out"
        self.options = ["--no-requests", "--config", configuration(rig, ingress)]
        self.url = f"http://127.0.0.1:{rigs.free_port()}"
        self.start("none-such")
        self.mode = rigs.wait_for("gatewatch to watch packets", self.attached, 20)[1]

    def attached(self):
        self.check()
        labels = f'interface="{INTERFACE}",direction="ingress"'
        return re.search(rf'^gatewatch_network_attached\{{{labels},mode="([^"]+)"\}} 1$', self.metrics(), re.M)

    def packets(self):
        """Packets that came in by eth0, all packets, and those accounted for, by connection or reason."""
        text = self.metrics()
        labels = f'interface="{INTERFACE}",direction="ingress"'
        came = re.findall(rf'^gatewatch_network_packets_total\{{{labels},.*\}} (\S+)$', text, re.M)
        accounted = rigs.sum_of(text, "gatewatch_application_packets_total") \
            + rigs.sum_of(text, "gatewatch_network_unaccounted_packets_total")
        return (int(sum(map(float, came))), int(rigs.sum_of(text, "gatewatch_network_packets_total")), int(accounted))


def configuration(rig, ingress):
    file = rig.dir / f"agent-{ingress}.yaml"
    file.write_text(f"network: {{pin: false, ingress: {ingress}}}\n", encoding="utf-8")
    return file


class Yardstick:
    """A program of `yardstick run`, attached to eth0."""

    def __init__(self, rig, binary, which):
        self.rig, self.out = rig, rig.dir / "yardstick.out"
        with open(self.out, "w", encoding="utf-8") as file:
            self.process = rig.start([binary, "run", INTERFACE, 120, which], out=file)
        self.mode = rigs.wait_for("yardstick to attach", self.attached, 20)[1]

    def attached(self):
        if self.process.poll() is not None:
            raise Failed(f"yardstick ended: {rigs.read(self.out)[-400:].strip()}")
        return re.search(r"attached by (\S+)", rigs.read(self.out))

    def statistics(self):
        """Nanoseconds and runs of all its programs, of which one is attached."""
        found = {}
        for fd in os.listdir(f"/proc/{self.process.pid}/fdinfo"):
            try:
                text = rigs.read(f"/proc/{self.process.pid}/fdinfo/{fd}")
            except OSError:
                continue
            fields = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
            if "run_cnt" in fields:
                found[fields["prog_id"].strip()] = (int(fields["run_time_ns"]), int(fields["run_cnt"]))
        return tuple(map(sum, zip(*found.values(), strict=True))) if found else (0, 0)

    def stop(self):
        self.rig.stop(self.process)


class Network:
    """The part `network`. Everything it starts and makes is gone after close()."""

    def __init__(self, bench, yardstick, table, commands, say):
        self.bench, self.rig, self.yardstick = bench, bench.rig, yardstick
        self.table, self.commands, self.say = table, commands, say
        self.frames = int(os.environ.get("BENCH_NETWORK_FRAMES", "1000000"))
        self.seconds = int(os.environ.get("BENCH_NETWORK_SECONDS", "1"))
        self.wrong = []
        self.found = list(self.rig.processes)
        self.pair = Pair()

    def close(self):
        for process in reversed(list(self.rig.processes)):
            if process not in self.found:
                self.rig.stop(process)
        self.pair.close()

    def note(self, what, **values):
        self.bench.raw.setdefault("network", []).append({"what": what, **values})

    # ---- packets

    def run(self, command, seconds, namespace=None, cpus=None):
        """Runs a command to its end; what it printed."""
        out = self.rig.dir / "command.out"
        with open(out, "w", encoding="utf-8") as file:
            process = self.rig.start(command, cpus=cpus, out=file, namespace=namespace)
            try:
                code = process.wait(seconds)
            except subprocess.TimeoutExpired:
                raise Failed(f"{command[0]} does not end") from None
            finally:
                self.rig.stop(process)
        text = rigs.read(out)
        if code != 0:
            raise Failed(f"{command[0]}: {text[-400:].strip()}")
        return text

    def inject(self, n):
        """Lets packets come in by eth0; packets a second."""
        text = self.run([self.yardstick, "inject", INTERFACE, n, FLOWS], 60, cpus=self.rig.gateway_cpus)
        return int(re.search(r"(\d+) a second", text)[1])

    def send(self, n, there, rate=0):
        """Sends packets, by eth0 of that end; packets a second."""
        command = [sys.executable, rigs.HERE / "packets.py", INTERFACE, n, FLOWS, rate]
        text = self.run(command, 90, self.pair.there if there else None, self.rig.gateway_cpus)
        return int(re.search(r"(\d+) a second", text)[1])

    def drive(self, hook, n):
        return self.inject(n) if hook == "ingress" else self.send(n, there=hook == "XDP")

    # ---- 1

    def timed(self, hook, read):
        """Nanoseconds a run, with connections that are there already."""
        n = self.frames if hook == "ingress" else max(self.frames * 3 // 10, 1)
        self.drive(hook, 5 * FLOWS)
        time.sleep(0.25)  # first payloads are looked at
        ns, runs = read()
        rate = self.drive(hook, n)
        time.sleep(0.05)  # softirqs may be a moment behind
        ns_after, runs_after = read()
        if runs_after - runs < n:
            raise Failed(f"{hook}: {runs_after - runs} runs for {n} packets")
        return (ns_after - ns) / (runs_after - runs), rate

    def of_agent(self, agent, hook):
        def read():
            values = agent.programs().get(COUNTED[hook], {})
            return values.get("run_seconds", 0) * 1e9, values.get("runs", 0)
        return self.timed(hook, read)

    def programs(self):
        measured, modes, rates = {(hook, what): [] for hook, what, _ in PROGRAMS}, {}, {}
        turns = [*YARDSTICK, "tc", "xdp"]
        self.bench.stats.set(1)
        try:
            for turn in range(1, self.bench.rounds + 1):
                self.bench.order.shuffle(turns)
                took = {}
                for which in turns:
                    if isinstance(which, tuple):
                        attached = Yardstick(self.rig, self.yardstick, YARDSTICK[which])
                        try:
                            modes[which] = attached.mode
                            took[which] = self.timed(which[0], attached.statistics)
                        finally:
                            attached.stop()
                        continue
                    agent = Watcher(self.rig, self.bench.agent, which)
                    try:
                        for hook in ("XDP",) if which == "xdp" else ("ingress", "egress"):
                            modes[hook, "gatewatch"] = agent.mode
                            took[hook, "gatewatch"] = self.of_agent(agent, hook)
                    finally:
                        agent.stop()
                for key, (ns, rate) in took.items():
                    measured[key].append(ns)
                    rates.setdefault(key[0], []).append(rate)
                    self.note("program", round=turn, hook=key[0], program=key[1], ns=ns, rate=rate)
                self.say(f"network: programs {turn}/{self.bench.rounds}  " + "  ".join(
                    f"{hook} {what} {took[hook, what][0]:.0f}" for hook, what, _ in PROGRAMS) + " ns")
        finally:
            self.bench.stats.set(0)
        return measured, modes, rates

    def part_programs(self):
        measured, modes, rates = self.programs()
        rows = []
        for hook, what, description in PROGRAMS:
            values, cells = measured[hook, what], ["", "", ""]
            if what != "empty":
                over = [a - b for a, b in zip(values, measured[hook, "empty"], strict=True)]
                cells = [f"{middle(over):+.0f}", f"{min(over):+.0f} – {max(over):+.0f}",
                         f"≤ 100: {verdict(middle(over) <= 100)}" if what == "gatewatch" else ""]
            rows.append((f"{hook} ({modes[hook, what]})", what, f"{middle(values):.0f}", *cells, description))
        print(f"### Run time of the programs for packets\n\n{FLOWS:,} live connections, whose datagrams of 60 bytes "
              f"come in turn. By the kernel's statistics; medians of {self.bench.rounds} rounds in each of which "
              "every program is measured. Over the empty one: the median of each round's difference.\n")
        self.table(("hook", "program", "ns a packet", "over the empty one, ns", "least – most", "goal", "what it is"),
                   rows)
        print("Packets a second meanwhile: " + ", ".join(
            f"{hook} {middle(values):,.0f}" for hook, values in rates.items()) + ".\n")
        self.commands(["sysctl kernel.bpf_stats_enabled=1  # and back to 0",
                       f"yardstick run {INTERFACE} 5 ingress & # counter, egress, xdp",
                       f"yardstick inject {INTERFACE} {self.frames} {FLOWS}",
                       f"bench/packets.py {INTERFACE} {max(self.frames * 3 // 10, 1)} {FLOWS}"
                       "  # egress: here; XDP: at the other end"])

    # ---- 2

    @staticmethod
    def live(text):
        return sum(float(value) for value in re.findall(
            r'^gatewatch_connections\{protocol="udp",state="active"\} (\S+)$', text, re.M))

    def part_exact(self):
        n, rows = max(2 * self.frames, 1_000_000), []
        for ingress, put in (("tc", self.inject), ("xdp", lambda n: self.send(n, there=True))):
            agent = Watcher(self.rig, self.bench.agent, ingress)
            amount = n if ingress == "tc" else max(n // 4, 1)
            try:
                before = agent.packets()[0]
                rate, end = put(amount), time.monotonic() + 20
                while True:  # connections are gathered as often as it may cost; each look has packets of its own
                    time.sleep(0.3)
                    came, counted, accounted = agent.packets()
                    if came - before >= amount and counted == accounted or time.monotonic() > end:
                        break
                text = agent.metrics()
                live, evicted = self.live(text), rigs.sum_of(text, "gatewatch_connections_evicted_total")
            finally:
                agent.stop()
            rows.append((agent.mode, f"{amount:,}", f"{came - before:,}", amount - (came - before),
                         f"{counted - accounted}", f"{live:,.0f}", f"{evicted:,.0f}", f"{rate:,}"
                         + ("" if rate >= 1_000_000 else " (below 1,000,000)")))
            if came - before != amount or counted != accounted:
                self.wrong.append(f"{agent.mode}: {amount} packets came, {came - before} were counted; of "
                                  f"{counted}, {accounted} were accounted for")
            self.note("exact", mode=agent.mode, injected=amount, counted=came - before, rate=rate,
                      all=counted, accounted=accounted)
            self.say(f"network: {agent.mode}: {amount} came at {rate} a second, {came - before} counted")
        print(f"### Exactness\n\nDatagrams of {FLOWS:,} connections; not accounted: packets counted less those "
              "accounted for, by connection or reason.\n")
        self.table(("counted by", "came in", "counted", "missing", "not accounted", "live connections", "evicted",
                    "packets a second"), rows)
        self.commands([f"yardstick inject {INTERFACE} {n} {FLOWS}  # tcx",
                       f"bench/packets.py {INTERFACE} {n // 4} {FLOWS}  # XDP, at the other end",
                       "curl -s 127.0.0.1:9102/metrics | grep gatewatch_network_packets_total"])

    # ---- 3

    def gateway(self):
        origin = rigs.upstream(self.rig)
        return Nginx(self.rig, "gw-net", f"""\
    upstream origin {{
        server 127.0.0.1:{origin.port};
        keepalive 64;
        keepalive_requests 1000000000;
    }}
    server {{
        listen 127.0.0.1:PORT backlog=4096;
        listen {HERE}:PORT backlog=4096;
        location / {{
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $host;
            proxy_pass http://origin;
        }}
    }}
""", cpus=self.rig.gateway_cpus)

    def load_command(self, address, port):
        return ["wrk", "-t1", f"-c{self.clients}", f"-d{self.seconds}s", "-s", str(rigs.HERE / "latency.lua"),
                f"http://{address}:{port}{rigs.URL}"]

    def latency(self, gateway, way):
        """Microseconds: the median, and the 99th percentile; requests a second."""
        address, namespace = ("127.0.0.1", None) if way == "lo" else (HERE, self.pair.there)
        text = self.run(self.load_command(address, gateway.port), self.seconds + 30, namespace)
        requests = rigs.load_check(text)
        found = re.search(r"^percentiles (\d+) (\d+)$", text, re.M)
        if not found:
            raise Failed(f"wrk: {text[-300:]}")
        return int(found[1]), int(found[2]), requests / self.seconds

    def warm(self, gateway, way):
        """Connections upstream, caches; once more where a busy machine lost the first packets for a second."""
        for last in (False, False, True):
            try:
                return self.latency(gateway, way)
            except Failed as failure:
                self.say(f"  {way}: {failure}")
                if last:
                    raise Failed(f"over {way}: {failure}") from None
        return None

    def part_latency(self):
        gateway, ways = self.gateway(), ("lo", "veth")
        measured = {(name, way): [] for name, *_ in LATENCIES for way in ways}
        config = configuration(self.rig, "auto")
        for way in ways:
            self.warm(gateway, way)
        for turn in range(1, self.bench.rounds + 1):
            line = list(LATENCIES)
            self.bench.order.shuffle(line)
            for name, options, _ in line:
                agent = Agent(self.rig, self.bench.agent, gateway, ("--config", config, *options)) \
                    if options is not None else None
                try:
                    for way in ways:
                        measured[name, way].append(self.latency(gateway, way))
                    missed, lost = agent.missed() if agent else (0, 0)
                    if missed or lost:
                        self.say(f"  {name}: {missed} requests not reported, {lost} in the ledger")
                finally:
                    if agent:
                        agent.stop()
            self.say(f"network: latency {turn}/{self.bench.rounds}  " + "  ".join(
                f"{name} {measured[name, 'lo'][-1][0]}/{measured[name, 'veth'][-1][0]}" for name, *_ in LATENCIES)
                + " µs (p50: lo/veth)")
        rows, noise = [], []
        for way in ways:
            for name, _, what in LATENCIES:
                values, base = measured[name, way], LATENCY_BASE.get(name)
                self.note("latency", way=way, variant=name, values=values)
                cells = [f"{middle([v[at] for v in values]):,.0f}" for at in (0, 1)]
                if base is None:
                    cells += ["1", "", "1", "", ""]
                else:
                    goals = []
                    for at, percentile in ((0, "p50"), (1, "p99")):
                        ratios = [v[at] / b[at] for v, b in zip(values, measured[base, way], strict=True)]
                        cells += [f"{middle(ratios):.3f}", f"{min(ratios):.3f}–{max(ratios):.3f}"]
                        if name.endswith("again"):
                            noise.append(f"{way} {percentile} {middle(ratios):.3f}")
                        goals.append(f"{percentile} ≤ 1.01: {verdict(middle(ratios) <= 1.01)}")
                    cells.append("; ".join(goals) if name == "network" else "")
                rows.append((way, name, what if not base else f"{what}; beside `{base}`", *cells))
        print(f"### Latency of the gateway\n\nwrk with {self.clients} connections, {self.seconds} s a measurement, "
              f"over loopback, and over the veth pair from the other end (upstream always by loopback). Medians of "
              f"{self.bench.rounds} rounds; a ratio is the median of each round's.\n")
        self.table(("over", "variant", "what it is", "p50, µs", "p99, µs", "p50 ratio", "least–most", "p99 ratio",
                    "least–most", "goal"), rows)
        print(f"Noise (same against same; as far as these are from 1, so little do the others mean): "
              f"{', '.join(noise)}. Requests a second: " + ", ".join(
                  f"{name} {middle([v[2] for v in measured[name, way]]):,.0f} ({way})"
                  for way in ways for name in ("none", "no-network", "network")) + ".\n")
        self.commands([" ".join(self.load_command("127.0.0.1", gateway.port)).replace(f"{rigs.ROOT}/", "")])
        gateway.stop()

    # ---- 4

    def part_agent(self):
        seconds, samples = int(os.environ.get("BENCH_NETWORK_RATE_SECONDS", "10")), []
        agent, out = Watcher(self.rig, self.bench.agent, "auto"), self.rig.dir / "sender.out"
        try:
            time.sleep(1)
            idle, began = agent.cpu(), time.monotonic()
            time.sleep(2)
            idle = (agent.cpu() - idle) / (time.monotonic() - began) / 1e9
            before = agent.packets()[0]
            n = RATE * (seconds + 2)  # a second before the measurement, and some for its end
            with open(out, "w", encoding="utf-8") as file:
                sender = self.rig.start([sys.executable, rigs.HERE / "packets.py", INTERFACE, n, FLOWS, RATE],
                                        cpus=self.rig.gateway_cpus, out=file, namespace=self.pair.there)
            rigs.wait_for("packets", lambda: agent.packets()[0] > before + RATE // 2, 10)
            began, cpu = time.monotonic(), agent.cpu()
            first, first_cpu, came = began, cpu, agent.packets()[0]
            for second in range(seconds):
                time.sleep(max(0, began + second + 1 - time.monotonic()))
                now, ran = time.monotonic(), agent.cpu()
                samples.append(((ran - cpu) / (now - first) / 1e9, agent.memory()[0] / 1024))
                first, cpu = now, ran
                if second % 5 == 4:
                    agent.metrics()
            took, all_cpu = first - began, cpu - first_cpu
            rate = (agent.packets()[0] - came) / (time.monotonic() - began)
            text = agent.metrics()
            try:
                sender.wait(30)
            finally:
                self.rig.stop(sender)
        finally:
            agent.stop()
        if sender.returncode != 0:
            raise Failed(f"packets.py: {rigs.read(out)[-300:]}")
        live = self.live(text)
        maps = {name: float(size) for name, size in re.findall(
            r'^gatewatch_map_bytes\{map="([^"]+)"\} (\S+)', text, re.M)}
        network = {name: size for name, size in maps.items() if name.startswith(("network_", "connection_"))}
        share, resident = all_cpu / took / 1e9, max(kib for _, kib in samples)
        self.note("agent", rate=rate, cpu=share, samples=samples, idle=idle, maps=maps, live=live)
        print(f"### The agent at {RATE:,} packets a second\n\n{took:.0f} s of {rate:,.0f} packets a second "
              f"({agent.mode}) of {FLOWS:,} connections, `/metrics` read every 5 s.\n")
        self.table(("what", "in the middle", "most", "goal"), [
            ("CPU of all threads, % of one", f"{share:.2%} in all; {middle([c for c, _ in samples]):.2%} a second",
             f"{max(c for c, _ in samples):.2%} in one second", f"≤ 2 %: {verdict(share <= 0.02)}"),
            ("the same without packets", f"{idle:.2%}", "", ""),
            ("resident (VmRSS), MiB", f"{middle([kib for _, kib in samples]):.1f}", f"{resident:.1f}",
             f"≤ 64: {verdict(resident <= 64)}")])
        largest = sorted(network.items(), key=lambda item: -item[1])[:4]
        print(f"Live connections: {live:,.0f}. Kernel memory of maps (`gatewatch_map_bytes`): "
              f"{sum(maps.values()) / 2**20:.1f} MiB, of which {sum(network.values()) / 2**20:.1f} MiB of the "
              "network part; the largest: " + ", ".join(f"`{name}` {size / 2**20:.1f}" for name, size in largest)
              + ".\nThe kernel programs run in the time of whoever sends or receives, not in the agent's: their share "
              "is the table of programs.\n")
        self.commands([f"bench/packets.py {INTERFACE} {n} {FLOWS} {RATE}  # at the other end",
                       "cat /proc/$AGENT/task/*/schedstat  # first fields, each second"])

    # ---- 5

    def part_throughput(self):
        if not shutil.which("iperf3"):
            print("### Throughput\n\nNot measured: iperf3 is not installed (apt-get install iperf3).\n")
            return
        variants, rounds = ("nothing", "tc", "xdp"), min(self.bench.rounds, 5)
        gigabits, modes = {name: [] for name in variants}, {"nothing": "–"}
        server = self.rig.start(["iperf3", "-s", "-B", HERE], cpus=self.rig.gateway_cpus)
        command = ["iperf3", "-J", "-t", "1", "-c", HERE]
        rigs.wait_for("iperf3", lambda: ":1451 " in rigs.read("/proc/thread-self/net/tcp"))  # 5201
        for turn in range(1, rounds + 1):
            line = list(variants)
            self.bench.order.shuffle(line)
            for name in line:
                agent = Watcher(self.rig, self.bench.agent, name) if name != "nothing" else None
                try:
                    modes[name] = agent.mode if agent else "–"
                    told = json.loads(self.run(command, 30, self.pair.there))
                    gigabits[name].append(told["end"]["sum_received"]["bits_per_second"] / 1e9)
                finally:
                    if agent:
                        agent.stop()
            self.say(f"network: throughput {turn}/{rounds}  "
                     + "  ".join(f"{name} {gigabits[name][-1]:.1f}" for name in variants) + " Gbit/s")
        self.rig.stop(server)
        rows = []
        for name in variants:
            ratios = [a / b for a, b in zip(gigabits[name], gigabits["nothing"], strict=True)]
            rows.append((f"`ingress: {name}`" if name != "nothing" else name, modes[name],
                         f"{middle(gigabits[name]):.1f}", "1" if name == "nothing" else f"{middle(ratios):.3f}",
                         f"{min(gigabits[name]):.1f}–{max(gigabits[name]):.1f}"))
            self.note("throughput", variant=name, gigabits=gigabits[name])
        print(f"### Throughput of TCP through the veth pair\n\niperf3, one connection, 1 s a measurement, medians of "
              f"{rounds}. A program at XDP of one end switches the other end's segmentation offload off: packets "
              "come small, which is why `auto` counts by TC there.\n")
        self.table(("attached", "mode", "Gbit/s", "ratio", "least–most"), rows)
        self.commands([f"iperf3 -s -B {HERE}", " ".join(command) + "  # at the other end"])

    def all(self):
        """Every part; those that could not be measured are named. True: nothing was wrong."""
        self.clients = int(os.environ.get("BENCH_NETWORK_CLIENTS", "64"))
        self.bench.stats.set(0)
        print("## Packets and connections\n\nIn two network namespaces of their own, joined by a veth pair.\n",
              flush=True)
        wanted = [name for name in os.environ.get("BENCH_NETWORK", "").split(",") if name]
        fine, parts = True, {"programs": self.part_programs, "exact": self.part_exact, "latency": self.part_latency,
                             "agent": self.part_agent, "throughput": self.part_throughput}
        for name, part in parts.items():
            if wanted and name not in wanted:
                continue
            began = time.monotonic()
            try:
                part()
            except (Failed, OSError, subprocess.TimeoutExpired, ValueError, KeyError) as failure:
                print(f"### {name}\n\nNot measured: {failure}\n", flush=True)
                fine = False
            self.say(f"network: {name} took {time.monotonic() - began:.0f} s")
        for text in self.wrong:
            print(f"**Wrong: {text}.**\n", flush=True)
        return fine and not self.wrong
