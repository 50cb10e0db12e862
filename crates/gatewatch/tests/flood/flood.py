"""Many sockets connected to nginx at once, few of which speak as they should.

flood.py CONNECTIONS NGINX CONFIG, in a network namespace of its own. Starts nginx (on 127.0.0.1:8080), connects, lets each
socket say something, tells as JSON how many are connected and how many good requests nginx has answered; ends all on a line.
Spread over some processes, for each may have only so many files.
"""

import collections
import json
import multiprocessing
import random
import resource
import socket
import subprocess
import sys
import time

# Each source address has some 28,000 ports, and finding a free one takes longer the more are taken.
SOURCES = [f"127.0.1.{last}" for last in range(1, 41)]
SERVER = ("127.0.0.1", 8080)
PROCESSES = 8
PIPED = 4
SHARES = ["half"] * 10 + ["garbage"] * 3 + ["piped"] * 3 + ["whole"] * 2 + ["bytes"] * 2

HALF = b"GET /half HTTP/1.1\r\nHost: flood.test\r\nUser-Agent: half\r\nX-Filler: " + b"f" * 200
WHOLE = b"POST /whole HTTP/1.1\r\nHost: flood.test\r\nContent-Length: 40\r\n\r\n" + b"w" * 40
PIPE = b"GET /piped HTTP/1.1\r\nHost: flood.test\r\n\r\n" * PIPED
BYTES = b"GET /bytes HTTP/1.1\r\nHost: f\r\n\r\n"


def garbage(number):
    noise = random.randbytes(60)
    return (
        noise,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /" + noise + b"\r\n\r\n",
        b"GETAWAY " + noise,
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + noise,
        b"POST /garbage HTTP/1.1\r\nHost: f\r\nContent-Length: -5\r\n\r\n" + noise,
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + noise,
        b"GET /garbage HTTP/1.1\r\nHost" + b"h" * 9000,
        b"HTTP/1.1 200 OK\r\n\r\n" + noise,
    )[number % 9]


def connect(number):
    end = socket.socket()
    end.setsockopt(socket.IPPROTO_IP, 24, 1)  # IP_BIND_ADDRESS_NO_PORT
    end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    end.bind((SOURCES[number % len(SOURCES)], 0))
    end.connect(SERVER)
    return end


def established():
    """Both ends of each are in this namespace."""
    with open("/proc/self/net/tcp") as table:
        return sum(line.split()[3] == "01" for line in table.readlines()[1:]) // 2


def answers(ends, each):
    """How many answers with 200 have come."""
    count = 0
    for end in ends:
        end.settimeout(60)
        seen = b""
        while seen.count(b"HTTP/1.1 200") < each:
            part = end.recv(65536)
            if not part:
                break
            seen += part
        count += seen.count(b"HTTP/1.1 200")
    return count


def caller(connections, steps, told):
    """One process's share of them, in step with the others."""
    ends = [connect(number) for number in range(connections)]
    steps.wait()
    steps.wait()
    groups = collections.defaultdict(list)
    for number, end in enumerate(ends):
        kind = SHARES[number // len(SOURCES) % len(SHARES)]
        groups[kind].append(end)
        if kind == "half":
            end.send(HALF[: 1 + number % len(HALF)])
        elif kind == "garbage":
            end.send(garbage(number))
        elif kind != "bytes":
            end.send(PIPE if kind == "piped" else WHOLE)
    for byte in BYTES:
        for end in groups["bytes"]:
            end.send(bytes([byte]))
    answered = {kind: answers(groups[kind], PIPED if kind == "piped" else 1) for kind in ("piped", "whole", "bytes")}
    told.put(answered | {"half": len(groups["half"]), "garbage": len(groups["garbage"])})
    # Until the end is asked for.
    steps.wait()


def main(connections, nginx, config):
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    for name, value in (("core/somaxconn", "65535"), ("ipv4/tcp_max_syn_backlog", "65535")):
        with open(f"/proc/sys/net/{name}", "w") as setting:
            setting.write(value)
    server = subprocess.Popen([nginx, "-c", config])
    try:
        while True:
            try:
                socket.create_connection(SERVER).close()
                break
            except ConnectionRefusedError:
                time.sleep(0.05)
        steps, queue = multiprocessing.Barrier(PROCESSES + 1, timeout=120), multiprocessing.Queue()
        for _ in range(PROCESSES):
            share = (connections // PROCESSES, steps, queue)
            multiprocessing.Process(target=caller, args=share, daemon=True).start()
        steps.wait()
        told = collections.Counter(established=established())
        steps.wait()
        for _ in range(PROCESSES):
            told.update(queue.get(timeout=120))
        told["still"] = established()
        print(json.dumps(told), flush=True)
        sys.stdin.readline()
        steps.wait()
    finally:
        server.terminate()
        server.wait()


main(int(sys.argv[1]), *sys.argv[2:])
