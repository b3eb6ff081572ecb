"""The trackers: two-stage association as in ByteTrack, or overlap alone, of all streams of a batch at once.

ByteTrack: Zhang et al., "ByteTrack: Multi-object tracking by associating every detection box", ECCV 2022. In each frame

1. tracks with an id, also lost ones, take detections with high scores,
2. those that found none and were found in the frame before take detections with low scores,
3. tentative tracks take what is left of the high scores; those that find none are given up,
4. what is left then and scores enough begins new, tentative tracks.

Where it is known what detections look like, lost tracks that found none take detections with high scores that look like them,
before tentative tracks do, wherever these lie.

Each step is the best assignment by IoU (or similarity) under its gate. With `predicts_motion` off and without the second step this is the
simple IoU tracker: boxes stay where they were last seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt

from pipeline.frames import Detections, Frame, ResultBatch
from pipeline.tracking import kalman
from pipeline.tracking.assignment import best_matching
from pipeline.tracking.limits import ScoreLimits
from pipeline.tracking.overlap import Pairs, overlapping
from pipeline.tracking.streams import Streams
from pipeline.tracking.tracks import CLASS_ID, HITS, MISSES, NO_ID, STREAM, TAG_ROWS, TRACK_ID, Tags, Tracks

Indices = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]
Floats = npt.NDArray[np.float64]
Looks = npt.NDArray[np.float32]

# Clocks are sums of steps: a gap that is as long as allowed may come out longer by rounding.
_CLOCK_ERROR_S = 1e-6
# Up to which multiple of a stream's usual step a frame is the next one, and none is missing.
_STEPS_TO_NEXT_FRAME = 1.5
# What a new look counts beside those before.
_NEW_LOOK = 0.1


@dataclass(frozen=True, slots=True)
class Rules:
    """How tracks are continued.

    Attributes:
        predicts_motion: Whether boxes are predicted; otherwise they stay where they were.
        min_iou: A track with an id goes on with a detection of a high score if they overlap more.
        min_iou_low: The same for low scores; None: these are left aside.
        min_iou_tentative: The same for tracks without an id and high scores.
        class_agnostic: Whether the classes may differ.
        min_hits: Frames in a row in which a track must have been found to get its id.
        max_age_s: Seconds that a track is kept without being found; in any case up to the next frame.
        only_tracked: Whether detections without a track are left out.
        min_similarity: A lost track is found again where a detection looks more like it; None: looks do not count.
    """

    predicts_motion: bool
    min_iou: float
    min_iou_low: float | None
    min_iou_tentative: float
    class_agnostic: bool
    min_hits: int
    max_age_s: float
    only_tracked: bool
    min_similarity: float | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Found:
    """The detections of some frames, of different streams, and what is told of them.

    Attributes:
        boxes: (4, D) float64 x1, y1, x2, y2.
        class_ids: (D,).
        offsets: (F + 1,): frame f owns the detections offsets[f]:offsets[f + 1].
        is_high: (D,) whether the score is high.
        may_begin: (D,) whether the score is enough for a new track.
        track_ids: (D,) int64, NO_ID at first; filled by tracking.
        looks: (D, E) float32 unit vectors, NaN where nothing is known; E is 0 where nobody looks.
    """

    boxes: Floats
    class_ids: npt.NDArray[np.int32]
    offsets: Indices
    is_high: Mask
    may_begin: Mask
    track_ids: Indices
    looks: Looks


class BatchTracker:
    """See `pipeline.tracking.Tracker`. A stream's tracks do not depend on which others share its batches.

    Args:
        rules: How tracks are continued.
        limits: Which scores are high, and enough for a new track.
    """

    def __init__(self, rules: Rules, limits: ScoreLimits) -> None:
        self._rules = rules
        self._limits = limits
        self._streams = Streams()
        self._tracks = Tracks()

    def __len__(self) -> int:
        """How many tracks there are, of all streams and in all states."""
        return len(self._tracks)

    def __call__(self, batch: ResultBatch, looks: Looks | None = None) -> ResultBatch:
        """See `pipeline.tracking.Tracker`."""
        detections = batch.predictions.detections
        if detections is None or not batch.frames:
            return batch
        high, enough = self._limits(detections.class_ids)
        is_high = detections.scores >= high
        found = _Found(
            np.array(detections.boxes.T, np.float64, order="C"),
            detections.class_ids,
            detections.offsets,
            is_high,
            detections.scores >= enough,
            np.full(len(detections), NO_ID, np.int64),
            self._looks(looks, len(detections)),
        )
        numbers = self._streams.numbers([frame.source_id for frame in batch.frames])
        rounds = _rounds(numbers)
        if not rounds.any():
            self._track(batch.frames, numbers, found)
        else:
            for turn in range(int(rounds.max()) + 1):
                self._track_some(batch.frames, numbers, found, np.flatnonzero(rounds == turn))
        is_kept = found.track_ids != NO_ID
        if not self._rules.only_tracked:
            is_kept |= is_high
        return _with_ids(batch, detections, found.track_ids, is_kept)

    def forget(self, source_id: str) -> None:
        """See `pipeline.tracking.Tracker`."""
        number = self._streams.forget(source_id)
        if number is not None:
            self._tracks = self._tracks[self._tracks.tags[STREAM] != number]

    def _looks(self, looks: Looks | None, count: int) -> Looks:
        """Unit vectors of the detections, as wide as those of the tracks."""
        if looks is None or self._rules.min_similarity is None:
            return np.full((count, self._tracks.looks.shape[1]), np.nan, np.float32)
        if looks.shape[1] != self._tracks.looks.shape[1]:  # the first ones
            self._tracks.looks = np.full((len(self._tracks), looks.shape[1]), np.nan, np.float32)
        return _unit(looks)

    def _track_some(self, frames: Sequence[Frame], numbers: Indices, found: _Found, chosen: Indices) -> None:
        """As `_track`, for the chosen ones of the frames."""
        counts = np.diff(found.offsets)[chosen]
        offsets = np.concatenate([[0], np.cumsum(counts)])
        rows = np.arange(offsets[-1]) + np.repeat(found.offsets[chosen] - offsets[:-1], counts)
        some = _Found(
            found.boxes[:, rows],
            found.class_ids[rows],
            offsets,
            found.is_high[rows],
            found.may_begin[rows],
            found.track_ids[rows],
            found.looks[rows],
        )
        self._track([frames[i] for i in chosen], numbers[chosen], some)
        found.track_ids[rows] = some.track_ids

    def _track(self, frames: Sequence[Frame], numbers: Indices, found: _Found) -> None:
        """Takes one frame of each of some streams; sets `found.track_ids`."""
        pts_s = np.array([np.nan if frame.pts_s is None else frame.pts_s for frame in frames], np.float64)
        steps_s, clocks_s, usual_s = self._streams.advance(
            numbers, pts_s, np.array([frame.index for frame in frames], np.int64)
        )
        frame_of = np.full(self._streams.capacity, -1, np.int64)  # by stream
        frame_of[numbers] = np.arange(len(numbers))
        track_frames = frame_of[self._tracks.tags[STREAM]]
        here = np.flatnonzero(track_frames >= 0)
        tracks, track_frames = self._tracks[here], track_frames[here]
        # However slow the stream is, its tracks live to see its next frame.
        longest_s = np.maximum(self._rules.max_age_s, _STEPS_TO_NEXT_FRAME * usual_s) + _CLOCK_ERROR_S
        in_time = clocks_s[track_frames] - tracks.seen_s <= longest_s[track_frames]
        if self._rules.predicts_motion:
            kalman.predict(tracks.states, steps_s[track_frames])
        partners, is_taken, is_recognised = self._associate(tracks, track_frames, in_time, found)
        lives = self._continue(tracks, partners, clocks_s[track_frames], found) & in_time
        # Where a track comes back by its looks says nothing of how it moved.
        tracks.states[:, is_recognised] = kalman.initial(found.boxes[:, partners[is_recognised]])
        begins = np.flatnonzero(found.may_begin & found.is_high & ~is_taken)
        det_frames = np.repeat(np.arange(len(numbers)), np.diff(found.offsets))
        born = self._begin(begins, numbers[det_frames[begins]], clocks_s[det_frames[begins]], found)
        self._confirm(tracks, partners, born, begins, found)
        self._tracks[here] = tracks
        if not lives.all():
            stays = np.ones(len(self._tracks), bool)
            stays[here] = lives
            self._tracks = self._tracks[stays]
        if len(born):
            self._tracks = self._tracks + born

    def _associate(
        self, tracks: Tracks, track_frames: Indices, in_time: Mask, found: _Found
    ) -> tuple[Indices, Mask, Mask]:
        """(K,) each track's detection, -1 if none, (D,) which detections were taken, and (K,) who was known by the looks."""
        rules, tags = self._rules, tracks.tags
        partners, is_taken = np.full(len(tracks), -1, np.int64), np.zeros(found.boxes.shape[1], bool)
        pairs = overlapping(kalman.boxes_of(tracks.states), track_frames, found.boxes, found.offsets)
        possible = in_time[pairs.tracks]
        if not rules.class_agnostic:
            possible &= tags[CLASS_ID, pairs.tracks] == found.class_ids[pairs.detections]
        pairs = pairs[np.flatnonzero(possible)]
        has_id, is_high = tags[TRACK_ID, pairs.tracks] != NO_ID, found.is_high[pairs.detections]

        def match(candidates: Mask, min_iou: float) -> None:
            chosen = _match(pairs[np.flatnonzero(candidates & (pairs.iou > min_iou))], min_iou, tracks, is_taken)
            partners[chosen.tracks], is_taken[chosen.detections] = chosen.detections, True

        match(has_id & is_high, rules.min_iou)
        if rules.min_iou_low is not None:
            waits = (partners < 0) & (tags[MISSES] == 0)
            match(has_id & ~is_high & waits[pairs.tracks], rules.min_iou_low)
        is_recognised = np.zeros(len(tracks), bool)
        if rules.min_similarity is not None and found.looks.shape[1]:
            is_lost = (partners < 0) & in_time & (tags[TRACK_ID] != NO_ID) & (tags[MISSES] > 0)
            alike = self._alike(tracks, np.flatnonzero(is_lost), track_frames, found, is_taken)
            chosen = _match(alike, rules.min_similarity, tracks, is_taken)
            partners[chosen.tracks], is_taken[chosen.detections] = chosen.detections, True
            is_recognised[chosen.tracks] = True
        match(~has_id & is_high & ~is_taken[pairs.detections], rules.min_iou_tentative)
        return partners, is_taken, is_recognised

    def _alike(self, tracks: Tracks, lost: Indices, track_frames: Indices, found: _Found, is_taken: Mask) -> Pairs:
        """Lost tracks and free detections of their frames that look alike; what stands for the IoU is the cosine."""
        least = self._rules.min_similarity
        assert least is not None
        firsts, counts = found.offsets[track_frames[lost]], np.diff(found.offsets)[track_frames[lost]]
        rows = np.repeat(lost, counts)
        before = np.cumsum(counts) - counts
        columns = np.arange(len(rows)) + np.repeat(firsts - before, counts)
        possible = found.is_high[columns] & ~is_taken[columns]
        if not self._rules.class_agnostic:
            possible &= tracks.tags[CLASS_ID, rows] == found.class_ids[columns]
        rows, columns = rows[possible], columns[possible]
        cosines = np.einsum("ij,ij->i", tracks.looks[rows], found.looks[columns]).astype(np.float64)
        return Pairs(rows, columns, cosines)[np.flatnonzero(cosines > least)]  # NaN is not more

    def _continue(self, tracks: Tracks, partners: Indices, clocks_s: Floats, found: _Found) -> Mask:
        """Updates tracks by their detections, in place; (K,) which of them live on, apart from their age."""
        is_matched = partners >= 0
        matched = np.flatnonzero(is_matched)
        own = partners[matched]
        boxes = found.boxes[:, own]
        if self._rules.predicts_motion:
            tracks.states[:, matched] = kalman.update(tracks.states[:, matched], boxes)
        else:
            tracks.states[:, matched] = kalman.initial(boxes)
        tracks.seen_s[matched] = clocks_s[matched]
        tags = tracks.tags
        tags[MISSES] += 1
        tags[MISSES, matched] = 0
        tags[HITS] += is_matched
        tags[CLASS_ID, matched] = found.class_ids[own]
        looks = found.looks[own]
        seen = np.flatnonzero(found.is_high[own] & np.isfinite(looks).all(axis=1))
        if looks.shape[1] and len(seen):
            known = np.where(np.isfinite(tracks.looks[matched[seen]]), tracks.looks[matched[seen]], looks[seen])
            tracks.looks[matched[seen]] = _unit((1 - _NEW_LOOK) * known + _NEW_LOOK * looks[seen])
        lives: Mask = is_matched | (tags[TRACK_ID] != NO_ID)
        return lives

    def _begin(self, begins: Indices, streams: Indices, clocks_s: Floats, found: _Found) -> Tracks:
        """Tentative tracks from detections."""
        tags: Tags = np.zeros((TAG_ROWS, len(begins)), np.int64)
        tags[STREAM], tags[TRACK_ID], tags[CLASS_ID], tags[HITS] = streams, NO_ID, found.class_ids[begins], 1
        return Tracks(kalman.initial(found.boxes[:, begins]), clocks_s, tags, found.looks[begins])

    def _confirm(self, tracks: Tracks, partners: Indices, born: Tracks, begins: Indices, found: _Found) -> None:
        """Gives ids to tracks that have been found often enough, in the order of their detections; sets `track_ids`."""
        matched = np.flatnonzero(partners >= 0)
        least = self._rules.min_hits
        known = matched[(tracks.tags[TRACK_ID, matched] == NO_ID) & (tracks.tags[HITS, matched] >= least)]
        fresh = np.flatnonzero(born.tags[HITS] >= least)
        if len(known) or len(fresh):
            order = np.argsort(np.concatenate([partners[known], begins[fresh]]))
            streams = np.concatenate([tracks.tags[STREAM, known], born.tags[STREAM, fresh]])[order]
            ids = np.empty(len(order), np.int64)
            ids[order] = self._streams.new_ids(streams)
            tracks.tags[TRACK_ID, known], born.tags[TRACK_ID, fresh] = ids[: len(known)], ids[len(known) :]
        found.track_ids[partners[matched]] = tracks.tags[TRACK_ID, matched]
        found.track_ids[begins] = born.tags[TRACK_ID]


