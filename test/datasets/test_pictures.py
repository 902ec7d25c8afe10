from dataclasses import replace
from pathlib import Path

import cv2
from ffs_anonymizer.datasets.faces import PackedFaces
from ffs_anonymizer.datasets.pictures import (
    Annotated,
    boxes_beside,
    DISTRACTOR,
    HEAD,
    IGNORED,
    list_annotated,
    load_pictures,
    pack_pictures,
    PHOTO,
    PLATE,
)
from ffs_anonymizer.datasets.plates import missing_fonts
from ffs_anonymizer.errors import MediaError
from ffs_anonymizer.regions import detections
from ffs_anonymizer.regions.detections import FACE
import numpy as np
import pytest
from support.drawn_plates import draw_street, write_streets

ROOT = Path(__file__).resolve().parents[2]
Box = tuple[float, float, float, float]


def one_photo(folder: Path, *boxes: Box, ignored: tuple[Box, ...] = ()) -> list[Annotated]:
    path = folder / 'a.png'
    cv2.imwrite(str(path), np.zeros((40, 60, 3), np.uint8))
    classes = np.repeat([detections.PLATE, IGNORED], [len(boxes), len(ignored)]).astype(np.int8)
    return [Annotated(path, 'a', np.array([*boxes, *ignored], np.float32).reshape(-1, 4), classes)]


def test_photos_come_back_with_their_boxes(streets: Path) -> None:
    pictures = load_pictures(streets)
    assert len(pictures) == 30
    for number in range(6):
        image, boxes = draw_street(number)
        np.testing.assert_array_equal(pictures.image(number), image)
        np.testing.assert_array_equal(pictures.boxes(number), np.array(boxes).reshape(-1, 4))


def test_photos_of_one_group_never_fall_on_both_sides(streets: Path) -> None:
    pictures = load_pictures(streets)
    train, held_out = pictures.split()
    assert len(train) + len(held_out) == 30
    assert len(held_out) > 0
    assert not {pictures.groups[i] for i in train} & {pictures.groups[i] for i in held_out}


@pytest.mark.skipif(bool(missing_fonts()), reason='fonts to draw plates with are not installed')
def test_drawn_plates_and_distractors_are_packed_beside_the_photos(tmp_path: Path) -> None:
    pack_pictures(one_photo(tmp_path, (10, 10, 30, 20)), tmp_path / 'packed', drawn=6)
    pictures = load_pictures(tmp_path / 'packed')
    assert [len(pictures.numbers(kind)) for kind in (PHOTO, PLATE, DISTRACTOR)] == [1, 6, 4]
    plate = pictures.image(int(pictures.numbers(PLATE)[0]))
    assert plate.shape[2] == 4
    assert plate[..., :3].std() > 5
    assert cv2.imread(str(tmp_path / 'packed' / 'sheet.jpg')) is not None


def test_large_photos_are_scaled_with_their_boxes(tmp_path: Path) -> None:
    pack_pictures(one_photo(tmp_path, (10, 10, 30, 20)), tmp_path / 'packed', photo_px=30, drawn=0)
    pictures = load_pictures(tmp_path / 'packed')
    assert pictures.image(0).shape == (20, 30, 3)
    np.testing.assert_array_equal(pictures.boxes(0), [[5, 5, 15, 10]])


def test_a_box_that_reaches_over_the_edge_is_cut_there(tmp_path: Path) -> None:
    pack_pictures(one_photo(tmp_path, (50, 10, 64, 20)), tmp_path / 'packed', drawn=0)
    np.testing.assert_array_equal(load_pictures(tmp_path / 'packed').boxes(0), [[50, 10, 60, 20]])


@pytest.mark.parametrize(
    'box',
    [(70, 10, 90, 20), (58, 10, 90, 20), (30, 20, 10, 10), (10, 10, 10, 20), (1, 1, 2, np.nan)],
)
def test_boxes_outside_the_picture_are_refused(box: Box, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match=r'a\.png: got a box .*picture of 60x40 pixels'):
        pack_pictures(one_photo(tmp_path, box), tmp_path / 'packed', drawn=0)
    assert not (tmp_path / 'packed' / 'pixels.npy').exists()


def test_no_plate_at_all_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match='got no plate in 1 photos, expected at least one'):
        pack_pictures(one_photo(tmp_path), tmp_path / 'packed', drawn=0)


