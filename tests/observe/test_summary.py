from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from pipeline.errors import SourceErrorCode
from pipeline.observe.status import CropCounts, RunStatus, SecondStatus, SourceState, SourceStatus, StageTimes
from pipeline.observe.summary import as_dict, render, render_plan

SNAPSHOT = """\
Done, with errors: 420 frames in 6.0 s, 70.0 frames/s

  device      cpu (no NVIDIA driver)
  model       coco-ssd@0123456789ab, batches of 8
  sources     3: 1 done, 2 failed
  results     420 of 420 decoded frames
  dropped     2 corrupt frames (2 in gate)
  corrupt     3 frames kept (3 in gate)
  damaged     7 packets skipped (7 in gate)

  found
    person        1,234
    car              56

  time spent
    decode         2.00 ms/frame  0.8 s busy
    infer         13.00 ms/frame  5.5 s busy

  failed
    gate: the file ends in the middle of a frame [damaged]
      after 120 frames, which are in the results
    ramp: connection refused [network]

  written
    runs/a.jsonl

  kept incomplete
    runs/a.mp4.part
"""


def test_summary_snapshot(status: RunStatus) -> None:
    assert render(status) == SNAPSHOT
    assert max(map(len, SNAPSHOT.splitlines())) <= 80


def test_further_models_are_told_of(status: RunStatus) -> None:
    status.models["scene"] = SecondStatus("places@0123", Counter(dict(zip("abcde", (9, 7, 5, 3, 1), strict=True))))
    crops = CropCounts(crops=1_203, kept=4_100, left_out=2, too_small=12, unusable=1, failed=3)
    status.models["emotion"] = SecondStatus("emotion@4567", Counter(happy=1000), crops)
    status.models["silent"] = SecondStatus("silent@89ab", crops=CropCounts(crops=1))
    status.stages["cascade.emotion"] = StageTimes(2.406, 60, 1_203)
    text = render(status)
    expected = """\
  further models
    scene: places@0123
      a 9, b 7, c 5, d 3, ...
    emotion: emotion@4567
      happy 1,000
      1,203 crops, 4,100 kept from earlier frames, 2 left out, 12 too small, 1 outside the picture, 3 failed
    silent: silent@89ab
      1 crop
"""
    assert expected in text
    assert re.search(r"cascade.emotion +2.00 ms/crop", text)
    scene, emotion, _ = json.loads(json.dumps(as_dict(status)))["models"]
    assert scene == {
        "name": "scene",
        "model": "places@0123",
        "labels": dict(zip("abcde", (9, 7, 5, 3, 1), strict=True)),
        "crops": None,
    }
    assert emotion["crops"] == {"crops": 1203, "kept": 4100, "left_out": 2, "too_small": 12, "unusable": 1, "failed": 3}
    assert "emotion: emotion@4567" in render_plan(status, ["jsonl: a"])


def test_headings_can_be_styled_without_moving_anything(status: RunStatus) -> None:
    styled = render(status, heading=lambda text: f"\x1b[1m{text}\x1b[0m")
    assert "\x1b[1mfound\x1b[0m" in styled
    assert styled.replace("\x1b[1m", "").replace("\x1b[0m", "") == SNAPSHOT


def test_a_run_without_trouble_is_done(status: RunStatus) -> None:
    del status.sources["gate"], status.sources["ramp"]
    text = render(status)
    assert text.startswith("Done: 300 frames")
    assert "sources     1 done" in text
    assert "failed" not in text


def test_an_interrupted_run_says_what_was_not_processed(status: RunStatus) -> None:
    status.interrupted = True
    status.sources["yard"].results = 290
    text = render(status)
    assert text.startswith("Interrupted: 410 frames")
    assert "410 of 420 decoded frames; 10 not processed" in text


