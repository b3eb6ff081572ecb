"""The live display on a terminal."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console, Group, JustifyMethod, RenderableType
from rich.live import Live
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.spinner import Spinner
from rich.table import Table
from rich.text import Text

from pipeline.observe.estimate import Speed, expected_frames, expected_total, remaining_s
from pipeline.observe.progress import STOPPING, source_counts
from pipeline.observe.status import RunStatus, SourceState, SourceStatus
from pipeline.observe.text import count, duration, rate, shown, size

SOURCES_SHOWN = 8
BAR_WIDTH = 24
BAR_COLOUR = "cyan"
LABELS_SHOWN = 5


class LiveDisplay:
    """Draws itself four times a second from a thread of its own and vanishes at the end."""

    def __init__(self, console: Console) -> None:
        self._fetches: dict[str, tuple[int, int | None]] = {}
        self._status: RunStatus | None = None
        self._speed = Speed()
        self._spinner = Spinner("dots", text=Text("getting ready", style="dim"))
        self._live = Live(
            console=console,
            get_renderable=self.render,
            refresh_per_second=4,
            transient=True,
            redirect_stdout=False,
        )

    def fetching(self, what: str, done: int, total: int | None) -> None:
        """Notes how far it is; the next drawing shows it."""
        self._fetches.pop(what, None)  # the one that was heard of last comes last
        self._fetches[what] = (done, total)

    def watch(self, status: RunStatus) -> None:
        """Draws this run from now on."""
        self._status = status

    def stopping(self) -> None:
        """The next drawing says so: the status knows it."""

    def __enter__(self) -> LiveDisplay:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def render(self) -> RenderableType:
        """What there is to see now."""
        status = self._status
        if status is None or status.first_frame_s is None:
            return Padding(Group(*self._preparation()), (0, 2))
        rows = [_headline(status), self._overall(status), _running_sources(status), *_found(status)]
        others = source_counts(status, without=SourceState.RUNNING)
        if others:
            rows.append(_line(others, "dim"))
        if status.interrupted:
            rows.append(_line(STOPPING, "yellow"))
        return Padding(Group(*rows), (0, 2))

    def _preparation(self) -> list[RenderableType]:
        fetches = list(self._fetches.items())
        table = _grid("left", "left", "left")
        for what, (done, total) in fetches[-1:]:
            amount = f"{size(done)} of {size(total)}" if total else size(done) if done else ""
            table.add_row(_bar(done, total), Text(amount), Text(shown(what), style="dim"))
        past = [_line(f"done: {shown(what)}", "dim") for what, _ in fetches[:-1]]
        return [*past, table if fetches else self._spinner]

    def _overall(self, status: RunStatus) -> RenderableType:
        per_s = self._speed.update(status)
        total = expected_total(list(status.sources.values()))
        left = remaining_s(status, per_s)
        frames = f"{status.results:,} of {total:,} frames" if total else count(status.results, "frame")
        table = _grid("left", "right", "right", "right")
        table.add_row(
            _bar(status.results, total),
            Text(frames),
            Text(rate(per_s), style="bold"),
            Text("" if not left else f"{duration(left)} left", style="dim"),
        )
        return table


def _line(text: str, style: str) -> Text:
    return Text(text, style=style, no_wrap=True, overflow="ellipsis")


def _grid(*justified: JustifyMethod) -> Table:
    """A table without lines; what does not fit is cut, so that a row stays a line."""
    table = Table.grid(padding=(0, 2))
    for justify in justified:
        table.add_column(justify=justify, no_wrap=True, overflow="ellipsis")
    return table


def _bar(done: int, total: int | None) -> ProgressBar:
    return ProgressBar(
        total=total or None,
        completed=done,
        width=BAR_WIDTH,
        pulse=not total,
        complete_style=BAR_COLOUR,
        finished_style=BAR_COLOUR,
        pulse_style=BAR_COLOUR,
    )


def _headline(status: RunStatus) -> Text:
    parts = [status.model, f"on {status.device}", f"batches of {status.batch_size}" if status.batch_size else ""]
    return _line(" · ".join(shown(part) for part in parts if part), "dim")


def _running_sources(status: RunStatus) -> RenderableType:
    running = [source for source in list(status.sources.values()) if source.state is SourceState.RUNNING]
    table = _grid("left", "right", "left")
    for source in running[:SOURCES_SHOWN]:
        table.add_row(Text(shown(source.source_id)), Text(_position(source)), _troubles(source))
    if len(running) > SOURCES_SHOWN:
        table.add_row(Text(f"and {count(len(running) - SOURCES_SHOWN, 'more source')} running", style="dim"))
    return table


def _found(status: RunStatus) -> list[Text]:
    best = status.labels.copy().most_common(LABELS_SHOWN)
    words = ", ".join(f"{shown(label)} {number:,}" for label, number in best)
    return [_line(f"found: {words}", "dim")] if words else []


def _position(source: SourceStatus) -> str:
    total = expected_frames(source)
    return f"{source.results:,} of {total:,}" if total else f"{source.results:,}"


def _troubles(source: SourceStatus) -> Text:
    stats = source.totals
    dropped = sum(source.dropped.values()) if source.is_live else 0
    troubles = [
        *([count(source.reconnects, "reconnect")] if source.reconnects else []),
        *([f"{dropped:,} dropped"] if dropped else []),
        *([count(stats.errors, "error")] if stats.errors else []),
        *([f"{stats.corrupt:,} corrupt"] if stats.corrupt else []),
    ]
    return Text(", ".join(troubles), style="yellow")