def test_photos_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    photos = one_photo(tmp_path, (10, 10, 30, 20))
    broken = tmp_path / 'b.png'
    broken.write_bytes(b'no picture')
    lost = replace(photos[0], path=broken, group='b')
    packed = pack_pictures([*photos, lost], tmp_path / 'p', drawn=0)
    assert (packed.photos, packed.objects, packed.unreadable) == (1, {'plate': 1}, (broken,))
    with pytest.raises(MediaError, match='got no plate in 1 photos, 1 of them unreadable'):
        pack_pictures([lost], tmp_path / 'q', drawn=0)


def test_a_data_set_is_not_overwritten(streets: Path, tmp_path: Path) -> None:
    with pytest.raises(MediaError, match='holds a data set already'):
        pack_pictures(one_photo(tmp_path, (1, 1, 9, 9)), streets, drawn=0)


def test_an_empty_folder_and_a_missing_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(MediaError, match='got no photo'):
        list_annotated(tmp_path, [tmp_path])
    with pytest.raises(MediaError, match='got no such folder'):
        list_annotated(tmp_path / 'none', [tmp_path])
    with pytest.raises(MediaError, match='not a data set for detectors'):
        load_pictures(tmp_path)


def test_boxes_that_are_nowhere_do_not_stand_for_photos_without_a_plate(tmp_path: Path) -> None:
    table = write_streets(tmp_path, 4)
    with pytest.raises(MediaError, match='typo: got no such file or folder, expected one with'):
        list_annotated(tmp_path, [table, tmp_path / 'typo'])


def test_rows_without_a_box_are_photos_without_a_plate(tmp_path: Path) -> None:
    photos = list_annotated(tmp_path, [write_streets(tmp_path, 4)])
    assert [len(photo.boxes_xyxy_px) for photo in photos] == [0, 1, 2, 0]
    assert [photo.group for photo in photos] == ['scene 0', 'scene 0', 'scene 1', 'scene 1']


@pytest.mark.parametrize(
    ('text', 'error'),
    [
        ('path,x0\n', 'got no row'),
        ('name,x0\na.png,1\n', 'expected the columns path, x0, y0, x1, y1'),
        ('path,class,x0,y0,x1,y1\na.png,sign,1,2,3,4\n', 'class, if any, face, plate, ignore'),
        ('path,x0,y0,x1,y1\na.png,1,2,3,four\n', "could not convert string to float: 'four'"),
    ],
)
def test_a_csv_that_is_none_is_refused(text: str, error: str, tmp_path: Path) -> None:
    (tmp_path / 'boxes.csv').write_text(text)
    with pytest.raises(MediaError, match=error):
        list_annotated(tmp_path, [tmp_path / 'boxes.csv'])


def test_boxes_of_several_files_count_and_what_is_to_be_ignored_takes_plates_with_it(
    tmp_path: Path,
) -> None:
    first, more = tmp_path / 'a.csv', tmp_path / 'b.csv'
    first.write_text(
        'path,group,x0,y0,x1,y1\na.png,drive,10,10,30,20\na.png,drive,1,1,9,5\nb.png,,,,,\n'
    )
    more.write_text(
        'path,class,x0,y0,x1,y1\na.png,ignore,9,9,25,21\na.png,,30,0,40,5\nb.png,plate,2,2,8,8\n'
    )
    a, b = list_annotated(tmp_path, [first, more])
    assert (a.path.name, a.group, b.path.name, b.group) == ('a.png', 'drive', 'b.png', 'b')
    np.testing.assert_array_equal(
        a.boxes_xyxy_px, [[10, 10, 30, 20], [1, 1, 9, 5], [9, 9, 25, 21], [30, 0, 40, 5]]
    )
    assert a.classes.tolist() == [IGNORED, detections.PLATE, IGNORED, detections.PLATE]
    np.testing.assert_array_equal(b.boxes_xyxy_px, [[2, 2, 8, 8]])


def test_our_boxes_for_open_images_are_boxes_in_its_photos() -> None:
    photos = list_annotated(Path(), [ROOT / 'benchmarks' / 'plates_openimages.csv'])
    assert len(photos) > 30
    for photo in photos:
        assert photo.group == f'openimages_{photo.path.stem}'
        assert (photo.boxes_xyxy_px >= 0).all()
        assert (photo.boxes_xyxy_px <= 1024).all()
        assert (photo.boxes_xyxy_px[:, 2:] > photo.boxes_xyxy_px[:, :2]).all()
    classes = np.concatenate([photo.classes for photo in photos])
    assert {detections.PLATE, IGNORED} == set(classes.tolist())


