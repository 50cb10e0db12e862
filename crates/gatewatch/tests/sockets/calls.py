"""Conversations over loopback, each by other system calls. Prints, a line of JSON each, what went where."""

import ctypes, json, os, socket, struct, sys, tempfile

libc = ctypes.CDLL(None, use_errno=True)


class Iovec(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class Message(ctypes.Structure):
    _fields_ = [("name", ctypes.c_void_p), ("name_length", ctypes.c_uint32), ("vectors", ctypes.POINTER(Iovec)),
                ("vector_count", ctypes.c_size_t), ("control", ctypes.c_void_p), ("control_length", ctypes.c_size_t),
                ("flags", ctypes.c_int)]


class Messages(ctypes.Structure):
    _fields_ = [("message", Message), ("length", ctypes.c_uint)]


def parts(data, n):
    size = max(1, (len(data) + n - 1) // n)
    return [data[i:i + size] for i in range(0, len(data), size)]


def vectors(buffers):
    array = (Iovec * len(buffers))()
    for vector, buffer in zip(array, buffers):
        vector.base, vector.length = ctypes.addressof(buffer), len(buffer)
    return array


def checked(n):
    if n < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return n


def messages(sock, groups, call):
    """`groups`: of each message its buffers. How many messages were moved."""
    array = (Messages * len(groups))()
    kept = []
    for entry, group in zip(array, groups):
        kept.append(vectors(group))
        entry.message.vectors = ctypes.cast(kept[-1], ctypes.POINTER(Iovec))
        entry.message.vector_count = len(group)
    n = checked(call(array))
    return [entry.length for entry in array[:n]]


def writable(data):
    return (ctypes.c_char * len(data)).from_buffer_copy(data)


def send_mmsg(sock, data):
    groups = [[writable(half) for half in parts(part, 2)] for part in parts(data, 3)]
    done = messages(sock, groups, lambda array: libc.sendmmsg(sock.fileno(), array, len(array), 0))
    assert sum(done) == len(data), done


def send_file(sock, data):
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        at = 0
        while at < len(data):
            at += os.sendfile(sock.fileno(), file.fileno(), at, len(data) - at)


def send_splice(sock, data):
    read, write = os.pipe()
    for part in parts(data, 1 + len(data) // 4096):
        os.write(write, part)
        left = len(part)
        while left:
            left -= os.splice(read, sock.fileno(), left)
    os.close(read), os.close(write)


def send_pwritev2(sock, data):
    buffers = [writable(part) for part in parts(data, 2)]
    array = vectors(buffers)
    assert checked(libc.pwritev2(sock.fileno(), array, len(array), ctypes.c_long(-1), 0)) == len(data)


def all_of(call):
    def send(sock, data):
        while data:
            data = data[call(sock, data):]
    return send


def iovs(n):
    return lambda s, d: os.writev(s.fileno(), ([b""] + parts(d, n))[:1024])


SENDS = {
    "write": all_of(lambda s, d: os.write(s.fileno(), d)),
    "writev": all_of(iovs(3)),
    "writev of many": all_of(iovs(700)),
    "sendto": all_of(lambda s, d: s.send(d)),
    "sendmsg": all_of(lambda s, d: s.sendmsg(parts(d, 4))),
    "sendmmsg": send_mmsg,
    "pwritev2": send_pwritev2,
    "sendfile": send_file,
    "splice": send_splice,
}


def receive_mmsg(sock, most):
    buffers = [[(ctypes.c_char * 50)(), (ctypes.c_char * 70)()] for _ in range(3)]
    done = messages(sock, buffers, lambda a: libc.recvmmsg(sock.fileno(), a, len(a), 0x10000, None))  # WAITFORONE
    return b"".join(b"".join(b.raw for b in group)[:n] for group, n in zip(buffers, done))


def receive_msg(sock, most):
    buffers = [bytearray(10), bytearray(100), bytearray(most)]
    n = sock.recvmsg_into(buffers)[0]
    return b"".join(map(bytes, buffers))[:n]


def receive_readv(sock, most, call=lambda fd, buffers: os.readv(fd, buffers)):
    buffers = [bytearray(7), bytearray(0), bytearray(most)]
    n = call(sock.fileno(), buffers)
    return b"".join(map(bytes, buffers))[:n]


def preadv2(fd, buffers):
    raw = [(ctypes.c_char * max(1, len(b))).from_buffer(b) if len(b) else (ctypes.c_char * 1)() for b in buffers]
    array = (Iovec * len(raw))()
    for vector, buffer, into in zip(array, raw, buffers):
        vector.base, vector.length = ctypes.addressof(buffer), len(into)
    return checked(libc.preadv2(fd, array, len(array), ctypes.c_long(-1), 0))


def receive_splice(sock, most):
    read, write = os.pipe()
    n = os.splice(sock.fileno(), write, most)
    data = os.read(read, n)
    os.close(read), os.close(write)
    return data


def receive_peeking(sock, most):
    seen = sock.recv(most, socket.MSG_PEEK)
    data = sock.recv(most)
    assert data.startswith(seen)
    return data


def receive_discarding(sock, most):
    """The kernel throws the bytes away; nobody has them."""
    return b"?" * checked(libc.recv(sock.fileno(), None, 40, 0x20))


RECEIVES = {
    "read": lambda s, n: os.read(s.fileno(), n),
    "readv": receive_readv,
    "recvfrom": lambda s, n: s.recv(n),
    "recvmsg": receive_msg,
    "recvmmsg": receive_mmsg,
    "preadv2": lambda s, n: receive_readv(s, n, preadv2),
    "peek": receive_peeking,
    "splice": receive_splice,
    "discard": receive_discarding,
}


def pair(family=socket.AF_INET):
    listener = socket.create_server(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0), family=family)
    client = socket.socket(family)
    client.connect(listener.getsockname()[:2])
    server = listener.accept()[0]
    for end in (client, server):
        end.settimeout(10)
        end.setblocking(True)
        end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.close()
    return client, server


class Told:
    """A connection, and what went over it."""

    def __init__(self, name, family=socket.AF_INET):
        self.name = name
        self.client, self.server = pair(family)
        self.up, self.down = b"", b""
        self.before = 0, 0

    def go(self, sender, receiver, data, send, receive, most=65536):
        SENDS[send](sender, data)
        got = b""
        while len(got) < len(data):
            got += RECEIVES[receive](receiver, most)
        if sender is self.client:
            self.up += data
        else:
            self.down += data

    def request(self, data, send="write", receive="read"):
        self.go(self.client, self.server, data, send, receive)

    def respond(self, data, send="write", receive="read"):
        self.go(self.server, self.client, data, send, receive)

    def tell(self):
        ports = self.client.getsockname()[1], self.server.getsockname()[1]
        print(json.dumps({"name": self.name, "client": ports[0], "server": ports[1], "up": self.up.hex(),
                          "down": self.down.hex(), "before": dict(zip(["up", "down"], self.before)), "pid": os.getpid()}), flush=True)


def request(path, body=b""):
    return (f"POST /{path} HTTP/1.1\r\nHost: test\r\nX-Fill: {'x' * 400}\r\n"
            f"Content-Length: {len(body)}\r\n\r\n").encode() + body


def response(body):
    return f"HTTP/1.1 200 OK\r\nX-Fill: {'y' * 300}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def numbered(n):
    return b"".join(struct.pack(">I", i) for i in range(n // 4))


def main():
    old = Told("older than the agent")
    old.request(request("before", b"0123456789"))
    old.respond(response(b"before"))
    old.before = len(old.up), len(old.down)
    print("ready", flush=True)
    sys.stdin.readline()
    if len(sys.argv) > 1:
        getattr(sys.modules[__name__], sys.argv[1])(old)
        return
    all = [old]
    old.request(request("after", b"abc"))
    old.respond(response(b"after"))
    for send in SENDS:
        told = Told(f"send by {send}")
        # What a call without a buffer moves is seen where the connection is known to be HTTP.
        for n in range(3):
            if send in ("sendfile", "splice"):
                told.request(request(n, numbered(600)))
                told.respond(response(numbered(2000)))
                told.request(numbered(500), send)
                told.respond(numbered(700), send)
            else:
                told.request(request(n, numbered(600)), send)
                told.respond(response(numbered(2000)), send)
        all.append(told)
    for receive in RECEIVES:
        told = Told(f"receive by {receive}")
        for n in range(3):
            first = "read" if n == 0 and receive in ("splice", "discard") else receive
            told.request(request(n, numbered(600)), receive=first)
            told.respond(response(numbered(2000)), receive=first)
        all.append(told)
    told = Told("IPv6", socket.AF_INET6)
    told.request(request("six"))
    told.respond(response(b"six"))
    all.append(told)
    told = Told("one byte at a time")
    for byte in request("slow"):
        told.request(bytes([byte]))
    told.respond(response(b"slow"))
    all.append(told)
    told = Told("requests in one piece")
    told.request(b"".join(request(n) for n in range(30)))
    told.respond(b"".join(response(b"") for n in range(9)))
    all.append(told)
    for send, receive in [("write", "read"), ("writev of many", "readv"), ("sendmsg", "recvmsg")]:
        told = Told(f"much at once by {send}")
        for end in told.client, told.server:
            for room in socket.SO_SNDBUF, socket.SO_RCVBUF:
                end.setsockopt(socket.SOL_SOCKET, room, 1 << 20)
        told.go(told.client, told.server, b"".join(request(n) for n in range(240)), send, receive, 1 << 20)
        told.respond(response(b"much"))
        all.append(told)
    for told in all:
        told.tell()
        told.client.close()
        told.server.close()


def others(old):
    """Not HTTP: a client that speaks first, a server that does, and what begins almost like it."""
    old.request(b"\x00\x01\x02\x03" * 100)
    kinds = [[b"*1\r\n$4\r\nPING\r\n", b"+PONG\r\n"], [b"", b"220 mail ESMTP\r\n"], [b"EHLO here\r\n", b"250 ok\r\n"],
             [b"GETAWAY", b"no"], [bytes(64), bytes(64)]]
    for up, down in kinds:
        told = Told("other")
        for _ in range(200):
            if up:
                told.request(up)
            told.respond(down)
        told.tell()


def flood(old):
    """More than a small ring holds."""
    told = Told("flood")
    for n in range(300):
        told.request(request(n, numbered(3000)))
        told.respond(response(b"ok"))
    told.tell()


main()
