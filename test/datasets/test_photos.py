import os
from pathlib import Path

import cv2
from ffs_anonymizer.datasets.photos import list_photos, read_photo
from ffs_anonymizer.errors import MediaError
import numpy as np
import pytest
from support.messages import exif, insert_segment


def test_folders_without_photos_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match='no such folder'):
        list_photos(tmp_path / 'none')
    (tmp_path / 'a.txt').write_text('')
    with pytest.raises(MediaError, match='got no photo, expected some ending in'):
        list_photos(tmp_path)


def test_photos_are_listed_with_those_of_sub_folders(tmp_path: Path) -> None:
    for name in ('b.PNG', 'a.jpg', 'in/c.webp', 'in/d.txt'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b'')
    assert [path.name for path in list_photos(tmp_path)] == ['a.jpg', 'b.PNG', 'c.webp']


def test_photos_are_read_upright_in_three_channels(tmp_path: Path) -> None:
    path = tmp_path / 'turned.jpg'
    picture = np.zeros((32, 64, 3), np.uint8)
    picture[:, :16] = 255
    data = cv2.imencode('.jpg', picture)[1].tobytes()
    path.write_bytes(insert_segment(data, 0xE1, exif(6)))
    image = read_photo(path)
    assert image.shape == (64, 32, 3)
    assert image[:12].mean() > 250
    assert image[20:].mean() < 5
    cv2.imwrite(str(tmp_path / 'grey.png'), picture[..., 0])
    assert np.array_equal(read_photo(tmp_path / 'grey.png'), picture)


def test_a_photo_that_is_missing_is_told_without_a_word_of_opencv(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(MediaError, match=r'none\.png: got no such file, expected a photo'):
        read_photo(tmp_path / 'none.png')
    assert capfd.readouterr().err == ''


def test_a_name_need_not_be_utf_8(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b'caf\xe9.png')
    done, data = cv2.imencode('.png', np.full((4, 6, 3), 7, np.uint8))
    assert done
    path.write_bytes(data)
    assert list_photos(tmp_path) == [path]
    assert read_photo(path).shape == (4, 6, 3)


@pytest.mark.parametrize('content', [b'', b'no photo'])
def test_what_is_no_photo_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / 'broken.png'
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r'broken\.png: got no image that OpenCV can read'):
        read_photo(path)
