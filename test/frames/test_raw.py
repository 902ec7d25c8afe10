from array import array

from ffs_anonymizer.errors import ImageError
from ffs_anonymizer.frames.raw import black_image, decode_image, ENCODINGS, is_depth
import numpy as np
import pytest
from support.messages import (
    bytes_of_rect,
    NO_RECTS,
    noise_message,
    PACKED_BYTES,
    padding_bytes,
    raw_message,
    with_data,
)

LAYOUTS = [(encoding, endian) for encoding in ENCODINGS for endian in (0, 1)]
LAYOUTS = [(e, endian) for e, endian in LAYOUTS if endian == 0 or e.endswith('16')]
GREY = ('mono8', 'mono16', '8UC1')
YUV = ('yuv422', 'uyvy', 'yuv422_yuy2', 'yuyv', 'nv12', 'nv21', 'nv24', 'i420', 'yv12')
# The largest error of a colour after the way there and back: rounding of BT.601 to bytes.
TOLERANCE = dict.fromkeys(YUV, 2)
RECTS = {
    'inside': (4, 4, 12, 10),
    'left': (0, 2, 8, 10),
    'top': (4, 0, 12, 6),
    'right': (10, 2, 18, 8),
    'bottom': (2, 6, 10, 14),
    'corner': (10, 8, 18, 14),
    'all': (0, 0, 18, 14),
}
ODD = (17, 13)
EVEN = (18, 14)


def paint(frame, rect, colour):
    x0, y0, x1, y1 = rect
    frame.image_bgr[y0:y1, x0:x1] = colour
    return frame.encode(np.array([rect], np.int32))


def with_opaque_alpha(msg):
    """Return the message with an alpha that is no picture."""
    if 'a' not in msg.encoding.replace('bayer', '') and msg.encoding != '8UC4':
        return msg
    samples = np.frombuffer(msg.data, np.uint8).reshape(msg.height, msg.step).copy()
    size = 2 if msg.encoding.endswith('16') else 1
    pixels = samples[:, : msg.width * 4 * size].reshape(msg.height, msg.width, 4 * size)
    pixels[:, :, 3 * size :] = 255
    samples[:, : msg.width * 4 * size] = pixels.reshape(msg.height, -1)
    return with_data(msg, samples.tobytes())


def shown_part(encoding, rect, size_wh):
    """Return the part of a written rectangle that decodes from written samples alone."""
    margin = 1 if 'bayer' in encoding else 0
    x0, y0, x1, y1 = rect
    x0, y0 = x0 + margin * (x0 > 0), y0 + margin * (y0 > 0)
    return slice(y0, y1 - margin * (y1 < size_wh[1])), slice(x0, x1 - margin * (x1 < size_wh[0]))


@pytest.mark.parametrize('size_wh', [EVEN, ODD])
@pytest.mark.parametrize('padding', [0, 8])
@pytest.mark.parametrize(('encoding', 'bigendian'), LAYOUTS)
def test_only_touched_samples_change(encoding, bigendian, padding, size_wh):
    colour = (90, 90, 90) if encoding in GREY else (40, 200, 120)
    for seed, rect in enumerate(RECTS.values()):
        rect = (*rect[:2], min(rect[2], size_wh[0]), min(rect[3], size_wh[1]))
        msg = noise_message(encoding, *size_wh, padding=padding, bigendian=bigendian, seed=seed)
        msg = with_opaque_alpha(msg)
        before = bytes(msg.data)
        out = np.frombuffer(paint(decode_image(msg), rect, colour), np.uint8)
        assert msg.data == before
        same = np.ones(len(out), bool)
        same[bytes_of_rect(msg, rect)] = False
        same[padding_bytes(msg)] = False
        assert not out[padding_bytes(msg)].any()
        assert (out == np.frombuffer(before, np.uint8))[same].all()
        if encoding.endswith('16') and rect[2:] == size_wh and rect[:2] == (0, 0):
            continue  # nothing is left to choose the same brightness from
        shown = decode_image(with_data(msg, out.tobytes())).image_bgr.astype(int)
        error = np.abs(shown - colour)[shown_part(encoding, rect, size_wh)]
        assert error.max() <= TOLERANCE.get(encoding, 0)