def test_nothing_could_run() -> None:
    source = SourceStatus("a", "a.mp4", SourceState.FAILED, error="no such file", error_code=SourceErrorCode.NOT_FOUND)
    text = render(RunStatus(sources={"a": source}))
    assert text.startswith("Nothing could run: no results\n")
    assert "a: no such file [not_found]" in text


def test_errors_of_no_source_are_shown(status: RunStatus) -> None:
    status.errors.append("runs/a.mp4: no space left on device")
    assert "  errors\n    runs/a.mp4: no space left on device\n" in render(status)


def test_the_ten_best_labels_and_the_sum_of_the_rest(status: RunStatus) -> None:
    status.labels = Counter({f"label{i}": 100 - i for i in range(13)})
    text = render(status)
    assert "label9 " in text
    assert "label10" not in text
    assert f"and {90 + 89 + 88} of 3 other labels" in text


def test_many_failures_and_troubles_are_listed_in_part(status: RunStatus) -> None:
    for i in range(30):
        source = SourceStatus(f"s{i}", "x", SourceState.FAILED, error="broken")
        source.decode.errors = 1
        status.sources[source.source_id] = source
    text = render(status)
    assert "and 22 more sources; observe.report lists them all" in text
    assert "37 packets skipped (7 in gate, 1 in s9, 1 in s8, 28 more sources)" in text
    assert max(map(len, text.splitlines())) <= 80


def test_names_from_outside_can_neither_break_lines_nor_show_passwords(status: RunStatus) -> None:
    source = status.sources["ramp"]
    source.source_id, source.error = "ra\x1b[2Jmp\n", "rtsp://admin:hunter2@10.0.0.7/live: refused"
    status.outputs.append(Path("runs/\udcff.jsonl"))
    text = render(status)
    assert r"ra\x1b[2Jmp: rtsp://***@10.0.0.7/live: refused" in text
    assert "hunter2" not in text
    text.encode("utf-8")


def test_the_dict_is_json_and_says_what_the_summary_says(status: RunStatus) -> None:
    report = json.loads(json.dumps(as_dict(status)))
    assert report["report"] == 1
    assert (report["exit_code"], report["frames"], report["results"]) == (1, 420, 420)
    assert report["frames_per_s"] == pytest.approx(70.0)
    assert report["stages"]["infer"] == {"busy_s": 5.46, "batches": 53, "frames": 420, "ms_per_frame": 13.0}
    assert report["labels"] == {"person": 1234, "car": 56}
    yard, gate, ramp = report["sources"]
    assert yard["stream"] == {
        "codec": "h264",
        "width": 1920,
        "height": 1080,
        "frame_rate": 30.0,
        "frame_count": 300,
        "duration_s": 10.0,
    }
    assert (gate["corrupt"], gate["dropped"], gate["decode_errors"]) == (5, 2, 7)
    assert (ramp["state"], ramp["error_code"], ramp["stream"]) == ("failed", "network", None)
    assert report["partial_outputs"] == ["runs/a.mp4.part"]


def test_the_dict_holds_no_password(status: RunStatus) -> None:
    secret = "rtsp://admin:hunter2@10.0.0.7/live"
    source = status.sources["ramp"]
    source.source_id = source.location = source.error = source.decode.last_error = secret
    status.errors.append(secret)
    status.labels[secret] += 1
    assert "hunter2" not in json.dumps(as_dict(status))


def test_a_plan_says_what_would_run(status: RunStatus) -> None:
    for i in range(12):
        status.sources[f"w{i}"] = SourceStatus(f"w{i}", f"w{i}.mp4")
    text = render_plan(status, ["jsonl: runs/a.jsonl"])
    assert text.startswith("Ready to run; nothing was processed\n")
    assert "w9\n    and 2 more\n" in text
    assert "ramp: connection refused [network]" in text
    assert "  results go to\n    jsonl: runs/a.jsonl\n" in text


def test_a_plan_without_sources_says_so(status: RunStatus) -> None:
    status.sources = {"ramp": status.sources["ramp"]}
    assert render_plan(status, []).startswith("Nothing to run")
