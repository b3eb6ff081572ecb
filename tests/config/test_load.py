from __future__ import annotations

import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from pipeline.config.load import config_from_mapping, load_config, parse_config
from pipeline.config.postprocess import RawPost, SsdPost
from pipeline.config.sinks import JsonlSink, VideoSink
from pipeline.errors import ConfigError, ExitCode

Told = Callable[..., list[str]]
BASE = "sources: [a.mp4]\npipeline: {model: m/saved, postprocess: {family: raw}}\n"


def test_whole_configuration(tmp_path: Path) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        """\
version: 1
device: cpu
sources:
  - clips/a.mp4
  - https://example.org/b.m3u8
  - media:bikes
  - path: c.mp4
    roi: {rect: [0, 0, 0.5, 1], unit: fraction}
    options: {user_agent: x}
pipeline:
  preprocess: {size: [640, 480], pad: [1, 2, 3], scale: 1e-2}
  model: nets/a.keras
  postprocess:
    family: ssd
    labels: {0: on, 1: no}
    thresholds: {no: .3}
    classes: [no, 0]
    nms_iou: null
sinks:
  - {type: jsonl, path: out.jsonl, overwrite: true}
  - {type: video, path: "{source}.mp4"}
runtime: {batch_size: 4}
""",
        encoding="utf-8",
    )
    config = load_config(path)
    assert [(s.path, s.url, s.media) for s in config.sources] == [
        ("clips/a.mp4", None, None),
        (None, "https://example.org/b.m3u8", None),
        (None, None, "bikes"),
        ("c.mp4", None, None),
    ]
    assert config.sources[3].roi is not None
    assert config.sources[3].roi.rect == (0, 0, 0.5, 1)
    stages = config.pipeline
    assert (stages.model.path, stages.model.card) == ("nets/a.keras", None)
    assert (stages.preprocess.size, stages.preprocess.pad, stages.preprocess.scale) == ((640, 480), (1, 2, 3), 0.01)
    assert isinstance(stages.postprocess, SsdPost)
    # YAML 1.1 would have made truth values of these.
    assert stages.postprocess.labels == {0: "on", 1: "no"}
    assert stages.postprocess.thresholds == {"no": 0.3}
    assert stages.postprocess.classes == ["no", 0]
    assert stages.postprocess.nms_iou is None
    assert isinstance(config.sinks[0], JsonlSink)
    assert config.sinks[0].overwrite
    assert isinstance(config.sinks[1], VideoSink)
    assert config.runtime.batch_size == 4


def test_mapping_is_loaded_like_a_file() -> None:
    data = {"sources": ["a.mp4"], "pipeline": {"model": "x/y", "postprocess": {"family": "raw"}}}
    config = config_from_mapping(data, overrides=["device=cpu"])
    assert config == parse_config("sources: [a.mp4]\npipeline: {model: x/y, postprocess: {family: raw}}\ndevice: cpu")
    assert isinstance(config.pipeline.postprocess, RawPost)
    with pytest.raises(ConfigError, match=r"^runtime.batch_size: found 0, allowed is a whole number from 1 to 1024"):
        config_from_mapping({**data, "runtime": {"batch_size": 0}})


def test_mapping_that_holds_itself_is_refused() -> None:
    data: dict[str, object] = {"sources": ["a"]}
    data["pipeline"] = data
    with pytest.raises(ConfigError, match="nested more than"):
        config_from_mapping(data)


def test_all_issues_come_at_once_in_the_order_of_the_lines(told: Told) -> None:
    messages = told(
        """\
device: gpu
sources:
  - {path: a.mp4, max_frames: 0}
  - {path: b.mp4, pth: c}
pipeline:
  model: {path: m/x, trust: "yes"}
  preprocess: {fit: streetch}
  postprocess: {family: sdd}
sinks:
  - {type: jsonl}
runtime: {batch_size: ${VRAMLINE_SURELY_UNSET}}
""".replace("{batch_size: ${VRAMLINE_SURELY_UNSET}}", "\n  batch_size: ${VRAMLINE_SURELY_UNSET}"),
        "observe.log_level=loud",
    )
    assert messages == [
        "a.yaml:1:9: device: found 'gpu', allowed is one of 'auto', 'cpu', 'cuda' (did you mean 'cuda'?)",
        "a.yaml:3:31: sources[0].max_frames: found 0, allowed is a whole number from 1 on, or null",
        "a.yaml:4:19: sources[1].pth: unknown key (did you mean 'path'?)",
        "a.yaml:6:29: pipeline.model.trust: found 'yes', allowed is true or false (write true)",
        "a.yaml:7:21: pipeline.preprocess.fit: found 'streetch', allowed is one of 'letterbox', 'stretch', 'crop'"
        " (did you mean 'stretch'?)",
        "a.yaml:8:25: pipeline.postprocess.family: found 'sdd', allowed is one of 'od_api', 'ssd', 'yolo', 'gfl',"
        " 'boxes', 'classify', 'pose', 'segment', 'embedding', 'raw', 'plugin' (did you mean 'ssd'?)",
        "a.yaml:10:5: sinks[0].path: missing; needed is a path",
        "a.yaml:12:15: runtime.batch_size: the environment variable VRAMLINE_SURELY_UNSET is not set; set it, or"
        " write ${VRAMLINE_SURELY_UNSET:-default}",
        "--set observe.log_level: observe.log_level: found 'loud', allowed is one of 'debug', 'info', 'warning',"
        " 'error'",
    ]