@pytest.mark.parametrize(('encoding', 'bigendian'), LAYOUTS)
def test_a_frame_that_nothing_touched_is_its_source(encoding, bigendian):
    msg = with_opaque_alpha(noise_message(encoding, *ODD, bigendian=bigendian))
    data = bytearray(msg.data)
    for i in padding_bytes(msg):
        data[i] = 0
    msg = with_data(msg, bytes(data))
    assert decode_image(msg).encode(NO_RECTS) is msg.data


@pytest.mark.parametrize(('encoding', 'bigendian'), LAYOUTS)
def test_row_padding_does_not_pass(encoding, bigendian):
    msg = with_opaque_alpha(noise_message(encoding, *ODD, padding=8, bigendian=bigendian))
    padding = np.zeros(len(msg.data), bool)
    padding[padding_bytes(msg)] = True
    out = np.frombuffer(decode_image(msg).encode(NO_RECTS), np.uint8)
    assert padding.sum() >= 8 * ODD[1]
    assert not out[padding].any()
    assert (out == np.frombuffer(msg.data, np.uint8))[~padding].all()


@pytest.mark.parametrize('rects', ['none', 'inside'])
@pytest.mark.parametrize(('encoding', 'bigendian'), LAYOUTS)
def test_in_place_the_same_comes_out_in_the_bytes_that_came_in(encoding, bigendian, rects):
    msg = noise_message(encoding, *ODD, padding=8, bigendian=bigendian)
    rects = NO_RECTS if rects == 'none' else np.array([RECTS[rects]], np.int32)
    outs = []
    own = array('B', msg.data)
    for data, in_place in ((own, True), (msg.data, True), (array('B', msg.data), False)):
        frame = decode_image(with_data(msg, data), in_place=in_place)
        for x0, y0, x1, y1 in rects:
            frame.image_bgr[y0:y1, x0:x1] = (90, 90, 90)
        outs.append(frame.encode(rects))
        assert np.shares_memory(np.frombuffer(outs[-1], np.uint8), data) == (data is own)
    assert outs[0] == outs[1] == outs[2] == own != msg.data


@pytest.mark.parametrize('size_wh', [(1, 1), (2, 2), (3, 1), (1, 4), (5, 3)])
@pytest.mark.parametrize('encoding', ENCODINGS)
def test_smallest_sizes(encoding, size_wh):
    msg = with_opaque_alpha(noise_message(encoding, *size_wh))
    frame = decode_image(msg)
    assert frame.image_bgr.shape == (size_wh[1], size_wh[0], 3)
    out = paint(frame, (0, 0, *size_wh), (0, 0, 0))
    written = set(bytes_of_rect(msg, (0, 0, *size_wh)))
    black = black_image(msg)
    kept = set(range(len(out))) - written - {*padding_bytes(msg)}
    assert all(out[i] == black[i] for i in written)
    assert all(out[i] == msg.data[i] for i in kept)


def test_rects_are_cut_at_the_frame():
    msg = noise_message('rgb8', 4, 3)
    frame = decode_image(msg)
    frame.image_bgr[:] = 7
    assert frame.encode(np.array([[-5, -5, 99, 99], [4, 3, 9, 9]], np.int32)) == b'\7' * 36
    assert frame.encode(np.array([[4, 0, 9, 3], [2, 2, 2, 2]], np.int32)) is msg.data


def test_bgr8_is_edited_in_the_bytes_that_are_returned():
    msg = noise_message('bgr8', 16, 9, padding=5)
    frame = decode_image(msg)
    out = paint(frame, (0, 0, 4, 4), (1, 2, 3))
    assert isinstance(out, bytearray)
    assert np.shares_memory(np.frombuffer(out, np.uint8), frame.image_bgr)


