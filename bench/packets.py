"""Network namespaces, and what sends packets in them. As a program: `packets.py INTERFACE N FLOWS [RATE]`."""

import ctypes
import errno
import os
import socket
import struct
import subprocess
import sys
import time

LIBC = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNET = 0x40000000
HERE, THERE = "10.99.0.1", "10.99.0.2"
INTERFACE = "eth0"
MAC = {HERE: "02:00:00:00:99:01", THERE: "02:00:00:00:99:02"}


def checked(result, what):
    if result != 0:
        raise OSError(ctypes.get_errno(), what)


def enter(namespace):
    """Moves this thread, and what it starts, into a network namespace."""
    checked(LIBC.setns(namespace, CLONE_NEWNET), "setns")


def ip(words):
    done = subprocess.run(["ip", *words.split()], capture_output=True, text=True, timeout=20)
    if done.returncode != 0:
        raise OSError(f"ip {words}: {done.stderr.strip()}")


class Pair:
    """Two network namespaces, joined by a veth pair, both ends called eth0; neither has a way out.

    They have no names: they are gone with the last process in them and with our descriptors, however we end. While
    this is open, we are `here`."""

    def __init__(self):
        self.home, self.there = self.current(), None
        try:
            self.there = self.fresh()
            self.fresh()  # here; nobody else has to find it
            ip(f"link add {INTERFACE} address {MAC[HERE]} type veth peer name {INTERFACE} address {MAC[THERE]} "
               f"netns /proc/{os.getpid()}/fd/{self.there}")
            self.end(HERE, THERE)
            here = self.current()
            try:
                enter(self.there)
                self.end(THERE, HERE)
                enter(here)
            finally:
                os.close(here)
        except BaseException:
            self.close()
            raise

    @staticmethod
    def end(own, other):
        ip(f"addr add {own}/24 dev {INTERFACE}")
        ip(f"link set {INTERFACE} up")
        # Known from the start: nobody has to ask, and waits a second for an answer on a busy machine.
        ip(f"neigh replace {other} lladdr {MAC[other]} dev {INTERFACE} nud permanent")

    @staticmethod
    def current():
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    def fresh(self):
        checked(LIBC.unshare(CLONE_NEWNET), "unshare")
        # IPv6 would talk by itself as soon as an interface is up.
        with open("/proc/sys/net/ipv6/conf/default/disable_ipv6", "w", encoding="ascii") as file:
            file.write("1\n")
        ip("link set lo up")
        return self.current()

    def close(self):
        enter(self.home)
        os.close(self.home)
        if self.there is not None:
            os.close(self.there)


def datagrams(flows):
    """Frames of 60 bytes, the same as `yardstick inject` lets in: from 198.18.x.y to 198.19.0.1."""
    frame = bytearray(60)
    frame[:12] = bytes.fromhex("020000000001020000000002")
    frame[12:24] = bytes([8, 0, 0x45, 0, 0, 46, 0, 0, 0, 0, 64, 17])
    frame[26:34] = bytes([198, 18, 0, 0, 198, 19, 0, 1])
    frame[34:42] = bytes([0x9C, 0x40, 0x1F, 0x90, 0, 26, 0, 0])
    for flow in range(flows):
        frame[28:30] = struct.pack("<H", flow)
        yield bytes(frame)


class Vector(ctypes.Structure):
    _fields_ = [("base", ctypes.c_void_p), ("length", ctypes.c_size_t)]


class Message(ctypes.Structure):
    """struct mmsghdr"""
    _fields_ = [("name", ctypes.c_void_p), ("name_length", ctypes.c_uint32), ("vectors", ctypes.POINTER(Vector)),
                ("vectors_length", ctypes.c_size_t), ("control", ctypes.c_void_p),
                ("control_length", ctypes.c_size_t), ("flags", ctypes.c_int), ("sent", ctypes.c_uint)]


def send(interface, n, flows, rate):
    """Sends `n` datagrams of so many connections in turn, so many a second (0: as fast as it goes); seconds taken."""
    frames = ctypes.create_string_buffer(b"".join(datagrams(flows)), 60 * flows)
    vectors, messages = (Vector * flows)(), (Message * flows)()
    for at in range(flows):
        vectors[at] = Vector(ctypes.addressof(frames) + 60 * at, 60)
        messages[at].vectors, messages[at].vectors_length = ctypes.pointer(vectors[at]), 1
    first, size = ctypes.addressof(messages), ctypes.sizeof(Message)
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as out:
        out.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8 << 20)
        out.bind((interface, 0))
        descriptor, done = out.fileno(), 0
        began = time.monotonic()
        while done < n:
            now = time.monotonic() - began
            if now > 60:
                sys.exit(f"packets: only {done} of {n} frames in {now:.0f} s")
            due = n if rate == 0 else min(n, int(now * rate) + 1)
            if due <= done:
                time.sleep(0.001)
                continue
            at = done % flows
            count = LIBC.sendmmsg(descriptor, ctypes.c_void_p(first + at * size), min(due - done, flows - at, 1024), 0)
            if count >= 0:
                done += count
            elif ctypes.get_errno() != errno.ENOBUFS:  # the other end is full for a moment: this one was not sent
                raise OSError(ctypes.get_errno(), "sendmmsg")
        return time.monotonic() - began


if __name__ == "__main__":
    amount = int(sys.argv[2])
    took = send(sys.argv[1], amount, int(sys.argv[3]), int(sys.argv[4]) if len(sys.argv) > 4 else 0)
    print(f"{amount} frames in {took:.3f} s: {amount / took:.0f} a second")
