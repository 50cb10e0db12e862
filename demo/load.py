"""The demo's load: many kinds of requests at a modest pace, each counted once it was sent whole."""

import http.client
import random
import re
import socket
import ssl
import subprocess
import threading
import time

KEY = "apikey: demo-key-alice"


class Connection:
    """HTTP/1 as the wire has it: http.client would refuse the odd targets of real traffic."""

    def __init__(self, port, tls=None):
        self.port, self.tls, self.socket = port, tls, None

    def open(self, host):
        plain = socket.create_connection(("127.0.0.1", self.port), timeout=5)
        self.socket = self.tls.wrap_socket(plain, server_hostname=host) if self.tls else plain

    def close(self):
        if self.socket:
            self.socket.close()
            self.socket = None

    def request(self, host, method, target, protocol="HTTP/1.1", headers=(), body=b""):
        lines = [f"{method} {target} {protocol}", f"Host: {host}", *headers]
        if body:
            lines += ["Content-Type: application/json", f"Content-Length: {len(body)}"]
        self.exchange(host, "\r\n".join([*lines, "", ""]).encode("utf-8", "surrogateescape") + body, method)

    def exchange(self, host, data, method="GET"):
        if not self.socket:
            self.open(host)
        try:
            self.socket.sendall(data)
            response = http.client.HTTPResponse(self.socket, method=method)
            response.begin()
            response.read()
            if response.will_close:
                self.close()
        except (OSError, http.client.HTTPException):
            self.close()
            raise


