"""A run that is not there, and a client that knows nothing of ours: what the HTTP interface is tested with."""

from __future__ import annotations

import http.client
import json
import threading
import time
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from pipeline.config.sources import Source
from pipeline.errors import SourceErrorCode, UnknownStreamError
from pipeline.observe.status import RunStatus, SourceState, SourceStatus, StageTimes
from pipeline.queues import QueueStats
from pipeline.stages import DropCause, StreamInfo
from pipeline.vram import Allowance, MemoryPlan, Part

TOKEN = "a-token-of-the-tests-0123456789"
LIMIT_S = 20.0


class FakeControl:
    """Records what is asked of it. `raises` holds what a method raises instead, by its name."""

    def __init__(self) -> None:
        self.status = RunStatus()
        self.calls: list[tuple[Any, ...]] = []
        self.raises: dict[str, Exception] = {}

    def add_source(self, source: Source) -> list[str]:
        self._called("add_source", source)
        return [source.id or "new"]

    def remove_source(self, source_id: str) -> None:
        self._named("remove_source", source_id)

    def pause_source(self, source_id: str) -> None:
        self._named("pause_source", source_id)

    def resume_source(self, source_id: str) -> None:
        self._named("resume_source", source_id)

    def restart_source(self, source_id: str) -> None:
        self._named("restart_source", source_id)

    def set_priority(self, source_id: str, priority: int) -> None:
        self._named("set_priority", source_id, priority)

    def stop(self) -> None:
        self._called("stop")

    def _named(self, name: str, source_id: str, *more: Any) -> None:
        if source_id not in self.status.sources:
            raise UnknownStreamError(source_id)
        self._called(name, source_id, *more)

    def _called(self, *call: Any) -> None:
        if call[0] in self.raises:
            raise self.raises[call[0]]
        self.calls.append(call)


def add_live(status: RunStatus, source_id: str = "door") -> SourceStatus:
    """A live stream that has run for a while."""
    source = SourceStatus(source_id, "rtsp://***@camera.example/1", is_live=True, priority=4)
    status.sources[source_id] = source
    source.state, source.changed_s = SourceState.RUNNING, time.monotonic() - 42
    source.info = StreamInfo("h264", 1920, 1080, Fraction(30000, 1001), None, None)
    source.connects, source.results, source.last_pts_s = 3, 90, 3.5
    source.last_error, source.last_error_code = "the server ended it", SourceErrorCode.ENDED
    source.decode.packets, source.decode.decoded = 120, 110
    source.decode.corrupt, source.decode.errors = 2, 1
    source.decode.drops.add(DropCause.CORRUPT, 2)
    source.decode.drops.add(DropCause.SUPERSEDED, 7)
    return source


def fill_run(status: RunStatus) -> None:
    """What is known of a run that goes on."""
    status.device, status.device_reason, status.model, status.batch_size = "cuda", "NVIDIA H200", "mine@0123", 32
    status.started_s = time.monotonic() - 60
    status.first_frame_s = time.monotonic() - 50
    status.stages["infer"] = StageTimes(busy_s=2.5, batches=10, frames=300)


def fill_queues(status: RunStatus, source: SourceStatus) -> None:
    """What is known of queues and of the device's memory."""
    status.queues["results"] = QueueStats(2, 1, 2, 5, 0.25, 7, 1.5)
    source.slot = QueueStats(4, 1, 3, 6, 0.5)
    source.decode.surfaces = QueueStats(15, 2, 9, 4, 0.75, item_bytes=1000)
    status.memory = MemoryPlan((Part("decoders", 100, ""), Part("TensorFlow", 600, "")), 2000, None, None)
    status.decoder_memory = Allowance(500)
    assert status.decoder_memory.take(300)
    status.decoder_memory.give_back(100)


@dataclass
class Answer:
    """What came back."""

    status: int
    headers: http.client.HTTPMessage
    text: str

    @property
    def json(self) -> Any:
        assert self.headers.get_content_type() == "application/json", self.text
        return json.loads(self.text)


def ask(
    port: int,
    method: str,
    path: str,
    body: Any = None,
    *,
    raw: bytes | None = None,
    token: str | None = TOKEN,
    headers: dict[str, str] | None = None,
) -> Answer:
    """One request with http.client, which sends path and headers as they are given."""
    sent = dict(headers or {})
    if token is not None:
        sent.setdefault("Authorization", f"Bearer {token}")
    data = raw if raw is not None else None if body is None else json.dumps(body).encode()
    if data is not None:
        sent.setdefault("Content-Type", "application/json")
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=LIMIT_S)
    try:
        connection.request(method, path, data, sent)
        response = connection.getresponse()
        return Answer(response.status, response.headers, response.read().decode())
    finally:
        connection.close()


def threads_since(before: set[threading.Thread]) -> list[threading.Thread]:
    """The threads that came since and do not end; waits for those that are about to."""
    new = [thread for thread in threading.enumerate() if thread not in before]
    deadline_s = time.monotonic() + LIMIT_S
    for thread in new:
        thread.join(max(0.0, deadline_s - time.monotonic()))
    return [thread for thread in new if thread.is_alive()]
