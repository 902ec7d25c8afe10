import struct
from types import SimpleNamespace

import cv2
from ffs_anonymizer.clouds import rvl
from ffs_anonymizer.clouds.depth import Depth, GEOMETRIES, scaled
from ffs_anonymizer.errors import ImageError
import numpy as np
import pytest
from support.messages import NO_RECTS, with_data

RECT = (30, 20, 60, 50)
RECTS = np.array([RECT], np.int32)
INSIDE = (slice(20, 50), slice(30, 60))
QUANTIZATION = (100.0, 2.0)
NONE = np.nan


def wall(seed=0):
    """Return a slanted wall in m, with holes."""
    v, u = np.mgrid[:64, :96]
    noise = 0.004 * np.random.default_rng(seed).standard_normal((64, 96))
    depth = 1 / (0.5 + 0.001 * u + 0.002 * v) + noise
    depth[5, 6] = NONE
    depth[18:20, 40:45] = NONE
    return depth


def raw(depth, encoding, *, bigendian=False, padding=0):
    order = '>' if bigendian else '<'
    if encoding == '32FC1':
        samples = depth.astype(f'{order}f4')
    else:
        samples = np.nan_to_num(depth * 1000).round().clip(0, 65535).astype(f'{order}u2')
    rows = samples.view(np.uint8).reshape(len(depth), -1)
    rows = np.pad(rows, ((0, 0), (0, padding)), constant_values=0xA5)
    return SimpleNamespace(
        height=depth.shape[0],
        width=depth.shape[1],
        encoding=encoding,
        is_bigendian=bigendian,
        step=rows.shape[1],
        data=rows.tobytes(),
    )


def compressed(depth, name):
    """Return depth as compressed_depth_image_transport and compressed_image_transport write it."""
    a, b = QUANTIZATION
    if name.startswith('32FC1'):
        samples = np.nan_to_num(a / depth + b).round()
    else:
        samples = np.nan_to_num(depth * 1000).round()
    samples = samples.clip(0, 65535).astype(np.uint16)
    if name.endswith('rvl'):
        code = struct.pack('<II', *samples.shape[::-1]) + rvl.encode(samples)
        return SimpleNamespace(format=name, data=struct.pack('<iff', 0, a, b) + code)
    png = cv2.imencode('.png', samples)[1].tobytes()
    header = struct.pack('<iff', 0, a, b) if 'compressedDepth' in name else b''
    return SimpleNamespace(format=name, data=header + png)


def depth_of(msg):
    """Return depth in m, as a reader of the message gets it."""
    if hasattr(msg, 'encoding'):
        kind = {'32FC1': 'f4'}.get(msg.encoding, 'u2')
        order = '>' if msg.is_bigendian else '<'
        size = int(kind[1])
        strides = (msg.step, size)
        samples = np.ndarray((msg.height, msg.width), order + kind, msg.data, strides=strides)
        samples = samples.astype(float)
        return samples if kind == 'f4' else np.where(samples, samples / 1000, NONE)
    if msg.format.endswith('rvl'):
        width, height = struct.unpack_from('<II', msg.data, 12)
        samples = rvl.decode(msg.data[20:], width * height).reshape(height, width).astype(float)
    else:
        start = 12 if 'compressedDepth' in msg.format else 0
        png = cv2.imdecode(np.frombuffer(msg.data, np.uint8)[start:], cv2.IMREAD_UNCHANGED)
        samples = png.astype(float)
    samples[samples == 0] = NONE
    if not msg.format.startswith('32FC1'):
        return samples / 1000
    _, a, b = struct.unpack_from('<iff', msg.data)
    return a / (samples - b)


FORMS = {
    '16UC1': lambda depth: raw(depth, '16UC1'),
    '16UC1 big endian': lambda depth: raw(depth, '16UC1', bigendian=True),
    '16UC1 padded': lambda depth: raw(depth, '16UC1', padding=7),
    'mono16': lambda depth: raw(depth, 'mono16'),
    '32FC1': lambda depth: raw(depth, '32FC1'),
    '32FC1 big endian': lambda depth: raw(depth, '32FC1', bigendian=True, padding=3),
    '16UC1; compressedDepth': lambda depth: compressed(depth, '16UC1; compressedDepth'),
    '16UC1; compressedDepth png': lambda depth: compressed(depth, '16UC1; compressedDepth png'),
    '32FC1; compressedDepth png': lambda depth: compressed(depth, '32FC1; compressedDepth png'),
    '16UC1; compressedDepth rvl': lambda depth: compressed(depth, '16UC1; compressedDepth rvl'),
    '32FC1; compressedDepth rvl': lambda depth: compressed(depth, '32FC1; compressedDepth rvl'),
    '16UC1; png compressed': lambda depth: compressed(depth, '16UC1; png compressed'),
}
EVERY_FORM = pytest.mark.parametrize('form', FORMS.values(), ids=FORMS)
EVERY_GEOMETRY = pytest.mark.parametrize('geometry', GEOMETRIES)


