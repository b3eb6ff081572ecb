"""A short form of `benchmarks/chaos_rtsp.py`: every way in which a server breaks, once, on a few streams at a time."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

import pytest
from rtsp import require_rtsp_server

from pipeline.observe.status import SourceState

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import chaos_rtsp
from chaos_cameras import FAULTS

# A machine that is busy with other things may need longer than `timeout_s` to answer: then one attempt fails, and another
# wait comes before the next. The benchmark, which runs alone, allows for none of it.
SLOW_MACHINE_ATTEMPTS = 1


@pytest.mark.timeout(240)
def test_whatever_happens_to_the_servers_all_streams_come_back_and_nothing_is_left_behind(tmp_path: Path) -> None:
    require_rtsp_server()
    threads_before = set(threading.enumerate())
    options = chaos_rtsp.Options(
        streams=4,
        calm_s=2.0,
        seed=5,
        rounds=1,
        workers=2,
        forced_every_s=1.0,
        model="built-in",
        cap_s=0.5,
        timeout_s=1.5,
        pace=0.4,
    )
    found = chaos_rtsp.run(options, tmp_path)

    assert found.errors == []
    assert found.exit_code == 0
    assert {s.status.state for s in found.streams if s.status is not None} == {SourceState.STOPPED}
    assert chaos_rtsp.unaccounted(found) == []

    assert {name: found.faults[name] for name in FAULTS} == dict.fromkeys(FAULTS, 1)
    assert found.faults[chaos_rtsp.FORCED] > 0
    assert (
        found.reconnects >= len(found.recoveries) - 1
    )  # all but the short freeze, which the connection may live through
    limit_s = options.cap_s + chaos_rtsp.MOST_AFTER_BACKOFF_S
    limit_s += SLOW_MACHINE_ATTEMPTS * (options.timeout_s + options.cap_s)
    assert [r for r in found.recoveries if r.took_s is None or r.took_s > limit_s] == []

    assert found.calm is not None
    assert found.final is not None
    assert found.final.files <= found.calm.files + chaos_rtsp.MOST_MORE
    assert found.final.threads <= found.calm.threads + chaos_rtsp.MOST_MORE
    assert [t.name for t in set(threading.enumerate()) - threads_before if t.name.startswith(("source", "lane"))] == []

    assert found.bystanders
    for stream in found.streams:
        if stream.name in found.bystanders:
            assert stream.left_alone.results > 0
            assert stream.status is not None
            assert stream.status.last_error is None
