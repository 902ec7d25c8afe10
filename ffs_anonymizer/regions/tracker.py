"""From detections to regions: what is covered in a frame, with stable ids, gaps bridged."""

from __future__ import annotations

from collections.abc import Sequence
import dataclasses
from dataclasses import dataclass

from ffs_anonymizer.regions.detector import CLASSES, Detections
from ffs_anonymizer.settings.runtime import TrackerSettings
import numpy as np
from numpy.typing import NDArray

SHORTEST_LIFE_MS = 1000.0


@dataclass(frozen=True)
class Regions:
    """
    Hold what is covered in one frame; N = 0 is ordinary.

    :param xyxy_px: (N, 4) float32, right and bottom exclusive, clipped to the frame.
    :param classes: (N,) int8, index into detector.CLASSES.
    :param scores: (N,) float32 in [0, 1]; a predicted region keeps that of its last detection.
    :param track_ids: (N,) int64, the same in every frame of a stream; -1 for zones.
    :param detected: (N,) bool, False where the tracker predicts what the detector missed.
    """

    xyxy_px: NDArray[np.float32]
    classes: NDArray[np.int8]
    scores: NDArray[np.float32]
    track_ids: NDArray[np.int64]
    detected: NDArray[np.bool_]

    def __post_init__(self) -> None:
        """Check the shapes once, at birth."""
        n = len(self.xyxy_px)
        got = tuple(getattr(self, item.name).shape for item in dataclasses.fields(self))
        if got != ((n, 4), (n,), (n,), (n,), (n,)):
            raise ValueError(f'Regions: got shapes {got}, expected (N, 4) and four times (N,)')

    def __len__(self) -> int:
        """Return the number of regions."""
        return len(self.xyxy_px)

    @classmethod
    def empty(cls) -> Regions:
        """Return regions of nothing."""
        return cls(
            np.empty((0, 4), np.float32),
            np.empty(0, np.int8),
            np.empty(0, np.float32),
            np.empty(0, np.int64),
            np.empty(0, np.bool_),
        )

    def __add__(self, other: Regions) -> Regions:
        """Return both, these first."""
        return Regions(
            *(
                np.concatenate([getattr(self, item.name), getattr(other, item.name)])
                for item in dataclasses.fields(self)
            )
        )

    def records(self) -> list[dict[str, object]]:
        """Return each region by names, in plain numbers, as the tools write it in JSON."""
        columns = zip(
            self.classes.tolist(),
            np.round(self.xyxy_px.astype(np.float64), 1).tolist(),
            np.round(self.scores.astype(np.float64), 4).tolist(),
            self.track_ids.tolist(),
            self.detected.tolist(),
            strict=True,
        )
        return [
            {
                'class': CLASSES[index],
                'xyxy_px': xyxy_px,
                'score': score,
                'track_id': track_id,
                'detected': detected,
            }
            for index, xyxy_px, score, track_id, detected in columns
        ]

    def take(self, which: NDArray[np.bool_] | NDArray[np.intp]) -> Regions:
        """Return the regions of a mask or of indices, in that order."""
        return Regions(*(getattr(self, item.name)[which] for item in dataclasses.fields(self)))


@dataclass(frozen=True)
class Tracks:
    """
    Hold what a stream's past says about its next frame.

    :param centre_px: (N, 2) float64, centre at the last detection.
    :param size_px: (N, 2) float64, width and height at the last detection.
    :param velocity_px_s: (N, 2) float64, of the centre.
    :param seen_ns: (N,) int64, stamp of the last detection.
    :param next_id: the id of the next new track.
    """

    centre_px: NDArray[np.float64]
    size_px: NDArray[np.float64]
    velocity_px_s: NDArray[np.float64]
    seen_ns: NDArray[np.int64]
    classes: NDArray[np.int8]
    scores: NDArray[np.float32]
    ids: NDArray[np.int64]
    next_id: int = 0

    @classmethod
    def empty(cls) -> Tracks:
        """Return the tracks of a stream that has no past."""
        return cls(
            np.empty((0, 2)),
            np.empty((0, 2)),
            np.empty((0, 2)),
            np.empty(0, np.int64),
            np.empty(0, np.int8),
            np.empty(0, np.float32),
            np.empty(0, np.int64),
        )

    def __len__(self) -> int:
        """Return the number of tracks."""
        return len(self.ids)


