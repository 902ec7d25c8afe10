"""A detector that finds white squares, and recordings of them, asked which squares are left."""

import re

import cv2
from ffs_anonymizer.errors import MediaError
from ffs_anonymizer.regions.detections import Detections, FACE, Regions
from ffs_anonymizer.review.audit import audit
from ffs_anonymizer.review.audit_page import audit_page
from ffs_anonymizer.review.recording import open_recording
from ffs_anonymizer.review.second_look import SecondLook, SecondView
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
import pytest

SIZE_WH = (160, 120)


def squares(image_bgr):
    """Find light squares on dark ground, the larger the surer."""
    light = (image_bgr.min(axis=2) > 128).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(light)
    boxes = [(x, y, x + w, y + h) for x, y, w, h, n in stats[1:] if n > 0.8 * w * h and n > 30]
    sides = [max(x1 - x0, y1 - y0) for x0, y0, x1, y1 in boxes]
    return Detections.of(boxes, [min(side / 40, 1.0) for side in sides], FACE)


def picture(*squares_xywh):
    image = np.full((SIZE_WH[1], SIZE_WH[0], 3), 40, np.uint8)
    image[::7] = 60
    for x, y, w, h in squares_xywh:
        image[y : y + h, x : x + w] = 250
    return image


def folder(path, images):
    path.mkdir()
    for i, image in enumerate(images):
        cv2.imwrite(str(path / f'{i:03}.png'), image)
    return open_recording(path, Settings())


def look(**options):
    return SecondLook(squares, is_other=True, **options)


def unknown(frame):
    return None


def audited(original, anonymized, listed=unknown, *, sample=5, **options):
    return audit(original, anonymized, look(**options), listed=listed, sample=sample, seed=1)


@pytest.mark.parametrize(
    'view',
    [
        SecondView(),
        SecondView(mirrored=True),
        SecondView(scale=2.0),
        SecondView(scale=2.0, mirrored=True, gamma=0.6),
    ],
)
def test_a_view_gives_boxes_of_the_frame(view):
    found = view.look(squares, picture((10, 20, 30, 24)))
    assert found.xyxy_px == pytest.approx(np.array([[10, 20, 40, 44]]), abs=1.0)


def test_each_thing_is_found_once_whatever_the_views():
    assert len(look(thorough=True).look(picture((10, 20, 30, 24), (90, 50, 40, 40)), 3)) == 2


def test_what_is_not_covered_is_found_and_what_is_is_not(tmp_path):
    both = [picture((10, 20, 30, 30), (90, 50, 40, 40)) for _ in range(4)]
    one = [picture((10, 20, 30, 30)) for _ in range(4)]
    result = audited(folder(tmp_path / 'in', both), folder(tmp_path / 'out', one))
    assert result.looked_at == 4
    assert result.missed_frames == 4
    assert len(result.findings) == 4  # pictures are streams of their own
    assert {f.why for f in result.findings} == {'nothing of it replaced'}
    assert {f.xyxy_px for f in result.findings} == {(10.0, 20.0, 40.0, 50.0)}
    assert len(result.sample) == 4


def test_nothing_is_left(tmp_path):
    original = folder(tmp_path / 'in', [picture((10, 20, 30, 30))])
    result = audited(original, folder(tmp_path / 'out', [picture()]), thorough=True)
    assert (result.findings, result.missed_frames, result.thorough_frames) == ([], 0, 1)


def test_half_a_face_is_left(tmp_path):
    before = picture((10, 20, 40, 40))
    after = before.copy()
    after[20:60, 10:28] = 90
    result = audited(folder(tmp_path / 'in', [before]), folder(tmp_path / 'out', [after]))
    assert [re.sub(r'\d+', 'N', f.why) for f in result.findings] == ['N% of it replaced']


