from types import SimpleNamespace

from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.frames.message import decode
from ffs_anonymizer.frames.upright import idle_rotations, rotation_of, ROTATIONS, Turn
import numpy as np
import pytest
from support.messages import compressed_message, NO_RECTS, noise_message, raw_message, scene

ENCODINGS = ['bgr8', 'rgb8', 'mono8', 'nv12', 'yuyv', 'bayer_rggb8', 'rgb16']


def turned(image, rotation):
    """Return an image turned clockwise."""
    return np.rot90(image, -rotation // 90)


@pytest.mark.parametrize('rotation', ROTATIONS)
@pytest.mark.parametrize('orientation', range(1, 9))
def test_turns_are_joined(orientation, rotation):
    image = scene(7, 5)
    turn = Turn.of(orientation, rotation)
    upright = turn.apply(image)
    assert np.array_equal(upright, turned(Turn.of(orientation).apply(image), rotation))
    assert np.array_equal(turn.undo(upright), image)
    assert not np.shares_memory(upright, image)


@pytest.mark.parametrize('rotation', ROTATIONS)
@pytest.mark.parametrize('orientation', range(1, 9))
def test_rectangles_are_turned_back(orientation, rotation):
    turn = Turn.of(orientation, rotation)
    stored = np.zeros((30, 50, 3), np.uint8)
    stored[4:9, 11:31] = 7
    upright = turn.apply(stored)
    y, x = np.nonzero(upright[..., 0])
    rect = np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]])
    size_wh = upright.shape[1::-1]
    assert turn.stored(rect, size_wh).tolist() == [[11, 4, 31, 9]]
    assert turn.stored(NO_RECTS, size_wh).shape == (0, 4)


@pytest.mark.parametrize('rotation', ROTATIONS)
@pytest.mark.parametrize('encoding', ENCODINGS)
def test_a_camera_that_hangs_turned(encoding, rotation):
    msg = noise_message(encoding, 20, 12)
    plain, frame = decode(msg), decode(msg, rotation=rotation)
    assert np.array_equal(frame.image_bgr, turned(plain.image_bgr, rotation))
    assert frame.encode(NO_RECTS) is msg.data
    assert frame.bleed_px == plain.bleed_px
    across, down = plain.align_wh_px
    assert frame.align_wh_px == ((down, across) if rotation % 180 else (across, down))
    height, width = frame.image_bgr.shape[:2]
    frame.image_bgr[0:4, 2:8] = 90
    plain.image_bgr[:] = turned(frame.image_bgr, -rotation)
    rect = np.array([[2, 0, 8, 4]], np.int32)
    shown = np.zeros((height, width), np.uint8)
    shown[0:4, 2:8] = 1
    y, x = np.nonzero(turned(shown, -rotation))
    stored = np.array([[x.min(), y.min(), x.max() + 1, y.max() + 1]], np.int32)
    assert frame.encode(rect) == plain.encode(stored)


def test_a_picture_that_is_turned_twice_is_upright():
    upright = scene()
    stored = Turn.of(1, 180).undo(upright)
    frame = decode(compressed_message('.png', stored), rotation=180)
    assert np.array_equal(frame.image_bgr, upright)


def test_16_bits_without_a_rect_do_not_depend_on_it():
    outputs = []
    for inside in (5, 60000):
        samples = np.full((64, 48), 900, '<u2')
        samples[8:40, 8:40] = inside
        frame = decode(raw_message('mono16', 48, 64, data=samples.tobytes()), rotation=90)
        image = frame.image_bgr
        rect = Turn.of(8).stored(np.array([[8, 8, 40, 40]]), (48, 64))
        frame.without(rect)
        assert frame.image_bgr is image
        (x0, y0, x1, y1) = rect[0].tolist()
        image[y0:y1, x0:x1] = image[0, 0]
        outputs.append(bytes(frame.encode(rect)))
    assert outputs[0] == outputs[1]


@pytest.mark.parametrize(
    ('texts', 'stream', 'expected'),
    [
        ([], '/cam', 0),
        (['/cam 180'], '/cam', 180),
        (['/cam 180'], '/cam2', 0),
        (['/cam* 90', '* 270'], '/cam2', 90),
        (['/cam* 90', '* 270'], '/other', 270),
        (['/a 0', '* 90'], '/a', 0),
        (['with space.jpg 180'], 'with space.jpg', 180),
    ],
)
def test_rotation_of(texts, stream, expected):
    assert rotation_of(texts, stream) == expected


@pytest.mark.parametrize('text', ['', '/cam', '180', '/cam 45', '/cam -90', '/cam 180 1', ' 90'])
def test_a_rotation_that_cannot_be_read(text):
    with pytest.raises(SettingsError, match=r'rotation: got .*, expected `<topic or glob> 0\|90'):
        rotation_of([text], '/cam')


def test_rotations_that_turn_nothing():
    texts = ['/a 90', '/b* 180', '/c 0']
    assert idle_rotations(texts, ['/b1', '/x']) == ['/a 90', '/c 0']
    assert idle_rotations([], ['/a']) == []
    with pytest.raises(SettingsError, match='rotation: got'):
        idle_rotations(['/a'], ['/a'])


def test_depth_by_name_needs_the_topic():
    msg = SimpleNamespace(**vars(noise_message('mono16', 8, 8)))
    assert decode(msg, topic='/ir/image_raw').image_bgr.shape == (8, 8, 3)
