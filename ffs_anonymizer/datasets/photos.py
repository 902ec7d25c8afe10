"""Photos in folders: listed, read, and the faces that are known in them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
from ffs_anonymizer.errors import MediaError
import numpy as np
from numpy.typing import NDArray

SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.webp')


@dataclass(frozen=True)
class Photo:
    """
    Hold a photo and where its faces are.

    :param image_bgr: (H, W, 3) uint8, upright.
    :param boxes_xyxy_px: (N, 4) float32.
    :param ignored_xyxy_px: (M, 4) float32, faces too small or too blurred to ask for.
    """

    path: Path
    image_bgr: NDArray[np.uint8]
    boxes_xyxy_px: NDArray[np.float32]
    ignored_xyxy_px: NDArray[np.float32]


def list_photos(folder: Path) -> list[Path]:
    """
    Return the photos below a folder and its sub-folders, in order.

    :raises MediaError: there is no such folder, or no photo in it.
    """
    if not folder.is_dir():
        raise MediaError(f'{folder}: got no such folder, expected one with photos')
    named = (p for p in folder.rglob('*') if p.suffix.lower() in SUFFIXES)
    # What a link to nothing should be is told where it is read.
    found = sorted(p for p in named if p.is_file() or p.is_symlink())
    if not found:
        raise MediaError(f'{folder}: got no photo, expected some ending in {", ".join(SUFFIXES)}')
    return found


def read_photo(path: Path) -> NDArray[np.uint8]:
    """
    Return the pixels of a photo, (H, W, 3) uint8 BGR, turned as its EXIF says.

    :raises MediaError: the file is missing, or no decoder can read it.
    """
    try:
        # OpenCV may crash over names of files.
        data = np.fromfile(path, np.uint8)
    except FileNotFoundError as error:
        raise MediaError(f'{path}: got no such file, expected a photo') from error
    except OSError as error:
        raise MediaError(f'{path}: cannot be read: {error.strerror or error}') from error
    image = cv2.imdecode(data, cv2.IMREAD_COLOR) if len(data) else None
    if image is None:
        raise MediaError(f'{path}: got no image that OpenCV can read; remove it')
    return np.asarray(image, np.uint8)
