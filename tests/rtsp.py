"""RTSP cameras for tests: starts `rtsp_server.py`, and breaks it in the ways in which cameras break."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import queue
import signal
import subprocess
import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import pytest

PYTHON = "/usr/bin/python3"  # Debian's: GObject introspection is no wheel
SCRIPT = Path(__file__).with_name("rtsp_server.py")
START_TIMEOUT_S = 20.0


@functools.cache
def _missing() -> str | None:
    """What the server lacks on this machine; None if nothing."""
    probe = (
        "import gi\n"
        "gi.require_version('Gst', '1.0'); gi.require_version('GstRtspServer', '1.0')\n"
        "from gi.repository import Gio, Gst, GstRtspServer\n"
        "Gst.init(None)\n"
        "assert Gio.TlsBackend.get_default().supports_tls()\n"
        "names = 'parsebin qtdemux matroskademux tsdemux h264parse h265parse rtph264pay rtph265pay rtpbin appsrc'.split()\n"
        "print(' '.join(n for n in names if Gst.ElementFactory.find(n) is None))\n"
    )
    try:
        done = subprocess.run(
            [PYTHON, "-c", probe], capture_output=True, text=True, timeout=60, check=False, env=_environment()
        )
    except OSError:
        return f"there is no {PYTHON}"
    if done.returncode:
        return f"{PYTHON} has no GstRtspServer, or no TLS for it"
    return f"GStreamer has no {done.stdout.strip()}" if done.stdout.strip() else None


def require_rtsp_server() -> None:
    """Skips the test where the server cannot run."""
    missing = _missing()
    if missing:
        pytest.skip(f"{missing}: apt-get install the packages that .ci/run names for the RTSP tests")


def _environment() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV_", "VIRTUAL_ENV"))}


class RtspServer:
    """A context manager: cameras on 127.0.0.1 that show files.

    with RtspServer({"cam": clip}, loop=True) as server:
        av.open(server.url("cam"))

    Attributes:
        port: Where it listens; kept over `restart`.
        process: The server's; None before it starts.
    """

    def __init__(
        self,
        mounts: Mapping[str, Path | str],
        *,
        port: int = 0,
        loop: bool = False,
        shared: bool = False,
        drop: float = 0,
        user: str | None = None,
        password: str = "",
        auth: str = "basic",
        tls: tuple[Path, Path] | None = None,
    ) -> None:
        """Starts nothing yet.

        Args:
            mounts: Name of each camera -> its file, with `:h264` or `:h265` behind it to choose a track.
            port: 0: the system chooses.
            loop: Begin again at the end, for ever; else the stream ends.
            shared: All clients of a camera see the same moment; else each sees the file from its start.
            drop: Share of the NAL units that is lost.
            user: Who may watch; None: anybody.
            password: The user's.
            auth: "basic" or "digest".
            tls: PEM files of certificate and key: rtsps.
        """
        self.port = port
        self.process: subprocess.Popen[str] | None = None
        self._settings: dict[str, Any] = {
            "mounts": mounts,
            "loop": loop,
            "shared": shared,
            "drop": drop,
            "user": user,
            "password": password,
            "auth": auth,
            "tls": tls,
        }

    def url(self, name: str, credentials: tuple[str, str] | None = None) -> str:
        """A camera's URL, with user and password where given."""
        userinfo = ":".join(quote(part, safe="") for part in credentials) + "@" if credentials else ""
        return f"{'rtsps' if self._settings['tls'] else 'rtsp'}://{userinfo}127.0.0.1:{self.port}/{name}"

    def start(self) -> RtspServer:
        """Starts it and waits until it listens."""
        self.process = subprocess.Popen(
            [PYTHON, str(SCRIPT), *self._arguments()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=_environment(),
        )
        self.port = json.loads(self._ready_line())["port"]
        return self

    def kill(self) -> None:
        """As a power cut: no goodbye. The kernel closes its connections."""
        process, self.process = self.process, None
        if process is not None:
            process.kill()
            process.wait(10)
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe is not None:
                    pipe.close()

    def restart(self, **changes: Any) -> RtspServer:
        """The server again on the same port, after `kill` or instead of it, with other settings where given."""
        self.kill()
        unknown = changes.keys() - self._settings.keys()
        assert not unknown, unknown
        self._settings.update(changes)
        return self.start()

    def freeze(self) -> None:
        """As a pulled network cable: connections stay and nothing comes."""
        assert self.process is not None
        self.process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        """Ends `freeze`."""
        assert self.process is not None
        self.process.send_signal(signal.SIGCONT)

    def __enter__(self) -> RtspServer:
        require_rtsp_server()
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _arguments(self) -> list[str]:
        settings = self._settings
        arguments = [f"--port={self.port}", f"--drop={settings['drop']}", f"--auth={settings['auth']}"]
        arguments += [f"--{name}" for name in ("loop", "shared") if settings[name]]
        if settings["user"] is not None:
            arguments += [f"--user={settings['user']}", f"--password={settings['password']}"]
        if settings["tls"]:
            arguments += ["--tls", *map(str, settings["tls"])]
        return [*arguments, *(f"{name}={path}" for name, path in settings["mounts"].items())]

    def _ready_line(self) -> str:
        """What the server prints when it listens. A thread reads, so that the wait has an end."""
        process = self.process
        assert process is not None and process.stdout is not None and process.stderr is not None
        errors: list[str] = []
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=lambda out=process.stdout: lines.put(out.readline()), daemon=True).start()
        collector = threading.Thread(target=_collect, args=(process.stderr, errors), daemon=True)
        collector.start()
        try:
            line = lines.get(timeout=START_TIMEOUT_S)
        except queue.Empty:
            line = ""
        if not line:
            process.kill()
            process.wait(10)
            self.process = None
            collector.join(5)
            raise RuntimeError(f"the RTSP server does not start: {''.join(errors).strip() or 'it says nothing'}")
        return line


def _collect(pipe: Any, lines: list[str]) -> None:
    """Reads a pipe to its end, so that the server never waits for it."""
    with contextlib.suppress(OSError, ValueError):  # closed by `kill`
        lines.extend(pipe)
