"""How known detectors read: what they are fed, and from their outputs to boxes and scores."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from ffs_anonymizer.errors import ModelError
import numpy as np
from numpy.typing import NDArray

Outputs = Mapping[str, NDArray[np.float32]]
# One number an axis, -1 where any size goes.
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Candidates:
    """
    Hold what a network says before overlapping boxes are thinned out.

    :param xyxy_px: (N, 4) float32, in pixels of the network's input.
    :param scores: (N,) float32.
    :param points_px: (N, 5, 2) float32, x and y of detections.POINTS; NaN where it finds none.
    :param kinds: (N,) int64, which of the network's own classes; 0 where it has but one.
    """

    xyxy_px: NDArray[np.float32]
    scores: NDArray[np.float32]
    points_px: NDArray[np.float32]
    kinds: NDArray[np.int64]

    @classmethod
    def of(cls, xyxy_px: object, scores: object, points_px: object, kinds: object) -> Candidates:
        """Build candidates; None stands for no points, and for one class."""
        boxes = np.asarray(xyxy_px, np.float32).reshape(-1, 4)
        n = len(boxes)
        no_points = np.full((n, 5, 2), np.nan, np.float32)
        return cls(
            boxes,
            np.asarray(scores, np.float32).reshape(n),
            no_points if points_px is None else np.asarray(points_px, np.float32),
            np.zeros(n, np.int64) if kinds is None else np.asarray(kinds, np.int64).reshape(n),
        )


class Layout(Protocol):
    """
    Read one kind of detector.

    :param is_rgb: the order of the input's channels; else BGR.
    :param white: what 255 is in the input; values start at 0.
    :param grey: what the input holds where the picture does not reach.
    :param second_look: size, over that of the first, at which networks of any input size look
        again for what is too large for them; 0: they do not.
    """

    name: str
    is_rgb: bool
    white: float
    grey: float
    second_look: float

    def fits(self, outputs: Shapes) -> bool:
        """Tell by its outputs whether a network is of this kind."""

    def score_names(self, outputs: Shapes) -> list[str]:
        """Return the outputs that hold scores, which must be finite."""

    def decode(
        self, outputs: Outputs, threshold: float, *, size_wh: tuple[int, int]
    ) -> Candidates:
        """
        Turn outputs into boxes.

        :param threshold: lowest score.
        :param size_wh: of the network's input in pixels.
        """


class CenterFace:
    """
    Read CenterFace (Xu et al. 2019, arXiv:1911.03599).

    Cell (row, column) of the stride-4 maps holds exp(height / 4), exp(width / 4), the offsets down
    and right of the centre, and five points, y before x, in parts of the box.

    Heat map `537` [1, 1, h, w], sizes `538`, offsets `539` [1, 2, h, w], points `540`
    [1, 10, h, w], which may lack.
    """

    name = 'centerface'
    is_rgb = True
    white, grey, second_look = 255.0, 0.0, 0.0

    def fits(self, outputs: Shapes) -> bool:
        """Tell by its outputs whether a network is of this kind."""
        return {'537', '538', '539'} <= {*outputs}

    def score_names(self, outputs: Shapes) -> list[str]:
        """Return the heat map."""
        return ['537']

    def decode(
        self, outputs: Outputs, threshold: float, *, size_wh: tuple[int, int]
    ) -> Candidates:
        """Turn the maps into boxes."""
        heat, size, offset = outputs['537'][0, 0], outputs['538'][0], outputs['539'][0]
        rows, columns = np.nonzero(heat >= threshold)
        with np.errstate(over='ignore'):
            box_h, box_w = np.exp(size[:, rows, columns]) * 4
        y = (rows + offset[0, rows, columns] + 0.5) * 4
        x = (columns + offset[1, rows, columns] + 0.5) * 4
        boxes = np.column_stack([x - box_w / 2, y - box_h / 2, x + box_w / 2, y + box_h / 2])
        points = np.full((len(boxes), 5, 2), np.nan, np.float32)
        if '540' in outputs:
            parts = outputs['540'][0][:, rows, columns].T.reshape(-1, 5, 2)[:, :, ::-1]
            with np.errstate(over='ignore', invalid='ignore'):
                points = parts * np.column_stack([box_w, box_h])[:, None] + boxes[:, None, :2]
        return Candidates.of(boxes, heat[rows, columns], points, None)


class YuNet:
    """
    Read YuNet (Wu et al. 2023, doi:10.1007/s11633-023-1423-y).

    A cell of the strides 8, 16 and 32 holds its class score, its objectness, the centre's offset
    and the logarithm of the size, and the offsets of five points, all in strides.

    `cls_*`, `obj_*` [1, cells, 1], `bbox_*` [1, cells, 4], `kps_*` [1, cells, 10], which may lack.
    """

    name = 'yunet'
    is_rgb = False
    white, grey, second_look = 255.0, 0.0, 0.0
    STRIDES = (8, 16, 32)

    def fits(self, outputs: Shapes) -> bool:
        """Tell by its outputs whether a network is of this kind."""
        names = {f'{name}_{s}' for name in ('cls', 'obj', 'bbox') for s in self.STRIDES}
        return names <= {*outputs}

    def score_names(self, outputs: Shapes) -> list[str]:
        """Return classes and objectness."""
        return sorted(name for name in outputs if name.startswith(('cls_', 'obj_')))

    def decode(
        self, outputs: Outputs, threshold: float, *, size_wh: tuple[int, int]
    ) -> Candidates:
        """Turn the cells into boxes."""
        boxes, scores, points = [], [], []
        width = size_wh[0]
        for stride in self.STRIDES:
            score = np.sqrt(
                np.clip(outputs[f'cls_{stride}'][0, :, 0], 0, 1)
                * np.clip(outputs[f'obj_{stride}'][0, :, 0], 0, 1)
            )
            found = np.nonzero(score >= threshold)[0]
            cell = np.column_stack([found % (width // stride), found // (width // stride)])
            box = outputs[f'bbox_{stride}'][0, found]
            centre = (cell + box[:, :2]) * stride
            with np.errstate(over='ignore'):
                half = np.exp(box[:, 2:]) * stride / 2
            boxes.append(np.column_stack([centre - half, centre + half]).astype(np.float32))
            scores.append(score[found])
            offsets = np.full((len(found), 5, 2), np.nan, np.float32)
            if f'kps_{stride}' in outputs:
                offsets = outputs[f'kps_{stride}'][0, found].reshape(-1, 5, 2)
            points.append(((cell[:, None] + offsets) * stride).astype(np.float32))
        return Candidates.of(
            np.concatenate(boxes), np.concatenate(scores), np.concatenate(points), None
        )


class Own:
    """
    Read the detector of our own training.

    A cell of the strides 8, 16 and 32 holds a score for each class, how far the box's centre lies
    right of and below its own, and the logarithms of the box's width and height, all in strides.

    `score_*` [1, classes, h, w] in [0, 1], `box_*` [1, 4, h, w].
    """

    name = 'ffs'
    is_rgb = False
    # It is taught heights of up to 130 px.
    white, grey, second_look = 255.0, 0.0, 0.25
    STRIDES = (8, 16, 32)

    def fits(self, outputs: Shapes) -> bool:
        """Tell by its outputs whether a network is of this kind."""
        return {f'{name}_{s}' for name in ('score', 'box') for s in self.STRIDES} <= {*outputs}

    def score_names(self, outputs: Shapes) -> list[str]:
        """Return the scores of all strides."""
        return [f'score_{stride}' for stride in self.STRIDES]

    def decode(
        self, outputs: Outputs, threshold: float, *, size_wh: tuple[int, int]
    ) -> Candidates:
        """Turn the cells into boxes."""
        boxes, scores, kinds = [], [], []
        for stride in self.STRIDES:
            score = outputs[f'score_{stride}'][0]
            kind, row, column = np.nonzero(score >= threshold)
            box = outputs[f'box_{stride}'][0][:, row, column]
            centre = (np.stack([column, row]) + 0.5 + box[:2]) * stride
            with np.errstate(over='ignore'):
                half = np.exp(box[2:]) * stride / 2
            boxes.append(np.concatenate([centre - half, centre + half]).T)
            scores.append(score[kind, row, column])
            kinds.append(kind)
        return Candidates.of(
            np.concatenate(boxes), np.concatenate(scores), None, np.concatenate(kinds)
        )


class Yolo:
    """
    Read YOLO, versions 5 to 12 and 26, as Ultralytics and the authors of 5, 7 and 9 export it.

    Rows of centre, size and a score for each class ([1, 4 + C, cells]: versions 8, 9, 11, 12); the
    same with an objectness before the classes and three rows a cell ([1, 3 cells, 5 + C]: 5, 7);
    or, where the export has thinned them out, rows of corners, score and class ([1, rows, 6]: 10,
    26, `nms=True`) or of image, corners, class and score ([rows, 7]: 7). Which it is, the number
    of rows tells: a network has one cell for each 8, 16 and 32 pixels (large ones also for 64).
    """

    name = 'yolo'
    is_rgb = True
    white, grey, second_look = 1.0, 114 / 255, 0.0
    STRIDES = (8, 16, 32, 64)

    def fits(self, outputs: Shapes) -> bool:
        """Tell by its outputs whether a network is of this kind."""
        tables = [s for s in outputs.values() if len(s) == 3 or (len(s) == 2 and s[1] == 7)]
        # Version 5 also gives out the maps that its rows are made of.
        return len(tables) == 1 and all(
            len(s) == 5 for s in outputs.values() if s is not tables[0]
        )

    def score_names(self, outputs: Shapes) -> list[str]:
        """Return the table, which holds everything."""
        return [name for name, shape in outputs.items() if len(shape) in (2, 3)]

    def decode(
        self, outputs: Outputs, threshold: float, *, size_wh: tuple[int, int]
    ) -> Candidates:
        """Turn the rows into boxes."""
        table = next(value for value in outputs.values() if value.ndim in (2, 3))
        rows = table if table.ndim == 2 else table[0]
        width, height = size_wh
        cells = np.cumsum([-(-width // s) * -(-height // s) for s in self.STRIDES])[-2:].tolist()
        if table.ndim == 3 and rows.shape[1] in cells and rows.shape[0] >= 5:
            rows = rows.T
        if table.ndim == 2:
            boxes, kind, score = rows[:, 1:5], rows[:, 5], rows[:, 6]
        elif len(rows) in cells and rows.shape[1] >= 5:
            return _of_any_class(rows, rows[:, 4:], threshold)
        elif len(rows) in [3 * n for n in cells] and rows.shape[1] >= 6:
            return _of_any_class(rows, rows[:, 4:5] * rows[:, 5:], threshold)
        elif rows.shape[1] == 6:
            boxes, score, kind = rows[:, :4], rows[:, 4], rows[:, 5]
        else:
            raise ModelError(
                f'got an output {table.shape} for an input of {width}x{height}, expected that of '
                f'YOLO: [1, 4 + classes, {cells[0]}], [1, {3 * cells[0]}, 5 + classes] or '
                '[1, rows, 6]; masks, points and turned boxes are not read'
            )
        found = np.nonzero(score >= threshold)[0]
        return Candidates.of(boxes[found], score[found], None, kind[found])


def _of_any_class(
    rows: NDArray[np.float32], scores: NDArray[np.float32], threshold: float
) -> Candidates:
    """
    Return the boxes of rows, once for each class whose score is high enough.

    The best class alone would hide a face where another class, which may be nobody's, is surer.

    :param rows: (N, 4) or wider, centre and size.
    :param scores: (N, classes).
    """
    row, kind = np.nonzero(scores >= threshold)
    centre, half = rows[row, :2], rows[row, 2:4] / 2
    boxes = np.concatenate([centre - half, centre + half], axis=1)
    return Candidates.of(boxes, scores[row, kind], None, kind)


LAYOUTS: tuple[Layout, ...] = (CenterFace(), YuNet(), Own(), Yolo())


def layout_of(outputs: Shapes, *, of: str, named: str = '') -> Layout:
    """
    Return how a network of these outputs reads.

    :param outputs: name to shape.
    :param of: the network, for the error.
    :param named: the layout that its manifest names, if any.
    :raises ModelError: nobody knows it, or it is not of the layout that it is said to be of.
    """
    for layout in LAYOUTS:
        if named in ('', layout.name) and layout.fits(outputs):
            return layout
    if named:
        raise ModelError(
            f'{of}: its manifest names the layout {named!r}, which the outputs {sorted(outputs)} '
            f'are not of; expected one of {", ".join(layout.name for layout in LAYOUTS)}'
        )
    raise ModelError(
        f'{of}: got a network with the outputs {sorted(outputs)}, expected those of CenterFace '
        '(537, 538, 539), YuNet (cls_8, obj_8, bbox_8, ...), our own (score_8, box_8, ...) or '
        'YOLO (one table of boxes)'
    )
