"""Plug-ins in whole runs: the documentation's examples, and what happens when one fails."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from pipeline import Pipeline
from pipeline.config.load import config_from_mapping
from pipeline.errors import ConfigError, ExitCode, SinkError
from pipeline.observe.summary import as_dict, render
from pipeline.plugins import guard
from pipeline.stages import DropCause

EXAMPLES = Path(__file__).resolve().parents[2] / "docs" / "examples"
BOX = [8.0, 12.0, 40.0, 36.0]
FRAMES = 10  # in batches of 4: three of them


@pytest.fixture
def own():
    import own_plugins

    for values in (own_plugins.calls, own_plugins.made):
        values.clear()
    own_plugins.gate.clear()
    yield own_plugins
    own_plugins.gate.set()


def run(config):
    pipeline = Pipeline.from_dict(config)
    pipeline.run()
    return pipeline.status


def sink(use, **more):
    return {"type": "plugin", "use": use, **more}


def error_of(config) -> ConfigError:
    with pytest.raises(ConfigError) as caught:
        Pipeline.from_dict(config).run()
    return caught.value


# --------------------------------------------------------------------------------------------------- the examples


def example(name: str) -> dict:
    """The YAML in an example's docstring."""
    text = (EXAMPLES / f"{name}.py").read_text().split('"""')[1]
    return yaml.safe_load(text[re.search(r"^(sinks|pipeline):", text, re.MULTILINE).start() :])


def test_the_example_sink_writes_what_was_found(tmp_path, settings):
    (section,) = example("webhook_sink")["sinks"]
    out = tmp_path / "hook.jsonl"
    section["options"] = {"url": f"file://{out}", "labels": ["box"]}
    status = run(settings([section]))
    assert status.exit_code is ExitCode.DONE
    records = [json.loads(line) for line in out.read_text().splitlines()]
    assert len(records) == FRAMES
    assert records[0]["source"] == "clip"
    assert records[0]["found"] == [{"label": "box", "score": 0.9, "box": BOX}]
    assert (status.plugins["sinks[0]"].calls, status.plugins["sinks[0]"].errors) == (3, 0)


def test_a_webhook_that_does_not_answer_is_that_sinks_error(tmp_path, settings):
    section = sink("webhook_sink:WebhookSink", options={"url": "http://127.0.0.1:9/hook"})
    status = run(settings([section, {"type": "jsonl", "path": str(tmp_path / "out.jsonl")}]))
    assert status.results == FRAMES
    assert len((tmp_path / "out.jsonl").read_text().splitlines()) == FRAMES
    assert status.plugins["sinks[0]"].errors == 3
    assert status.exit_code is ExitCode.SOME_SOURCES_FAILED


@pytest.mark.parametrize("ignore", [[], ["box"]])
def test_the_example_stage_counts_and_filters(tmp_path, settings, ignore):
    (section,) = example("class_counter")["pipeline"]["plugins"]
    section["options"] = {"path": str(tmp_path / "counts.json"), "ignore": ignore}
    out = tmp_path / "out.jsonl"
    status = run(settings([{"type": "jsonl", "path": str(out)}], plugins=[section]))
    assert status.exit_code is ExitCode.DONE
    assert json.loads((tmp_path / "counts.json").read_text()) == {"clip": {} if ignore else {"box": FRAMES}}
    found = [len(json.loads(line)["detections"]) for line in out.read_text().splitlines()]
    assert found == [0 if ignore else 1] * FRAMES


@pytest.mark.parametrize("tracker", [None, "iou"])
def test_the_example_postprocessor_finds_what_the_family_finds(settings, tracker):
    section = example("custom_head")["pipeline"]["postprocess"]
    results = list(Pipeline.from_dict(settings(postprocess=section, tracker=tracker)))
    assert len(results) == FRAMES
    for result in results:
        assert result.detections.boxes.tolist() == [BOX]
        assert result.detections.label(int(result.detections.class_ids[0])) == "box"
    assert tracker is None or results[-1].detections.track_ids.tolist() == [1]