def covered(msg, geometry='flatten', rects=RECTS):
    return with_data(msg, bytes(Depth(msg).cover(rects, geometry)))


@EVERY_FORM
@EVERY_GEOMETRY
def test_outside_the_region_all_is_the_same(form, geometry):
    msg = form(wall())
    before, after = depth_of(msg), depth_of(covered(msg, geometry))
    same = (before == after) | (np.isnan(before) & np.isnan(after))
    assert not same[INSIDE].all()
    same[INSIDE] = True
    assert same.all()


@EVERY_FORM
@EVERY_GEOMETRY
def test_no_bit_of_what_is_inside_comes_out(form, geometry):
    one, other = wall(), wall()
    other[INSIDE] = np.random.default_rng(5).uniform(0.3, 9, other[INSIDE].shape)
    other[25:30, 35:40] = NONE
    assert covered(form(one), geometry).data == covered(form(other), geometry).data


@EVERY_FORM
def test_a_shape_becomes_the_wall_behind_it(form):
    depth = wall()
    depth[INSIDE] = 0.9
    flat = depth_of(covered(form(depth)))
    assert np.isfinite(flat[INSIDE]).all()
    behind = 1 / (0.5 + 0.001 * np.mgrid[:64, :96][1] + 0.002 * np.mgrid[:64, :96][0])
    assert np.abs(flat - behind)[INSIDE].max() < 0.1
    assert np.abs(flat - behind)[INSIDE].mean() < 0.02


@pytest.mark.parametrize('name', ['16UC1', '32FC1'])
def test_the_noise_is_as_large_as_around(name):
    flat = depth_of(covered(FORMS[name](wall())))
    inside = np.diff(flat[20:50, 30:60], 2, axis=1).std()
    assert inside == pytest.approx(np.diff(flat[52:], 2, axis=1).std(), rel=0.3)


@EVERY_FORM
def test_dropped_depth_is_no_measurement(form):
    assert np.isnan(depth_of(covered(form(wall()), 'drop'))[INSIDE]).all()


@EVERY_FORM
def test_a_region_in_the_middle_of_nothing_is_dropped(form):
    depth = np.full((64, 96), NONE)
    depth[INSIDE] = 1
    assert np.isnan(depth_of(covered(form(depth)))).all()


def test_regions_do_not_look_into_each_other():
    rects = np.array([[30, 20, 60, 50], [58, 40, 80, 60], [-9, -9, 8, 8], [90, 9, 300, 20]])
    one, other = wall(), wall()
    for x0, y0, x1, y1 in np.maximum(rects, 0).tolist():
        other[y0:y1, x0:x1] = 0.5
    first = covered(raw(one, '16UC1'), rects=rects)
    assert first.data == covered(raw(other, '16UC1'), rects=rects).data