def _boxes(centre_px: NDArray[np.float64], size_px: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.concatenate([centre_px - size_px / 2, centre_px + size_px / 2], axis=1)


def _iou(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.float64]:
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, 2:], b[None, :, 2:])
    shared = np.prod(np.clip(high - low, 0, None), axis=2)
    area_a = np.prod(a[:, 2:] - a[:, :2], axis=1)[:, None]
    area_b = np.prod(b[:, 2:] - b[:, :2], axis=1)[None]
    overlap: NDArray[np.float64] = shared / np.maximum(area_a + area_b - shared, 1e-9)
    return overlap


def _match(
    predicted: NDArray[np.float64],
    found: NDArray[np.float64],
    same: NDArray[np.bool_],
    least: float,
) -> list[tuple[int, int]]:
    """Pair tracks with detections, the largest overlap first."""
    overlap = np.where(same, _iou(predicted, found), 0.0)
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

    :param stamp_ns: the frame's time. A track whose last one lies after it (a replay that starts
        over) ends, since its past says nothing.
    """
    elapsed_s = (stamp_ns - tracks.seen_ns) / 1e9
    alive = (elapsed_s >= 0) & (elapsed_s * 1e3 <= max(settings.max_gap_ms, SHORTEST_LIFE_MS))
    tracks = _take(tracks, alive)
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
    order = np.concatenate([taken, new])
    ids = np.concatenate([tracks.ids[matched], tracks.next_id + np.arange(len(new))])
    return Tracks(
        np.concatenate([centre[order], tracks.centre_px[lost]]),
        np.concatenate([size[order], tracks.size_px[lost]]),
        np.concatenate([velocity, np.zeros((len(new), 2)), tracks.velocity_px_s[lost]]),
        np.concatenate([np.full(len(order), stamp_ns, np.int64), tracks.seen_ns[lost]]),
        np.concatenate([detections.classes[order], tracks.classes[lost]]),
        np.concatenate([detections.scores[order], tracks.scores[lost]]),
        np.concatenate([ids, tracks.ids[lost]]).astype(np.int64),
        tracks.next_id + len(new),
    )


def _take(tracks: Tracks, which: NDArray[np.bool_]) -> Tracks:
    arrays = {
        item.name: getattr(tracks, item.name)[which]
        for item in dataclasses.fields(tracks)
        if item.name != 'next_id'
    }
    return dataclasses.replace(tracks, **arrays)


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

    A predicted region covers all that lies between standing still and moving on, and grows with
    the time since its last detection.

    :param stamp_ns: the frame's time, not before the tracks' last.
    :param scales: by class, side of a region over the side of its box.
    :param size_wh: width and height of the frame in pixels.
    """
    elapsed_s = np.maximum(stamp_ns - tracks.seen_ns, 0)[:, None] / 1e9
    growth = scales[tracks.classes][:, None] * (1 + settings.growth_per_s * elapsed_s)
    stays = _boxes(tracks.centre_px, tracks.size_px * growth)
    moves = _boxes(tracks.centre_px + tracks.velocity_px_s * elapsed_s, tracks.size_px * growth)
    boxes = np.concatenate(
        [np.minimum(stays, moves)[:, :2], np.maximum(stays, moves)[:, 2:]], axis=1
    )
    boxes = np.clip(boxes, 0, np.array([*size_wh, *size_wh], np.float64)).astype(np.float32)
    covered = elapsed_s[:, 0] * 1e3 <= settings.max_gap_ms
    visible = np.all(boxes[:, 2:] > boxes[:, :2], axis=1) & covered
    return Regions(
        boxes,
        tracks.classes,
        tracks.scores,
        tracks.ids,
        elapsed_s[:, 0] == 0,
    ).take(visible)


def backfill(
    pending: Sequence[tuple[int, Regions]],
    latest: tuple[int, Regions],
    settings: TrackerSettings,
    *,
    size_wh: tuple[int, int],
) -> list[Regions]:
    """
    Cover a face in the frames just before the one in which it was first found (recordings only).

    :param pending: stamps in ns and regions of the stream's frames that still wait, oldest first.
    :param latest: stamp in ns and regions of the newest frame.
    :param size_wh: width and height of the frame in pixels.
    :returns: the regions of the pending frames, with those of the tracks added that are new in the
        latest one, each grown by `growth_per_s` for the time that it lies back.
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
        grow = (new.xyxy_px[:, 2:] - new.xyxy_px[:, :2]) * (settings.growth_per_s * back_s / 2)
        boxes = np.concatenate([new.xyxy_px[:, :2] - grow, new.xyxy_px[:, 2:] + grow], axis=1)
        boxes = np.clip(boxes, 0, np.array([*size_wh, *size_wh], np.float32))
        guessed = dataclasses.replace(
            new, xyxy_px=boxes.astype(np.float32), detected=np.zeros(len(new), np.bool_)
        )
        filled.append(earlier + guessed)
    return filled