def test_the_documentation_shows_the_example_files():
    text = (EXAMPLES.parent / "plugins.md").read_text()
    for file in EXAMPLES.glob("*.py"):
        assert f"examples/{file.name}" in text
    for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL):
        yaml.safe_load(block)


# ------------------------------------------------------------------------------------------------- errors in a run


def test_a_sink_is_told_everything_in_order(settings, own):
    run(settings([sink("own_plugins:Sink", options={"needs_pixels": True})]))
    assert own.calls == ["open", "source_started", "write", "write", "write", "source_finished", "close"]
    assert own.made[0].frames == list(range(FRAMES))
    assert all(own.made[0].had_pixels)


def test_a_sink_that_fails_on_a_batch_gets_the_next_one(settings, own, caplog):
    status = run(settings([sink("own_plugins:Sink", options={"fails_on": [1]})]))
    assert own.made[0].frames == [0, 1, 2, 3, 8, 9]
    counted = status.plugins["sinks[0]"]
    assert (counted.calls, counted.errors) == (3, 1)
    assert counted.last_error == "ValueError: write broke at rtsp://***@camera/1"
    assert status.results == FRAMES
    assert status.exit_code is ExitCode.SOME_SOURCES_FAILED
    assert [r.exc_info is not None for r in caplog.records if "sinks[0]" in r.getMessage()] == [True]
    text = render(status)
    assert "sinks[0]: own_plugins:Sink" in text
    assert "1 error" in text
    (entry,) = as_dict(status)["plugins"]
    assert (entry["field"], entry["errors"], entry["calls"]) == ("sinks[0]", 1, 3)


@pytest.mark.parametrize("name", ["source_started", "write", "source_finished", "close"])
def test_wherever_a_sink_fails_the_run_goes_on(settings, own, name):
    status = run(settings([sink("own_plugins:Sink", options={"fails_in": [name]})]))
    assert status.results == FRAMES
    assert status.plugins["sinks[0]"].errors == (3 if name == "write" else 1)
    assert own.calls[-1] == "close"


def test_a_sink_that_cannot_be_opened_ends_the_run_before_it_begins(tmp_path, settings, own):
    file = {"type": "jsonl", "path": str(tmp_path / "out.jsonl")}
    config = settings([file, sink("own_plugins:Sink", options={"fails_in": ["open"]})])
    with pytest.raises(SinkError, match=r"cannot be opened: sinks\[1\]: RuntimeError: open broke"):
        Pipeline.from_dict(config).run()
    assert own.calls == ["open"]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "pipeline",
    [
        {"plugins": [{"use": "own_plugins:Stage", "options": {"does": "raise"}, "on_error": "stop"}]},
        {
            "postprocess": {
                "family": "plugin",
                "use": "own_plugins:Post",
                "options": {"fails_on": [0]},
                "on_error": "stop",
            }
        },
    ],
)
def test_stop_ends_the_run_and_completes_the_outputs(tmp_path, settings, pipeline):
    out = tmp_path / "out.jsonl"
    start_s = time.monotonic()
    config = settings([{"type": "jsonl", "path": str(out)}] if "plugins" in pipeline else [], **pipeline)
    status = run(config)
    assert time.monotonic() - start_s < 60
    assert len(status.errors) == 1
    assert "which stops the run" in status.errors[0]
    assert status.exit_code is not ExitCode.DONE
    if "plugins" in pipeline:
        assert status.outputs == [out]
        assert not status.partial_outputs
    source = status.sources["clip"]
    assert source.totals.frames == source.results + source.drops.total


@pytest.mark.parametrize("does", ["raise", "exit", "fewer frames", "text", "other detections"])
def test_what_a_failing_stage_did_to_a_batch_does_not_count(settings, does):
    plugins = [
        {"use": "own_plugins:Stage", "options": {"does": does}},
        {"use": "own_plugins:Stage", "options": {"does": "nothing found", "once": True}},
    ]
    pipeline = Pipeline.from_dict(settings(plugins=plugins))
    found = [len(result.detections) for result in pipeline]
    assert found == [1] * 4 + [0] * 4 + [1] * 2
    assert pipeline.status.plugins["pipeline.plugins[0]"].errors == 3
    assert pipeline.status.plugins["pipeline.plugins[1]"].errors == 0


