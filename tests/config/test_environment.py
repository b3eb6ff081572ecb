from __future__ import annotations

from collections.abc import Callable

import pytest

from pipeline.config.load import parse_config
from pipeline.config.postprocess import SsdPost

Told = Callable[..., list[str]]
REST = "\npipeline: {model: m/x, postprocess: {family: raw}}\n"


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"V_INT": "16", "V_TEXT": "s3cret", "V_EMPTY": "", "V_BOOL": "true", "V_LIST": "[1, 2]"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("V_UNSET", raising=False)


@pytest.mark.parametrize(
    ("written", "path"),
    [
        ("${V_TEXT}.mp4", "s3cret.mp4"),
        ("x${V_INT}${V_TEXT}", "x16s3cret"),
        ("${V_UNSET:-a b}", "a b"),
        ("${V_EMPTY:-default}", "default"),
        ("x${V_EMPTY}", "x"),
        ("$${V_TEXT}", "${V_TEXT}"),
        ("$V_TEXT $ {}", "$V_TEXT $ {}"),
        ("${V_LIST}", "[1, 2]"),
        ("'${V_INT}'", "16"),
    ],
)
def test_text(written: str, path: str) -> None:
    assert parse_config(f"sources:\n  - path: {written}{REST}").sources[0].path == path


def test_shorthand_is_told_by_what_the_variable_holds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("V_URL", "https://user:pw@example.org/x")
    source = parse_config("sources:\n  - ${V_URL}" + REST).sources[0]
    assert (source.url, source.path) == ("https://user:pw@example.org/x", None)


def test_whole_unquoted_reference_is_read_as_a_value() -> None:
    text = "sources: [a]\nruntime:\n  batch_size: ${V_INT}\n  queue_batches: ${V_UNSET:-3}\n"
    config = parse_config(f"{text}observe:\n  summary: ${{V_BOOL}}\n  report: ${{V_UNSET:-null}}{REST}")
    assert (config.runtime.batch_size, config.queue_batches) == (16, 3)
    assert config.observe.summary is True
    assert config.observe.report is None


def test_quoted_reference_is_text(told: Told) -> None:
    (message,) = told("sources: [a]\nruntime: {batch_size: '${V_INT}'}" + REST)
    assert message.startswith("a.yaml:2:23: runtime.batch_size: found '${V_INT}', allowed is a whole number")


def test_aliases_share_the_substitution() -> None:
    text = "sources:\n  - &s {path: '${V_TEXT}', id: a}\n  - {<<: *s, id: b}"
    assert [s.path for s in parse_config(text + REST).sources] == ["s3cret", "s3cret"]


@pytest.mark.parametrize("written", ["${V_UNSET}", "a${V_UNSET}b", "'${V_UNSET}'"])
def test_unset_variable_is_one_issue(told: Told, written: str) -> None:
    (message,) = told(f"sources: [a]\nruntime:\n  batch_size: {written}{REST}")
    assert message == (
        "a.yaml:3:15: runtime.batch_size: the environment variable V_UNSET is not set; set it, or write"
        " ${V_UNSET:-default}"
    )


@pytest.mark.parametrize("written", ["${", "${}", "${1X}", "${X", "${X:?y}", "${X-y}"])
def test_what_is_no_reference_is_one_issue(told: Told, written: str) -> None:
    (message,) = told(f"sources:\n  - path: '{written}'{REST}")
    assert message.startswith("a.yaml:2:11: sources[0].path: '${' starts no reference")


def test_overridden_reference_need_not_be_set() -> None:
    config = parse_config("sources: [a]\nruntime:\n  batch_size: ${V_UNSET}" + REST, overrides=["runtime.batch_size=2"])
    assert config.runtime.batch_size == 2


def test_unset_card_name_says_nothing_of_postprocess(told: Told) -> None:
    (message,) = told("sources: [a]\npipeline:\n  model: ${V_UNSET}")
    assert message.startswith("a.yaml:3:10: pipeline.model.card: the environment variable V_UNSET")


SECRET_PLACES = [
    "device: ${S}", "sources: ['${S}', '${S}']\nsinks: [{type: video, path: a.mp4}]", "version: ${S}",
    "runtime:\n  batch_size: ${S}", "runtime: {batch_size: '${S}'}", "observe:\n  summary: ${S}",
    "sinks:\n  - type: ${S}", "sinks: [{type: '${S}', path: a}]", "sinks: [{type: csv, path: '${S}{x}'}]",
    "sinks: [{type: csv, path: '${S}'}, {type: jsonl, path: '${S}'}]", "sources: [{url: 'x${S}'}]",
    "sources: [{path: a, id: '${S}'}, {path: b, id: '${S}'}]", "sources: [{path: a, roi: {rect: ['${S}', 0, 1, 2]}}]",
    "sources:\n  - path: a\n    roi:\n      rect:\n      - ${S}\n      - 0\n      - 1\n      - 2",
    "sources:\n  - path: a\n    timeout_s: ${S}", "sources:\n  - path: a\n    id: ${S}\n    max_frames: ${S}",
    "sources:\n  - path: a\n    options:\n      key: ${S}\n      other: 1",
    "pipeline: {model: '${S}'}", "pipeline: {model: 'm/${S}'}", "pipeline:\n  model: m/x\n  postprocess: ${S}",
    "pipeline:\n  model: m/x\n  postprocess:\n    family: ${S}",
    "pipeline:\n  model: m/x\n  postprocess:\n    family: ssd\n    labels: [a]\n    classes:\n    - '${S}'\n    - ${S}",
    "pipeline:\n  model: m/x\n  preprocess:\n    fit: ${S}\n    std: ${S}\n    size:\n    - ${S}\n  postprocess: {family: raw}",
]  # fmt: skip


@pytest.mark.parametrize("secret", ["hunter2", "98765", "true", "0x18ce1", "https://u:hunter2@h/", "-7.25"])
@pytest.mark.parametrize("text", SECRET_PLACES)
def test_no_message_shows_what_a_variable_holds(
    told: Told, monkeypatch: pytest.MonkeyPatch, text: str, secret: str
) -> None:
    monkeypatch.setenv("S", secret)
    # A key that is wrong anyway, so that there is an issue in each case.
    for message in told(text + "\nzzz: 1"):
        for form in {secret, *({"98765", "101601"} if secret[0] in "09" else set()), "hunter2"}:
            assert form == "true" or form not in message, message


def test_passwords_in_urls_are_hidden(told: Told) -> None:
    text = "sources: [a]\npipeline: {model: m/x, postprocess: {family: raw}}\nruntime: {batch_size: 'http://joe:hunter2@h/'}"
    (message,) = told(text)
    assert "hunter2" not in message
    assert "***@h/" in message
    messages = told(text, "device=http://joe:hunter2@h/", "http://joe:hunter2@h/", "http://joe:hunter2@h/?a=b")
    assert len(messages) == 4
    assert not any("hunter2" in message for message in messages)


def test_labels_from_the_environment(told: Told) -> None:
    text = "sources: [a]\npipeline: {model: m/x, postprocess: {family: ssd, labels: ['${V_TEXT}'], classes: ['${V_TEXT}']}}"
    post = parse_config(text).pipeline.postprocess
    assert isinstance(post, SsdPost)
    assert post.classes == ["s3cret"]
