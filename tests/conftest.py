"""What all tests share: where the media, models and ground truth are, if they are here at all."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

# Before anything imports TensorFlow: its start-up chatter would drown the test output.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

ASSETS_VARIABLE = "VRAMLINE_TEST_ASSETS"


@pytest.fixture(scope="session")
def assets() -> Path:
    """The folder with media/, models/, ground_truth/ and odd_media/; skips where there is none."""
    value = os.environ.get(ASSETS_VARIABLE)
    if not value:
        pytest.skip(f"{ASSETS_VARIABLE} is not set: it names the folder with test media, models and ground truth")
    folder = Path(value)
    if not folder.is_dir():
        pytest.skip(f"{ASSETS_VARIABLE}={value} is not a folder")
    return folder


@pytest.fixture
def nvc() -> Iterator[Any]:
    """A PyNvVideoCodec without a GPU; see `fake_nvcodec`."""
    import fake_nvcodec

    with fake_nvcodec.installed() as fake:
        yield fake
