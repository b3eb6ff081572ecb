from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.config.sources import Source
from pipeline.errors import AssetError, SourceError, SourceErrorCode
from pipeline.sources import VideoSpec, resolve


def no_media(name: str) -> Path:
    raise AssetError(f"{name} is not to be had", remedy="ask again")


def specs(*sources: Source) -> list[VideoSpec]:
    found = resolve(sources, no_media)
    assert all(isinstance(spec, VideoSpec) for spec in found), found
    return [spec for spec in found if isinstance(spec, VideoSpec)]


def error(source: Source) -> SourceError:
    [found] = resolve([source], no_media)
    assert isinstance(found, SourceError)
    return found


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    for name in [
        "clip10.mp4",
        "clip2.MKV",
        "notes.txt",
        ".hidden.mp4",
        "a/x.ts",
        "a/b/y.webm",
        ".secret/z.mp4",
        "c/clip2.mp4",
    ]:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return tmp_path


def test_a_file(clips: Path) -> None:
    [spec] = specs(Source(path=str(clips / "clip10.mp4")))
    assert (spec.source_id, spec.location, spec.is_url) == ("clip10", str(clips / "clip10.mp4"), False)
    assert spec.settings.path == spec.shown


def test_a_directory_is_searched_for_videos_in_natural_order(clips: Path) -> None:
    found = specs(Source(path=str(clips)))
    assert [spec.source_id for spec in found] == ["a/b/y", "a/x", "c/clip2", "clip2", "clip10"]


def test_a_directory_without_its_subdirectories(clips: Path) -> None:
    found = specs(Source(path=str(clips), recursive=False, id="cam"))
    assert [spec.source_id for spec in found] == ["cam/clip2", "cam/clip10"]


def test_globs(clips: Path) -> None:
    assert [s.source_id for s in specs(Source(path=f"{clips}/*.mp4"))] == ["clip10"]
    assert [s.source_id for s in specs(Source(path=f"{clips}/**/*.mp4"))] == ["c/clip2", "clip10"]
    assert [s.source_id for s in specs(Source(path=f"{clips}/clip[0-9]*", id="k"))] == ["k/clip2", "k/clip10"]
    assert [s.source_id for s in specs(Source(path=f"{clips}/?/*.ts"))] == ["a/x"]


def test_a_file_whose_name_looks_like_a_glob_is_that_file(tmp_path: Path) -> None:
    path = tmp_path / "a[1].mp4"
    path.write_bytes(b"x")
    assert [s.location for s in specs(Source(path=str(path)))] == [str(path)]


def test_relative_paths_and_home(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(clips)
    assert [s.source_id for s in specs(Source(path="c"), Source(path="**/*.ts"))] == ["clip2", "a/x"]
    monkeypatch.setenv("HOME", str(clips))
    assert [s.location for s in specs(Source(path="~/a/x.ts"))] == [str(clips / "a/x.ts")]


def test_ids_are_unique(clips: Path) -> None:
    path = str(clips / "clip10.mp4")
    found = resolve(
        [Source(path=path), Source(path=path), Source(path=path, id="clip10-2"), Source(path="clip10")], no_media
    )
    assert [item.source_id for item in found] == ["clip10", "clip10-2", "clip10-2-2", "clip10-3"]


@given(st.lists(st.sampled_from(["a", "a-2", "a-3", "b", "a-2-2"]), max_size=12))
def test_ids_are_unique_whatever_was_asked_for(wanted: list[str]) -> None:
    found = specs(*(Source(url="https://h/x", id=name) for name in wanted))
    assert len({spec.source_id for spec in found}) == len(wanted)
    assert all(spec.source_id.startswith(name) for spec, name in zip(found, wanted, strict=True))


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("nothing.mp4", "there is no such file or directory"),
        ("no/*.mp4", "no file matches"),
        ("empty", "there are no videos in it"),
        ("x" * 300, "cannot be read: file name too long"),
    ],
)
def test_a_source_without_videos_is_an_error_of_that_source_alone(tmp_path: Path, path: str, message: str) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "good.mp4").write_bytes(b"x")
    bad, good = resolve([Source(path=str(tmp_path / path)), Source(path=str(tmp_path / "good.mp4"))], no_media)
    assert isinstance(bad, SourceError)
    assert message in bad.message and str(tmp_path / path) in bad.message
    assert isinstance(good, VideoSpec)


