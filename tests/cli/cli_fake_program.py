"""The real command line around a fake pipeline, for tests that need a process: signals, terminals, pipes.

`VRAMLINE_TEST_PIPELINE` says how the pipeline behaves: `quick`, `endless`, `deaf` (does not stop), `preparing`, or `compiling`
(in a native call, where Python calls no signal handler).
"""

from __future__ import annotations

import hashlib
import os
import signal
import sys
import threading
import types

from cli_fakes import FakePipeline

from pipeline.cli.main import main


class Endless(FakePipeline):
    frames = 10**9
    frame_s = 0.002


class Deaf(Endless):
    def stop(self) -> None:
        pass


class Preparing(FakePipeline):
    def prepare(self) -> None:
        print("preparing", file=sys.stderr, flush=True)
        threading.Event().wait()


class Compiling(FakePipeline):
    def prepare(self) -> None:
        print("compiling", file=sys.stderr, flush=True)
        hashlib.pbkdf2_hmac("sha256", b"", b"", 2**31 - 1)  # half an hour


KINDS = {
    "quick": FakePipeline,
    "endless": Endless,
    "deaf": Deaf,
    "preparing": Preparing,
    "compiling": Compiling,
}

module = types.ModuleType("pipeline.runtime.pipeline")
module.Pipeline = KINDS[os.environ.get("VRAMLINE_TEST_PIPELINE", "quick")]  # type: ignore[attr-defined]
sys.modules[module.__name__] = module
# A process that a shell starts in the background has Ctrl-C ignored, and so have its children.
signal.signal(signal.SIGINT, signal.default_int_handler)
main(default_command="run")