class Load:
    def __init__(self, http_port, https_port, rows):
        self.http_port, self.https_port, self.rows = http_port, https_port, rows
        self.tls = ssl.create_default_context()
        self.tls.check_hostname = False
        self.tls.verify_mode = ssl.CERT_NONE
        self.stop = threading.Event()
        self.lock = threading.Lock()
        self.sent, self.failures = 0, []
        shares = [(self.static, 40, share) for share in range(4)]
        shares += [(self.api, 40, share) for share in range(3)]
        shares += [(self.shop, 25, 0), (self.admin, 5, 0), (self.reports, 3, 0), (self.odd, 2, 0)]
        self.threads = [threading.Thread(target=self.run, args=share) for share in shares]
        self.threads.append(threading.Thread(target=self.http2))

    def begin(self):
        for thread in self.threads:
            thread.start()

    def end(self):
        self.stop.set()
        for thread in self.threads:
            thread.join()

    def count(self, n=1):
        with self.lock:
            self.sent += n

    def fail(self, what):
        with self.lock:
            self.failures.append(what)

    def run(self, kind, rate, share):
        """Calls `kind` again and again at `rate`; never two at once, and no catching up."""
        step = kind(share, random.Random(share))
        due = time.monotonic()
        while not self.stop.is_set():
            try:
                next(step)
                self.count()
            except (OSError, http.client.HTTPException) as error:
                self.fail(f"{kind.__name__}: {type(error).__name__}: {error}")
                step = kind(share, random.Random(share + time.monotonic_ns()))
            due = max(due + 1 / rate, time.monotonic())
            self.stop.wait(due - time.monotonic())

    def static(self, share, _):
        """The web site's own requests, in their order."""
        connection = Connection(self.http_port)
        while True:
            for method, target, protocol, agent in self.rows[share::4]:
                body = b"{}" if method == "POST" else b""
                headers = [f"User-Agent: {agent}"] if agent else []
                connection.request("static.example.test", method, target, protocol, headers, body)
                yield

    def api(self, share, chance):
        connection = Connection(self.http_port)
        host = "api.example.test"
        while True:
            number = chance.randint(1, 50_000)
            key, method, body = KEY, "GET", b""
            what = chance.choices(
                ["user", "users", "order", "orders", "new user", "new order", "change", "delete", "no key", "crawler",
                 "no route", "legacy"], [30, 12, 25, 6, 5, 6, 4, 2, 3, 8, 1, 1])[0]
            target = {
                "users": f"/v1/users?page={number % 40}&token={number:x}{number:x}", "order": f"/v1/orders/{number}",
                "orders": f"/v1/orders?user={number}", "new user": "/v1/users", "new order": "/v1/orders",
                "no route": f"/v2/users/{number}", "legacy": f"/v1/legacy/{number}",
            }.get(what, f"/v1/users/{number}")
            if what in ("new user", "new order"):
                method, body = "POST", b'{"name":"someone"}'
            elif what == "change":
                method, body = "PUT", b'{"name":"someone else"}'
            elif what == "delete":
                method = "DELETE"
            elif what == "no key":
                key = "apikey: wrong"
            elif what == "crawler":
                key = "apikey: demo-key-crawler"
            agent = "User-Agent: " + ("demo-crawler/1.0" if what == "crawler" else "demo-app/2.3")
            connection.request(host, method, target, headers=[key, agent], body=body)
            yield

    def shop(self, _, chance):
        connection = Connection(self.https_port, self.tls)
        while True:
            number = chance.randint(1, 300)
            target = chance.choice(["/", f"/products/{number}", f"/products/{number}/reviews", f"/cart/{number}/items",
                                    f"/search?q=shoes&session=s3cr3t-{number}"])
            connection.request("shop.example.test", "GET", target, headers=["User-Agent: Mozilla/5.0 (demo shop)"])
            yield

    def admin(self, _, chance):
        connection = Connection(self.http_port)
        while True:
            login = ["Authorization: Basic ZGVtbzpkZW1v"] if chance.random() < 0.8 else []
            target = chance.choice(["/", "/settings", f"/audit/{chance.randint(1, 99)}"])
            connection.request("admin.example.test", "GET", target, headers=["User-Agent: demo-admin/1", *login])
            yield

    def reports(self, _, chance):
        connection = Connection(self.http_port)
        while True:
            target = f"/v1/reports/2026-{chance.randint(1, 12):02}"
            connection.request("api.example.test", "GET", target, headers=[KEY, "User-Agent: demo-app/2.3"])
            yield

    def odd(self, _, chance):
        """What a gateway sees too: nonsense, hosts nobody knows, clients that go away."""
        while True:
            connection = Connection(self.http_port)
            connection.exchange("", b"NONSENSE\r\n\r\n")
            yield
            connection.request("203.0.113.7", "GET", "/.env", headers=["User-Agent: demo-scanner"])
            yield
            connection.request("static.example.test", "OPTIONS", "*")
            yield
            connection.close()
            connection.open("")
            text = f"GET /v1/reports/{chance.randint(1, 9)} HTTP/1.1\r\nHost: api.example.test\r\n{KEY}\r\n\r\n"
            connection.socket.sendall(text.encode())
            self.stop.wait(0.05)
            connection.close()  # 499
            yield

    def http2(self):
        """Batches by h2load: over TLS, many requests at once on a connection."""
        origin = f"https://api.example.test:{self.https_port}"
        urls = [f"{origin}/v1/users/{n}" for n in (7, 42, 1999)] + [f"{origin}/v1/orders/{n}" for n in (5, 77)]
        while not self.stop.wait(0.8):
            command = ["h2load", "-n40", "-c2", "-m8", f"--connect-to=127.0.0.1:{self.https_port}", "-H", KEY,
                       "-H", "user-agent: demo-h2/1", *urls]
            done = subprocess.run(command, capture_output=True, text=True, stdin=subprocess.DEVNULL,
                                  start_new_session=True)
            figures = re.search(r"^requests: .* (\d+) done, .* (\d+) errored", done.stdout, re.M)
            if not figures:
                self.fail(f"h2load: {(done.stderr or done.stdout).strip()[-200:]}")
                return
            self.count(int(figures[1]))


def read_rows(file):
    """(method, target, protocol, user agent) of each request."""
    rows = []
    for line in file.read_text("utf-8", "surrogateescape").splitlines():
        fields = line.split("\t")
        if len(fields) >= 5 and not line.startswith("#"):
            rows.append((*fields[:3], fields[5] if len(fields) > 5 else ""))
    return rows
