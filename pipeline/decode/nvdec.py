"""The `cuda` engine's decoder: FFmpeg demuxes, NVDEC decodes; what the GPU cannot decode is uploaded from the CPU."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

from pipeline.config.stages import Decode
from pipeline.decode._aside import Aside
from pipeline.decode._device_guard import DeviceGuard
from pipeline.decode._display_order import DisplayOrder
from pipeline.decode._indexed import AnyPacket, FileRun, IndexedFile, Piece, each, real
from pipeline.decode._open import failure
from pipeline.decode._packets import ForNvdec, Unit, picture_in
from pipeline.decode._reasons import Reason
from pipeline.decode._session import PACKETS_AT_ONCE, NvdecSession, surface_layout
from pipeline.decode._surface_ring import SurfaceRing
from pipeline.decode._upload import PictureUpload
from pipeline.decode._video import VideoDecoder
from pipeline.decode.capabilities import Capabilities, VideoFormat, decode_errors, gpu_capabilities, load_nvcodec
from pipeline.decode.memory import SurfaceMemory, decoder_size, picture_size
from pipeline.decode.turnstile import DecodeTurns, Turn
from pipeline.errors import SourceErrorCode
from pipeline.frames import Colour, Frame, Picture
from pipeline.sources.resolve import VideoSpec
from pipeline.stages import DecodeStats, DeviceStream

if TYPE_CHECKING:
    import av
    from av.packet import Packet
    from av.video.stream import VideoStream

log = logging.getLogger(__name__)

# A picture and its source's id -> (width, height) in samples that it is to be scaled to, even; None: it stays as it is.
ScaleTo = Callable[[Picture, str], "tuple[int, int] | None"]

# As many packets are looked through for the first picture behind a key frame; intra refresh takes that long.
_MOST_HELD = 64
_WITH_START_CODES = ("h264", "hevc")
_NO_TURNS = DecodeTurns()
# A call that takes longer hangs.
_MOST_CALL_S = 5.0
# What goes back further is a clock that was set.
_MOST_REORDERED_S = 1.0


@dataclass(frozen=True, slots=True)
class _Look:
    """What FFmpeg says of the frames from a key frame on: their format, and the fields of their `Picture`."""

    video: VideoFormat
    chroma_shift: tuple[int, int]
    colour: Colour
    width: int
    height: int
    rotation: int
    mirror: bool
    sar: Fraction
    scaled_to: tuple[int, int] | None
    is_prompt: bool  # to be shown as soon as it has been decoded


class _Given(NamedTuple):
    """What goes into the decoder with a call aside."""

    packets: Sequence[Piece]
    newest: int  # of their marks


class NvdecDecoder(VideoDecoder):
    """Decodes on the GPU; the frames carry a `Surface`, on loan until it is released.

    Where headers change, FFmpeg decodes one frame as well, and what it says of that one holds for all until the next change.
    Another size or format gets another decoder: PyNvVideoCodec would stretch the picture into the first one's size. It tells
    of no damage either, so `stats.corrupt` counts only frames that the CPU decoded.
    """

    def __init__(
        self,
        spec: VideoSpec,
        decode: Decode,
        stats: DecodeStats | None = None,
        *,
        stream: DeviceStream,
        ring: int,
        capabilities: Capabilities,
        memory: SurfaceMemory | None = None,
        scale: ScaleTo | None = None,
        turns: DecodeTurns = _NO_TURNS,
        is_ahead: bool = False,
    ) -> None:
        """Opens the video.

        Args:
            spec: What to open.
            decode: How.
            stats: Where to count; counters of its own by default.
            stream: Where all work on the device is enqueued.
            ring: How many surfaces may be on loan at a time.
            capabilities: What the GPU decodes.
            memory: What it may take of the device's memory; default: any.
            scale: What NVDEC is to scale pictures to: surfaces are smaller then, `Picture.width` and `height` stay.
            turns: What is done in turns with the other decoders.
            is_ahead: Whether a file's packets go in by a thread of its own, one call ahead of who hands out what came of the
                call before. Otherwise NVDEC has nothing to do meanwhile, unless it has further videos to decode.

        Raises:
            SourceError: as `VideoDecoder`; or the GPU cannot decode it and `decode.fallback` is `error`; or there is too
                little memory for it.
            DeviceError: PyNvVideoCodec or the driver is missing.
            DeviceLostError: also while it is iterated: the device has failed.
        """
        self._device_stream = stream
        self._is_ahead = is_ahead
        self._scale = scale
        self._turns, self._turn = turns.of(spec), Turn()
        self._may_fall_back = decode.fallback == "cpu"
        self._ring = SurfaceRing(ring)
        self._guard = DeviceGuard(spec, memory or SurfaceMemory(), self._ring, capabilities)
        self._nvc = load_nvcodec()
        self._errors = decode_errors(self._nvc)
        self._session: NvdecSession | None = None
        self._order = DisplayOrder()
        self._indexed: IndexedFile | None = None
        self._unread: Iterator[Piece] = iter(())
        self._ahead: deque[Piece] = deque()  # read already, to be decoded next
        self._is_unproven = True  # the session has not given a frame yet
        self._unshown: list[AnyPacket] = []  # what went in until then
        self._failure = ""
        self._known: bytes | None = None  # the headers that are in force
        self._is_untimed: bool | None = None  # not known before the first packet
        self._units: list[Unit] = []  # converted, to go in together
        self._packets_of_units: list[Piece] = []
        self._waiting = 0  # packets that are in these units
        self._aside: Aside[_Given] = Aside(f"nvdec {spec.source_id}")
        self._is_rewound = False
        self._has_reordered = False
        self._newest_pts: int | None = None
        self._has_warned = False
        if stats is not None:
            stats.surfaces = self._ring.stats
        super().__init__(spec, decode, stats)

    def close(self) -> None:
        """Releases everything but the surfaces that are on loan; a thread that waits for one of them goes on at once."""
        self._closing = True
        self._ring.close()
        super().close()

    def _release(self) -> None:
        super()._release()
        if self._indexed is not None:
            self._indexed.close()
        self._turn.take(None)
        self._aside.forget(_MOST_CALL_S)
        self._aside.close()
        self._session = None
        self._units.clear()
        self._packets_of_units.clear()
        self._waiting = 0
        # Each of these knows the decoder, or holds packets of it. The interpreter looks for such circles so rarely that
        # streams which are opened again and again would fill the memory.
        self._unread = iter(())
        self._ahead.clear()
        self._unshown.clear()

    def _demux(self) -> Iterator[Piece]:
        if self._spec.is_url or self._is_live or not self._gate.is_open:  # what looks at each packet, looks at FFmpeg's
            return super()._demux()
        self._indexed = IndexedFile(self._spec.location, self._container, self._stream)
        return self._indexed.packets(self._at_once)

    def _demux_again(self, first: tuple[object, ...]) -> Iterator[Piece] | None:
        packets = None if self._indexed is None else self._indexed.again(self._at_once)
        if packets is None:
            self._indexed = None  # it is of this container, which may be opened anew
            packets = super()._demux_again(first)
        return packets

    @property
    def _at_once(self) -> int:
        """How many packets may go into the decoder at a time."""
        is_split = self._stream.codec_context.codec.canonical_name in _WITH_START_CODES  # by NVDEC's parser
        return PACKETS_AT_ONCE if is_split and not self._is_live else 1

    def _rewind(self) -> None:
        super()._rewind()
        self._is_rewound = True

    def _decoded(self) -> Iterator[Sequence[Frame]]:
        self._unread = self._packets()
        why_not = self._guard.why_not(VideoFormat.of_context(self._stream.codec_context))
        if why_not is None:
            why_not = yield from self._on_gpu()
        if why_not is not None:
            yield from self._on_cpu(why_not)

    def _next_pieces(self) -> Iterator[Piece]:
        while True:
            if self._indexed is None or not self._indexed.is_indexed:  # else the interpreter's lock is kept
                self._turn.take(self._turns.reading)
            piece = self._next_piece()
            if piece is None:
                self._turn.take(None)
                return
            if self._turns.handling is not None:
                self._turn.take(self._turns.handling)
            yield piece

    def _next_piece(self) -> Piece | None:
        return self._ahead.popleft() if self._ahead else next(self._unread, None)

    # ---------------------------------------------------------------------------------------------------- on the GPU

    def _on_gpu(self) -> Generator[Sequence[Frame], None, str | None]:
        """The frames that NVDEC decodes; returns why the packets from here on need the CPU, or None at the end."""
        context = self._stream.codec_context
        if not context.is_open:
            context.thread_count = 1  # it decodes single frames
            context.open(strict=False)
        nvdec = ForNvdec(self._stream)
        self._is_ahead = self._is_ahead and self._at_once > 1
        self._is_untimed = None
        for piece in self._next_pieces():
            if isinstance(piece, FileRun):
                yield from self._take_in_run(piece, nvdec)
                why_not = None
            else:
                why_not = yield from self._take_in_packet(piece, nvdec)
            if why_not is not None or self._closing:
                return why_not
        yield from self._submit_units()
        yield from self._drain()
        return None

    def _take_in_run(self, run: FileRun, nvdec: ForNvdec) -> Iterator[Sequence[Frame]]:
        """The frames that come out when a run goes in, or as much of it as there is room for; where it cannot, its packets are next."""
        room = PACKETS_AT_ONCE - self._waiting
        if len(run) > room:
            self._ahead.appendleft(run.part(room, len(run)))
            run = run.part(0, room)
        unit = None if self._session is None or self._is_unproven else nvdec.convert_run(run)
        if unit is None:
            self._ahead.extendleft(reversed(run.packets()))
            return
        self._order.add_all(run.pts)
        self._units.append(unit)
        self._packets_of_units.append(run)
        self._waiting += len(run)
        if self._waiting >= PACKETS_AT_ONCE:
            yield from self._submit_units()

    def _take_in_packet(self, packet: AnyPacket, nvdec: ForNvdec) -> Generator[Sequence[Frame], None, str | None]:
        """The frames that come out when a packet goes in, with those that wait; why it needs the CPU, if it does."""
        is_key = packet.is_keyframe
        if is_key:
            yield from self._submit_units()
            why_not = yield from self._key_frame(real(packet), nvdec)
            if why_not is not None:
                self._ahead.appendleft(packet)
                return why_not
        if self._session is None:
            if self._known is not None:
                self._failed(self._failure)
            return None  # up to a key frame
        if self._is_untimed is None:
            # A live stream's first packets may come before its time is known.
            self._is_untimed = not self._is_live and packet.pts is None and packet.dts is None
        self._convert(packet, nvdec)
        # What comes out for a key frame alone tells whether marks are left over.
        is_alone = is_key or self._is_unproven or self._at_once == 1
        if is_alone or self._waiting >= PACKETS_AT_ONCE:
            yield from self._submit_units(together=not is_alone)
        if self._closing:
            return None
        if self._session is None and self._is_unproven:
            self._ahead.extendleft(reversed(self._unshown))
            if self._look.scaled_to is None:
                return self._failure
            self._scale_no_more(self._failure)  # the driver sets the decoder up only when it has seen a picture
        elif self._is_live and self._gate.has_key_frames_only:
            yield from self._drain()  # it would come out when the next ones go in, seconds later
        return None

    def _key_frame(self, packet: Packet[VideoStream], nvdec: ForNvdec) -> Generator[Sequence[Frame], None, str | None]:
        """Sees to it that the right decoder, or none, stands ready for a key frame; why it needs the CPU, if it does."""
        self._turn.take(None)  # another decoder may take its time
        headers = nvdec.headers(packet)
        if self._is_rewound and not headers.is_closed:
            yield from self._catch_up()
            self._session = None  # what is shown before it would be built on the end
        self._is_rewound = False
        if self._session is None or headers.identity != self._known:
            self._known = headers.identity
            look = self._look_at(packet)
            if look is None or self._session is None or look != self._look:
                yield from self._drain()
                self._session = None
            if look is None:
                self._failure = "there is no picture behind a key frame"
                return None
            if self._session is None:
                why_not = self._begin(look)
                if why_not is not None:
                    return why_not
                nvdec.restart()
        elif headers.is_closed and (self._order.has_lost or self._arrivals.ends_loss(packet)):
            # What was built on lost frames may have come out as no frame: from here on the times are right again.
            yield from self._drain()
        if headers.is_closed:
            self._order.before_closed_key_frame()
        return None

    def _convert(self, packet: AnyPacket, nvdec: ForNvdec) -> None:
        """Puts a packet to those that wait to go in."""
        pts, dts, is_hidden = packet.pts, packet.dts, packet.is_discard
        if self._look.is_prompt and pts is not None:
            self._watch_order(pts)
        shows_nothing = nvdec.shows_nothing(packet)
        if self._is_unproven:
            self._unshown.append(packet)
        may_go_again = self._is_unproven or (packet.is_keyframe and self._is_ahead)
        units = nvdec.convert(packet, keep=may_go_again)
        if self._look.is_prompt:
            units = nvdec.ended(units)
        if units and not shows_nothing:
            self._order.add(pts, dts, is_hidden)
        self._units += units
        self._packets_of_units.append(packet)
        self._waiting += 1

    def _watch_order(self, pts: int) -> None:
        """A stream whose headers do not say so may be reordered all the same; it gets another decoder at its next key frame."""
        newest = self._newest_pts
        if newest is None or pts > newest:
            self._newest_pts = pts
        elif self._tick_s is not None and (newest - pts) * self._tick_s[0] < _MOST_REORDERED_S * self._tick_s[1]:
            self._has_reordered, self._known = True, None

    def _submit_units(self, *, together: bool = True) -> Iterator[Sequence[Frame]]:
        """What is converted goes in; the frames that come out, of a decoder that is called aside those of earlier calls."""
        units, self._units = self._units, []
        packets, self._packets_of_units = self._packets_of_units, []
        self._waiting = 0
        if together and len(units) > 1:
            units = [b"".join(units)]
        if self._is_ahead and not self._is_unproven:
            for unit in units:
                yield from self._begin_call(unit, packets)
            return
        for unit in units:
            count = self._outcome(partial(self._live_session.decode, unit), packets)
            if count is None:
                return
            yield from self._fetch(count)
        self._order.settle(self._order.newest)

    def _begin_call(self, unit: Unit, packets: Sequence[Piece]) -> Iterator[Sequence[Frame]]:
        """Has the decoder called aside once it is back from its last call; the frames that it brings back from the one before."""
        call = partial(_decode_within, self.open_aside, self._live_session, unit)
        self._aside.begin(call, _Given(packets, self._order.newest))
        if len(self._aside) > 1:
            yield from self._end_call()

    def _end_call(self) -> Iterator[Sequence[Frame]]:
        """The frames of the oldest call aside."""
        packets, newest = self._aside.oldest
        count = self._outcome(self._aside.end, packets)
        if count is not None:
            yield from self._fetch(count)
            self._order.settle(newest)

    def _catch_up(self) -> Iterator[Sequence[Frame]]:
        """The frames of all calls aside."""
        while self._aside:
            yield from self._end_call()

    def _look_at(self, packet: Packet[VideoStream]) -> _Look | None:
        """What FFmpeg sees behind a key frame; it may need more packets for a picture, which are decoded later."""
        context = self._stream.codec_context
        held = [packet]
        frame = picture_in(context, held)
        while frame is None and len(held) < _MOST_HELD:
            following = self._next_piece()
            if following is None:
                break
            if isinstance(following, FileRun):
                following, *others = following.packets()
                self._ahead.extendleft(reversed(others))
            held.append(real(following))
            if following.is_keyframe:
                break
            if not len(held) & (len(held) - 1):  # 2, 4, 8 ...: all are decoded again each time
                frame = picture_in(context, held)
        self._ahead.extendleft(reversed(held[1:]))
        if frame is None:
            return None
        video = VideoFormat.of_frame(context.codec.canonical_name, frame)
        picture, scaled_to = self._picture(frame), None
        if self._scale is not None and picture.chroma_shift == (1, 1):
            scaled_to = self._scale(picture, self._spec.source_id)
        return _Look(
            video,
            picture.chroma_shift,
            picture.colour,
            picture.width,
            picture.height,
            picture.rotation,
            picture.mirror,
            picture.sar,
            scaled_to,
            self._is_live and not self._has_reordered and _is_shown_as_it_comes(context),
        )

    def _begin(self, look: _Look) -> str | None:
        """A decoder for such frames; why there is none, if so."""
        self._turn.take(None)
        why_not = self._guard.why_not(look.video)
        if why_not is not None:
            return why_not
        trouble = self._set_up(look)
        if trouble is not None and look.scaled_to is not None:
            self._scale_no_more(trouble)
            look = replace(look, scaled_to=None)
            trouble = self._set_up(look)
        if trouble is not None:
            return f"NVDEC cannot be set up: {trouble}"
        self._look, self._colour = look, look.colour
        if look.scaled_to is not None:
            # Planes are scaled each by itself, so what chroma is off luma shrinks with the picture, towards the middle.
            self._colour = replace(look.colour, siting="center")
        self._is_unproven = True
        self._unshown.clear()
        self._newest_pts = None
        return None

    def _set_up(self, look: _Look) -> str | None:
        """The session for such frames; what PyNvVideoCodec says if there can be none."""
        video = look.video
        assert video.pix_fmt is not None
        scaled_from = None if look.scaled_to is None else (video.width, video.height)
        width, height = look.scaled_to or (video.width, video.height)
        layout = surface_layout(width, height, video.pix_fmt)
        surface = picture_size(width, height, video.pix_fmt)
        own = decoder_size(video.codec, video.width, video.height, video.pix_fmt, is_ahead=self._is_ahead)
        memory = self._guard.reserve(surface, own)
        try:
            self._session = NvdecSession(
                self._nvc,
                self._device_stream,
                video.codec,
                layout,
                self._ring,
                memory=memory,
                scaled_from=scaled_from,
                is_prompt=look.is_prompt,
            )
        except self._errors as e:
            self._guard.check(e)
            return _first_line(e)
        return None

    def _scale_no_more(self, why: str) -> None:
        """From here on the video comes in its own size."""
        log.info("%s: is decoded in its own size: NVDEC does not scale it: %s", self._spec.shown, why)
        self._scale = None

    @property
    def _live_session(self) -> NvdecSession:
        assert self._session is not None
        return self._session

    def _outcome(self, call: Callable[[], int], packets: Sequence[Piece] = ()) -> int | None:
        """How many frames a call of the decoder, with these packets, brings; None if it failed and is gone."""
        try:
            self._turn.take(self._turns.decoding)
            try:
                count = call()
            finally:
                self._turn.take(self._turns.handling)
        except self._errors as e:
            self._session = None
            self._guard.check(e)
            self._order.clear()
            self._failure = f"NVDEC fails: {_first_line(e)}"
            if not self._is_unproven:  # otherwise the CPU tries again
                later = self._aside.forget()
                self._lose(list(each([*packets, *(piece for given in later for piece in given.packets)])))
            return None
        if count:
            self._failed_run = 0
            if self._is_unproven:
                self._is_unproven = False
                self._unshown.clear()
        return count

    def _lose(self, packets: Sequence[AnyPacket]) -> None:
        """What went into a decoder that failed is lost, up to a key frame: from there on it goes into another one."""
        lost = next((i for i, packet in enumerate(packets) if i and packet.is_keyframe), len(packets))
        self._failed(self._failure, max(1, lost))
        self._ahead.extendleft(reversed(packets[lost:]))

    def _drain(self) -> Iterator[Sequence[Frame]]:
        """The frames that are still inside the decoder, which can go on with a closed key frame."""
        yield from self._catch_up()
        if self._session is None:
            return
        count = self._outcome(partial(self._session.decode, None)) or 0
        self._order.drained(count)
        yield from self._fetch(count)

    def _fetch(self, count: int) -> Iterator[Sequence[Frame]]:
        """The next frames that came out, as one group unless the ring cannot give so many at a time."""
        now = self._now()  # of all that came out together
        while count:
            if not self._ring.has_room():
                self._turn.take(None)
            some = self._ring.take(count)
            if not some:
                return
            count -= some
            if group := self._hand_out(some, now):
                self._turn.take(None)
                yield group  # who gets them gives them back

    def _hand_out(self, count: int, now: tuple[float, float]) -> list[Frame]:
        """The next frames that came out, which have slots of the ring, but for those that are not to be shown."""
        session, look, colour = self._live_session, self._look, self._colour
        frames = []
        for mark in self._order.pop_all(count):
            pts = None if self._is_untimed else mark.pts
            arrival = None if mark.is_hidden else self._admit(pts, is_corrupt=False)
            if arrival is None:
                session.skip()
                continue
            picture = Picture(
                (),
                look.chroma_shift,
                colour,
                look.width,
                look.height,
                look.rotation,
                look.mirror,
                look.sar,
                None,
                session.surface(),
            )
            frames.append(self._frame(pts, arrival, picture, now))
        return frames

    def _failed(self, words: str, packets: int = 1) -> None:
        self.stats.errors += packets
        self.stats.last_error = words
        self._failed_run += packets

    # ---------------------------------------------------------------------------------------------------- on the CPU

    def _on_cpu(self, why_not: str) -> Iterator[Sequence[Frame]]:
        if not self._may_fall_back:
            reason = Reason(
                SourceErrorCode.UNSUPPORTED,
                f"the GPU cannot decode it: {why_not}",
                "pipeline.decode.fallback: cpu decodes such videos on the CPU",
            )
            raise failure(self._spec, reason)
        if not self._has_warned:
            log.warning("%s: is decoded on the CPU and uploaded: %s", self._spec.shown, why_not)
        self._has_warned = True
        self._turn.take(None)
        self._turns = _NO_TURNS  # decoding takes so long that all else is nothing beside it
        upload = PictureUpload(self._device_stream, self._ring, self._guard.reserve)
        try:
            for frame in self._in_software(self._next_pieces()):
                try:
                    picture = upload(frame.picture)
                except (RuntimeError, MemoryError) as e:  # CuPy's
                    self._guard.check(e)
                    raise
                if picture is None:
                    return
                self.stats.uploaded += 1
                yield (replace(frame, picture=picture),)
        finally:
            upload.finish()


def open_nvdec(
    spec: VideoSpec,
    decode: Decode,
    stats: DecodeStats | None = None,
    *,
    stream: DeviceStream,
    ring: int,
    memory: SurfaceMemory | None = None,
    scale: ScaleTo | None = None,
    turns: DecodeTurns = _NO_TURNS,
    is_ahead: bool = False,
) -> NvdecDecoder:
    """Opens a video on the `cuda` engine.

    Args:
        spec: What to open.
        decode: How.
        stats: Where to count; counters of its own by default.
        stream: Where all work on the device is enqueued.
        ring: How many surfaces of it may be on loan at a time.
        memory: What it may take of the device's memory; default: any.
        scale: What NVDEC is to scale pictures to; None: nothing is scaled.
        turns: What is done in turns with the other decoders.
        is_ahead: Whether a file's packets go in by a thread of its own, one call ahead.

    Raises:
        SourceError: it cannot be opened, or the GPU cannot decode it and `decode.fallback` is `error`, or there is too
            little memory for it.
        DeviceError: PyNvVideoCodec or the driver is missing, with the remedy.
    """
    capabilities = gpu_capabilities(stream.ordinal)
    return NvdecDecoder(
        spec,
        decode,
        stats,
        stream=stream,
        ring=ring,
        capabilities=capabilities,
        memory=memory,
        scale=scale,
        turns=turns,
        is_ahead=is_ahead,
    )


def _decode_within(open_range: Callable[[], AbstractContextManager[object]], session: NvdecSession, unit: Unit) -> int:
    with open_range():
        return session.decode(unit)


def _is_shown_as_it_comes(context: av.VideoCodecContext) -> bool:
    """Whether the headers say that each packet is a picture that is shown before all that follow."""
    return context.codec.canonical_name in _WITH_START_CODES and not context.has_b_frames


def _first_line(error: Exception) -> str:
    """Its words without the C++ file and line behind them."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[0] if lines else type(error).__name__
