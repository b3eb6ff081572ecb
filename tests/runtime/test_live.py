"""Live streams of real RTSP servers through the whole pipeline: healing, freshness, coming and going."""

from __future__ import annotations

import contextlib
import functools
import http.server
import itertools
import json
import logging
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import av
import bad_servers
import numpy as np
import pytest
from media_maker import make_clip, read_number
from rtsp import RtspServer, require_rtsp_server

from pipeline import Pipeline
from pipeline.errors import SourceErrorCode, StreamStateError
from pipeline.frames import Result
from pipeline.observe import summary
from pipeline.observe.status import RunStatus, SourceState, SourceStatus
from pipeline.stages import DropCause

pytestmark = pytest.mark.timeout(120)
WAIT_S = 30.0
PROGRAM = Path(__file__).parents[2] / "run_pipeline.py"
SECRET = "hunter2-s3cret"
CAP_S = 0.5
QUICK = {"initial_s": 0.2, "max_s": CAP_S, "permanent_s": CAP_S}


@pytest.fixture(scope="module", autouse=True)
def _server_can_run() -> None:
    require_rtsp_server()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A SavedModel: image float32 [N, 48, 64, 3] -> its mean [N]."""
    import tensorflow as tf

    class Mean(tf.Module):
        @tf.function(input_signature=[tf.TensorSpec((None, 48, 64, 3), tf.float32, name="image")])
        def mean(self, image):  # type: ignore[no-untyped-def]
            return {"mean": tf.reduce_mean(image, (1, 2, 3))}

    path = tmp_path_factory.mktemp("models") / "mean"
    module = Mean()
    tf.saved_model.save(module, str(path), signatures=module.mean)
    return path


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("cameras")
    size = {"width": 160, "height": 120, "frames": 120, "gop": 15}
    return {
        "h264": make_clip(folder / "h264.mp4", options={"bf": "0"}, **size),
        "h265": make_clip(folder / "h265.mkv", codec="libx265", **size),
        "larger": make_clip(folder / "larger.mp4", options={"bf": "0"}, **{**size, "width": 192, "height": 144}),
    }


def settings(model: Path, sources: list[Any], **more: Any) -> dict[str, Any]:
    return {
        "device": "cpu",
        "sources": sources,
        "pipeline": {
            "model": {"path": str(model)},
            "postprocess": {"family": "raw"},
            **more.pop("stages", {}),
        },
        "runtime": {"batch_size": 4, **more.pop("runtime", {})},
        **more,
    }


def camera(server: RtspServer, name: str, **more: Any) -> dict[str, Any]:
    return {"url": server.url(name), "id": name, "timeout_s": 2.0, "stall_s": 0.5, "reconnect": QUICK, **more}


def wait_until(condition: Callable[[], Any], what: str = "", within_s: float = WAIT_S) -> float:
    """How long it took."""
    start_s = time.monotonic()
    while not condition():
        assert time.monotonic() - start_s < within_s, f"not within {within_s} s: {what}"
        time.sleep(0.01)
    return time.monotonic() - start_s


class Run:
    """A pipeline that runs in a thread; its results are kept."""

    def __init__(self, config: dict[str, Any]) -> None:
        self.pipeline = Pipeline.from_dict(config)
        self.status: RunStatus = self.pipeline.status
        self.results: list[Result] = []
        self.error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, daemon=True)

    def _work(self) -> None:
        try:
            for result in self.pipeline:
                self.results.append(result)
        except BaseException as e:
            self.error = e

    def of(self, source_id: str) -> list[Result]:
        return [r for r in list(self.results) if r.frame.source_id == source_id]

    def source(self, source_id: str) -> SourceStatus:
        return self.status.sources[source_id]

    def wait_for(self, source_id: str, state: SourceState) -> float:
        return wait_until(lambda: self.source(source_id).state is state, f"{source_id} {state.value}")

    def wait_for_results(self, source_id: str, count: int = 5) -> None:
        """So many more from now on."""
        before = len(self.of(source_id))
        wait_until(lambda: len(self.of(source_id)) >= before + count or self.error, f"results of {source_id}")
        assert self.error is None, self.error

    def __enter__(self) -> Run:
        self.pipeline.prepare()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.pipeline.stop()
        self._thread.join(WAIT_S)
        assert not self._thread.is_alive()
        assert self.error is None, self.error
        for source in self.status.sources.values():
            assert source.in_flight == 0, f"{source.source_id}: {source.totals} {source.dropped} {source.results}"


def numbers(results: list[Result]) -> list[int]:
    return [read_number(r.frame.picture.planes[0]) for r in results]


def test_frames_of_all_streams_come_in_order_with_their_latency(model: Path, clips: dict[str, Path]) -> None:
    with (
        RtspServer({"h264": clips["h264"], "h265": clips["h265"]}, loop=True) as server,
        Run(settings(model, [camera(server, "h264"), camera(server, "h265", transport="udp")])) as run,
    ):
        for name in ("h264", "h265"):
            run.wait_for_results(name, 150)
        # RTCP's clock: the first report comes some seconds after the start.
        wait_until(lambda: run.source("h264").latency["capture_to_emit"].count > 5, "the camera's own time")
    for name in ("h264", "h265"):
        found = run.of(name)
        frames = [r.frame for r in found]
        assert [f.index for f in frames] == sorted({f.index for f in frames})
        assert all(b.pts_s > a.pts_s for a, b in itertools.pairwise(frames))  # type: ignore[operator]
        assert [n % 120 for n in numbers(found)] == numbers(found)
        # A frame's number says where in the clip it is, its time says when: they agree, modulo the clip's length.
        first = numbers(found)[0] - frames[0].pts_s * 30  # type: ignore[operator]
        drift = [(n - f.pts_s * 30 - first + 60) % 120 - 60 for n, f in zip(numbers(found), frames, strict=True)]  # type: ignore[operator]
        assert np.abs(drift).max() < 1.5
        latency = run.source(name).latency["total"].quantiles_ms()
        assert latency is not None
        assert 0 < latency["p50_ms"] < 1000
    capture = run.source("h264").latency["capture_to_emit"].quantile(0.5)
    assert capture is not None
    assert capture < 2.0  # the server's clock is ours


def test_a_server_that_is_killed_and_comes_back_is_found_again_and_the_others_do_not_notice(
    model: Path, clips: dict[str, Path]
) -> None:
    with (
        RtspServer({"a": clips["h264"]}, loop=True) as first,
        RtspServer({"b": clips["h264"]}, loop=True) as second,
        Run(settings(model, [camera(first, "a"), camera(second, "b")])) as run,
    ):
        run.wait_for_results("a")
        run.wait_for_results("b", 30)
        for round_number in range(3):
            first.kill()
            run.wait_for("a", SourceState.BACKING_OFF)
            run.wait_for_results("b", 30)
            first.restart()
            assert run.wait_for("a", SourceState.RUNNING) < CAP_S + 2
            run.wait_for_results("a")
            assert run.source("a").reconnects == round_number + 1
        others = [r.frame.received_s for r in run.of("b")]
    assert run.source("b").connects == 1
    gaps = np.diff(np.array(others, float))
    assert gaps.max() < 1.0  # 30 frames/s
    times = [r.frame.pts_s for r in run.of("a")]
    assert all(later > earlier for earlier, later in itertools.pairwise(times))  # type: ignore[operator]


def test_a_frozen_server_is_noticed_left_and_found_again(model: Path, clips: dict[str, Path]) -> None:
    with (
        RtspServer({"a": clips["h264"]}, loop=True) as server,
        Run(settings(model, [camera(server, "a")])) as run,
    ):
        run.wait_for_results("a")
        server.freeze()
        assert run.wait_for("a", SourceState.STALLED) < 3
        wait_until(lambda: run.source("a").state in (SourceState.BACKING_OFF, SourceState.CONNECTING))
        assert run.source("a").last_error_code in (SourceErrorCode.TIMEOUT, SourceErrorCode.STALLED)
        server.thaw()
        run.wait_for("a", SourceState.RUNNING)
        run.wait_for_results("a")


def test_size_and_codec_may_change_from_one_connection_to_the_next(model: Path, clips: dict[str, Path]) -> None:
    with (
        RtspServer({"a": clips["h264"]}, loop=True) as server,
        Run(settings(model, [camera(server, "a")])) as run,
    ):
        for name, size, codec in (
            ("h264", (160, 120), "h264"),
            ("larger", (192, 144), "h264"),
            ("h265", (160, 120), "hevc"),
        ):
            server.restart(mounts={"a": clips[name]})
            count = len(run.results)
            wait_until(
                lambda size=size, count=count: any(
                    (r.frame.picture.width, r.frame.picture.height) == size for r in run.results[count:]
                ),
                f"a frame of {size}",
            )
            wait_until(lambda codec=codec: run.source("a").info is not None and run.source("a").info.codec == codec)
            run.wait_for_results("a")


def test_with_packet_loss_no_damaged_frame_comes_out(model: Path, clips: dict[str, Path]) -> None:
    with av.open(str(clips["h264"])) as container:
        clean = [frame.to_ndarray(format="yuv420p")[:120] for frame in container.decode(video=0)]
    with (
        RtspServer({"a": clips["h264"]}, loop=True, drop=0.05) as server,
        Run(settings(model, [camera(server, "a")])) as run,
    ):
        wait_until(lambda: run.source("a").dropped.get(DropCause.CORRUPT, 0) >= 20 and len(run.results) > 100)
    source = run.source("a")
    assert source.totals.corrupt >= 20
    assert source.connects == 1  # decoding goes on, without a new connection
    seen = run.of("a")
    wrong = [
        n for n, r in zip(numbers(seen), seen, strict=True) if not np.array_equal(r.frame.picture.planes[0], clean[n])
    ]
    assert len(wrong) <= 0.02 * len(seen), f"{len(wrong)} of {len(seen)} differ"


def test_a_slow_model_gets_the_newest_frames_and_every_other_is_accounted_for(
    model: Path, clips: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from pipeline.inference.tensorflow import TensorFlowModel

    original = TensorFlowModel.__call__

    def slow(self: Any, tensor: Any) -> Any:
        time.sleep(0.2)
        return original(self, tensor)

    with (
        RtspServer({"a": clips["h264"], "b": clips["h265"]}, loop=True) as server,
        Run(settings(model, [camera(server, "a"), camera(server, "b", priority=3)], runtime={"batch_size": 1})) as run,
    ):
        monkeypatch.setattr(TensorFlowModel, "__call__", slow)
        start = len(run.results)
        wait_until(lambda: len(run.results) >= start + 20)
    monkeypatch.undo()
    assert run.source("a").dropped[DropCause.SUPERSEDED] > 20
    # What waits is one frame in its slot and the few batches between the stages.
    late = [r.frame for r in run.results[start:]]
    assert max(f.decoded_s - f.received_s for f in late) < 0.5  # type: ignore[operator]
    total = run.source("b").latency["total"].quantile(0.99)
    assert total is not None
    assert total < 2.5
    share = len([f for f in late if f.source_id == "b"]) / len(late)
    assert share == pytest.approx(0.75, abs=0.1)


def test_rates_and_policies_are_per_stream(model: Path, clips: dict[str, Path]) -> None:
    with (
        RtspServer(
            {"all": clips["h264"], "few": clips["h264"], "third": clips["h264"], "keys": clips["h264"]}, loop=True
        ) as server,
        Run(
            settings(
                model,
                [
                    camera(server, "all", policy="fifo"),
                    camera(server, "few", policy="fifo", max_fps=5),
                    camera(server, "third", policy="fifo", every=3),
                    camera(server, "keys", policy="keyframes"),
                ],
            )
        ) as run,
    ):
        for name in ("all", "few", "third", "keys"):
            run.wait_for_results(name, 8)
        run.wait_for_results("all", 60)
    of = {name: numbers(run.of(name)) for name in ("all", "few", "third", "keys")}
    assert set(np.diff(of["all"]) % 120) == {1}
    assert set(np.diff(of["few"]) % 120) == {6}
    assert set(np.diff(of["third"]) % 120) == {3}
    assert {n % 15 for n in of["keys"]} == {0}
    assert run.source("keys").dropped[DropCause.NON_KEY] > run.source("keys").results


def test_streams_come_and_go_by_the_python_api(model: Path, clips: dict[str, Path]) -> None:
    with (
        RtspServer({"a": clips["h264"], "b": clips["h265"]}, loop=True) as server,
        Run(settings(model, [camera(server, "a")], runtime={"stay_alive": True})) as run,
    ):
        run.wait_for_results("a")
        assert run.pipeline.add_source(camera(server, "b")) == ["b"]
        assert run.pipeline.add_source(server.url("a")) == ["127.0.0.1/a"]
        run.wait_for_results("b")
        run.wait_for_results("127.0.0.1/a")
        run.pipeline.pause_source("b")
        run.wait_for("b", SourceState.PAUSED)
        run.pipeline.remove_source("a")
        wait_until(lambda: "a" not in run.status.sources)
        run.pipeline.resume_source("b")
        run.wait_for_results("b")
        assert run.status.removed_results == len(run.of("a"))
        assert run.pipeline.add_source(camera(server, "a")) == ["a"]
        run.wait_for_results("a")
        for name in list(run.status.sources):
            run.pipeline.remove_source(name)
        wait_until(lambda: not run.status.sources)
        assert run.pipeline.add_source(camera(server, "b")) == ["b"]
        run.wait_for_results("b")
    with pytest.raises(StreamStateError, match="not going on"):
        run.pipeline.add_source("rtsp://127.0.0.1/x")


def test_a_password_is_nowhere_to_be_seen(
    model: Path, clips: dict[str, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    with (
        RtspServer({"a": clips["h264"]}, loop=True, user="admin", password=SECRET) as server,
        bad_servers.status(401) as refusing,
    ):
        url = server.url("a", credentials=("admin", SECRET))
        sources = [
            {"url": url, "reconnect": QUICK},
            camera(server, "a", id="by settings", username="admin", password=SECRET),
            {"url": f"rtsp://admin:{SECRET}@127.0.0.1:{refusing}/x", "id": "refused"},
            {"url": f"rtsp://admin:{SECRET}@127.0.0.1:1/x", "id": "nobody there", "reconnect": QUICK},
        ]
        config = settings(
            model,
            sources,
            sinks=[{"type": "tensors", "path": str(tmp_path / "out.npz")}],
        )
        with Run(config) as run:
            run.wait_for_results("by settings")
            wait_until(lambda: run.source("refused").state is SourceState.FAILED)
            wait_until(lambda: run.source("nobody there").failed_attempts > 1)
            server.kill()
            run.wait_for("by settings", SourceState.BACKING_OFF)
    assert run.source("refused").error_code is SourceErrorCode.UNAUTHORIZED
    told = [
        caplog.text,
        summary.render(run.status),
        json.dumps(summary.as_dict(run.status)),
        repr(run.status),
        repr(run.pipeline.config),
        "".join(repr(r.frame.source_id) for r in run.results),
        *(repr(vars(record)) for record in caplog.records),
        *(p.read_bytes().decode("latin-1") for p in tmp_path.iterdir()),
    ]
    assert [text for text in told if SECRET in text] == []


@pytest.mark.parametrize("where", ["file", "udp", "http", "hls"])
def test_other_live_transports(model: Path, tmp_path: Path, where: str) -> None:
    """MPEG-TS over UDP and HTTP from a server that never ends, and an HLS playlist that goes on for ever."""
    clip = make_clip(tmp_path / "a.ts", width=160, height=120, frames=100, gop=10, options={"bf": "0"})
    if where == "file":  # a file among live streams is processed whole
        with Run(settings(model, [{"path": str(clip), "id": "a"}], runtime={"stay_alive": True})) as run:
            wait_until(lambda: len(run.results) == 100)
        assert numbers(run.results) == list(range(100))
        return
    if shutil.which("ffmpeg") is None:
        pytest.skip("there is no ffmpeg to send a stream: apt-get install ffmpeg")
    with contextlib.ExitStack() as stack:
        url = stack.enter_context({"udp": over_udp, "http": over_http, "hls": as_hls}[where](clip))
        source = {"url": url, "id": "a", "live": True, "timeout_s": 4, "reconnect": QUICK}
        run = stack.enter_context(Run(settings(model, [source])))
        run.wait_for_results("a", 30)
        assert run.source("a").state is SourceState.RUNNING
        assert run.source("a").connects == 1 or where == "hls"  # whose first playlist may come too late


def sending(clip: Path, *output: str, **options: Any) -> subprocess.Popen[bytes]:
    """FFmpeg, which sends a clip for ever at its own pace."""
    command = ["ffmpeg", "-v", "error", "-re", "-stream_loop", "-1", "-i", str(clip), "-c", "copy", *output]
    return subprocess.Popen(command, **options)


@contextlib.contextmanager
def over_udp(clip: Path) -> Iterator[str]:
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"udp://127.0.0.1:{probe.getsockname()[1]}"
    process = sending(clip, "-f", "mpegts", f"{url}?pkt_size=1316")
    try:
        yield url
    finally:
        process.kill()
        process.wait(10)


@contextlib.contextmanager
def serving(handler: Any) -> Iterator[str]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        server.daemon_threads = True
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()


@contextlib.contextmanager
def over_http(clip: Path) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            with (
                sending(clip, "-f", "mpegts", "pipe:1", stdout=subprocess.PIPE) as process,
                contextlib.suppress(OSError),
            ):
                assert process.stdout is not None
                try:
                    while data := process.stdout.read1(4096):  # type: ignore[attr-defined]
                        self.wfile.write(data)
                finally:
                    process.kill()

    with serving(Handler) as base:
        yield f"{base}/live.ts"


@contextlib.contextmanager
def as_hls(clip: Path) -> Iterator[str]:
    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *args: Any) -> None:
            pass

    folder = clip.parent / "hls"
    folder.mkdir()
    options = ("-f", "hls", "-hls_time", "1", "-hls_list_size", "6", "-hls_flags", "delete_segments")
    process = sending(clip, *options, str(folder / "live.m3u8"))
    try:
        wait_until((folder / "live.m3u8").exists, "a playlist")
        with serving(functools.partial(Handler, directory=str(folder))) as base:
            yield f"{base}/live.m3u8"
    finally:
        process.kill()
        process.wait(10)


def test_size_codec_and_clock_may_change_in_mid_stream(model: Path, tmp_path: Path) -> None:
    """MPEG-TS over UDP in which one clip follows another whose size, codec and timestamps are different."""
    import socket

    size = {"width": 160, "height": 120, "frames": 60, "gop": 10}
    clips = [
        make_clip(tmp_path / "small.ts", options={"bf": "0"}, **size),
        make_clip(tmp_path / "large.ts", options={"bf": "0"}, **{**size, "width": 192, "height": 144}),
        make_clip(tmp_path / "hevc.ts", codec="libx265", **{**size, "width": 128, "height": 96}),
    ]
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    ended = threading.Event()

    def send() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
            for clip in itertools.chain(clips[:2] * 2, itertools.repeat(clips[2])):
                data = clip.read_bytes()
                parts = [data[i : i + 1316] for i in range(0, len(data), 1316)]
                for part in parts:
                    with contextlib.suppress(OSError):  # nobody listens yet
                        sender.sendto(part, ("127.0.0.1", port))
                    if ended.wait(2.0 / len(parts)):
                        return

    thread = threading.Thread(target=send, daemon=True)
    thread.start()
    try:
        source = {"url": f"udp://127.0.0.1:{port}", "id": "a", "timeout_s": 1.0, "reconnect": QUICK}
        with Run(settings(model, [source])) as run:
            sizes = lambda: {(r.frame.picture.width, r.frame.picture.height) for r in list(run.results)}  # noqa: E731
            wait_until(lambda: sizes() >= {(160, 120), (192, 144), (128, 96)}, "frames of all sizes", 60)
            run.wait_for_results("a", 30)
    finally:
        ended.set()
        thread.join(10)
    times = [r.frame.pts_s for r in run.of("a")]
    assert all(later > earlier for earlier, later in itertools.pairwise(times))  # type: ignore[operator]


def test_2000_attempts_to_reach_a_camera_that_is_absent_leave_nothing_behind() -> None:
    script = Path(__file__).with_name("absent_camera.py")
    done = subprocess.run(
        [sys.executable, str(script), "2000"], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    early, late = found["early"], found["late"]
    assert found["ended"]
    assert found["connects"] == 0
    assert late["threads"] <= early["threads"] + 1
    assert late["files"] <= early["files"] + 1
    assert late["rss_bytes"] - early["rss_bytes"] < 2 << 20  # 1,500 attempts: below 1.4 KB for each


# ----------------------------------------------------------------------------------------------------- the real program


@contextlib.contextmanager
def program(
    config: dict[str, Any], folder: Path, **environment: str
) -> Iterator[tuple[subprocess.Popen[str], Path, list[str]]]:
    """The command with this configuration; its file and, as they come, its log lines."""
    file = folder / "config.yaml"
    file.write_text(json.dumps(config))
    process = subprocess.Popen(
        [sys.executable, str(PROGRAM), str(file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1", **environment},
    )
    lines: list[str] = []
    assert process.stderr is not None
    reader = threading.Thread(target=lambda: lines.extend(iter(process.stderr.readline, "")), daemon=True)  # type: ignore[union-attr]
    reader.start()
    try:
        yield process, file, lines
    finally:
        process.kill()
        process.wait(10)
        reader.join(10)
        for pipe in (process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()


def said(lines: list[str], text: str) -> None:
    wait_until(lambda: any(text in line for line in list(lines)), f"{text!r} in {lines}", 60)


def test_sighup_reloads_the_sources_and_sigterm_ends_the_run_with_its_outputs(
    model: Path, clips: dict[str, Path], tmp_path: Path
) -> None:
    out = tmp_path / "out.npz"
    with RtspServer({"a": clips["h264"], "b": clips["h265"], "c": clips["larger"]}, loop=True) as server:
        config = settings(
            model,
            [camera(server, "a"), camera(server, "b")],
            sinks=[{"type": "tensors", "path": str(out)}],
            observe={"progress": "never"},
        )
        with program(config, tmp_path) as (process, file, lines):
            said(lines, "stream a: running")
            said(lines, "stream b: running")
            file.write_text(json.dumps({**config, "sources": [camera(server, "a", priority=5), camera(server, "c")]}))
            process.send_signal(signal.SIGHUP)
            said(lines, "stream b: stopped")
            said(lines, "stream c: running")
            said(lines, "reload: 1 removed, 1 added")
            file.write_text("sources: [")
            process.send_signal(signal.SIGHUP)
            said(lines, "was not reloaded, the run goes on as it was")
            process.send_signal(signal.SIGTERM)
            start_s = time.monotonic()
            stdout, _ = process.communicate(timeout=60)
            assert time.monotonic() - start_s < 15
        log = "".join(lines)
        assert process.returncode == 130, log
        assert log.count("stream a: connecting") == 1
        assert "Traceback" not in log
        assert str(out) in stdout
        assert "latency in ms" in stdout
        with np.load(out) as saved:
            assert set(saved["source"].tolist()) == {"a", "b", "c"}


def test_a_run_is_steered_over_http_and_by_the_command(model: Path, clips: dict[str, Path], tmp_path: Path) -> None:
    token = "a-token-of-some-length"
    with RtspServer({"a": clips["h264"], "b": clips["h265"]}, loop=True) as server:
        config = settings(
            model,
            [camera(server, "a")],
            observe={"progress": "never", "http": {"port": 0, "token": "${VRAMLINE_TOKEN}"}},
            runtime={"stay_alive": True},
        )

        def streams(*arguments: str, fails: bool = False) -> str:
            done = subprocess.run(
                [sys.executable, str(PROGRAM), "streams", *arguments, "--url", url],
                capture_output=True,
                text=True,
                timeout=60,
                check=False,
                env={**os.environ, "VRAMLINE_TOKEN": token},
            )
            assert (done.returncode != 0) is fails, done.stderr
            return done.stdout + done.stderr

        with program(config, tmp_path, VRAMLINE_TOKEN=token) as (process, _, lines):
            said(lines, "stream a: running")
            url = re.search(r"http://127\.0\.0\.1:\d+", "".join(lines))[0]  # type: ignore[index]
            assert "running" in streams("list")
            streams("add", server.url("b"))
            said(lines, "stream 127.0.0.1/b: running")
            streams("pause", "a")
            said(lines, "stream a: paused")
            shown = json.loads(streams("show", "a", "--json"))
            assert (shown["state"], shown["reconnects"]) == ("paused", 0)
            assert shown["counters"]["packets"] >= shown["counters"]["results"] > 0
            streams("resume", "a")
            wait_until(lambda: "".join(lines).count("stream a: running") == 2)
            streams("priority", "a", "7")
            wait_until(lambda: json.loads(streams("show", "a", "--json"))["priority"] == 7)
            streams("remove", "127.0.0.1/b")
            said(lines, "stream 127.0.0.1/b: stopped")
            assert "no stream" in streams("pause", "127.0.0.1/b", fails=True)
            streams("stop")
            process.wait(30)
        assert process.returncode == 0, lines
        assert token not in "".join(lines)
