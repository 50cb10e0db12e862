"""Empty uprobes: a program that only returns, at functions of a binary, by a uprobe.multi link.

What they cost is what any uprobe at these places costs: the trap and the kernel's way to a program. bpf(2) is
called directly, so that nothing else is in the figure.
"""

import ctypes
import os
import platform
import struct

BPF_PROG_LOAD, BPF_LINK_CREATE = 5, 28
BPF_PROG_TYPE_KPROBE, BPF_TRACE_UPROBE_MULTI = 2, 48
SYS_BPF = {"x86_64": 321, "aarch64": 280}
LIBC = ctypes.CDLL(None, use_errno=True)


def bpf(command, attributes):
    number = SYS_BPF.get(platform.machine())
    if number is None:
        raise OSError(f"no number of bpf(2) known for {platform.machine()}")
    buffer = ctypes.create_string_buffer(attributes, 128)
    fd = LIBC.syscall(number, command, buffer, 128)
    if fd < 0:
        error = ctypes.get_errno()
        raise OSError(error, f"bpf({command}): {os.strerror(error)}")
    return fd


def offsets(binary, names):
    """File offsets of exported functions of a 64-bit little-endian ELF file."""
    with open(binary, "rb") as file:
        elf = file.read()
    if elf[:6] != b"\x7fELF\x02\x01":
        raise OSError(f"{binary}: not a 64-bit little-endian ELF file")
    phoff, shoff = struct.unpack_from("<QQ", elf, 32)
    phsize, phnum, shsize, shnum = struct.unpack_from("<HHHH", elf, 54)
    loads = []
    for i in range(phnum):
        kind, _, offset, address, _, size = struct.unpack_from("<IIQQQQ", elf, phoff + i * phsize)
        if kind == 1:
            loads.append((address, offset, size))
    sections = [struct.unpack_from("<IIQQQQII", elf, shoff + i * shsize) for i in range(shnum)]
    found = {}
    for _, kind, _, _, offset, size, link, _ in sections:
        if kind not in (2, 11):  # SHT_SYMTAB, SHT_DYNSYM
            continue
        strings = sections[link][4]
        for at in range(offset, offset + size, 24):
            name, info, _, section, value = struct.unpack_from("<IBBHQ", elf, at)
            if info & 15 != 2 or section == 0:  # a function, defined here
                continue
            text = elf[strings + name : elf.index(b"\0", strings + name)].decode("ascii", "replace")
            if text in names:
                found[text] = next(value - a + o for a, o, s in loads if a <= value < a + s)
    missing = [name for name in names if name not in found]
    if missing:
        raise OSError(f"{binary} exports no {', '.join(missing)}")
    return [found[name] for name in names]


class EmptyUprobes:
    """Attached while it is open."""

    def __init__(self, binary, functions):
        where = offsets(binary, functions)
        self.fds = []
        code = ctypes.create_string_buffer(struct.pack("<QQ", 0xB7, 0x95), 16)  # r0 = 0; exit
        licence = ctypes.create_string_buffer(b"Dual MIT/GPL")
        load = struct.pack("<IIQQIIQII16sII", BPF_PROG_TYPE_KPROBE, 2, ctypes.addressof(code),
                           ctypes.addressof(licence), 0, 0, 0, 0, 0, b"bench_empty", 0, BPF_TRACE_UPROBE_MULTI)
        self.program = bpf(BPF_PROG_LOAD, load)
        self.fds.append(self.program)
        path = ctypes.create_string_buffer(os.fsencode(binary))
        sites = (ctypes.c_uint64 * len(where))(*where)
        link = struct.pack("<IIIIQQQQIII", self.program, 0, BPF_TRACE_UPROBE_MULTI, 0, ctypes.addressof(path),
                           ctypes.addressof(sites), 0, 0, len(where), 0, 0)
        try:
            self.fds.append(bpf(BPF_LINK_CREATE, link))
        except OSError:
            self.close()
            raise

    def statistics(self):
        """Nanoseconds and runs, by the kernel's statistics where they are on."""
        with open(f"/proc/self/fdinfo/{self.program}", encoding="ascii") as file:
            fields = dict(line.split(":", 1) for line in file if ":" in line)
        return int(fields["run_time_ns"]), int(fields["run_cnt"])

    def close(self):
        while self.fds:
            os.close(self.fds.pop())