@pytest.mark.parametrize(
    ("yaml", "expected"),
    [
        ("runtime: {batch_size: '8'}", "1:23: runtime.batch_size: found '8', .* (leave out the quotes)"),
        ("runtime: {batch_size: true}", "1:23: runtime.batch_size: found true, allowed is a whole number"),
        ("runtime: {batch_size: 1.5}", "1:23: runtime.batch_size: found 1.5, allowed is a whole number"),
        ("runtime: {batch_size: [1]}", "1:23: runtime.batch_size: found [1], allowed is a whole number"),
        ("runtime: {batch_timeout_ms: .nan}", "1:29: runtime.batch_timeout_ms: found .nan, allowed is a number above 0"),
        ("observe: {summary: 1}", "1:20: observe.summary: found 1, allowed is true or false"),
        ("observe: {summary: off}", "1:20: observe.summary: found 'off', .* (write false)"),
        ("observe: {summary: 'true'}", "1:20: observe.summary: found 'true', .* (leave out the quotes)"),
        ("observe: {report: 12}", "1:19: observe.report: found 12, .* (for text write it in quotes: '12')"),
        ("observe: {report: {a: 1}}", "1:19: observe.report: found a mapping with the keys a, allowed is a path"),
        ("observe:", "1:9: observe: found nothing, allowed is a mapping with keys of progress,"),
        ("observe: []", "1:10: observe: found an empty list, allowed is a mapping"),
        ("batch_size: 3", "1:1: batch_size: unknown key (did you mean runtime.batch_size?)"),
        ("zzz: 3", "1:1: zzz: unknown key (the keys here are version, device, sources, pipeline, sinks, runtime, observe)"),
        ("sinks: 3", "1:8: sinks: found 3, allowed is a list of"),
        ("sinks: [3]", "1:9: sinks[0]: found 3, allowed is a mapping with the key type: one of 'jsonl'"),
        ("sinks: [{path: a}]", "1:9: sinks[0].type: missing; needed is one of 'jsonl', 'csv', 'video', 'tensors'"),
        ("sinks: [{type: [a]}]", "1:16: sinks[0].type: found ['a'], allowed is one of"),
        ("sinks: [{type: video, path: a, crf: 99}]", "1:37: sinks[0].crf: found 99, allowed is a whole number from 0 to 51"),
        ("sinks: [{type: csv, path: a, crf: 9}]", "1:30: sinks[0].crf: unknown key (the keys here are path, overwrite, type)"),
    ],
)  # fmt: skip
def test_messages_of_one_value(told: Told, yaml: str, expected: str) -> None:
    text = yaml + "\nsources: [a.mp4]\npipeline: {model: m/saved, postprocess: {family: raw}}\n"
    messages = told(text)
    messages = [message for message in messages if "postprocess family" not in message]
    assert len(messages) == 1
    pattern = ".*".join(re.escape(part) for part in ("a.yaml:" + expected).split(".*"))
    assert re.match(pattern, messages[0]), messages[0]


@pytest.mark.parametrize(
    ("preprocess", "expected"),
    [
        ("pad: [1, 300, 1]", "pad[1]: found 300, allowed is a whole number from 0 to 255"),
        ("pad: [1, 2]", "pad: found [1, 2], allowed is a whole number from 0 to 255, or a list of 3 whole numbers"),
        ("pad: x", "pad: found 'x', allowed is a whole number from 0 to 255, or a list of 3 whole numbers"),
        ("size: [640]", "size: found [640], allowed is a list of 2 whole numbers from 1 on"),
        ("size: [640, 640, 3]", "size: found [640, 640, 3], allowed is a list of 2 whole numbers"),
        ("size: [640, x]", "size[1]: found 'x', allowed is a whole number from 1 on"),
        ("std: [1, 0, 1]", "preprocess: std must not be 0"),
    ],
)
def test_values_of_several_kinds_make_one_issue(told: Told, preprocess: str, expected: str) -> None:
    text = f"sources: [a]\npipeline: {{model: m/x, postprocess: {{family: raw}}, preprocess: {{{preprocess}}}}}"
    (message,) = told(text)
    assert expected in message
    assert "tuple" not in message
    assert "constrained" not in message


@pytest.mark.parametrize(
    ("xla", "hint"),
    [
        ("fast", ""),
        ("autp", " (did you mean 'auto'?)"),
        ("'true'", " (leave out the quotes)"),
        ("on", " (write true)"),
        ("[true]", ""),
    ],
)
def test_a_word_or_true_or_false(told: Told, xla: str, hint: str) -> None:
    model = f"{{path: m/x, xla: {xla}}}"
    (message,) = told(f"sources: [a]\npipeline: {{postprocess: {{family: raw}}, model: {model}}}")
    assert "pipeline.model.xla: found " in message
    assert message.endswith(f"allowed is one of 'auto', true, false{hint}")


