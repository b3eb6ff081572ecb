#!/usr/bin/python3
"""Serves video files as RTSP cameras on 127.0.0.1, without re-encoding them. Runs under Debian's own Python.

It needs the packages that `.ci/run` installs for the RTSP tests; `rtsp.RtspServer` starts it from a test. When it
listens it prints one line of JSON: {"port": 8554, "mounts": {"cam": "h264"}}. It ends when its standard input closes,
so that no test run leaves one behind.

    /usr/bin/python3 tests/rtsp_server.py --port 8554 --loop cam=clip.mp4 second=other.mkv:h265
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass, field
from typing import Any

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtsp", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import Gio, GLib, Gst, GstRtsp, GstRtspServer  # noqa: E402

CODECS = ("h264", "h265")
ROLE = "viewer"


@dataclass
class Clip:
    """A file's coded pictures in decoding order, in memory: what an endless camera repeats.

    Attributes:
        codec: One of `CODECS`.
        caps: GStreamer's description of the pictures.
        pictures: (data, decoding time, presentation time); times in nanoseconds from the first one shown.
        duration_ns: From the first picture to the start of the next round.
    """

    codec: str
    caps: Any = None
    pictures: list[tuple[GLib.Bytes, int, int]] = field(default_factory=list)
    duration_ns: int = 0


def read_clip(path: str, codec: str | None) -> Clip:
    """Reads a file of any container that GStreamer knows; `codec` None: the first track of a codec of ours."""
    wanted = [codec] if codec else list(CODECS)
    pipeline = Gst.parse_launch("filesrc name=file ! parsebin name=parts")
    pipeline.get_by_name("file").set_property("location", path)
    clips: list[Clip] = []

    def add_track(_: Any, pad: Any) -> None:
        caps = pad.get_current_caps() or pad.query_caps(None)
        name = caps.get_structure(0).get_name().removeprefix("video/x-")
        if name in wanted and not clips:
            clips.append(Clip(name))
            chain = f"{name}parse ! video/x-{name},stream-format=byte-stream,alignment=au ! appsink name=sink"
        else:
            chain = "fakesink name=sink"
        track = Gst.parse_bin_from_description(f"{chain} sync=false async=false", True)
        if "appsink" in chain:
            track.get_by_name("sink").set_property("emit-signals", True)
            track.get_by_name("sink").connect("new-sample", add_picture)
        pipeline.add(track)
        track.sync_state_with_parent()
        pad.link(track.get_static_pad("sink"))

    def add_picture(sink: Any) -> Any:
        sample = sink.emit("pull-sample")
        clip, buffer = clips[0], sample.get_buffer()
        clip.caps = sample.get_caps()
        pts = buffer.pts if buffer.pts != Gst.CLOCK_TIME_NONE else buffer.dts
        dts = buffer.dts if buffer.dts != Gst.CLOCK_TIME_NONE else pts
        clip.pictures.append((GLib.Bytes.new(buffer.extract_dup(0, buffer.get_size())), dts, pts))
        return Gst.FlowReturn.OK

    pipeline.get_by_name("parts").connect("pad-added", add_track)
    pipeline.set_state(Gst.State.PLAYING)
    message = pipeline.get_bus().timed_pop_filtered(60 * Gst.SECOND, Gst.MessageType.ERROR | Gst.MessageType.EOS)
    pipeline.set_state(Gst.State.NULL)
    if message is None or message.type == Gst.MessageType.ERROR:
        raise SystemExit(f"{path}: {message.parse_error()[0].message if message else 'cannot be read in time'}")
    if not clips or not clips[0].pictures:
        raise SystemExit(f"{path}: holds no {' or '.join(wanted)}")
    clip = clips[0]
    first = min(pts for _, _, pts in clip.pictures)
    clip.pictures = [(data, dts - first, pts - first) for data, dts, pts in clip.pictures]
    last = max(pts for _, _, pts in clip.pictures)
    clip.duration_ns = last + (last // (len(clip.pictures) - 1) if len(clip.pictures) > 1 else Gst.SECOND // 30)
    return clip


class Player:
    """Feeds one client's (or with `--shared` every client's) pipeline from a clip."""

    def __init__(self, clip: Clip, loop: bool) -> None:
        self._clip = clip
        self._loop = loop
        self._next = 0

    def feed(self, source: Any, _: int) -> None:
        """Hands over the next picture; the pipeline asks whenever it has sent the last one."""
        round_, index = divmod(self._next, len(self._clip.pictures))
        if round_ and not self._loop:
            source.emit("end-of-stream")
            return
        self._next += 1
        data, dts, pts = self._clip.pictures[index]
        buffer = Gst.Buffer.new_wrapped_bytes(data)
        offset = round_ * self._clip.duration_ns
        buffer.pts = pts + offset
        # The first pictures of a clip with B-frames are decoded before the time at which the clip starts.
        buffer.dts = dts + offset if dts + offset >= 0 else Gst.CLOCK_TIME_NONE
        source.emit("push-buffer", buffer)


def factory_of(clip: Clip, options: argparse.Namespace) -> Any:
    """What makes a pipeline for each client of a mount."""
    drop = ""
    if options.drop:
        drop = (
            f"! {clip.codec}parse ! video/x-{clip.codec},stream-format=byte-stream,alignment=nal "
            f"! identity drop-probability={options.drop:g} "
        )
    factory = GstRtspServer.RTSPMediaFactory()
    # Parameter sets before every key frame, as most cameras send them: who joins later needs them.
    factory.set_launch(
        f"( appsrc name=pictures format=time max-buffers=4 {drop}! rtp{clip.codec}pay name=pay0 pt=96 config-interval=-1 )"
    )
    factory.set_shared(options.shared)

    def configure(_: Any, media: Any) -> None:
        source = media.get_element().get_by_name("pictures")
        source.set_property("caps", clip.caps)
        source.connect("need-data", Player(clip, options.loop).feed)

    factory.connect("media-configure", configure)
    return factory


def protect(server: Any, factories: list[Any], options: argparse.Namespace) -> None:
    """Password and certificate, where asked for."""
    auth = GstRtspServer.RTSPAuth()
    if options.tls:
        auth.set_tls_certificate(Gio.TlsCertificate.new_from_files(*options.tls))
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", ROLE)
    if options.user is None:
        auth.set_default_token(token)
    elif options.auth == "digest":
        auth.set_supported_methods(GstRtsp.RTSPAuthMethod.DIGEST)
        auth.add_digest(options.user, options.password, token)
    else:
        auth.add_basic(GstRtspServer.RTSPAuth.make_basic(options.user, options.password), token)
    for factory in factories:
        permissions = GstRtspServer.RTSPPermissions()
        permissions.add_permission_for_role(ROLE, "media.factory.access", True)
        permissions.add_permission_for_role(ROLE, "media.factory.construct", True)
        factory.set_permissions(permissions)
    server.set_auth(auth)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--port", type=int, default=0, help="0: the system chooses")
    parser.add_argument("--drop", type=float, default=0, metavar="P", help="share of NAL units that is lost, 0..1")
    parser.add_argument("--user")
    parser.add_argument("--password", default="")
    parser.add_argument("--auth", choices=("basic", "digest"), default="basic", help="how the password is asked for")
    parser.add_argument("--tls", nargs=2, metavar=("CERT", "KEY"), help="PEM files: rtsps instead of rtsp")
    parser.add_argument("--shared", action="store_true", help="all clients of a mount see the same moment")
    parser.add_argument("--loop", action="store_true", help="begin again at the end, for ever")
    parser.add_argument("mounts", nargs="+", metavar="NAME=PATH[:CODEC]")
    options = parser.parse_args()

    Gst.init(None)
    server = GstRtspServer.RTSPServer()
    server.set_address("127.0.0.1")
    server.set_service(str(options.port))
    codecs, factories = {}, []
    for mount in options.mounts:
        name, _, path = mount.partition("=")
        stem, _, ending = path.rpartition(":")
        clip = read_clip(stem, ending) if ending in CODECS else read_clip(path, None)
        factory = factory_of(clip, options)
        server.get_mount_points().add_factory(f"/{name}", factory)
        factories.append(factory)
        codecs[name] = clip.codec
    if options.user is not None or options.tls:
        protect(server, factories, options)
    if not server.attach(None):
        raise SystemExit(f"cannot listen on port {options.port}")
    loop = GLib.MainLoop()
    GLib.unix_fd_add_full(
        GLib.PRIORITY_DEFAULT, sys.stdin.fileno(), GLib.IOCondition.HUP | GLib.IOCondition.ERR, lambda *_: loop.quit()
    )
    print(json.dumps({"port": server.get_bound_port(), "mounts": codecs}), flush=True)
    loop.run()


if __name__ == "__main__":
    main()