def test_the_remedy_for_a_directory_with_videos_further_down(clips: Path) -> None:
    (clips / "deep" / "er").mkdir(parents=True)
    (clips / "deep" / "er" / "x.mp4").write_bytes(b"x")
    assert "recursive is false" in str(error(Source(path=str(clips / "deep"), recursive=False)))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_directory_that_may_not_be_read(tmp_path: Path) -> None:
    (tmp_path / "shut").mkdir(mode=0o000)
    assert error(Source(path=str(tmp_path / "shut"))).code is SourceErrorCode.NOT_READABLE


def test_media_cards(tmp_path: Path) -> None:
    [spec] = resolve([Source(media="bikes")], lambda name: tmp_path / f"{name}.mp4")
    assert isinstance(spec, VideoSpec)
    assert (spec.source_id, spec.location) == ("bikes", str(tmp_path / "bikes.mp4"))
    failed = error(Source(media="bikes"))
    assert (failed.message, failed.remedy, failed.source_id) == ("bikes is not to be had", "ask again", "bikes")


@pytest.mark.parametrize(
    ("url", "source_id"),
    [
        ("https://host/live/stream.m3u8?token=abc", "stream"),
        ("http://user:pw@host:8080/", "host"),
        ("http://user:pw@host", "host"),
        ("HTTPS://host/a%20b.mp4", "a b"),
        ("http://[::1/x", "url"),
        ("rtsp://user:pw@10.0.0.7:554/Streaming/Channels/101?token=abc", "10.0.0.7/101"),
        ("rtsp://user:p/w:rd@10.0.0.7/cam", "10.0.0.7/cam"),
        ("RTSPS://gate.example/live.sdp", "gate.example/live"),
        ("rtsp://10.0.0.7", "10.0.0.7"),
        ("udp://239.1.1.1:5000", "239.1.1.1-5000"),
        ("udp://@239.1.1.1:5000?localaddr=10.0.0.1", "239.1.1.1-5000"),
        ("udp://:5000", "udp-5000"),
        ("rtp://239.1.1.1", "239.1.1.1"),
    ],
)
def test_urls(url: str, source_id: str) -> None:
    [spec] = specs(Source(url=url))
    assert (spec.source_id, spec.location, spec.is_url) == (source_id, url, True)


@pytest.mark.parametrize("scheme", ["file", "concat", "subfile", "pipe", "data", "rtmp", "ffrtmpcrypt", "gopher"])
def test_schemes_that_could_read_what_they_should_not(scheme: str) -> None:
    failed = error(Source(url=f"{scheme}://user:hunter2@host/etc/passwd"))
    assert failed.code is SourceErrorCode.UNSUPPORTED
    assert f"{scheme}:// is not supported" in failed.message
    assert "hunter2" not in str(failed)


def test_the_remedy_for_an_unknown_scheme_names_the_known_ones() -> None:
    assert "possible are http, https, rtsp, rtsps, udp and rtp" in str(error(Source(url="srt://host:9000")))


def test_configured_credentials_are_not_in_the_spec() -> None:
    source = Source(url="rtsp://host/cam", username="admin", password="hunter2")
    [spec] = specs(source)
    assert (spec.location, spec.shown) == ("rtsp://host/cam", "rtsp://host/cam")
    assert "hunter2" not in repr(spec) + repr(spec.settings)


def test_credentials_are_nowhere_but_in_the_location() -> None:
    [spec] = specs(Source(url="https://user:hunter2@host/x.m3u8?key=hunter3"))
    assert "hunter2" in spec.location
    assert "hunter" not in repr(spec) + spec.shown + spec.source_id
    assert spec.shown == "https://***@host/x.m3u8?key=***"