@pytest.mark.parametrize(
    ('encoding', 'data', 'expected_bgr'),
    [
        ('bgr8', [1, 2, 3], (1, 2, 3)),
        ('8UC3', [1, 2, 3], (1, 2, 3)),
        ('rgb8', [1, 2, 3], (3, 2, 1)),
        ('bgra8', [1, 2, 3, 4], (1, 2, 3)),
        ('8UC4', [1, 2, 3, 4], (1, 2, 3)),
        ('rgba8', [1, 2, 3, 4], (3, 2, 1)),
        ('mono8', [9], (9, 9, 9)),
        ('8UC1', [9], (9, 9, 9)),
        ('yuv422', [90, 82, 240, 82], (0, 0, 255)),
        ('uyvy', [90, 82, 240, 82], (0, 0, 255)),
        ('yuv422_yuy2', [82, 90, 82, 240], (0, 0, 255)),
        ('yuyv', [82, 90, 82, 240], (0, 0, 255)),
        ('nv12', [82, 82, 90, 240], (0, 0, 255)),
        ('nv21', [82, 82, 240, 90], (0, 0, 255)),
        ('nv24', [82, 90, 240], (0, 0, 255)),
        ('nv24', [16, 128, 128], (0, 0, 0)),
        ('nv24', [235, 128, 128], (255, 255, 255)),
    ],
)
def test_one_pixel(encoding, data, expected_bgr):
    msg = raw_message(encoding, 1, 1, data=bytes(data))
    shown = decode_image(msg).image_bgr[0, 0].astype(int)
    assert np.abs(shown - expected_bgr).max() <= TOLERANCE.get(encoding, 0)


@pytest.mark.parametrize('name', ['rggb', 'bggr', 'gbrg', 'grbg'])
def test_bayer_letters_name_the_first_two_rows(name):
    value = {'r': 200, 'g': 100, 'b': 50}
    tile = np.array([[value[name[0]], value[name[1]]], [value[name[2]], value[name[3]]]], np.uint8)
    msg = raw_message(f'bayer_{name}8', 12, 8, data=np.tile(tile, (4, 6)).tobytes())
    assert (decode_image(msg).image_bgr == (50, 100, 200)).all()


def test_nv24_is_converted_as_nv12_is():
    rng = np.random.default_rng(0)
    luma = rng.integers(0, 256, (6, 8), np.uint8)
    chroma = rng.integers(0, 256, (3, 4, 2), np.uint8)
    full = chroma.repeat(2, axis=0).repeat(2, axis=1)
    half = raw_message('nv12', 8, 6, data=luma.tobytes() + chroma.tobytes())
    whole = raw_message('nv24', 8, 6, data=luma.tobytes() + full.tobytes())
    assert (decode_image(half).image_bgr == decode_image(whole).image_bgr).all()


@pytest.mark.parametrize(('encoding', 'step'), [('nv12', 12), ('nv21', 12), ('nv24', 24)])
def test_planes_spread_over_the_rows(encoding, step):
    msg = noise_message(encoding, 8, 6)
    spread = with_data(msg, msg.data)
    spread.step = step
    frame, expected = decode_image(spread), decode_image(msg)
    assert (frame.image_bgr == expected.image_bgr).all()
    rect = (2, 2, 6, 4)
    assert paint(frame, rect, (9, 9, 9)) == paint(expected, rect, (9, 9, 9))


@pytest.mark.parametrize('bigendian', [0, 1])
@pytest.mark.parametrize(('bits', 'shift'), [(8, 0), (10, 2), (12, 4), (16, 8)])
def test_mono16_is_brightened_to_its_significant_bits(bits, shift, bigendian):
    samples = np.linspace(0, 2**bits - 1, 60 * 40).astype('>u2' if bigendian else '<u2')
    msg = raw_message('mono16', 60, 40, bigendian=bigendian, data=samples.tobytes())
    shown = decode_image(msg).image_bgr
    expected = samples.astype(float).reshape(40, 60, 1) / 2**shift
    assert np.abs(shown - np.minimum(expected, 255)).max() <= 0.5


def test_one_hot_pixel_does_not_darken_mono16():
    samples = np.full((64, 64), 4000, '<u2')
    samples[0, 0] = 65535
    msg = raw_message('mono16', 64, 64, data=samples.tobytes())
    shown = decode_image(msg).image_bgr
    assert shown[0, 0].tolist() == [255] * 3
    assert shown[1, 1].tolist() == [250] * 3


