"""A server over a run that is not there."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from pydantic import SecretStr

# The test modules here share `control_fakes`.
sys.path.insert(0, str(Path(__file__).parent))

from control_fakes import TOKEN, Answer, FakeControl, ask, fill_run

from pipeline.config.models import Http
from pipeline.control.http import HttpServer


@pytest.fixture
def control() -> FakeControl:
    """A run that goes on, without streams."""
    fake = FakeControl()
    fill_run(fake.status)
    return fake


@pytest.fixture
def server(control: FakeControl) -> Iterator[HttpServer]:
    """The real server, on a port that the system chose."""
    with HttpServer(control, Http(port=0, token=SecretStr(TOKEN))) as running:
        yield running


@pytest.fixture
def request_(server: HttpServer) -> Callable[..., Answer]:
    """`request_(method, path, body)`; with the token unless told otherwise."""
    return partial(ask, server.port)