def test_frames_that_the_postprocessor_fails_on_are_dropped_and_counted(settings, own):
    section = {"family": "plugin", "use": "own_plugins:Post", "options": {"fails_on": [1]}}
    pipeline = Pipeline.from_dict(settings([sink("own_plugins:Sink")], postprocess=section))
    results = list(pipeline)
    assert [result.frame.index for result in results] == [0, 1, 2, 3, 8, 9]
    source = pipeline.status.sources["clip"]
    assert source.dropped == {DropCause.FAILED: 4}
    assert source.in_flight == 0
    assert own.calls[-2:] == ["source_finished", "close"]


def test_a_postprocessor_that_fails_on_everything_ends_with_an_error(settings):
    section = {"family": "plugin", "use": "own_plugins:Post", "options": {"gives": "text"}}
    status = run(settings(postprocess=section))
    assert status.exit_code is ExitCode.NOTHING_COULD_RUN
    assert status.plugins["pipeline.postprocess"].last_error == "TypeError: gave str, not Predictions"


@pytest.mark.parametrize("use", ["Post", "DevicePost"])
@pytest.mark.parametrize("gives", ["detections", "later"])
def test_on_the_cpu_both_kinds_of_postprocessor_get_numpy(settings, use, gives):
    section = {"family": "plugin", "use": f"own_plugins:{use}", "options": {"gives": gives}}
    results = list(Pipeline.from_dict(settings(postprocess=section)))
    assert [int(result.tensors["n"][0]) for result in results] == [4] * 8 + [2] * 2


def test_a_sink_that_never_returns_does_not_hold_up_the_end(settings, own):
    config = settings([sink("own_plugins:Stuck")])
    config["runtime"]["drain_s"] = 0.5
    pipeline = Pipeline.from_dict(config)
    thread = threading.Thread(target=pipeline.run, daemon=True)
    thread.start()
    while "stuck" not in own.calls and thread.is_alive():
        time.sleep(0.05)
    pipeline.stop()
    thread.join(30)
    assert not thread.is_alive()
    own.gate.set()


def test_a_sink_that_does_not_close_is_left(settings, own, monkeypatch):
    monkeypatch.setattr(guard, "CLOSE_TIMEOUT_S", 0.2)
    status = run(settings([sink("own_plugins:SlowToClose")]))
    assert "close() did not return" in status.plugins["sinks[0]"].last_error
    assert status.results == FRAMES


def test_many_errors_are_logged_sparsely(caplog):
    from pipeline.observe.status import PluginStatus

    status = PluginStatus("a:B")
    guarded = guard.Guard("sinks[0]", status, [])
    with caplog.at_level(logging.ERROR):
        for _ in range(1000):
            with pytest.raises(guard.PluginError):
                guarded.call(lambda: 1 / 0)
    assert status.errors == 1000
    assert len(caplog.records) == 3 + 3


# ---------------------------------------------------------------------------------------------------- cannot be used


