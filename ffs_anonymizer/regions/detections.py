"""What stands between finding and painting: detections of one frame, and regions to cover."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from ffs_anonymizer.errors import MediaError
from ffs_anonymizer.regions import boxes
import numpy as np
from numpy.typing import NDArray

CLASSES = ('face', 'plate', 'zone')
FACE, PLATE, ZONE = range(3)
# Of `points_px`, as the person has them.
POINTS = ('right eye', 'left eye', 'nose', 'right corner of the mouth', 'left corner of the mouth')

_Rows = TypeVar('_Rows', bound='Rows')


@dataclass(frozen=True)
class Rows:
    """Hold arrays of one row an object; N = 0 is ordinary."""

    # Shape of a row and dtype of each array.
    COLUMNS: ClassVar[dict[str, tuple[tuple[int, ...], type]]]

    def __post_init__(self) -> None:
        """Check the shapes once, at birth."""
        n = len(getattr(self, next(iter(self.COLUMNS))))
        got = {name: getattr(self, name).shape for name in self.COLUMNS}
        expected = {name: (n, *shape) for name, (shape, _) in self.COLUMNS.items()}
        if got != expected:
            raise ValueError(f'{type(self).__name__}: got shapes {got}, expected {expected}')

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(getattr(self, next(iter(self.COLUMNS))))

    @classmethod
    def empty(cls: type[_Rows]) -> _Rows:
        """Return no rows."""
        return cls(*(np.empty((0, *shape), kind) for shape, kind in cls.COLUMNS.values()))

    def __add__(self: _Rows, other: _Rows) -> _Rows:
        """Return both, these first."""
        return dataclasses.replace(
            self,
            **{
                name: np.concatenate([getattr(self, name), getattr(other, name)])
                for name in self.COLUMNS
            },
        )

    def take(self: _Rows, which: NDArray[np.bool_] | NDArray[np.intp]) -> _Rows:
        """Return the rows of a mask or of indices, in that order."""
        rows: dict[str, Any] = {name: getattr(self, name)[which] for name in self.COLUMNS}
        return dataclasses.replace(self, **rows)


@dataclass(frozen=True)
class Detections(Rows):
    """
    Hold what was found in one frame.

    :param xyxy_px: (N, 4) float32, right and bottom exclusive, in pixels of the frame.
    :param scores: (N,) float32 in [0, 1].
    :param classes: (N,) int8, index into CLASSES.
    :param points_px: (N, 5, 2) float32, x and y of POINTS in the frame; NaN where not known.
    """

    xyxy_px: NDArray[np.float32]
    scores: NDArray[np.float32]
    classes: NDArray[np.int8]
    points_px: NDArray[np.float32]

    COLUMNS: ClassVar[dict[str, tuple[tuple[int, ...], type]]] = {
        'xyxy_px': ((4,), np.float32),
        'scores': ((), np.float32),
        'classes': ((), np.int8),
        'points_px': ((len(POINTS), 2), np.float32),
    }

    @classmethod
    def of(
        cls, xyxy_px: object, scores: object, classes: object, points_px: object = None
    ) -> Detections:
        """
        Build detections from anything that numpy takes.

        :param classes: one class for all, or one a row.
        :param points_px: None where they are not known.
        """
        rows = np.asarray(xyxy_px, np.float32).reshape(-1, 4)
        shape = (len(rows), len(POINTS), 2)
        points = np.full(shape, np.nan, np.float32) if points_px is None else points_px
        return cls(
            rows,
            np.asarray(scores, np.float32).reshape(-1),
            np.array(np.broadcast_to(np.asarray(classes, np.int8), len(rows))),
            np.asarray(points, np.float32).reshape(shape),
        )


@dataclass(frozen=True)
class Regions(Rows):
    """
    Hold what is covered in one frame.

    :param xyxy_px: (N, 4) float32, right and bottom exclusive, clipped to the frame.
    :param classes: (N,) int8, index into CLASSES.
    :param scores: (N,) float32 in [0, 1]; a predicted region keeps that of its last detection.
    :param best_scores: (N,) float32 in [0, 1], the track's highest score so far.
    :param track_ids: (N,) int64, the same in every frame of a stream; -1 for zones.
    :param detected: (N,) bool, False where the tracker predicts what the detector missed.
    :param points_px: (N, 5, 2) float32, x and y of POINTS in the frame; NaN where this frame has
        none.
    :param ungrown_xyxy_px: (N, 4) float32, the box of the detection or of the prediction; it may
        reach beyond the frame.
    """

    xyxy_px: NDArray[np.float32]
    classes: NDArray[np.int8]
    scores: NDArray[np.float32]
    best_scores: NDArray[np.float32]
    track_ids: NDArray[np.int64]
    detected: NDArray[np.bool_]
    points_px: NDArray[np.float32]
    ungrown_xyxy_px: NDArray[np.float32]

    COLUMNS: ClassVar[dict[str, tuple[tuple[int, ...], type]]] = {
        'xyxy_px': ((4,), np.float32),
        'classes': ((), np.int8),
        'scores': ((), np.float32),
        'best_scores': ((), np.float32),
        'track_ids': ((), np.int64),
        'detected': ((), np.bool_),
        'points_px': ((len(POINTS), 2), np.float32),
        'ungrown_xyxy_px': ((4,), np.float32),
    }

    def grown(self, scales: NDArray[np.float64], size_wh: tuple[int, int]) -> Regions:
        """
        Return what is covered of these boxes, from `ungrown_xyxy_px` anew.

        :param scales: by class, side of a region over the side of its box.
        :param size_wh: width and height of the frame in pixels; what lies outside is left out.
        """
        sides = scales[self.classes]
        xyxy_px = boxes.clip(boxes.grow(self.ungrown_xyxy_px, sides), size_wh)
        return dataclasses.replace(self, xyxy_px=xyxy_px).take(boxes.filled(xyxy_px))

    @classmethod
    def of_zones(cls, xyxy_px: NDArray[np.float32]) -> Regions:
        """Return the regions of zones, (N, 4), which have no tracks."""
        n = len(xyxy_px)
        return cls(
            xyxy_px.astype(np.float32),
            np.full(n, ZONE, np.int8),
            np.ones(n, np.float32),
            np.ones(n, np.float32),
            np.full(n, -1, np.int64),
            np.ones(n, np.bool_),
            np.full((n, len(POINTS), 2), np.nan, np.float32),
            xyxy_px.astype(np.float32),
        )


def read_boxes(path: Path, class_index: int = FACE) -> Detections:
    """
    Read boxes from a text file, one `x0 y0 x1 y1` a line in pixels; an empty file means none.

    :raises MediaError: the file is missing, or a line is not four finite numbers in order.
    """
    try:
        lines = path.read_text(encoding='utf-8').splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise MediaError(f'cannot read the boxes {path}: {error}') from error
    rows = []
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            box = tuple(float(word) for word in line.split())
        except ValueError:
            box = ()
        if len(box) != 4 or not np.isfinite(box).all() or box[0] >= box[2] or box[1] >= box[3]:
            raise MediaError(
                f'{path}, line {number}: got {line.strip()!r}, expected x0 y0 x1 y1 with '
                'x0 < x1 and y0 < y1'
            )
        rows.append(box)
    return Detections.of(rows, np.ones(len(rows)), class_index)