def test_what_is_to_be_ignored_is_packed_apart_from_the_plates(tmp_path: Path) -> None:
    photos = one_photo(tmp_path, (10, 10, 30, 20), ignored=((40, 0, 50, 8),))
    assert pack_pictures(photos, tmp_path / 'packed', drawn=0).objects == {'plate': 1, 'ignore': 1}
    pictures = load_pictures(tmp_path / 'packed')
    np.testing.assert_array_equal(pictures.boxes(0), [[10, 10, 30, 20], [40, 0, 50, 8]])
    assert pictures.classes_of(0).tolist() == [detections.PLATE, IGNORED]
    with pytest.raises(MediaError, match='got no plate in 1 photos, expected at least one'):
        pack_pictures(one_photo(tmp_path, ignored=((1, 1, 9, 9),)), tmp_path / 'q', drawn=0)


def test_boxes_are_read_from_text_and_pascal_voc(tmp_path: Path) -> None:
    (tmp_path / 'a.txt').write_text('1 2 3 4\n')
    box = '<bndbox><xmin>1.5</xmin><ymin>2</ymin><xmax>3</xmax><ymax>4</ymax></bndbox>'
    (tmp_path / 'b.xml').write_text(f'<annotation><object>{box}</object></annotation>')
    (tmp_path / 'c.xml').write_text('<annotation>')
    np.testing.assert_array_equal(boxes_beside(tmp_path, 'a'), [[1, 2, 3, 4]])
    np.testing.assert_array_equal(boxes_beside(tmp_path, 'b'), [[1.5, 2, 3, 4]])
    assert boxes_beside(tmp_path, 'd').shape == (0, 4)
    with pytest.raises(MediaError, match=r'c\.xml: cannot be read as Pascal VOC'):
        boxes_beside(tmp_path, 'c')


def test_classes_and_what_was_looked_for_come_back(tmp_path: Path) -> None:
    for name in 'abc':
        cv2.imwrite(str(tmp_path / f'{name}.png'), np.zeros((40, 60, 3), np.uint8))
    (tmp_path / 'boxes.csv').write_text(
        'path,x0,y0,x1,y1,class,labelled\n'
        'a.png,10,10,30,20,plate,\na.png,2,2,9,9,face,\n'
        'b.png,1,1,20,9,plate,plate\nc.png,3,3,9,9,ignore,face\n'
    )
    photos = list_annotated(tmp_path, [tmp_path / 'boxes.csv'])
    assert [photo.labelled for photo in photos] == [('face', 'plate'), ('plate',), ('face',)]
    assert photos[0].classes.tolist() == [detections.PLATE, FACE]
    packed = pack_pictures(photos, tmp_path / 'packed', drawn=0)
    assert packed.objects == {'plate': 2, 'face': 1, 'ignore': 1}
    pictures = load_pictures(tmp_path / 'packed')
    assert [pictures.classes_of(i).tolist() for i in range(3)] == [[1, 0], [1], [IGNORED]]
    assert pictures.labelled.tolist() == [[True, True], [False, True], [True, False]]


def test_without_classes_all_boxes_are_plates(streets: Path) -> None:
    pictures = load_pictures(streets)
    assert set(pictures.classes.tolist()) == {detections.PLATE}
    assert pictures.labelled.tolist() == [[False, True]] * len(pictures)


def test_heads_are_packed_with_their_face_and_a_soft_mask(tmp_path: Path) -> None:
    chance = np.random.default_rng(0)
    faces = PackedFaces(
        chance.integers(0, 256, (2, 64, 64, 3)).astype(np.uint8),
        np.array([[20, 16, 44, 48]] * 2, np.float32),
        np.array([[0, 0, 64, 64], [0, 0, 64, 40]], np.int32),
        np.full((2, 5, 2), np.nan, np.float32),
        np.full((2, 3), np.nan, np.float32),
        ('a', 'b'),
    )
    photos = one_photo(tmp_path, (10, 10, 30, 20))
    packed = pack_pictures(photos, tmp_path / 'packed', faces=faces, drawn=0)
    assert packed.objects == {'plate': 1}
    pictures = load_pictures(tmp_path / 'packed')
    heads = pictures.numbers(HEAD)
    assert [pictures.groups[i] for i in heads] == ['a', 'b']
    for number, i in enumerate(heads.tolist()):
        head = pictures.image(i)
        np.testing.assert_array_equal(head[..., :3], faces.photos_bgr[number])
        np.testing.assert_array_equal(pictures.boxes(i), [[20, 16, 44, 48]])
        assert pictures.classes_of(i).tolist() == [FACE]
        assert (head[20:34, 24:40, 3] == 255).all()
        assert (head[[0, 0], [0, -1], 3] == 0).all()
        assert np.abs(np.diff(head[..., 3].astype(int), axis=1)).max() < 130
    assert (pictures.image(int(heads[1]))[40:, :, 3] == 0).all()
