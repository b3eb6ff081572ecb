"""Packets that are read by the index of a file, against those that PyAV reads."""

from __future__ import annotations

import itertools
import os
import struct
import threading
from pathlib import Path
from typing import Any

import av
import pytest
from media_maker import make_clip

from pipeline.decode import _indexed
from pipeline.decode._indexed import FilePacket, FileRun, IndexedFile, Piece, each, real
from pipeline.decode._sample_table import sample_table

CLIPS: dict[str, dict[str, Any]] = {
    "plain.mp4": {"options": {"bf": "0"}},
    "bframes.mp4": {"options": {"bf": "3"}},
    "hevc.mp4": {"codec": "libx265", "options": {"x265-params": "log-level=none:bframes=4"}},
    "sound.mp4": {"options": {"bf": "2"}, "audio": True},
    "sound.mov": {"options": {"bf": "2"}, "audio": True},
    "header_first.mp4": {"options": {"bf": "2"}, "format_options": {"movflags": "faststart"}},
    "negative.mp4": {"options": {"bf": "3"}, "format_options": {"movflags": "negative_cts_offsets"}},
    "uneven.mp4": {"options": {"bf": "2"}, "pts": [i * i for i in range(60)]},
}
# PyAV reads these.
OTHERS: dict[str, dict[str, Any]] = {
    "fragmented.mp4": {"format_options": {"movflags": "frag_keyframe+empty_moov"}},
    "bframes.mkv": {},
    "bframes.ts": {},
}


def made(folder: Path, name: str) -> Path:
    return make_clip(folder / name, frames=60, gop=12, **({**CLIPS, **OTHERS}[name]))


def known(packet: Any) -> tuple[Any, ...]:
    own = real(packet)
    times = packet.pts, packet.dts, packet.duration, packet.time_base
    return (*times, packet.size, packet.pos, packet.is_keyframe, packet.is_discard, packet.is_corrupt, bytes(own))


def by_pyav(path: Path) -> list[tuple[Any, ...]]:
    with av.open(str(path)) as container:
        return [known(packet) for packet in container.demux(container.streams.video[0]) if packet.size]


def opened(path: Path) -> IndexedFile:
    container = av.open(str(path))
    return IndexedFile(str(path), container, container.streams.video[0])


