"""What is free goes back to the system, and not too often."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

from pipeline.runtime.host_memory import HostMemory


def test_now_and_then_and_only_if_something_was_freed() -> None:
    now_s, given = [0.0], []
    memory = HostMemory(lambda: given.append(now_s[0]), lambda: now_s[0])
    for now_s[0] in range(300):
        memory.tick()
    assert given == []
    for now_s[0] in range(300, 400):
        memory.freed()
        memory.tick()
    assert given == [300, 330, 360, 390]
    for now_s[0] in range(400, 500):  # the last ones too
        memory.tick()
    assert given == [300, 330, 360, 390, 420]


def has_trim() -> bool:
    return sys.platform == "linux" and hasattr(ctypes.CDLL(None), "malloc_trim")


_PROGRAM = """
import ctypes, os
from pathlib import Path
from pipeline.runtime.host_memory import give_back

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_size_t], [ctypes.c_void_p]
size, count = 32 << 10, 2048  # 64 MB in pieces that come from an arena

def held_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

before = held_bytes()
pieces = [libc.malloc(size) for _ in range(count)]
for piece in pieces:
    ctypes.memset(piece, 1, size)
for piece in pieces[:-1]:  # the last one keeps the arena from shrinking
    libc.free(piece)
freed = held_bytes() - before
give_back()
print(freed / (size * count), (held_bytes() - before) / (size * count))
"""


@pytest.mark.skipif(not has_trim(), reason="the C library is not glibc")
def test_scattered_memory_goes_back() -> None:
    """In a process of its own: what others have freed would be used again, or given back as well."""
    done = subprocess.run([sys.executable, "-c", _PROGRAM], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    freed, given_back = map(float, done.stdout.split())
    assert freed > 0.9
    assert given_back < 0.1
