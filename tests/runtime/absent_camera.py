"""Tries to reach a camera that is absent, again and again; prints what the process holds after a quarter and at the end.

    python absent_camera.py ATTEMPTS

A process of its own: in the tests' own one the memory of everything that ran before is still being handed out anew.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import threading
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
import bad_servers

from pipeline.config.sources import Source
from pipeline.config.stages import Decode
from pipeline.decode.ffmpeg import FfmpegDecoder
from pipeline.observe.status import RunStatus, SourceState, StageTimes
from pipeline.runtime.build import new_status
from pipeline.runtime.ingest import Ingest, Limits
from pipeline.runtime.intake import Intake
from pipeline.sources.resolve import VideoSpec

LIMIT_S = 60.0


def footprint() -> dict[str, int]:
    """What the process holds."""
    return {
        "rss_bytes": int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE"),
        "threads": threading.active_count(),
        "files": sum(1 for _ in Path("/proc/self/fd").iterdir()),
    }


def main(attempts: int) -> None:
    """The supervisor with the real decoder; each time it backs off it is told to connect anew."""
    logging.disable(logging.CRITICAL)
    with bad_servers.refused() as port:
        url = f"rtsp://127.0.0.1:{port}/x"
        source = Source(url=url, reconnect={"initial_s": 60, "max_s": 60})
        spec = VideoSpec("absent", url, url, True, source)
        run = RunStatus(stages={"decode": StageTimes()}, sources={"absent": new_status(spec)})
        status = run.sources["absent"]
        ingest = Ingest(
            [spec],
            open_decoder=lambda spec, stats: FfmpegDecoder(spec, Decode(), stats),
            limits=Limits(),
            intake=Intake(lambda frame, cause: None),
            status=run,
            stay_alive=True,
            on_failure=lambda error: print(repr(error), file=sys.stderr),
        )
        ingest.start()
        early, end_s = footprint(), time.monotonic() + LIMIT_S
        for number in range(attempts):
            while status.state is not SourceState.BACKING_OFF:
                if time.monotonic() > end_s:
                    sys.exit(f"{number} attempts in {LIMIT_S} s, state {status.state.value}")
                time.sleep(0.0002)
            if number == attempts // 4:  # what is allocated once has been
                early = footprint()
            changed_s = status.changed_s
            ingest.restart("absent")
            while status.changed_s == changed_s and time.monotonic() < end_s:
                time.sleep(0.0002)
        while status.state is not SourceState.BACKING_OFF and time.monotonic() < end_s:
            time.sleep(0.0002)
        late = footprint()
        ingest.stop()
        ended = ingest.join(10)
    print(json.dumps({"early": early, "late": late, "ended": ended, "connects": status.connects}))


if __name__ == "__main__":
    main(int(sys.argv[1]))
