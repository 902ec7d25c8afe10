from ffs_anonymizer.painting.composite import cover, far_to_near, paste, Patch, with_feather
import numpy as np
import pytest


@pytest.mark.parametrize(
    ('box', 'align', 'bleed', 'expected'),
    [
        ((1.0, 2.0, 3.0, 4.0), (1, 1), 0, (1, 2, 3, 4)),
        ((1.1, 2.9, 3.1, 4.9), (1, 1), 0, (1, 2, 4, 5)),
        ((3.0, 3.0, 5.0, 5.0), (2, 2), 0, (2, 2, 6, 6)),
        ((3.0, 3.0, 5.0, 5.0), (2, 1), 0, (2, 3, 6, 5)),
        ((3.0, 3.0, 5.0, 5.0), (2, 2), 2, (0, 0, 8, 8)),
        ((-4.0, -4.0, 99.0, 99.0), (2, 2), 2, (0, 0, 31, 21)),
        ((30.5, 20.5, 31.0, 21.0), (1, 1), 0, (30, 20, 31, 21)),
    ],
)
def test_cover(box, align, bleed, expected):
    rects = cover(np.array([box], np.float32), size_wh=(31, 21), align_wh_px=align, bleed_px=bleed)
    assert rects.dtype == np.int32
    assert rects.tolist() == [list(expected)]


def test_cover_of_nothing():
    assert cover(np.empty((0, 4), np.float32), size_wh=(9, 9)).shape == (0, 4)


def test_far_to_near_does_not_depend_on_the_order_given():
    rects = np.array([[0, 0, 9, 9], [5, 5, 8, 8], [1, 1, 4, 4], [1, 1, 10, 10]], np.int32)
    expected = rects[far_to_near(rects)].tolist()
    assert expected == [[1, 1, 4, 4], [5, 5, 8, 8], [0, 0, 9, 9], [1, 1, 10, 10]]
    for seed in range(5):
        mixed = np.random.default_rng(seed).permutation(rects)
        assert mixed[far_to_near(mixed)].tolist() == expected


def test_with_feather_ends_at_the_frame():
    rect = np.array([2, 10, 22, 30], np.int32)
    assert with_feather(rect, 0.25, size_wh=(25, 40)).tolist() == [0, 5, 25, 35]
    assert with_feather(rect, 0.0, size_wh=(25, 40)).tolist() == rect.tolist()


def test_paste_is_exact_inside_and_fades_outside():
    frame = np.full((20, 20, 3), 100, np.uint8)
    outer, rect = np.array([4, 4, 16, 16], np.int32), np.array([7, 7, 13, 13], np.int32)
    paste(frame, Patch(np.full((12, 12, 3), 200, np.uint8), outer, rect))
    assert (frame[7:13, 7:13] == 200).all()
    assert (
        frame[10, :, 0].tolist()
        == [100] * 4
        + [125, 150, 175]
        + [200] * 6
        + [
            175,
            150,
            125,
        ]
        + [100] * 4
    )
    frame[4:16, 4:16] = 100
    assert (frame == 100).all()


def test_paste_covers_the_last_row_and_column():
    frame = np.zeros((8, 8, 3), np.uint8)
    whole = np.array([0, 0, 8, 8], np.int32)
    paste(frame, Patch(np.full((8, 8, 3), 9, np.uint8), whole, whole))
    assert (frame == 9).all()


def test_inside_does_not_depend_on_what_was_there():
    outer, rect = np.array([0, 0, 10, 10], np.int32), np.array([2, 2, 10, 8], np.int32)
    rng = np.random.default_rng(0)
    patch = rng.integers(0, 256, (10, 10, 3), np.uint8)
    results = []
    for _ in range(2):
        frame = np.full((10, 10, 3), 50, np.uint8)
        frame[2:8, 2:10] = rng.integers(0, 256, (6, 8, 3), np.uint8)
        paste(frame, Patch(patch, outer, rect))
        results.append(frame)
    assert np.array_equal(*results)