def _unit(vectors: Looks) -> Looks:
    """(N, E) vectors divided by their lengths; one of zeros, or that is not finite, becomes NaN."""
    with np.errstate(all="ignore"):
        lengths = np.sqrt((vectors.astype(np.float64) ** 2).sum(axis=1, keepdims=True))
        unit: Looks = (vectors / lengths).astype(np.float32)
    unit[~np.isfinite(unit).all(axis=1)] = np.nan
    return unit


def _match(pairs: Pairs, min_iou: float, tracks: Tracks, is_taken: Mask) -> Pairs:
    return pairs[best_matching(pairs.tracks, pairs.detections, pairs.iou - min_iou, len(tracks), len(is_taken))]


def _rounds(numbers: Indices) -> Indices:
    """(F,) how many frames of the same stream come before each frame."""
    order = np.argsort(numbers, kind="stable")
    ordered = numbers[order]
    place = np.arange(len(numbers))
    starts = np.ones(len(numbers), bool)
    starts[1:] = ordered[1:] != ordered[:-1]
    rounds = np.empty_like(place)
    rounds[order] = place - np.maximum.accumulate(np.where(starts, place, 0))
    return rounds


def _with_ids(batch: ResultBatch, detections: Detections, track_ids: Indices, is_kept: Mask) -> ResultBatch:
    """The batch with ids, and without the detections that are not kept."""
    before = np.concatenate([[0], np.cumsum(is_kept)])
    tracked = replace(
        detections,
        boxes=detections.boxes[is_kept],
        scores=detections.scores[is_kept],
        class_ids=detections.class_ids[is_kept],
        offsets=before[detections.offsets],
        track_ids=track_ids[is_kept],
    )
    return replace(batch, predictions=replace(batch.predictions, detections=tracked))
