import os
from pathlib import Path

import cv2
from ffs_anonymizer.datasets.sheet import save_tiles, tile_images
from ffs_anonymizer.errors import MediaError
import numpy as np
import pytest


def test_tile_images_fills_the_last_row_with_black() -> None:
    tiles = np.stack([np.full((2, 3, 3), i + 1, np.uint8) for i in range(3)])
    sheet = tile_images(tiles, columns=2)
    assert sheet.shape == (4, 6, 3)
    assert sheet[::2, ::3, 0].tolist() == [[1, 2], [3, 0]]
    assert cv2.countNonZero(sheet[2:, 3:, 0]) == 0


def test_tiles_are_written_into_a_folder_that_is_made(tmp_path: Path) -> None:
    tiles = np.stack([np.full((4, 5, 3), value, np.uint8) for value in (10, 20, 30)])
    path = tmp_path / 'new' / 'sheet.png'
    save_tiles(path, tiles, columns=2)
    assert np.array_equal(cv2.imread(str(path)), tile_images(tiles, columns=2))
    odd = tmp_path / os.fsdecode(b'caf\xe9.png')
    save_tiles(odd, tiles, columns=2)
    assert odd.read_bytes() == path.read_bytes()
    for name in ('sheet.nothing', 'sheet', os.fsdecode(b'sheet.\xe9')):
        with pytest.raises(MediaError, match='as the kind of an image, expected .png'):
            save_tiles(tmp_path / name, tiles, columns=2)
    with pytest.raises(MediaError, match=r'sheet\.png/a\.png: cannot be written'):
        save_tiles(path / 'a.png', tiles, columns=2)