def test_mono16_without_a_rect_does_not_depend_on_it():
    rect = np.array([[8, 8, 56, 56]], np.int32)
    outputs = []
    for inside in (5, 700, 4095, 65535):
        samples = np.full((64, 64), 900, '<u2')
        samples[8:56, 8:56] = inside
        frame = decode_image(raw_message('mono16', 64, 64, data=samples.tobytes()))
        image = frame.image_bgr
        frame.without(rect)
        assert frame.image_bgr is image
        image[8:56, 8:56] = image[0, 0]
        outputs.append(bytes(frame.encode(rect)))
    assert len(set(outputs)) == 1


def test_mono16_without_all_of_it_is_not_looked_at():
    rect = np.array([[0, 0, 8, 8]], np.int32)
    outputs = []
    for inside in (0, 80, 65535):
        data = np.full((8, 8), inside, '<u2').tobytes()
        frame = decode_image(raw_message('mono16', 8, 8, data=data))
        frame.without(rect)
        frame.image_bgr[:] = 3
        outputs.append(bytes(frame.encode(rect)))
    assert outputs == [np.full((8, 8), 3 << 8, '<u2').tobytes()] * 3


@pytest.mark.parametrize('encoding', ['bgra8', 'rgba8', '8UC4'])
def test_alpha_is_kept_outside_and_opaque_where_written(encoding):
    pixels = np.frombuffer(noise_message(encoding, 6, 5).data, np.uint8).reshape(5, 6, 4).copy()
    pixels[..., 3] = np.where(pixels[..., 0] > 99, 255, 0)
    msg = raw_message(encoding, 6, 5, data=pixels.tobytes())
    rect = (1, 2, 4, 5)
    out = np.frombuffer(paint(decode_image(msg), rect, (1, 2, 3)), np.uint8).reshape(5, 6, 4)
    expected = pixels[..., 3].copy()
    expected[2:5, 1:4] = 255
    assert (out[..., 3] == expected).all()
    assert decode_image(msg).encode(NO_RECTS) is msg.data


@pytest.mark.parametrize('encoding', ['bgra8', 'rgba8', '8UC4', 'rgba16'])
def test_an_alpha_that_may_be_a_picture_does_not_pass(encoding):
    msg = noise_message(encoding, 16, 9)
    size = 2 if encoding.endswith('16') else 1
    before = np.frombuffer(msg.data, f'u{size}').reshape(9, 16, 4)
    for out in (
        decode_image(msg).encode(NO_RECTS),
        paint(decode_image(msg), (0, 0, 2, 2), (1, 2, 3)),
    ):
        after = np.frombuffer(out, f'u{size}').reshape(9, 16, 4)
        assert (after[..., 3] == 2 ** (8 * size) - 1).all()
        assert (after[2:, 2:, :3] == before[2:, 2:, :3]).all()


@pytest.mark.parametrize(
    'as_type',
    [bytes, bytearray, memoryview, lambda b: array('B', b), lambda b: np.array(bytearray(b))],
)
def test_data_may_be_any_bytes(as_type):
    msg = noise_message('yuv422', 8, 4)
    other = with_data(msg, as_type(msg.data))
    frame = decode_image(other)
    assert (frame.image_bgr == decode_image(msg).image_bgr).all()
    assert bytes(frame.encode(NO_RECTS)) == msg.data
    assert isinstance(frame.encode(NO_RECTS), (bytes, bytearray, memoryview))