def without_pos(packets: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Made-up key frames have no place."""
    return [(*p[:5], *p[6:]) for p in packets]


@pytest.mark.parametrize("name", [*CLIPS, *OTHERS])
def test_the_same_packets_as_pyavs(tmp_path: Path, name: str) -> None:
    path = made(tmp_path, name)
    wanted = by_pyav(path)
    indexed = opened(path)
    packets = [packet for packet in indexed.packets() if packet.size]
    assert without_pos([known(p) for p in packets]) == without_pos(wanted)
    assert len(wanted) == 60
    again = indexed.again()
    assert (again is not None) is (name in CLIPS)
    if again is not None:
        packets = list(again)
        assert without_pos([known(p) for p in packets]) == without_pos(wanted)
        assert sum(isinstance(p, FilePacket) for p in packets) == 60 - sum(p[6] for p in wanted)


@pytest.mark.parametrize("together", [2, 5, 16, 64])
@pytest.mark.parametrize(
    "clip", [{"options": {"bf": "0"}}, {"options": {"bf": "3"}}, {"audio": True}, {"codec": "libx265"}]
)
def test_runs_hold_the_same_packets(tmp_path: Path, clip: dict[str, Any], together: int) -> None:
    scenes = {"x265-params": "log-level=none"} if "codec" in clip else {"x264-params": "scenecut=0"}
    path = make_clip(
        tmp_path / "a.mp4", frames=100, gop=40, **{**clip, "options": {**clip.get("options", {}), **scenes}}
    )
    wanted = by_pyav(path)
    indexed = opened(path)
    first = list(indexed.packets(together))
    again = indexed.again(together)
    assert again is not None
    for pieces in (first, list(again)):
        assert without_pos([known(p) for p in each(pieces) if p.size]) == without_pos(wanted)
        runs = [piece for piece in pieces if isinstance(piece, FileRun)]
        assert runs
        assert all(2 <= len(run) <= together for run in runs)
    # From the second round on they are as long as key frames allow.
    keys = [number for number, packet in enumerate(wanted) if packet[6]] + [len(wanted)]
    between = [end - begin - 1 for begin, end in itertools.pairwise(keys)]
    again = indexed.again(together)
    assert again is not None
    assert sum(1 for p in again if not p_is_key(p)) == sum(-(-count // together) for count in between)


def p_is_key(piece: Piece) -> bool:
    return not isinstance(piece, FileRun) and piece.is_keyframe


@pytest.mark.assets
@pytest.mark.parametrize("together", [1, 16])
@pytest.mark.parametrize("folder", ["media", "odd_media"])
def test_real_and_odd_media(assets: Path, folder: str, together: int) -> None:
    compared = 0
    for path in sorted((assets / folder).rglob("*")):
        try:
            wanted = by_pyav(path)
        except (av.error.FFmpegError, IndexError, OSError):
            continue
        found = []
        for packet in each(opened(path).packets(together)):
            if packet.size:
                found.append(known(packet))
        assert without_pos(found) == without_pos(wanted), path.name
        compared += 1
    assert compared > 5


@pytest.mark.parametrize("together", [1, 16])
@pytest.mark.parametrize("most_bytes", [1, 3000])
def test_packets_that_lie_far_apart(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most_bytes: int, together: int
) -> None:
    monkeypatch.setattr(_indexed, "_MOST_BYTES", most_bytes)
    path = made(tmp_path, "sound.mp4")
    packets = each(opened(path).packets(together))
    assert without_pos([known(p) for p in packets if p.size]) == without_pos(by_pyav(path))


@pytest.mark.parametrize("together", [1, 16])
@pytest.mark.parametrize("is_first_round", [True, False])
def test_a_file_that_shrinks_while_it_is_read_is_pyavs(tmp_path: Path, is_first_round: bool, together: int) -> None:
    path = made(tmp_path, "header_first.mp4")
    wanted = by_pyav(path)
    indexed = opened(path)
    packets = each(indexed.packets(together))
    if not is_first_round:
        assert sum(bool(p.size) for p in packets) == 60
        again = indexed.again(together)
        assert again is not None
        packets = each(again)
    found = [known(next(packets)) for _ in range(30)]
    os.truncate(path, wanted[50][5])
    found += [known(p) for p in packets if p.size]
    assert 50 <= len(found) <= 60  # FFmpeg may have read ahead
    assert without_pos(found[:50]) == without_pos(wanted[:50])


def test_a_pipe_is_pyavs_alone(tmp_path: Path) -> None:
    """Whoever opens it as well takes what the other one waits for."""
    path, pipe = made(tmp_path, "header_first.mp4"), tmp_path / "pipe.mp4"
    wanted = by_pyav(path)
    os.mkfifo(pipe)
    writer = threading.Thread(target=lambda: pipe.write_bytes(path.read_bytes()), daemon=True)
    writer.start()
    found = [known(p) for p in opened(pipe).packets() if p.size]
    writer.join(20)
    assert without_pos(found) == without_pos(wanted)


def test_a_table_that_tells_other_times_is_not_believed(tmp_path: Path) -> None:
    path = made(tmp_path, "bframes.mp4")
    data = bytearray(path.read_bytes())
    place = data.index(b"ctts") + 12
    count, offset = struct.unpack_from(">Ii", data, place)
    struct.pack_into(">Ii", data, place, count, offset + 512)  # of the first packets alone
    path.write_bytes(data)
    packets = [p for p in opened(path).packets() if p.size]
    assert [known(p) for p in packets] == by_pyav(path), "FFmpeg reads the same table"


def test_what_is_no_mp4_file_has_no_table(tmp_path: Path) -> None:
    for data in (b"", b"\0" * 7, b"\0\0\0\x08moov", b"\0\0\0\x04moov" + b"\0" * 100, b"\0\0\0\x01moov" + b"\xff" * 8):
        path = tmp_path / "a.mp4"
        path.write_bytes(data)
        with path.open("rb") as file:
            assert sample_table(file.fileno(), 1) is None


@pytest.mark.parametrize("cut", range(0, 900, 13))
def test_a_header_that_is_cut_off(tmp_path: Path, cut: int) -> None:
    """Whatever is cut off, there is a table, and then it is the right one, or none; nothing breaks."""
    path = made(tmp_path, "header_first.mp4")
    with path.open("rb") as file:
        whole = sample_table(file.fileno(), 1)
    assert whole is not None
    data = path.read_bytes()
    end = data.index(b"mdat") - 4 - cut
    path.write_bytes(data[:end])
    with path.open("rb") as file:
        found = sample_table(file.fileno(), 1)
    assert found is None or (found.sizes.tolist(), found.offsets.tolist()) == (
        whole.sizes.tolist(),
        whole.offsets.tolist(),
    )
