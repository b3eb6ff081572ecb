"""`vramline zones`: a still of a source with a grid to read coordinates from, and the lines and zones that are configured."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from pipeline.cli.configs import SetOption, load
from pipeline.cli.console import print_note, print_out
from pipeline.errors import ConfigError, ConfigIssue, SourceError, VramlineError

if TYPE_CHECKING:
    from pipeline.config.sources import Source
    from pipeline.frames import Frame
    from pipeline.sources.resolve import VideoSpec


class _OutputError(VramlineError):
    """The picture cannot be written."""


def zones(
    source: Annotated[
        str,
        typer.Argument(
            metavar="SOURCE", help="A video, a URL, media:NAME; with --config also the id of a source of it."
        ),
    ],
    *,
    out: Annotated[Path, typer.Option("-o", "--out", metavar="FILE.png", help="Where the picture goes.")] = Path(
        "zones.png"
    ),
    frame: Annotated[int | None, typer.Option(metavar="N", min=0, help="Which frame, counted from 0.")] = None,
    at: Annotated[
        float | None, typer.Option(metavar="SECONDS", min=0, help="The first frame so long after the beginning.")
    ] = None,
    config: Annotated[
        str | None, typer.Option(metavar="CONFIG", help="Draw the lines and zones that SOURCE has in this file.")
    ] = None,
    settings: SetOption = None,
) -> None:
    """Show a still of a video with a grid of pixel coordinates.

    To read the points of lines and zones from. With --config it shows those
    that the file has, and fails if one lies outside the picture.
    """
    if frame is not None and at is not None:
        raise ConfigError([ConfigIssue("give one of --frame and --at")])
    if settings and config is None:
        raise ConfigError([ConfigIssue("--set changes what --config names, which is missing")])
    from pipeline.analytics.layout import check_layout
    from pipeline.sinks.still import draw_still

    spec, has_config = _spec(source, config, settings)
    still = _still(spec, frame=frame, at_s=at)
    size = still.picture.width, still.picture.height
    analytics = spec.settings.analytics if has_config else None
    for warning in check_layout(analytics, size, spec.source_id):
        print_note(f"warning: {warning}")
    if has_config and analytics is None:
        print_note(f"{spec.source_id} has no analytics in {config}")
    image = draw_still(still.picture, analytics)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        image.save(out, "PNG")
    except OSError as e:
        raise _OutputError(f"{out}: cannot be written: {e.strerror or e}") from None
    time = "" if still.pts_s is None else f", {still.pts_s:.3f} s"
    print_out(f"{out}: frame {still.index}{time} of {spec.source_id}, {size[0]} x {size[1]} pixels")


def _spec(source: str, config: str | None, settings: list[str] | None) -> tuple[VideoSpec, bool]:
    """What to open, and whether it is one of the configuration's sources."""
    from pipeline.config.sources import Source, expand_source
    from pipeline.runtime.build import find_videos

    def videos(sources: list[Source]) -> list[VideoSpec]:
        found = find_videos(sources, None)
        return [item for item in found if not isinstance(item, SourceError)]

    if config is not None:
        known = videos(list(load(config, settings).sources))
        wanted = next((spec for spec in known if source in (spec.source_id, spec.location, spec.shown)), None)
        if wanted is None and source.startswith("media:"):
            wanted = next((spec for spec in known if spec.settings.media == source.removeprefix("media:")), None)
        if wanted is not None:
            return wanted, True
        names = ", ".join(spec.source_id for spec in known) or "none that can be found"
        raise ConfigError([ConfigIssue(f"no source of it is {source!r}", file=config, hint=f"there are: {names}")])
    (found, *more) = find_videos([Source.model_validate(expand_source(source))], None)
    if isinstance(found, SourceError):
        raise found
    if more:
        raise ConfigError([ConfigIssue(f"{source} names several videos", hint="name one of them")])
    return found, False


def _still(spec: VideoSpec, *, frame: int | None, at_s: float | None) -> Frame:
    """The frame that was asked for.

    Raises:
        SourceError: the video cannot be opened, or has no such frame.
    """
    from pipeline.config.stages import Decode
    from pipeline.decode.ffmpeg import FfmpegDecoder
    from pipeline.errors import SourceErrorCode

    decoder = FfmpegDecoder(spec, Decode())
    first_s: float | None = None
    last = 0
    try:
        for found in decoder:
            last = found.index
            if first_s is None:
                first_s = found.pts_s
            if at_s is not None and found.pts_s is not None and first_s is not None:
                is_it = found.pts_s - first_s >= at_s - 1e-6
            else:
                is_it = found.index >= (frame or 0)
            if is_it:
                return found
    finally:
        decoder.close()
    asked = f"no frame {frame}" if at_s is None else f"nothing {at_s:g} s after its beginning"
    text = f"{spec.source_id}: it has {asked}; its last frame is {last}"
    raise SourceError(text, source_id=spec.source_id, code=SourceErrorCode.NO_FRAMES)