@EVERY_FORM
def test_without_regions_the_data_is_the_source(form):
    msg = form(wall())
    data = covered(msg, rects=NO_RECTS).data
    if getattr(msg, 'step', 0) in (0, 192, 384):
        assert data == msg.data
    else:
        padding = np.frombuffer(data, np.uint8).reshape(64, -1)[:, msg.width * (msg.step // 96) :]
        assert (padding == 0).all()


def test_nothing_hides_behind_the_picture():
    msg = compressed(wall(), '16UC1; compressedDepth png')
    clean = covered(msg, rects=NO_RECTS)
    hidden = with_data(msg, msg.data + b'a face')
    assert b'a face' not in covered(hidden, rects=NO_RECTS).data
    text = b'\0\0\0\x06tEXta face\0\0\0\0'
    hidden = with_data(msg, msg.data[: 12 + 33] + text + msg.data[12 + 33 :])
    assert b'a face' not in covered(hidden, rects=NO_RECTS).data
    assert clean.data == msg.data


def test_extreme_numbers_do_no_harm():
    depth = wall()
    depth[:15] = 1e-37
    depth[55:] = 1e38
    depth[20:50, :30] = np.inf
    depth[20:50, 60:] = -1.0
    msg = raw(depth, '32FC1')
    with np.errstate(all='raise'):
        out = covered(msg)
    flat = depth_of(out)[INSIDE]
    assert (flat > 0).all()


@EVERY_FORM
@EVERY_GEOMETRY
def test_what_is_left_of_a_shape(form, geometry):
    depth = wall()
    v, u = np.mgrid[:64, :96]
    radius2 = ((u - 45) / 14) ** 2 + ((v - 35) / 14) ** 2
    depth[radius2 < 1] = 0.9 - 0.1 * np.sqrt(1 - radius2[radius2 < 1])
    msg = form(depth)
    before, after = Depth(msg), Depth(covered(msg, geometry))
    rect = np.array([33, 23, 57, 47])
    assert before.left_in(before, rect) == 1
    assert before.left_in(after, rect) < 0.1
    # Half of it was left.
    half = np.array([[30, 20, 60, 35]], np.int32)
    assert 0.4 < before.left_in(Depth(covered(msg, geometry, half)), rect) < 0.6
    # There is no shape in a wall, nor outside of the picture.
    flat = Depth(form(wall()))
    assert flat.left_in(flat, rect) == 0
    assert before.left_in(before, rect + 100) == 0
    with pytest.raises(ImageError, match=r'got depth of \(95, 64\) pixels'):
        before.left_in(Depth(form(wall()[:, 1:])), rect)


def changed(msg, **fields):
    return SimpleNamespace(**{**vars(msg), **fields})


@pytest.mark.parametrize(
    ('msg', 'text'),
    [
        (changed(raw(wall(), '16UC1'), encoding='rgb8'), "'rgb8': expected one of 16UC1"),
        (changed(raw(wall(), '16UC1'), step=191), 'step of 191 bytes, expected 192'),
        (changed(raw(wall(), '16UC1'), height=65), 'got 12288 bytes of data, expected 12480'),
        (changed(raw(wall(), '16UC1'), width=0), 'without pixels'),
        (changed(raw(wall(), '32FC1'), data=b''), 'got 0 bytes'),
        (SimpleNamespace(format='16UC1; compressedDepth rvl', data=bytes(19)), 'cut off'),
        (
            SimpleNamespace(format='16UC1; compressedDepth rvl', data=bytes(99)),
            'RVL of 0x0 pixels',
        ),
        (SimpleNamespace(format='16UC1; compressedDepth lz4', data=bytes(99)), 'PNG or RVL of'),
        (SimpleNamespace(format='16UC1; compressedDepth png', data=b''), 'begins with nothing'),
        (SimpleNamespace(format='16UC1; compressedDepth png', data=b'\0' * 12), 'nothing'),
        (changed(compressed(wall(), '16UC1; png compressed'), format='32FC1; png'), 'no PNG can'),
    ],
)
def test_what_is_no_depth_image(msg, text):
    with pytest.raises(ImageError, match=text):
        Depth(msg)


def test_nothing_hides_in_rvl():
    msg = compressed(wall(), '16UC1; compressedDepth rvl')
    assert covered(msg, rects=NO_RECTS).data == msg.data
    assert covered(with_data(msg, msg.data + b'a face..'), rects=NO_RECTS).data == msg.data


def test_damaged_rvl_and_one_too_large():
    msg = compressed(wall(), '16UC1; compressedDepth rvl')
    with pytest.raises(ImageError, match='cut off'):
        Depth(with_data(msg, msg.data[:-4]))
    bomb = msg.data[:12] + struct.pack('<II', 1 << 20, 1 << 20) + msg.data[20:]
    with pytest.raises(ImageError, match='RVL of 1048576x1048576 pixels'):
        Depth(with_data(msg, bomb))
    smaller = msg.data[:12] + struct.pack('<II', 96, 63) + msg.data[20:]
    with pytest.raises(ImageError, match='expected 6048; it is damaged'):
        Depth(with_data(msg, smaller))


def test_a_damaged_png_and_one_too_large():
    msg = compressed(wall(), '16UC1; compressedDepth png')
    with pytest.raises(ImageError, match='OpenCV'):
        Depth(with_data(msg, msg.data[:80]))
    bomb = msg.data[:28] + struct.pack('>II', 1 << 20, 1 << 20) + msg.data[36:]
    with pytest.raises(ImageError, match='1048576x1048576 pixels'):
        Depth(with_data(msg, bomb))
    colour = cv2.imencode('.png', np.zeros((64, 96, 3), np.uint8))[1].tobytes()
    with pytest.raises(ImageError, match='expected one channel of 16 bits'):
        Depth(with_data(msg, msg.data[:12] + colour))


@pytest.mark.parametrize(
    ('to_wh', 'expected'),
    [((640, 480), [[10, 20, 31, 41]]), ((320, 240), [[5, 10, 16, 21]])],
)
def test_scaled(to_wh, expected):
    rects = np.array([[10, 20, 31, 41]], np.int32)
    assert scaled(rects, (640, 480), to_wh).tolist() == expected
    assert scaled(NO_RECTS, (640, 480), to_wh).shape == (0, 4)


def test_scaled_refuses_another_view():
    with pytest.raises(ImageError, match='640x360 pixels beside a picture of 640x480'):
        scaled(RECTS, (640, 480), (640, 360))