def test_regions_that_were_not_painted_are_no_cover(tmp_path):
    image = picture((10, 20, 40, 40))
    boxes = np.array([[5, 15, 55, 65]], np.float32)
    result = audited(
        folder(tmp_path / 'in', [image]),
        folder(tmp_path / 'out', [image]),
        lambda frame: lambda size_wh: Regions.of_zones(boxes),
    )
    assert [f.why for f in result.findings] == [
        "listed as replaced, but its pixels are the original's"
    ]


def test_what_only_the_output_shows_is_found(tmp_path):
    dim = picture((10, 20, 40, 40)) // 3
    result = audited(
        folder(tmp_path / 'in', [dim]), folder(tmp_path / 'out', [dim + 90]), thorough=True
    )
    assert result.still_found + len(result.findings) == 1


def test_the_same_thing_in_a_film_is_one_finding(tmp_path, film):
    hidden = [picture((10 + 2 * i, 20, 40, 40)) for i in range(12)]
    result = audited(
        film(tmp_path / 'in' / 'clip.mkv', hidden),
        film(tmp_path / 'out' / 'clip.mkv', hidden),
    )
    assert [(f.class_name, f.frames) for f in result.findings] == [('face', 12)]
    assert result.per_minute['clip.mkv'][0] == {'frames': 12, 'regions': 0, 'uncovered': 12}


def test_a_black_frame_is_told_and_not_missed(tmp_path):
    before = picture((10, 20, 40, 40))
    result = audited(
        folder(tmp_path / 'in', [before]), folder(tmp_path / 'out', [np.zeros_like(before)])
    )
    assert result.unreadable == ['000.png, frame 0: black']
    assert not result.findings


def test_a_small_sample_of_many_frames_is_spread(tmp_path):
    images = [picture() for _ in range(40)]
    result = audited(folder(tmp_path / 'in', images), folder(tmp_path / 'out', images), sample=10)
    numbers = [int(frame.stream[:3]) for frame in result.sample]
    assert len(set(numbers)) == 10
    assert max(numbers) > 20 > min(numbers)


def test_other_recordings_are_refused(tmp_path, film):
    short = film(tmp_path / 'a' / 'clip.mkv', [picture()] * 3)
    long = film(tmp_path / 'b' / 'clip.mkv', [picture()] * 5)
    with pytest.raises(MediaError, match='got its end, expected clip.mkv, frame 3'):
        audited(long, short)
    with pytest.raises(MediaError, match='frame 3, which is not in'):
        audited(short, long)
    wide = folder(tmp_path / 'wide', [np.zeros((60, 80, 3), np.uint8) + 9])
    with pytest.raises(MediaError, match='got 80x60 pixels, expected 160x120'):
        audited(folder(tmp_path / 'in', [picture()]), wide)


def test_the_page_holds_everything_and_asks_nobody(tmp_path):
    before = [picture((10, 20, 40, 40)), picture()]
    result = audited(folder(tmp_path / 'in', before), folder(tmp_path / 'out', before))
    page = audit_page(
        result,
        title='drive <1>',
        facts={'original': 'a & b'},
        counts={'methods': {'blur': 3}},
        unseen={'/lidar': 'sensor_msgs/msg/PointCloud2'},
        look='as it is',
    )
    assert not re.search(r'@\w+@', page)
    assert 'drive &lt;1&gt;' in page
    assert 'a &amp; b' in page
    assert '1 thing found uncovered' in page
    assert '/lidar (sensor_msgs/msg/PointCloud2)' in page
    assert not re.search(r'(?:src|href)="(?!data:)', page)
    assert "default-src 'none'" in page


def test_a_page_of_many_large_frames_stays_small(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (480, 640, 3), np.uint8)
    recording = folder(tmp_path / 'in', [np.roll(noise, i, 0) for i in range(60)])
    result = audit(
        recording,
        recording,
        SecondLook(lambda image_bgr: Detections.empty(), is_other=True),
        listed=unknown,
        sample=60,
        seed=1,
    )
    page = audit_page(result, title='noise', facts={}, counts={}, unseen={}, look='')
    assert len(page) < 10_000_000
    assert page.count('"stream"') == 60
