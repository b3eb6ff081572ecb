"""What the HTTP interface answers."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from pathlib import Path

import pytest
from control_fakes import TOKEN, Answer, FakeControl, add_live

from pipeline.config.sources import Source
from pipeline.control.http import HttpServer
from pipeline.errors import SourceError, SourceErrorCode, StreamStateError, VramlineError
from pipeline.observe.status import SourceState, SourceStatus
from pipeline.stages import DropCause

Ask = Callable[..., Answer]
PROTECTED = [
    ("GET", "/streams"),
    ("GET", "/streams/door"),
    ("POST", "/streams"),
    ("DELETE", "/streams/door"),
    ("PATCH", "/streams/door"),
    ("POST", "/streams/door/pause"),
    ("POST", "/streams/door/resume"),
    ("POST", "/streams/door/restart"),
    ("GET", "/run"),
    ("POST", "/run/stop"),
    ("GET", "/metrics"),
    ("GET", "/openapi.json"),
    ("GET", "/docs"),
    ("GET", "/no-such-path"),
    ("GET", "/healthz/"),
    ("GET", "//healthz"),
]


def test_a_stream_is_shown_with_all_that_is_known_of_it(control: FakeControl, request_: Ask) -> None:
    source = add_live(control.status)
    for _ in range(100):
        source.latency["infer"].add(0.020)
    answer = request_("GET", "/streams/door")
    assert answer.status == 200
    shown = answer.json
    assert 42 <= shown.pop("state_s") < 42 + 60
    latency = shown.pop("latency")
    assert list(latency) == ["infer"]
    assert latency["infer"].pop("max_ms") == 20
    assert sorted(latency["infer"]) == ["p50_ms", "p95_ms", "p99_ms"]
    assert all(math.isclose(value, 20, rel_tol=0.05) for value in latency["infer"].values())
    assert math.isclose(shown["stream"].pop("frame_rate"), 29.97, rel_tol=1e-4)
    assert shown == {
        "id": "door",
        "location": "rtsp://***@camera.example/1",
        "state": "running",
        "live": True,
        "priority": 4,
        "error": None,
        "error_code": None,
        "last_error": "the server ended it",
        "last_error_code": "ended",
        "connects": 3,
        "reconnects": 2,
        "failed_attempts": 0,
        "retry_in_s": None,
        "stream": {"codec": "h264", "width": 1920, "height": 1080},
        "counters": {
            "packets": 120,
            "decoded": 110,
            "results": 90,
            "corrupt": 2,
            "decode_errors": 1,
            "dropped": 9,
            "dropped_by_cause": {"corrupt": 2, "superseded": 7},
            "in_flight": 21,
        },
        "results_per_s": 0.0,
        "last_pts_s": 3.5,
    }


def test_the_list_has_every_stream_in_order(control: FakeControl, request_: Ask) -> None:
    assert request_("GET", "/streams").json == {"streams": []}
    for name in ("z", "a", "m/1"):
        add_live(control.status, name)
    shown = request_("GET", "/streams").json["streams"]
    assert [stream["id"] for stream in shown] == ["z", "a", "m/1"]
    assert shown[2] | {"state_s": 0} == request_("GET", "/streams/m/1").json | {"state_s": 0}


def test_the_time_to_the_next_attempt_is_told_only_while_one_is_awaited(control: FakeControl, request_: Ask) -> None:
    source = add_live(control.status)
    source.retry_s = source.changed_s + 42 + 1000
    assert request_("GET", "/streams/door").json["retry_in_s"] is None
    source.state = SourceState.BACKING_OFF
    assert 900 < request_("GET", "/streams/door").json["retry_in_s"] <= 1000
    source.retry_s = source.changed_s  # due, and not yet begun
    assert request_("GET", "/streams/door").json["retry_in_s"] == 0


def test_a_failed_file_says_why(control: FakeControl, request_: Ask) -> None:
    source = control.status.sources["a"] = SourceStatus("a", "a.mp4")
    source.fail(SourceError("a.mp4: broken", source_id="a", code=SourceErrorCode.DAMAGED))
    shown = request_("GET", "/streams/a").json
    assert (shown["state"], shown["error"], shown["error_code"]) == ("failed", "a.mp4: broken", "damaged")
    assert (shown["live"], shown["stream"], shown["latency"], shown["last_pts_s"]) == (False, None, {}, None)


@pytest.mark.parametrize("action", ["pause", "resume", "restart"])
def test_actions_reach_the_stream(action: str, control: FakeControl, request_: Ask) -> None:
    add_live(control.status)
    answer = request_("POST", f"/streams/door/{action}")
    assert (answer.status, answer.json) == (202, {"accepted": action, "id": "door"})
    assert control.calls == [(f"{action}_source", "door")]


def test_removal_and_priority_reach_the_stream(control: FakeControl, request_: Ask) -> None:
    add_live(control.status)
    answer = request_("PATCH", "/streams/door", {"priority": 7})
    assert (answer.status, answer.json) == (202, {"accepted": "priority", "id": "door"})
    answer = request_("DELETE", "/streams/door")
    assert (answer.status, answer.json) == (202, {"accepted": "remove", "id": "door"})
    assert control.calls == [("set_priority", "door", 7), ("remove_source", "door")]


@pytest.mark.parametrize(
    ("stream_id", "path"),
    [
        ("hall/left", "hall/left"),
        ("hall/left", "hall%2Fleft"),
        ("hall/pause", "hall/pause"),
        ("pause", "pause"),
        ("/abs//x/", "%2Fabs%2F%2Fx%2F"),
        ("/abs//x/", "/abs//x/"),
        ("a?b#c%d é", "a%3Fb%23c%25d%20%C3%A9"),
        ("..", ".."),
    ],
)
def test_ids_may_hold_anything(stream_id: str, path: str, control: FakeControl, request_: Ask) -> None:
    add_live(control.status, stream_id)
    add_live(control.status, "hall")
    assert request_("GET", f"/streams/{path}").json["id"] == stream_id
    for method, what in [("POST", "/pause"), ("POST", "/restart"), ("DELETE", "")]:
        assert request_(method, f"/streams/{path}{what}").status == 202
    assert request_("PATCH", f"/streams/{path}", {"priority": 2}).status == 202
    assert control.calls == [
        ("pause_source", stream_id),
        ("restart_source", stream_id),
        ("remove_source", stream_id),
        ("set_priority", stream_id, 2),
    ]


def test_an_id_that_is_no_valid_text_can_be_named_as_it_is_shown(control: FakeControl, request_: Ask) -> None:
    stream_id = "caf\udce9"  # what a file's name in Latin-1 becomes
    add_live(control.status, stream_id)
    (shown,) = [stream["id"] for stream in request_("GET", "/streams").json["streams"]]
    assert shown == "caf\\udce9"
    assert request_("POST", "/streams/caf%5Cudce9/pause").status == 202
    assert control.calls == [("pause_source", stream_id)]
    assert request_("GET", "/metrics").status == 200


def test_a_source_is_added_as_the_configuration_writes_it(control: FakeControl, request_: Ask) -> None:
    body = {"url": "rtsp://camera/1", "id": "door", "priority": 4, "roi": {"rect": [0, 0, 64, 32.5]}, "live": True}
    answer = request_("POST", "/streams", body)
    assert (answer.status, answer.json) == (201, {"ids": ["door"]})
    assert control.calls == [("add_source", Source.model_validate(body))]


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("rtsp://u:p@camera/1", Source(url="rtsp://u:p@camera/1")),
        ("clips/*.mp4", Source(path="clips/*.mp4")),
        ("media:bikes", Source(media="bikes")),
    ],
)
def test_a_source_may_be_a_text(text: str, source: Source, control: FakeControl, request_: Ask) -> None:
    assert request_("POST", "/streams", text).status == 201
    assert control.calls == [("add_source", source)]


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        ({"url": "rtsp://c/1", "priority": 0}, ["priority"]),
        ({"url": "rtsp://c/1", "priority": "4"}, ["priority"]),  # as strict as the file
        ({"url": "rtsp://c/1", "timeout_s": True, "transprot": "udp"}, ["timeout_s", "transprot"]),
        ({"url": "rtsp://c/1", "roi": {"polygon": [[0, 0], [1, 1], ["x", 1]]}}, ["roi.polygon[2][0]"]),
        ({"url": "rtsp://c/1", "roi": {"rect": [4, 4, 1, 1]}}, ["roi"]),
        ({"url": "rtsp://c/1", "path": "a.mp4"}, [""]),
        ({}, [""]),
        ([], [""]),
        (5, [""]),
        (None, [""]),
    ],
)
def test_a_wrong_source_is_told_by_field(body: object, fields: list[str], control: FakeControl, request_: Ask) -> None:
    answer = request_("POST", "/streams", body)
    assert answer.status == 422
    assert [each["field"] for each in answer.json["fields"]] == fields
    for each in answer.json["fields"]:
        assert each["message"]
        assert each["field"] in answer.json["error"]
        assert each["message"] in answer.json["error"]
    assert control.calls == []


def test_a_body_that_is_no_json(control: FakeControl, request_: Ask) -> None:
    answer = request_("POST", "/streams", raw=b'{"url": "rtsp://c/1"')
    assert (answer.status, answer.json["error"]) == (422, "the body is no JSON")
    assert control.calls == []


@pytest.mark.parametrize(
    "body", [{}, {"priority": 0}, {"priority": 101}, {"priority": 1.5}, {"priority": 1, "id": "x"}, 4]
)
def test_a_wrong_change_is_refused(body: object, control: FakeControl, request_: Ask) -> None:
    add_live(control.status)
    assert request_("PATCH", "/streams/door", body).status == 422
    assert control.calls == []


def test_errors_of_the_run_keep_their_words(control: FakeControl, request_: Ask) -> None:
    add_live(control.status)
    control.raises = {
        "pause_source": StreamStateError("door has ended", remedy="restart it"),
        "add_source": SourceError(
            "rtsp://u:hunter2@c/1: refused", source_id="c", code=SourceErrorCode.UNSUPPORTED, remedy="use http"
        ),
        "stop": VramlineError("no"),
    }
    answer = request_("POST", "/streams/door/pause")
    assert (answer.status, answer.json) == (409, {"error": "door has ended", "remedy": "restart it"})
    answer = request_("POST", "/streams", "rtsp://c/1")
    assert answer.status == 422
    assert answer.json == {"error": "rtsp://***@c/1: refused", "remedy": "use http", "code": "unsupported"}
    answer = request_("POST", "/run/stop")
    assert (answer.status, answer.json) == (500, {"error": "no"})


@pytest.mark.parametrize(
    ("method", "path"),
    [("GET", ""), ("DELETE", ""), ("PATCH", ""), ("POST", "/pause"), ("POST", "/resume"), ("POST", "/restart")],
)
def test_an_unknown_stream_is_404(method: str, path: str, control: FakeControl, request_: Ask) -> None:
    add_live(control.status)
    body = {"priority": 2} if method == "PATCH" else None
    answer = request_(method, f"/streams/window{path}", body)
    assert answer.status == 404
    assert "'window'" in answer.json["error"]
    assert control.calls == []


def test_what_is_no_path_or_method_is_told_as_json(request_: Ask) -> None:
    assert request_("GET", "/nothing").status == 404
    assert request_("GET", "/nothing").json["error"]
    answer = request_("POST", "/streams/door")  # not an action
    assert answer.status == 405
    assert answer.json["error"]
    assert "GET" in answer.headers["Allow"] or "PATCH" in answer.headers["Allow"]


def test_the_run_is_shown(control: FakeControl, request_: Ask) -> None:
    add_live(control.status)
    control.status.sources["a"] = SourceStatus("a", "a.mp4", results=10)
    control.status.errors.append("cannot write https://u:hunter2@x/y")
    shown = request_("GET", "/run").json
    assert 50 <= shown["elapsed_s"] < 50 + 60
    assert math.isclose(shown["frames_per_s"], 100 / shown.pop("elapsed_s"), rel_tol=1e-6)
    assert shown.pop("frames_per_s") > 0
    assert math.isclose(shown["stages"]["infer"].pop("ms_per_frame"), 2500 / 300)
    assert shown == {
        "state": "running",
        "device": "cuda",
        "device_reason": "NVIDIA H200",
        "model": "mine@0123",
        "models": {},
        "batch_size": 32,
        "results": 100,
        "streams": {"running": 1, "waiting": 1},
        "stages": {"infer": {"busy_s": 2.5, "batches": 10, "frames": 300}},
        "errors": ["cannot write https://***@x/y"],
    }
    control.status.ended_s = control.status.first_frame_s
    assert request_("GET", "/run").json["state"] == "ended"
    control.status.started_s = control.status.first_frame_s = None
    assert request_("GET", "/run").json | {"state": "starting", "elapsed_s": 0.0} == request_("GET", "/run").json


def test_the_run_can_be_stopped(control: FakeControl, request_: Ask) -> None:
    answer = request_("POST", "/run/stop")
    assert (answer.status, answer.json["accepted"]) == (202, "stop")
    assert control.calls == [("stop",)]


def test_readiness(control: FakeControl, request_: Ask) -> None:
    status, started_s = control.status, control.status.started_s

    def ready() -> tuple[int, str]:
        answer = request_("GET", "/readyz", token=None)
        return answer.status, answer.json.get("error", "")

    assert ready() == (200, "")  # no sources: waiting for some
    status.started_s = None
    assert ready() == (503, "the run has not started")
    status.started_s = started_s
    source = add_live(status)
    add_live(status, "b").state = SourceState.STALLED
    assert ready() == (200, "")
    for state in SourceState:
        source.state = state
        assert ready()[0] == (200 if state is SourceState.RUNNING else 503), state
    source.state = SourceState.BACKING_OFF
    assert ready() == (503, "no stream runs: 1 backing_off, 1 stalled")
    source.state = SourceState.RUNNING
    status.ended_s = started_s
    assert ready() == (503, "the run has ended")
    assert request_("GET", "/healthz", token=None).json == {"status": "ok"}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"Authorization": "Bearer"},
        {"Authorization": "Bearer "},
        {"Authorization": f"Bearer {TOKEN}x"},
        {"Authorization": f"Bearer {TOKEN[:-1]}"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
        {"Authorization": "Bearer \xff"},
        {"X-Authorization": f"Bearer {TOKEN}"},
    ],
)
def test_nothing_is_told_or_done_without_the_token(
    headers: dict[str, str], control: FakeControl, request_: Ask
) -> None:
    add_live(control.status)
    for method, path in PROTECTED:
        answer = request_(method, path, token=None, headers=headers)
        assert answer.status == 401, path
        assert answer.headers["WWW-Authenticate"] == "Bearer"
        assert answer.json == {"error": "the bearer token is missing or wrong"}
    assert control.calls == []


def test_every_documented_route_but_the_probes_is_protected(request_: Ask) -> None:
    described = request_("GET", "/openapi.json").json
    routes = [(method.upper(), path) for path, methods in described["paths"].items() for method in methods]
    assert len(routes) == 13
    for method, path in routes:
        is_open = path in ("/healthz", "/readyz")
        assert (request_(method, path, token=None).status == 401) is not is_open, path
        assert ("security" in described["paths"][path][method.lower()]) is not is_open, path


def test_the_interface_describes_itself(request_: Ask) -> None:
    described = request_("GET", "/openapi.json").json
    schemas, paths = described["components"]["schemas"], described["paths"]
    assert set(Source.model_fields) == set(schemas["Source"]["properties"])
    assert schemas["Source"]["properties"]["password"]["anyOf"][0]["writeOnly"] is True
    assert schemas["Stream"]["properties"]["retry_in_s"]["description"]
    assert set(schemas["DropCause"]["enum"]) == {cause.value for cause in DropCause}
    assert paths["/streams/{stream_id}/pause"]["post"]["responses"].keys() == {"202", "401", "404", "409", "422"}
    wrong = paths["/streams"]["post"]["responses"]["422"]["content"]["application/json"]["schema"]["$ref"]
    assert wrong == "#/components/schemas/Error"
    assert request_("GET", "/docs").headers.get_content_type() == "text/html"


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8800", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8800", 200),
        ("[::1]", 200),
        ("evil.example", 421),
        ("evil.example:8800", 421),
        ("localhost.evil.example", 421),
        ("127.0.0.1.evil.example:8800", 421),
        ("localhost:x", 421),
        ("user@localhost", 421),
        ("localhost, evil.example", 421),
        ("", 421),
    ],
)
def test_a_local_server_answers_to_local_names_only(host: str, status: int, request_: Ask) -> None:
    for path in ("/run", "/healthz"):
        answer = request_("GET", path, headers={"Host": host})
        assert answer.status == status
        assert ("error" in answer.json) is (status == 421)


SECRETS = ("hunter2", "tok3n-in-a-query", "s3cret-option", TOKEN, "wrong-guess")


def test_no_answer_and_no_log_holds_a_secret(
    control: FakeControl,
    request_: Ask,
    server: HttpServer,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    caplog.set_level(logging.DEBUG)
    url = "rtsp://admin:hunter2@camera.example/1?token=tok3n-in-a-query"
    source = SourceStatus("door", url, error=f"{url}: no", last_error=f"{url}: gone", is_live=True)
    control.status.sources["door"] = source
    control.status.errors.append(f"{url} again")
    control.status.model = control.status.device_reason = url
    full = {
        "url": url,
        "username": "admin",
        "password": "hunter2",
        "options": {"headers": "X-Key: s3cret-option"},
    }
    answers = [request_("GET", path) for path in ("/streams", "/streams/door", "/run", "/metrics", "/openapi.json")]
    answers += [
        request_("POST", "/streams", body)
        for body in (
            full,
            url,
            {**full, "priority": "hunter2"},
            {**full, "password": ["hunter2"]},
            {**full, "password": 5, "transport": "hunter2"},
            {**full, "path": "hunter2"},
            {**full, "url": "hunter2"},
            {**full, url: 1},
            {**full, "options": {"headers": {"s3cret-option": 1, "x": "s3cret-option"}}},
            {"password": "hunter2"},
            ["hunter2", full],
        )
    ]
    answers += [
        request_("POST", "/streams", raw=b'{"password": "hunter2"'),
        request_("POST", "/streams", raw=b"password=hunter2", headers={"Content-Type": "text/plain"}),
        request_("POST", "/streams", raw=b"\xff hunter2"),
        request_("PATCH", "/streams/door", {"priority": "hunter2"}),
        request_("GET", "/streams/" + url.replace("?", "%3F")),
        request_("POST", "/streams/" + url.replace("?", "%3F") + "/pause"),
        request_("GET", "/run", token="wrong-guess"),
        request_("GET", "/streams", headers={"Host": "hunter2"}),
    ]
    for name in ("add_source", "stop"):
        for error in (
            RuntimeError(f"bug at {url}"),
            SourceError(f"{url}: refused", source_id="x", code=SourceErrorCode.NETWORK, remedy=f"not {url}"),
            StreamStateError(f"{url} is odd"),
        ):
            control.raises[name] = error
            answers.append(
                request_("POST", "/streams", full) if name == "add_source" else request_("POST", "/run/stop")
            )
    assert {answer.status for answer in answers} >= {200, 201, 401, 404, 409, 421, 422, 500}
    server.close()
    heard = [f"{answer.headers}\n{answer.text}" for answer in answers]
    heard += [caplog.text, *capfd.readouterr(), repr(server)]
    assert "bug at rtsp://***@camera.example/1" in caplog.text  # the log was listened to
    for text in heard:
        for secret in SECRETS:
            assert secret not in text


def test_a_bug_is_a_plain_500_and_the_server_goes_on(control: FakeControl, request_: Ask) -> None:
    control.raises["stop"] = ZeroDivisionError("internal detail")
    answer = request_("POST", "/run/stop")
    assert (answer.status, answer.json) == (500, {"error": "internal error; the log has more"})
    assert request_("GET", "/run").status == 200


def test_every_route_is_documented(request_: Ask) -> None:
    page = (Path(__file__).parents[2] / "docs" / "control.md").read_text(encoding="utf-8")
    for path, methods in request_("GET", "/openapi.json").json["paths"].items():
        for method in methods:
            assert f"`{method.upper()} {path.replace('{stream_id}', 'ID')}`" in page