@pytest.mark.parametrize(
    ('changes', 'message'),
    [
        ({'data': bytes(71)}, '71 bytes of data, expected 72; the message is cut off'),
        ({'data': bytes(73)}, '73 bytes of data, expected 72'),
        ({'data': b''}, '0 bytes of data, expected 72'),
        ({'data': [0] * 72}, 'data of type list, expected contiguous bytes'),
        ({'width': 0}, '0x4 pixels.*an image without pixels'),
        ({'height': 0, 'data': b''}, '6x0 pixels.*an image without pixels'),
        ({'step': 17}, 'got a step of 17 bytes, expected 18 or more'),
        ({'step': 0}, 'got a step of 0 bytes, expected 18 or more'),
        ({'encoding': 'rgb32'}, "'rgb32', expected one of bgr8, rgb8, .*nv24"),
        ({'encoding': ''}, "'', expected one of bgr8"),
        ({'encoding': 'nv12', 'step': 6}, '72 bytes of data, expected 36'),
        ({'encoding': 'nv12', 'step': 18}, '72 bytes of data, expected 108'),
        ({'encoding': 'yuyv', 'width': 5, 'step': 10}, 'step of 10 bytes, expected 12 or more'),
        ({'encoding': 'nv21', 'width': 5, 'step': 5}, 'step of 5 bytes, expected 6 or more'),
        ({'encoding': 'mono16', 'step': 11}, 'step of 11 bytes, expected 12 or more'),
        ({'encoding': '16UC1'}, "'16UC1', expected a picture.*`copy_topics`"),
        ({'encoding': '32FC1'}, "'32FC1', expected a picture.*`copy_topics`"),
    ],
)
def test_what_is_refused(changes, message):
    msg = raw_message('bgr8', 6, 4)
    for name, value in changes.items():
        setattr(msg, name, value)
    with pytest.raises(ImageError, match=message):
        decode_image(msg)


@pytest.mark.parametrize('size_wh', [EVEN, ODD])
@pytest.mark.parametrize('padding', [0, 8])
@pytest.mark.parametrize(('encoding', 'bigendian'), LAYOUTS)
def test_black_decodes_to_black(encoding, bigendian, padding, size_wh):
    msg = noise_message(encoding, *size_wh, padding=padding, bigendian=bigendian)
    black = black_image(with_data(msg, b'cut off'))
    assert len(black) == len(msg.data)
    assert not decode_image(with_data(msg, black)).image_bgr.any()


def test_black_is_opaque_and_has_no_old_padding():
    assert black_image(raw_message('rgba8', 1, 2, padding=2)) == b'\0\0\0\xff\0\0' * 2


@pytest.mark.parametrize(
    ('name', 'expected'),
    [
        ('16UC1', True),
        ('16SC1', True),
        ('32FC1', True),
        ('64FC1', True),
        ('32FC', True),
        ('16UC1; compressedDepth', True),
        ('32FC1; compressedDepth png', True),
        ('16UC1; png compressed ', True),
        ('compressedDepth', True),
        ('8UC1', False),
        ('16UC3', False),
        ('mono16', False),
        ('mono16; png compressed', False),
        ('rgb8; jpeg compressed bgr8', False),
        ('jpeg', False),
        ('', False),
    ],
)
def test_is_depth(name, expected):
    assert is_depth(name) is expected


@pytest.mark.parametrize(
    ('topic', 'expected'),
    [
        ('/camera/depth/image_raw', True),
        ('/camera/aligned_depth_to_color/image_raw', True),
        ('/stereo/disparity', True),
        ('/depth', True),
        ('/camera/infra1/image_raw', False),
        ('/in_depth_view', True),
        ('/depthai/left/image_raw', False),
        ('', False),
    ],
)
def test_grey_of_16_bits_on_a_topic_of_depth(topic, expected):
    assert is_depth('mono16', topic) is expected
    assert is_depth('mono16; png compressed ', topic) is expected
    assert not is_depth('rgb8', topic)
    msg = noise_message('mono16', 8, 6)
    if expected:
        with pytest.raises(ImageError, match=f'16-bit grey on {topic}, expected a picture'):
            decode_image(msg, topic=topic)
    else:
        decode_image(msg, topic=topic)


def distances(nearest=400, has_holes=True, scale=1):
    """Return what a sensor of distances measures: smooth surfaces, edges, and holes in them."""
    y, x = np.mgrid[:120, :160]
    samples = nearest + 3000 - 9 * y + 4 * x
    samples[30:90, 50:90] = nearest + (y + x)[30:90, 50:90] // 7
    if has_holes:
        samples[30:90, 45:50] = 0
        samples[100:104, 20:60] = 0
    return (samples * scale).astype(np.uint16)


@pytest.mark.parametrize('bigendian', [0, 1])
@pytest.mark.parametrize('samples', [distances(), distances(1200), distances(300, scale=4)])
def test_distances_are_known_by_their_samples(samples, bigendian):
    data = samples.astype('>u2' if bigendian else '<u2').tobytes()
    msg = raw_message('mono16', 160, 120, data=data, bigendian=bigendian)
    with pytest.raises(ImageError, match='whose samples are distances, .*`copy_topics`'):
        decode_image(msg)