def test_model_validators_speak_for_themselves(told: Told) -> None:
    text = "sources: [{path: a, url: 'http://b'}, {path: a, roi: {rect: [5, 0, 1, 9]}}]\n"
    assert told(text + "pipeline: {model: m/x, postprocess: {family: raw}}") == [
        "a.yaml:1:11: sources[0]: give exactly one of path, url, media; found path and url",
        "a.yaml:1:54: sources[1].roi: rect is x1, y1, x2, y2 with x2 > x1 and y2 > y1",
    ]


def test_label_keys_are_numbers(told: Told) -> None:
    text = "sources: [a]\npipeline: {model: m/x, postprocess: {family: ssd, labels: {a: b, 1: 2}}}"
    assert told(text) == [
        "a.yaml:2:60: pipeline.postprocess.labels.a: found the key 'a', allowed are whole numbers",
        "a.yaml:2:69: pipeline.postprocess.labels.1: found 2, allowed is text (for text write it in quotes: '2')",
    ]


def test_missing_sections_and_postprocess_without_a_card(told: Told) -> None:
    assert told("version: 1") == [
        "a.yaml:1:1: sources: missing; needed is a list of texts, or mappings with keys of path, url, media, id,"
        " recursive, on_error, max_frames, loop, roi, colour, options, timeout_s, live, transport, username, password, stall_s,"
        " policy, every, max_fps, max_staleness_ms, priority, reconnect, analytics (at least 1 item)",
        "a.yaml:1:1: pipeline: missing; needed is a mapping with keys of decode, preprocess, model, postprocess, tracker,"
        " models, cascade, plugins",
    ]
    (message,) = told("sources: [a]\npipeline:\n  model: m/x")
    assert message == (
        "a.yaml:2:1: pipeline.postprocess: missing; needed is a mapping with the key family: one of 'od_api', 'ssd',"
        " 'yolo', 'gfl', 'boxes', 'classify', 'pose', 'segment', 'embedding', 'raw', 'plugin' (a model card would bring its"
        " own)"
    )
    assert told("sources: [a]\npipeline: {model: m/x, postprocess: {top_k: 1}}")[0].startswith(
        "a.yaml:2:24: pipeline.postprocess.family: missing; needed is one of 'od_api'"
    )


def test_many_issues_are_cut_off() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(BASE + "observe: {" + ", ".join(f"k{i}: 1" for i in range(250)) + "}")
    assert len(caught.value.issues) == 101
    assert caught.value.issues[-1].message == "there are more issues than these 100"


def test_hostile_files_do_not_take_long(told: Told) -> None:
    post = "\npipeline: {model: m/x, postprocess: {family: ssd, labels: coco80, classes: [%s]}}"
    stages = post % ""
    texts = [
        "sources: [" + "1, " * 20_000 + "]" + stages,
        "sources: [a]" + post % ", ".join(f"persn{i}" for i in range(20_000)),
        "sources: [a]" + stages + "\nobserve: {" + ", ".join(f"summari{i}: 1" for i in range(20_000)) + "}",
        "device: '" + "${A:-" * 100_000 + "'",
        "device: '" + "://a:" * 100_000 + "'",
        "sources: [a]" + stages + "\nsinks: [{type: csv, path: '" + "{" * 400_000 + "'}]",
    ]
    start = time.perf_counter()
    for text in texts:
        messages = told(text)
        assert "not valid YAML" not in messages[0]
        assert len(messages) <= 101
    # Far from any real time, and farther from what grows with the square of these sizes.
    assert time.perf_counter() - start < 60


def test_exit_code_and_fields_of_an_issue() -> None:
    with pytest.raises(ConfigError) as caught:
        parse_config(BASE + "devise: cpu", file="x.yaml")
    assert caught.value.exit_code is ExitCode.BAD_CONFIG
    (issue,) = caught.value.issues
    assert (issue.field, issue.file, issue.line, issue.column) == ("devise", "x.yaml", 3, 1)
    assert issue.hint == "did you mean 'device'?"


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "people.yaml").write_text(BASE)
    with pytest.raises(ConfigError, match=r"peple.yaml: there is no such file \(did you mean 'people.yaml'\?\)"):
        load_config(tmp_path / "peple.yaml")
    with pytest.raises(ConfigError, match="there is no such file"):
        load_config(tmp_path / "none" / "x.yaml")
    with pytest.raises(ConfigError, match="this is a folder"):
        load_config(tmp_path)
    with pytest.raises(ConfigError, match="cannot be read: "):
        load_config("a\0b.yaml")
    with pytest.raises(ConfigError, match="cannot be read: Not a directory"):
        load_config(tmp_path / "people.yaml" / "x.yaml")


def test_loading_imports_nothing_heavy() -> None:
    code = (
        "import sys; from pipeline.config.load import parse_config; parse_config(sys.argv[1]);"
        "print([m for m in ('tensorflow', 'av', 'PIL', 'numpy', 'cupy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code, BASE], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout.strip() == "[]"
