from pathlib import Path

from ffs_anonymizer.datasets.faces import (
    BOX_COLUMNS,
    INSIDE_COLUMNS,
    load_packed,
    POINT_COLUMNS,
    TRAIT_COLUMNS,
)
from ffs_anonymizer.datasets.packing import (
    Face,
    identity_of,
    list_faces,
    pack,
    square_around,
)
from ffs_anonymizer.errors import MediaError
import numpy as np
from numpy.typing import NDArray
import pytest


@pytest.mark.parametrize(
    ('name', 'identity'),
    [('Ann_Lee_0001.jpg', 'Ann_Lee'), ('ann-2.png', 'ann'), ('123.jpg', '123'), ('a.jpg', 'a')],
)
def test_identity_of(name: str, identity: str) -> None:
    assert identity_of(Path(name)) == identity


def test_pack_and_load(packed: Path, photos: Path) -> None:
    faces = load_packed(packed)
    assert len(faces) == len(list(photos.iterdir()))
    assert faces.photos_bgr.shape[1:] == (160, 160, 3)
    widths = faces.boxes_xyxy_px[:, 2:] - faces.boxes_xyxy_px[:, :2]
    assert np.sqrt(widths.prod(1)) == pytest.approx(80, rel=0.02)
    assert sorted(p.name for p in packed.iterdir()) == ['index.csv', 'photos.npy', 'sheet.jpg']


def test_square_around_says_what_was_inside() -> None:
    image: NDArray[np.uint8] = np.full((100, 100, 3), 7, np.uint8)
    box = np.array([0, 25, 50, 75], np.float32)
    photo, in_photo, inside, points = square_around(image, Face(Path(), '', box), 100, 2.0)
    assert np.isnan(points).all()
    assert photo.shape == (100, 100, 3)
    assert in_photo.tolist() == [25, 25, 75, 75]
    assert inside.tolist() == [25, 0, 100, 100]
    assert photo[:, :25].max() == 0
    assert photo[:, 25:].min() == 7


def test_the_largest_detected_face_is_taken(tmp_path: Path, photos: Path) -> None:
    found = np.array([[0, 0, 10, 10], [40, 40, 80, 80]], np.float32)
    report = pack(list_faces(photos, None)[:2], tmp_path / 'out', detect=lambda _: found)
    assert report.packed == 2
    boxes = load_packed(tmp_path / 'out').boxes_xyxy_px
    assert boxes[0].tolist() == [40, 40, 120, 120]


def test_points_are_packed_where_they_are_found(tmp_path: Path, photos: Path, boxes: Path) -> None:
    seen: list[NDArray[np.uint8]] = []

    def find(photo: NDArray[np.uint8], box: NDArray[np.float32]) -> NDArray[np.float64] | None:
        seen.append(photo)
        return np.arange(10.0).reshape(5, 2) + box[0] if len(seen) == 1 else None

    pack(list_faces(photos, boxes)[:2], tmp_path / 'out', find_points=find)
    faces = load_packed(tmp_path / 'out')
    expected = np.arange(10).reshape(5, 2) + faces.boxes_xyxy_px[0, 0]
    assert faces.points_px[0] == pytest.approx(expected, abs=0.1)
    assert np.isnan(faces.points_px[1]).all()
    assert (seen[1] == faces.photos_bgr[1]).all()


def test_unfit_photos_are_named_and_the_others_packed(tmp_path: Path, photos: Path) -> None:
    (tmp_path / 'broken.jpg').write_bytes(b'no photo')
    good = next(iter(sorted(photos.iterdir())))
    box = np.array([46, 30, 114, 126], np.float32)
    faces = [
        Face(tmp_path / 'broken.jpg', 'x', box),
        Face(good, 'y', box),
        Face(good, 'z', np.array([0, 0, 5, 5], np.float32)),
        Face(good, 'z', None),
    ]
    report = pack(faces, tmp_path / 'out', detect=lambda _: np.empty((0, 4), np.float32))
    assert report.packed == 1
    assert report.unreadable == (tmp_path / 'broken.jpg',)
    assert report.without_face == (good, good)


def test_boxes_that_are_nowhere_are_refused(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(MediaError, match='typo: got no such folder, expected one with a .txt'):
        list_faces(photos, tmp_path / 'typo')


def test_nothing_to_pack_leaves_nothing(tmp_path: Path, photos: Path) -> None:
    good = next(iter(sorted(photos.iterdir())))
    with pytest.raises(MediaError, match='got no face in 1 photos'):
        pack([Face(good, 'x', None)], tmp_path / 'out')
    assert list((tmp_path / 'out').iterdir()) == []


def test_a_data_set_is_never_overwritten(packed: Path, photos: Path) -> None:
    with pytest.raises(MediaError, match='holds a data set already'):
        pack(list_faces(photos, None), packed)


def test_boxes_from_a_table(tmp_path: Path, photos: Path) -> None:
    table = tmp_path / 'boxes.csv'
    table.write_text('path,identity,x0,y0,x1,y1\npersona_1.png,Ann,1,2,3,4\n')
    (face,) = list_faces(photos, table)
    assert face.identity == 'Ann'
    assert face.box_xyxy_px is not None
    assert face.box_xyxy_px.tolist() == [1, 2, 3, 4]
    assert face.points_px is None
    columns = ','.join(('path', *BOX_COLUMNS, *INSIDE_COLUMNS, *POINT_COLUMNS))
    numbers = '46,30,114,126,10,0,150,160,66,68,94,68,80,84,66,104,94,104'
    table.write_text(f'{columns}\npersona_1.png,{numbers}\n')
    pack(list_faces(photos, table), tmp_path / 'out')
    faces = load_packed(tmp_path / 'out')
    assert faces.inside_xyxy_px[0].tolist() == [11, 3, 149, 160]
    points = np.array([[20, 38], [48, 38], [34, 54], [20, 74], [48, 74]])
    placed = faces.points_px[0] - faces.boxes_xyxy_px[0, :2]
    assert placed == pytest.approx(points, abs=1)
    table.write_text('path,x0\na,1\n')
    with pytest.raises(MediaError, match=r'boxes\.csv: cannot be read as boxes'):
        list_faces(photos, table)


def test_traits_of_a_table_are_packed_and_others_left_open(tmp_path: Path, photos: Path) -> None:
    table = tmp_path / 'boxes.csv'
    columns = f'{",".join(("path", *BOX_COLUMNS, *TRAIT_COLUMNS))}\n'
    table.write_text(f'{columns}persona_1.png,46,30,114,126,1,,0.25\n')
    pack(list_faces(photos, table), tmp_path / 'out')
    assert str(load_packed(tmp_path / 'out').traits.tolist()) == '[[1.0, nan, 0.25]]'
    table.write_text(f'{columns}persona_1.png,46,30,114,126,30,,\n')
    with pytest.raises(MediaError, match=r'persona_1\.png: got 30, expected traits from 0 to 1'):
        list_faces(photos, table)