def pictures():
    """Yield grey pictures of 16 bits."""
    rng = np.random.default_rng(0)
    y, x = np.mgrid[:120, :160]
    eight = (np.sin(x / 9) * np.cos(y / 7) * 140 + 90).clip(0, 255).astype(np.uint16)
    yield eight << 8
    yield eight * 257
    yield eight << 4
    fisheye = 4000 + 900 * np.sin(x / 9) + rng.normal(0, 30, x.shape)
    yield np.where(np.hypot(x - 80, y - 60) < 55, fisheye, 0).astype(np.uint16)
    yield np.abs(rng.normal(0, 400, x.shape)).astype(np.uint16)
    yield distances(has_holes=False)
    yield np.zeros_like(eight)
    yield np.where(x > 80, 65535, 0).astype(np.uint16)


@pytest.mark.parametrize('samples', [*pictures()])
def test_pictures_are_not_taken_for_distances(samples):
    decode_image(raw_message('mono16', 160, 120, data=samples.tobytes()))


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_real_message(encoding):
    sensor_msgs = pytest.importorskip('sensor_msgs.msg')
    plain = with_opaque_alpha(noise_message(encoding, *EVEN, padding=4))
    msg = sensor_msgs.Image()
    for name in ('width', 'height', 'encoding', 'step', 'is_bigendian', 'data'):
        setattr(msg, name, getattr(plain, name))
    frame = decode_image(msg)
    assert (frame.image_bgr == decode_image(plain).image_bgr).all()
    rect = RECTS['inside']
    assert paint(frame, rect, (5, 5, 5)) == paint(decode_image(plain), rect, (5, 5, 5))
    assert msg.data.tobytes() == plain.data


# What cv_bridge turns into bgr8 as well, with the largest difference. It scales mono16 by its
# whole range, which this noise fills; YUV is rounded differently by different OpenCV versions. It
# takes 8UC1, 8UC3 and 8UC4 for no colours, and its nv24 and nv21 depend on its version.
BRIDGED = dict.fromkeys([e for e in ENCODINGS if e.endswith('8')], 0)
BRIDGED |= {'mono16': 1, 'yuv422': 1, 'uyvy': 1, 'yuv422_yuy2': 1, 'yuyv': 1}


# cv_bridge counts the pixels of a row in whole numbers, so a padding must hold whole ones of 1, 2,
# 3 and 4 bytes.
BRIDGED_PADDING = 12


@pytest.mark.parametrize('encoding', BRIDGED)
def test_same_as_cv_bridge(encoding):
    plain = noise_message(encoding, *EVEN, padding=BRIDGED_PADDING)
    assert plain.step % PACKED_BYTES.get(encoding, 2) == 0
    cv_bridge = pytest.importorskip('cv_bridge')
    sensor_msgs = pytest.importorskip('sensor_msgs.msg')
    msg = sensor_msgs.Image()
    for name in ('width', 'height', 'encoding', 'step', 'is_bigendian', 'data'):
        setattr(msg, name, getattr(plain, name))
    try:
        theirs = cv_bridge.CvBridge().imgmsg_to_cv2(msg, 'bgr8').astype(int)
    except cv_bridge.CvBridgeError as error:
        pytest.skip(f'unknown to this cv_bridge: {error}')
    assert np.abs(decode_image(plain).image_bgr - theirs).max() <= BRIDGED[encoding]


# Of sensor_msgs/image_encodings, all that cv_bridge can turn into bgr8.
COLOURS_OF_ROS = (
    *(f'{name}{bits}' for name in ('rgb', 'rgba', 'bgr', 'bgra', 'mono') for bits in (8, 16)),
    *(f'bayer_{order}{bits}' for order in ('rggb', 'bggr', 'gbrg', 'grbg') for bits in (8, 16)),
    *('uyvy', 'yuyv', 'yuv422', 'yuv422_yuy2', 'nv21', 'nv24'),
)


def test_no_encoding_is_left_that_cv_bridge_alone_knows():
    assert set(COLOURS_OF_ROS) <= set(ENCODINGS)
