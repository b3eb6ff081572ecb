"""Packets as NVDEC takes them, against FFmpeg's own filters."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest
from av.bitstream import BitStreamFilterContext
from media_maker import make_clip

from pipeline.decode._indexed import FileRun, IndexedFile, each
from pipeline.decode._packets import ForNvdec

FILTERS = {"h264": "h264_mp4toannexb", "hevc": "hevc_mp4toannexb"}


def units_of(stream: bytes) -> list[bytes]:
    """What stands between start codes, which never occur inside a unit."""
    return [unit for unit in re.split(b"\0\0\0?\1", stream) if unit]


def packets_of(path: Path) -> tuple[Any, list[Any]]:
    container = av.open(str(path))
    stream = container.streams.video[0]
    return stream, [packet for packet in container.demux(stream) if packet.size]


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("h264", {}),
        ("h264", {"slices": "4"}),
        ("h264", {"x264-params": "repeat-headers=1:aud=1:keyint=5"}),
        ("h264", {"x264-params": "keyint=8:open-gop=1:bframes=3"}),
        ("hevc", {"x265-params": "log-level=none:keyint=6"}),
        ("hevc", {"x265-params": "log-level=none:slices=2:aud=1:repeat-headers=1"}),
    ],
)
def test_the_same_units_as_ffmpegs_filter(tmp_path: Path, codec: str, options: dict[str, str]) -> None:
    encoder = {"h264": "libx264", "hevc": "libx265"}[codec]
    path = make_clip(tmp_path / "a.mp4", codec=encoder, frames=30, options=options)
    stream, packets = packets_of(path)
    converter = ForNvdec(stream)
    found = [b"".join(map(bytes, converter.convert(packet, keep=True))) for packet in packets]
    reference, again = packets_of(path)
    its_filter = BitStreamFilterContext(FILTERS[codec], reference)
    wanted = [b"".join(map(bytes, its_filter.filter(packet))) for packet in again]
    assert len(found) == len(wanted) == 30
    for own, theirs in zip(found[1:], wanted[1:], strict=True):
        assert units_of(own) == units_of(theirs)
    # Headers stand in front of the first one, whatever the filter puts there.
    assert units_of(found[0])[-1] == units_of(wanted[0])[-1]


@pytest.mark.parametrize(
    ("codec", "options"),
    [
        ("h264", {"bf": "0"}),
        ("h264", {"bf": "0", "slices": "4", "x264-params": "aud=1"}),
        ("hevc", {"x265-params": "log-level=none:bframes=0"}),
        ("hevc", {"x265-params": "log-level=none:bframes=0:slices=2:aud=1"}),
    ],
)
def test_pictures_with_their_ends_are_the_same_to_ffmpeg(tmp_path: Path, codec: str, options: dict[str, str]) -> None:
    encoder = {"h264": "libx264", "hevc": "libx265"}[codec]
    stream, packets = packets_of(make_clip(tmp_path / "a.mp4", codec=encoder, frames=30, options=options))
    converter = ForNvdec(stream)
    ended = [b"".join(map(bytes, converter.ended(converter.convert(packet)))) for packet in packets]
    # Behind the last one nothing begins, which FFmpeg takes for damage.
    (tmp_path / f"b.{codec}").write_bytes(b"".join(ended).rstrip(b"\0")[: -6 if codec == "h264" else -7])

    def frames(name: str) -> list[bytes]:
        with av.open(str(tmp_path / name)) as container:
            return [frame.to_ndarray().tobytes() for frame in container.decode(video=0)]

    assert len(frames("a.mp4")) == 30
    assert frames(f"b.{codec}") == frames("a.mp4")
    # Each ends with what begins the next, and more than the parser waits for.
    for unit in ended:
        *_, last = units_of(unit)
        assert last[0] >> (0 if codec == "h264" else 1) == (9 if codec == "h264" else 35)
        assert len(last) > 256


@pytest.mark.parametrize("codec", ["libx264", "libx265"])
@pytest.mark.parametrize("clip", [{}, {"audio": True}, {"options": {"slices": "3"}}, {"options": {"bf": "3"}}])
def test_a_run_is_its_packets(tmp_path: Path, codec: str, clip: dict[str, Any]) -> None:
    if codec == "libx265":
        slices = clip.get("options", {}).get("slices", "1")
        clip = {**clip, "options": {"x265-params": f"log-level=none:slices={slices}"}}
    path = make_clip(tmp_path / "a.mp4", codec=codec, frames=60, gop=60, **clip)
    container = av.open(str(path))
    indexed = IndexedFile(str(path), container, container.streams.video[0])
    first = [packet for packet in each(indexed.packets()) if packet.size]
    runs = indexed.again(16)
    assert runs is not None
    together, alone = ForNvdec(container.streams.video[0]), ForNvdec(container.streams.video[0])
    wanted = [b"".join(map(bytes, alone.convert(packet, keep=True))) for packet in first]
    found: list[bytes] = []
    for piece in runs:
        if isinstance(piece, FileRun):
            unit = together.convert_run(piece)
            assert unit is not None
            assert bytes(unit) == b"".join(wanted[len(found) : len(found) + len(piece)])
            found += wanted[len(found) : len(found) + len(piece)]
        else:
            found.append(b"".join(map(bytes, together.convert(piece))))
    assert found == wanted


def test_a_run_with_headers_or_wrong_lengths_is_converted_one_by_one(tmp_path: Path) -> None:
    path = make_clip(tmp_path / "a.mp4", frames=60, gop=60, options={"x264-params": "scenecut=0"})
    container = av.open(str(path))
    indexed = IndexedFile(str(path), container, container.streams.video[0])
    converter = ForNvdec(container.streams.video[0])
    assert all(packet.size == 0 or converter.convert(packet, keep=True) for packet in each(indexed.packets()))
    run = next(piece for piece in indexed.again(16) or () if isinstance(piece, FileRun))
    assert converter.convert_run(run) is not None
    for change in (b"\0\0\0\0", b"\x7f\0\0\0", b"\0\0\0\1"):
        data = bytearray(run.data)
        data[run.starts[7] : run.starts[7] + 4] = change
        assert converter.convert_run(replace(run, data=memoryview(data))) is None
    data = bytearray(run.data)
    data[run.starts[7] + 4] = 0x67  # a sequence's headers
    assert converter.convert_run(replace(run, data=memoryview(data))) is None
    converter.restart()
    assert converter.convert_run(run) is None, "a decoder that knows nothing needs headers first"


@pytest.mark.parametrize("damage", [lambda data: data[:-3], lambda data: data + b"\0\0", lambda data: data[:2]])
def test_a_packet_whose_lengths_are_wrong_is_the_filters(tmp_path: Path, damage: Any) -> None:
    stream, packets = packets_of(make_clip(tmp_path / "a.mp4", frames=3))
    converter = ForNvdec(stream)
    converter.convert(packets[0])
    data = damage(bytes(packets[1]))
    damaged = av.Packet(len(data))
    damaged.update(data)
    expected = BitStreamFilterContext(FILTERS["h264"], stream)
    try:
        copy = av.Packet(len(data))
        copy.update(data)
        wanted = b"".join(map(bytes, expected.filter(copy)))
    except av.error.FFmpegError:
        wanted = b""
    assert b"".join(map(bytes, converter.convert(damaged))) == wanted
