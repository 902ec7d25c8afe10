"""Contact sheets: images of one size side by side, to look at."""

from __future__ import annotations

from pathlib import Path

import cv2
from ffs_anonymizer.errors import MediaError
import numpy as np
from numpy.typing import NDArray


def tile_images(images: NDArray[np.uint8], columns: int) -> NDArray[np.uint8]:
    """
    Return images of one size side by side, row by row, the last row filled with black.

    :param images: (N, H, W, C) uint8.
    :param columns: how many in a row.
    """
    columns = min(columns, len(images))
    lines = -(-len(images) // columns)
    height, width = images.shape[1:3]
    sheet = np.zeros((lines * columns, *images.shape[1:]), np.uint8)
    sheet[: len(images)] = images
    grid = sheet.reshape(lines, columns, height, width, -1).swapaxes(1, 2)
    return np.ascontiguousarray(grid.reshape(lines * height, columns * width, -1))


def refuse_name(path: Path) -> None:
    """
    Refuse a name by which nobody knows how to write an image.

    :raises MediaError: it is one.
    """
    if not (path.suffix.isascii() and path.suffix and cv2.haveImageWriter(f'sheet{path.suffix}')):
        raise MediaError(f'{path}: got {path.suffix!r} as the kind of an image, expected .png')


def save_tiles(path: Path, images: NDArray[np.uint8], columns: int) -> None:
    """
    Write images of one size as one image file; its folder is made where it is missing.

    :param images: (N, H, W, C) uint8.
    :param columns: how many in a row.
    :raises MediaError: the file cannot be written.
    """
    refuse_name(path)
    _, data = cv2.imencode(path.suffix, tile_images(images, columns))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise MediaError(f'{path}: cannot be written: {error.strerror or error}') from error
