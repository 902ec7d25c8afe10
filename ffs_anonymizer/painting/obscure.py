"""Blur, mosaic and solid boxes: what takes the place of a region that no face is generated for."""

from __future__ import annotations

import itertools

import cv2
import numpy as np
from numpy.typing import NDArray

# What blur leaves of the differences between cells, and the grey veil's share of their mean: to a
# detector the colour of skin in a head's place is a face, and a soft oval more so than a box.
# Of 540 faces in photos of crowds and groups, blurred in regions of 1.2 times the box, CenterFace
# took 6 and YuNet 5 for faces from a score of 0.3 (black boxes: 3 and 5), and none from 0.5;
# without the veil 13 and 34, and 11 from 0.5.
CONTRAST = 0.2
VEIL = 0.6
VEIL_LEVEL = 150


def cell_edges(size_px: int, cells: int) -> NDArray[np.intp]:
    """Return the cells + 1 edges that cut a side into cells of almost equal whole pixels."""
    edges = np.linspace(0, size_px, min(cells, size_px) + 1)
    return np.rint(edges).astype(np.intp)


def cell_means(
    image_bgr: NDArray[np.uint8], cells: int
) -> tuple[NDArray[np.uint8], NDArray[np.intp], NDArray[np.intp]]:
    """
    Return the mean colour of each cell of a region.

    The number of cells does not depend on the region's size, so a near face keeps no more detail
    than a far one.

    :param image_bgr: (H, W, 3) uint8, the region, H and W at least 1.
    :param cells: cells along the longer side; the shorter one has as many as keep them square.
    :returns: (rows, columns, 3) uint8 means, the rows' edges, the columns' edges in pixels.
    """
    height, width = image_bgr.shape[:2]
    longer = max(height, width)
    row_edges = cell_edges(height, max(round(cells * height / longer), 1))
    column_edges = cell_edges(width, max(round(cells * width / longer), 1))
    by_row = [
        cv2.reduce(image_bgr[top:bottom], 0, cv2.REDUCE_SUM, dtype=cv2.CV_32S)
        for top, bottom in itertools.pairwise(row_edges.tolist())
    ]
    sums = np.add.reduceat(np.concatenate(by_row), column_edges[:-1], axis=1, dtype=np.int64)
    area = np.outer(np.diff(row_edges), np.diff(column_edges))[:, :, None]
    return np.rint(sums / area).astype(np.uint8), row_edges, column_edges


def mosaic(image_bgr: NDArray[np.uint8], cells: int) -> NDArray[np.uint8]:
    """
    Return a region in which every cell has its mean colour.

    :param image_bgr: (H, W, 3) uint8, the region.
    :param cells: cells along the longer side.
    :returns: (H, W, 3) uint8.
    """
    means, row_edges, column_edges = cell_means(image_bgr, cells)
    rows = np.repeat(means, np.diff(row_edges), axis=0)
    return np.repeat(rows, np.diff(column_edges), axis=1)


def blur(image_bgr: NDArray[np.uint8], cells: int, *, veiled: bool) -> NDArray[np.uint8]:
    """
    Return a region with no more detail than its cells' means of little contrast, smoothly joined.

    :param image_bgr: (H, W, 3) uint8, the region.
    :param cells: cells along the longer side.
    :param veiled: as behind frost, without colour: of a soft spot of the colour of skin a detector
        still takes some for a face.
    :returns: (H, W, 3) uint8.
    """
    means, _, _ = cell_means(image_bgr, cells)
    shades = means.astype(np.float32)
    if veiled:
        shades[:] = shades.mean(axis=2, keepdims=True)
    middle = shades.reshape(-1, 3).mean(axis=0)
    base = (1 - VEIL) * middle + VEIL * VEIL_LEVEL if veiled else middle
    soft = np.rint(np.clip(base + (shades - middle) * CONTRAST, 0, 255)).astype(np.uint8)
    height, width = image_bgr.shape[:2]
    smooth = cv2.resize(soft, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.asarray(smooth, np.uint8).reshape(image_bgr.shape)


def solid(image_bgr: NDArray[np.uint8], colour_bgr: tuple[int, ...]) -> NDArray[np.uint8]:
    """
    Return a region of one colour.

    :param image_bgr: (H, W, 3) uint8; only its shape counts.
    :param colour_bgr: three numbers from 0 to 255.
    :returns: (H, W, 3) uint8.
    """
    return np.full_like(image_bgr, colour_bgr)
