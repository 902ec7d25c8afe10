"""From detections to regions: what is covered in a frame, with stable ids, gaps bridged."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from dataclasses import dataclass
from typing import ClassVar

from ffs_anonymizer.regions import boxes
from ffs_anonymizer.regions.detections import (
    CLASSES,
    Detections,
    FACE,
    PLATE,
    POINTS,
    Regions,
    Rows,
    ZONE,
)
from ffs_anonymizer.settings.runtime import Settings, TrackerSettings
import numpy as np
from numpy.typing import NDArray

SHORTEST_LIFE_MS = 1000.0
# Where predictions do not grow, what is covered still comes down to what is found.
_SHRINKS_PER_S = 0.5


@dataclass(frozen=True)
class Tracks(Rows):
    """
    Hold what a stream's past says about its next frame.

    :param centre_px: (N, 2) float64, centre at the last detection.
    :param size_px: (N, 2) float64, width and height at the last detection.
    :param velocity_px_s: (N, 2) float64, of the centre.
    :param held_xyxy_px: (N, 4) float64, what was covered at the last detection, before it grows.
    :param seen_ns: (N,) int64, stamp of the last detection.
    :param scores: (N,) float32, of the last detection.
    :param best_scores: (N,) float32, highest of all detections.
    :param points_px: (N, 5, 2) float32, of the last detection; NaN where not known.
    :param next_id: the id of the next new track.
    """

    centre_px: NDArray[np.float64]
    size_px: NDArray[np.float64]
    velocity_px_s: NDArray[np.float64]
    held_xyxy_px: NDArray[np.float64]
    seen_ns: NDArray[np.int64]
    classes: NDArray[np.int8]
    scores: NDArray[np.float32]
    best_scores: NDArray[np.float32]
    points_px: NDArray[np.float32]
    ids: NDArray[np.int64]
    next_id: int = 0

    COLUMNS: ClassVar[dict[str, tuple[tuple[int, ...], type]]] = {
        'centre_px': ((2,), np.float64),
        'size_px': ((2,), np.float64),
        'velocity_px_s': ((2,), np.float64),
        'held_xyxy_px': ((4,), np.float64),
        'seen_ns': ((), np.int64),
        'classes': ((), np.int8),
        'scores': ((), np.float32),
        'best_scores': ((), np.float32),
        'points_px': ((len(POINTS), 2), np.float32),
        'ids': ((), np.int64),
    }


def region_scales(settings: Settings) -> NDArray[np.float64]:
    """Return by class how long the side of a region is over the side of its box."""
    scales = np.ones(len(CLASSES))
    scales[FACE] = settings.face.region_scale
    scales[PLATE] = settings.plate.region_scale
    return scales


def _boxes(centre_px: NDArray[np.float64], size_px: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([centre_px - size_px / 2, centre_px + size_px / 2], axis=1)


def _match(
    predicted: NDArray[np.float64],
    found: NDArray[np.float64],
    same: NDArray[np.bool_],
    least: float,
) -> list[tuple[int, int]]:
    """Pair tracks with detections, the largest overlap first."""
    overlap = np.where(same, boxes.iou(predicted, found), 0.0)
    pairs = []
    while overlap.size and overlap.max() >= least:
        track, detection = np.unravel_index(int(overlap.argmax()), overlap.shape)
        pairs.append((int(track), int(detection)))
        overlap[track, :] = 0.0
        overlap[:, detection] = 0.0
    return pairs


def advance(
    tracks: Tracks, detections: Detections, stamp_ns: int, settings: TrackerSettings
) -> Tracks:
    """
    Carry the tracks of a stream over to its next frame.

    Each track moves on with its velocity and meets the detection of its class that overlaps it
    most. A track that meets none lives on for `max_gap_ms`, and for a second at least, so that ids
    stay stable where gaps are not covered. A detection that meets none starts a track.

    What is covered shrinks no faster than a prediction grows: a smaller detection, of a part of
    what is there, uncovers nothing at once.

    :param stamp_ns: the frame's time, on a clock that never runs backwards.
    """
    elapsed_s = np.maximum(stamp_ns - tracks.seen_ns, 0) / 1e9
    alive = elapsed_s * 1e3 <= max(settings.max_gap_ms, SHORTEST_LIFE_MS)
    tracks = tracks.take(alive)
    elapsed_s = elapsed_s[alive]
    found = detections.xyxy_px.astype(np.float64)
    centre = (found[:, :2] + found[:, 2:]) / 2
    size = found[:, 2:] - found[:, :2]
    predicted = _boxes(
        tracks.centre_px + tracks.velocity_px_s * elapsed_s[:, None], tracks.size_px
    )
    same = tracks.classes[:, None] == detections.classes[None]
    pairs = _match(predicted, found, same, settings.min_iou)
    matched = np.array([track for track, _ in pairs], np.intp)
    taken = np.array([detection for _, detection in pairs], np.intp)
    new = np.setdiff1d(np.arange(len(found)), taken)
    lost = np.setdiff1d(np.arange(len(tracks)), matched)

    step_s = np.maximum(elapsed_s[matched], 1e-3)[:, None]
    measured = (centre[taken] - tracks.centre_px[matched]) / step_s
    velocity = (tracks.velocity_px_s[matched] + measured) / 2
    shrunk = 1 - max(settings.growth_per_s, _SHRINKS_PER_S) * elapsed_s[matched]
    moved = tracks.held_xyxy_px[matched] + np.tile(tracks.velocity_px_s[matched] * step_s, 2)
    left = boxes.grow(moved, np.maximum(shrunk, 0.0))
    held = boxes.union(left, found[taken])
    best = np.maximum(tracks.best_scores[matched], detections.scores[taken])
    order = np.concatenate([taken, new])
    ids = np.concatenate([tracks.ids[matched], tracks.next_id + np.arange(len(new))])
    return Tracks(
        np.concatenate([centre[order], tracks.centre_px[lost]]),
        np.concatenate([size[order], tracks.size_px[lost]]),
        np.concatenate([velocity, np.zeros((len(new), 2)), tracks.velocity_px_s[lost]]),
        np.concatenate([held, found[new], tracks.held_xyxy_px[lost]]),
        np.concatenate([np.full(len(order), stamp_ns, np.int64), tracks.seen_ns[lost]]),
        np.concatenate([detections.classes[order], tracks.classes[lost]]),
        np.concatenate([detections.scores[order], tracks.scores[lost]]),
        np.concatenate([best, detections.scores[new], tracks.best_scores[lost]]),
        np.concatenate([detections.points_px[order], tracks.points_px[lost]]),
        np.concatenate([ids, tracks.ids[lost]]).astype(np.int64),
        tracks.next_id + len(new),
    )


def regions(
    tracks: Tracks,
    stamp_ns: int,
    settings: TrackerSettings,
    *,
    scales: NDArray[np.float64],
    size_wh: tuple[int, int],
) -> Regions:
    """
    Return what the tracks cover in a frame.

    A prediction holds all that lies between standing still and moving on, and grows with the time
    since the last detection.

    :param stamp_ns: the frame's time, not before the tracks' last.
    :param scales: by class, side of a region over the side of its box.
    :param size_wh: width and height of the frame in pixels.
    """
    elapsed_s = np.maximum(stamp_ns - tracks.seen_ns, 0)[:, None] / 1e9
    growth = 1 + settings.growth_per_s * elapsed_s
    moved = tracks.held_xyxy_px + np.tile(tracks.velocity_px_s * elapsed_s, 2)
    both = boxes.grow(tracks.held_xyxy_px, growth[:, 0]), boxes.grow(moved, growth[:, 0])
    swept = boxes.union(*both).astype(np.float32)
    covered = elapsed_s[:, 0] * 1e3 <= settings.max_gap_ms
    detected = elapsed_s[:, 0] == 0
    found = Regions(
        swept,
        tracks.classes,
        tracks.scores,
        tracks.best_scores,
        tracks.ids,
        detected,
        np.where(detected[:, None, None], tracks.points_px, np.float32(np.nan)),
        swept,
    )
    return found.take(covered).grown(scales, size_wh)


def backfill(
    pending: Sequence[tuple[int, Regions]],
    latest: tuple[int, Regions],
    settings: TrackerSettings,
    *,
    scales: NDArray[np.float64],
    size_wh: tuple[int, int],
) -> list[Regions]:
    """
    Cover a face in the frames just before the one in which it was first found (recordings only).

    :param pending: stamps in ns and regions of the stream's frames that still wait, oldest first.
    :param latest: stamp in ns and regions of the newest frame.
    :param scales: by class, side of a region over the side of its box.
    :param size_wh: width and height of the frame in pixels.
    :returns: the regions of the pending frames, with those of the tracks added that are new in the
        latest one, each grown by `growth_per_s` for the time that it lies back. Zones stay last.
    """
    stamp_ns, now = latest
    known = {int(i) for _, earlier in pending for i in earlier.track_ids}
    new = now.take(np.array([r not in known and r >= 0 for r in now.track_ids.tolist()], np.bool_))
    filled = []
    for earlier_ns, earlier in pending:
        back_s = (stamp_ns - earlier_ns) / 1e9
        if len(new) == 0 or not 0 <= back_s * 1e3 <= settings.look_ahead_ms:
            filled.append(earlier)
            continue
        guess = boxes.grow(new.ungrown_xyxy_px, 1 + settings.growth_per_s * back_s)
        guessed = dataclasses.replace(
            new,
            ungrown_xyxy_px=guess.astype(np.float32),
            detected=np.zeros(len(new), np.bool_),
            points_px=np.full_like(new.points_px, np.nan),
        )
        is_zone = earlier.classes == ZONE
        guessed = guessed.grown(scales, size_wh)
        filled.append(earlier.take(~is_zone) + guessed + earlier.take(is_zone))
    return filled