@pytest.mark.parametrize(
    ("use", "options", "field", "words"),
    [
        ("no_such_module:A", {}, "use", r"no module 'no_such_module' in the \d+ places that Python searches .*PYTHONPATH"),
        ("own_plugins.deeper:A", {}, "use", "no module 'own_plugins.deeper'"),
        ("own_plugins:Missing", {}, "use", "has no 'Missing'.*its classes are: Sink"),
        ("own_plugins:not_callable", {}, "use", "is int, not a class"),
        ("own_plugins:NoWrite", {}, "use", r"needs a method write\(batch\)"),
        ("own_plugins:OddArrays", {}, "use", "declares arrays = 'cupy'"),
        ("own_plugins:DeviceSink", {}, "use", "results are always NumPy"),
        ("no-such-name", {}, "use", "no installed package has a plug-in 'no-such-name'.*write module:Class"),
        ("own_plugins:Sink", {"colour": 1}, "options", "unexpected keyword argument 'colour'.*fails_on"),
        ("own_plugins:Strict", {}, "options", "missing a required argument: 'least'"),
        ("own_plugins:Strict", {"least": -1}, "options", "ValueError: least is not negative"),
        ("class_counter:ClassCounter", {}, "options.path", "Field required"),
        ("class_counter:ClassCounter", {"path": "a", "x": 1}, "options.x", "not permitted"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_told_with_the_field(settings, use, options, field, words):
    error = error_of(settings([sink(use, options=options)]))
    assert error.issues[0].field == f"sinks[0].{field}"
    assert re.search(words, str(error)), str(error)


def test_a_module_that_breaks_while_it_is_imported(tmp_path, settings, monkeypatch):
    (tmp_path / "broken_plugin.py").write_text("import surely_not_there\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    error = error_of(settings(plugins=[{"use": "broken_plugin:A"}]))
    assert error.issues[0].field == "pipeline.plugins[0].use"
    assert "importing broken_plugin failed: ModuleNotFoundError: No module named 'surely_not_there'" in str(error)


def test_a_module_in_the_working_directory_gets_a_hint(tmp_path, settings, monkeypatch):
    (tmp_path / "lies_here.py").write_text("")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [entry for entry in sys.path if entry not in ("", str(tmp_path))])
    assert "start with PYTHONPATH=." in str(error_of(settings([sink("lies_here:A")])))


def test_a_dry_run_closes_nothing_that_was_not_opened(tmp_path, settings, own):
    counter = {"use": "class_counter:ClassCounter", "options": {"path": str(tmp_path / "counts.json")}}
    with Pipeline.from_dict(settings([sink("own_plugins:Sink")], plugins=[counter])) as pipeline:
        pipeline.prepare()
    assert own.calls == ["open", "close"]
    assert list(tmp_path.iterdir()) == []


def test_an_installed_entry_point(tmp_path, settings, own, monkeypatch):
    info = tmp_path / "own-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: own\nVersion: 1\n")
    (info / "entry_points.txt").write_text("[vramline.plugins]\nmine = own_plugins:Sink\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    run(settings([sink("mine")]))
    assert own.made[0].frames == list(range(FRAMES))


def test_checking_a_configuration_runs_nobodys_code(settings):
    config = config_from_mapping(
        settings([sink("no_such_module:A", options={"a": {"b": [1]}})], plugins=[{"use": "no_such_module:B"}])
    )
    assert config.sinks[0].options == {"a": {"b": [1]}}
    assert "b" not in repr(config.sinks[0]).partition("options")[2]


def test_importing_pipeline_imports_no_plugin():
    code = "import sys, pipeline; print([m for m in sys.modules if m.startswith('pipeline.')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_detections_of_clips_sorts_and_leaves_out_what_is_no_box():
    import own_plugins  # noqa: F401 - the path is set

    from pipeline.frames import Colour, Frame, InputBatch, Picture
    from pipeline.plugins import detections_of

    frame = Frame("a", 0, None, 0.0, Picture((), (0, 0), Colour(), 100, 50))
    transforms = np.array([[0.5, 0.5, 10, 0], [1.0, 1.0, 0, 0]])
    batch = InputBatch((frame, frame), None, transforms, (60, 60))
    boxes = [[10, 0, 20, 10], [20, 5, 200, 200], [30, 30, 20, 40], [np.nan, 0, 1, 1]]
    found = detections_of(batch, [(boxes, [0.5, 0.9, 1, 1], [1, 2, 3, 4]), ([], [], [])], {1: "one"})
    assert found.boxes.tolist() == [[20, 10, 100, 50], [0, 0, 20, 20]]
    assert (found.class_ids.tolist(), found.offsets.tolist()) == ([2, 1], [0, 2, 2])
    with pytest.raises(ValueError, match="2 frames"):
        detections_of(batch, [])
