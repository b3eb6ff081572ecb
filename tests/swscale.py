"""libswscale's accurate path through PyAV: a conversion to RGB that is not ours."""

from __future__ import annotations

import itertools
from fractions import Fraction

import numpy as np

MATRICES = ("bt601", "bt709", "bt2020", "smpte240m")
WIDTH, HEIGHT = 96, 64
ACCURATE = "bilinear+accurate_rnd+full_chroma_int+full_chroma_inp+bitexact"


def make_planes(content, bits, shift, full_range):
    rng = np.random.default_rng(0)
    step = 2 ** (bits - 8)
    low, luma_high, chroma_high = (0, 2**bits - 1, 2**bits - 1) if full_range else (16 * step, 235 * step, 240 * step)
    planes = []
    for number in range(3):
        high = chroma_high if number else luma_high
        width, height = (WIDTH >> shift[0], HEIGHT >> shift[1]) if number else (WIDTH, HEIGHT)
        y, x = np.mgrid[:height, :width]
        share = {
            "smooth": 0.5 + 0.45 * np.sin(x / (7 + 4 * number)) * np.cos(y / (13 - 3 * number)),
            "noise": rng.random((height, width)),
            "edges": ((x // (5 + number) + y // (7 - number)) % 2).astype(float),
        }[content]
        planes.append(np.round(low + share * (high - low)).astype(np.uint8 if bits == 8 else np.uint16))
    return tuple(planes)


def swscale_rgb(planes, pixel_format, options):
    """libswscale through a filter graph, as planar 8-bit RGB: (H, W, 3)."""
    import av
    from av.filter import Graph

    frame = av.VideoFrame(WIDTH, HEIGHT, pixel_format)
    for target, plane in zip(frame.planes, planes, strict=True):
        lines = np.zeros((target.height, target.line_size // plane.itemsize), plane.dtype)
        lines[:, : plane.shape[1]] = plane
        target.update(lines.tobytes())
    graph = Graph()
    chain = [
        graph.add_buffer(width=WIDTH, height=HEIGHT, format=frame.format, time_base=Fraction(1, 25)),
        graph.add("scale", options),
        graph.add("format", "gbrp"),
        graph.add("buffersink"),
    ]
    for before, after in itertools.pairwise(chain):
        before.link_to(after)
    graph.configure()
    graph.push(frame)
    result = graph.pull()
    green, blue, red = (
        np.frombuffer(bytes(p), np.uint8).reshape(p.height, p.line_size)[:, :WIDTH] for p in result.planes
    )
    return np.stack([red, green, blue], axis=-1)


SUBSAMPLINGS = {"yuv444p": (0, 0), "yuv422p": (1, 0), "yuv420p": (1, 1)}
