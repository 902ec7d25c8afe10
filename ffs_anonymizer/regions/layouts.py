"""How the outputs of known detectors read: from a network's maps to boxes, scores and points."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Protocol

from ffs_anonymizer.errors import ModelError
import numpy as np
from numpy.typing import NDArray

Outputs = Mapping[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Candidates:
    """
    Hold what a network says before overlapping boxes are thinned out.

    :param xyxy_px: (N, 4) float32, in pixels of the network's input.
    :param scores: (N,) float32.
    :param points_px: (N, 5, 2) float32, x and y of detections.POINTS; NaN where it finds none.
    """

    xyxy_px: NDArray[np.float32]
    scores: NDArray[np.float32]
    points_px: NDArray[np.float32]


class Layout(Protocol):
    """
    Read one kind of detector.

    :param is_rgb: the order of the input's channels; else BGR. Values go from 0 to 255.
    """

    name: str
    is_rgb: bool

    def fits(self, outputs: Collection[str]) -> bool:
        """Tell by the names of its outputs whether a network is of this kind."""

    def score_names(self, outputs: Collection[str]) -> list[str]:
        """Return the outputs that hold scores, which must be finite."""

    def decode(self, outputs: Outputs, threshold: float, *, width: int) -> Candidates:
        """
        Turn outputs into boxes.

        :param threshold: lowest score.
        :param width: of the network's input in pixels.
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

    def fits(self, outputs: Collection[str]) -> bool:
        """Tell by the names of its outputs whether a network is of this kind."""
        return {'537', '538', '539'} <= {*outputs}

    def score_names(self, outputs: Collection[str]) -> list[str]:
        """Return the heat map."""
        return ['537']

    def decode(self, outputs: Outputs, threshold: float, *, width: int) -> Candidates:
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
        return Candidates(boxes.astype(np.float32), heat[rows, columns], points.astype(np.float32))


class YuNet:
    """
    Read YuNet (Wu et al. 2023, doi:10.1007/s11633-023-1423-y).

    A cell of the strides 8, 16 and 32 holds its class score, its objectness, the centre's offset
    and the logarithm of the size, and the offsets of five points, all in strides.

    `cls_*`, `obj_*` [1, cells, 1], `bbox_*` [1, cells, 4], `kps_*` [1, cells, 10], which may lack.
    """

    name = 'yunet'
    is_rgb = False
    STRIDES = (8, 16, 32)

    def fits(self, outputs: Collection[str]) -> bool:
        """Tell by the names of its outputs whether a network is of this kind."""
        names = {f'{name}_{s}' for name in ('cls', 'obj', 'bbox') for s in self.STRIDES}
        return names <= {*outputs}

    def score_names(self, outputs: Collection[str]) -> list[str]:
        """Return classes and objectness."""
        return sorted(name for name in outputs if name.startswith(('cls_', 'obj_')))

    def decode(self, outputs: Outputs, threshold: float, *, width: int) -> Candidates:
        """Turn the cells into boxes."""
        boxes, scores, points = [], [], []
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
        return Candidates(np.concatenate(boxes), np.concatenate(scores), np.concatenate(points))


LAYOUTS: tuple[Layout, ...] = (CenterFace(), YuNet())


def layout_of(outputs: Collection[str], *, of: str) -> Layout:
    """
    Return how a network of these outputs reads.

    :param of: the network, for the error.
    :raises ModelError: nobody knows it.
    """
    for layout in LAYOUTS:
        if layout.fits(outputs):
            return layout
    raise ModelError(
        f'{of}: got a network with the outputs {sorted(outputs)}, expected those of CenterFace '
        '(537, 538, 539) or YuNet (cls_8, obj_8, bbox_8, ...)'
    )
