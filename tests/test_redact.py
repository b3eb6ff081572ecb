from __future__ import annotations

import string
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipeline.redact import redact

SECRET_NAMES = [
    "token",
    "key",
    "apikey",
    "api_key",
    "api-key",
    "APIKEY",
    "password",
    "passwd",
    "pwd",
    "pass",
    "secret",
    "client_secret",
    "signature",
    "sig",
    "auth",
    "access_token",
    "X-Amz-Signature",
    "X-Amz-Credential",
    "x-amz-security-token",
    "AWSAccessKeyId",
    "jwt",
]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("rtsp://user:pa:ss@host/x", "rtsp://***@host/x"),
        ("rtsp://user:p@ss@host:554/x", "rtsp://***@host:554/x"),
        ("rtsp://user:p@ss/w:rd@10.0.0.7/cam", "rtsp://***@10.0.0.7/cam"),
        ("https://token@registry.example/@scope/name", "https://***@registry.example/@scope/name"),
        ("rtsp://user:p%40ss%2F@host/x", "rtsp://***@host/x"),
        ("rtsp://user:a?b#c@host", "rtsp://***@host"),
        ("rtsp://user:pa/ss@host/x", "rtsp://***@host/x"),
        ("rtsp://user:pass word@host/x", "rtsp://***@host/x"),
        ("rtsp://:secret@host", "rtsp://***@host"),
        ("rtsp://token@host", "rtsp://***@host"),
        ("http://u:p@[::1]:80/a", "http://***@[::1]:80/a"),
        ("rtsp://a:b@h1/x and rtsp://c:d@h2/y", "rtsp://***@h1/x and rtsp://***@h2/y"),
        ("cannot open 'https://u:p@h/a.mp4': not found", "cannot open 'https://***@h/a.mp4': not found"),
        ("'https://h/a?x=1&token=abc': not found", "'https://h/a?x=1&token=***': not found"),
        ("https://h/a?%74oken=abc&b=2", "https://h/a?%74oken=***&b=2"),
        ("https://h/a?u=rtsp%3A%2F%2Fme%3Apw%40cam%2Fx", "https://h/a?u=rtsp%3A%2F%2F***%40cam%2Fx"),
        ("https://h/a#access_token=abc", "https://h/a#access_token=***"),
    ],
)
def test_examples(text: str, expected: str) -> None:
    assert redact(text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "",
        "clips/a.mp4: not a video (no decoder recognises it)",
        "http://host:8080/path?mail=a@b.example",
        "https://host: it does not answer, ask a@b.example",
        "rtsp://host:554: connection refused, ask a@b.example",
        "https://h/a?width=640&monkey=1&keyframe=2#top",
        "mail a@b.example, or key=value, or a:b@c",
        "http://[fe80::1]:80/a@b",
    ],
)
def test_text_without_credentials_stays(text: str) -> None:
    assert redact(text) == text


@pytest.mark.parametrize("name", SECRET_NAMES)
def test_secret_parameters(name: str) -> None:
    assert (
        redact(f"https://host/v.m3u8?a=1&{name}=hunter2&b=2 failed") == f"https://host/v.m3u8?a=1&{name}=***&b=2 failed"
    )


# Letters of the password are ones that occur nowhere else in the text, so that any that is left over is a leak.
odd_password = st.text(alphabet="QZ" + string.digits + "!$%&'()*+,;=:@?#[]^_`{|}~<>\"\\-.", min_size=1).map(
    lambda p: f"Q{p}Z"
)
some_text = st.text(alphabet=string.ascii_lowercase + " .,:()'\"", max_size=20)


@given(some_text, st.sampled_from(["rtsp", "http", "https", "rtmp+x"]), odd_password, st.booleans(), some_text)
def test_no_password_is_left(before: str, scheme: str, password: str, escape: bool, after: str) -> None:
    written = quote(password, safe="") if escape else password
    found = redact(f"{before} {scheme}://user:{written}@host.example/live {after}")
    assert found.endswith(f" {scheme}://***@host.example/live {after}")
    assert "Q" not in found


@given(odd_password.filter(lambda p: "&" not in p), st.sampled_from(SECRET_NAMES))
def test_no_secret_parameter_is_left(value: str, name: str) -> None:
    assert "Q" not in redact(f"https://host/a?x=1&{name}={value}&y=2").replace(name, "")


@given(st.text(alphabet="abkey:/@?&=#%3A2F40. \n'", max_size=60))
def test_a_second_pass_changes_nothing(text: str) -> None:
    assert redact(redact(text)) == redact(text)


@given(st.text(alphabet=string.ascii_letters + string.digits + " .,;@=&#%\n\"'()", max_size=80))
def test_text_without_urls_and_queries_stays(text: str) -> None:
    if "&" not in text and "#" not in text and ";" not in text:
        assert redact(text) == text


def test_long_text_is_quick() -> None:
    text = "://a:b" * 20_000
    assert redact(text) == text
