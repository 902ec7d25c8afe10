from array import array
import dataclasses
from types import SimpleNamespace
import zlib

import cv2
from ffs_anonymizer.errors import ImageError
from ffs_anonymizer.frames.compressed import (
    black_compressed,
    decode_compressed,
    LOSSY_WEBP_QUALITY,
)
from ffs_anonymizer.frames.containers import assemble, parse, write_tiff
from ffs_anonymizer.frames.jpeg import jpeg_quality, jpeg_sampling, read_header
from ffs_anonymizer.frames.upright import Turn
import numpy as np
import pytest
from support.messages import (
    compressed_message,
    exif,
    icc_profile,
    insert_segment,
    NO_RECTS,
    scene,
    with_data,
)

RECT = (32, 16, 64, 48)
COLOUR = (30, 90, 210)
LOSSLESS_WEBP = (cv2.IMWRITE_WEBP_QUALITY, 101)
LOSSY_WEBP = (cv2.IMWRITE_WEBP_QUALITY, 80)
# A mask with a soft edge.
ALPHA = np.clip(np.arange(96) * 99 - 3000, 0, 255).astype(np.uint8)[None, :, None].repeat(64, 0)


def paint(frame, rect=RECT, colour=COLOUR):
    x0, y0, x1, y1 = rect
    frame.image_bgr[y0:y1, x0:x1] = colour
    return bytes(frame.encode(np.array([rect], np.int32)))


def decoded(data):
    return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)


def png_chunk(name, body):
    return len(body).to_bytes(4, 'big') + name + body + zlib.crc32(name + body).to_bytes(4, 'big')


def insert_chunk(data, name, body):
    """Put a chunk behind the header of a PNG file."""
    return data[:33] + png_chunk(name, body) + data[33:]


def webp_chunk(name, body):
    return name + len(body).to_bytes(4, 'little') + body + b'\0' * (len(body) % 2)


def webp_file(*chunks):
    body = b'WEBP' + b''.join(chunks)
    return b'RIFF' + len(body).to_bytes(4, 'little') + body


@pytest.mark.parametrize('extension', ['.jpg', '.png', '.webp'])
@pytest.mark.parametrize('name', ['rgb8; jpeg compressed bgr8', 'png', 'webp', ''])
def test_the_kind_is_told_by_the_content(extension, name):
    msg = compressed_message(extension, scene(), name=name)
    frame = decode_compressed(msg)
    assert frame.image_bgr.shape == (64, 96, 3)
    assert frame.encode(NO_RECTS) is msg.data
    assert paint(frame)[:4] == msg.data[:4]


@pytest.mark.parametrize('as_type', [bytes, bytearray, memoryview, lambda b: array('B', b)])
def test_data_may_be_any_bytes(as_type):
    msg = compressed_message('.jpg', scene())
    frame = decode_compressed(with_data(msg, as_type(msg.data)))
    assert bytes(frame.encode(NO_RECTS)) == msg.data


def test_real_message():
    sensor_msgs = pytest.importorskip('sensor_msgs.msg')
    plain = compressed_message('.jpg', scene(), name='bgr8; jpeg compressed bgr8')
    msg = sensor_msgs.CompressedImage(format=plain.format, data=plain.data)
    frame = decode_compressed(msg)
    assert bytes(frame.encode(NO_RECTS)) == plain.data
    assert paint(frame) == paint(decode_compressed(plain))


@pytest.mark.parametrize('sampling', ['444', '422', '440', '420', '411'])
@pytest.mark.parametrize('quality', [40, 75, 95])
def test_jpeg_keeps_quality_and_sampling(quality, sampling):
    factor = getattr(cv2, f'IMWRITE_JPEG_SAMPLING_FACTOR_{sampling}', None)
    if factor is None:
        pytest.skip('OpenCV before 4.7')
    options = (cv2.IMWRITE_JPEG_QUALITY, quality, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor)
    msg = compressed_message('.jpg', scene(), options)
    out = paint(decode_compressed(msg))
    assert (jpeg_quality(out), jpeg_sampling(out)) == (quality, sampling)
    error = np.abs(decoded(out).astype(int) - decoded(msg.data))
    error[16:48, 32:64] = 0
    assert np.median(error) <= 2
    inner = decoded(out)[20:44, 36:60].astype(int)
    assert np.abs(inner - COLOUR).max() <= 12


@pytest.mark.parametrize('progressive', [0, 1])
def test_jpeg_stays_progressive_or_not(progressive):
    msg = compressed_message('.jpg', scene(), (cv2.IMWRITE_JPEG_PROGRESSIVE, progressive))
    assert read_header(paint(decode_compressed(msg))).progressive == bool(progressive)


def test_grey_jpeg_stays_grey():
    msg = compressed_message('.jpg', scene()[..., 1])
    out = paint(decode_compressed(msg), colour=(77, 77, 77))
    assert jpeg_sampling(out) == 'grey'
    assert np.abs(decoded(out)[20:44, 36:60].astype(int) - 77).max() <= 3


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize('kind', ['.jpg', '.png', '.webp', '.tiff'])
def test_a_turned_picture_is_searched_upright_and_stays_turned(kind, orientation):
    upright = scene()
    msg = turned_message(kind, upright, orientation)
    stored = decoded(msg.data)
    frame = decode_compressed(msg)
    assert frame.image_bgr.shape == upright.shape
    assert np.median(np.abs(frame.image_bgr.astype(int) - upright)) <= (2 if kind == '.jpg' else 0)
    if kind != '.tiff':
        assert parse(bytes(frame.encode(NO_RECTS))) == parse(msg.data)
    written = paint(frame)
    assert parse(written).orientation == orientation
    assert decoded(written).shape == stored.shape
    again = decode_compressed(with_data(msg, written)).image_bgr.astype(int)
    error = np.abs(again - frame.image_bgr)
    assert (np.median(error) if kind == '.jpg' else error.max()) <= (2 if kind == '.jpg' else 0)
    assert np.abs(again[20:44, 36:60] - COLOUR).max() <= (12 if kind == '.jpg' else 0)


def turned_message(kind, upright, orientation):
    """Return a file that is stored turned and says so."""
    stored = Turn.of(orientation).undo(upright)
    msg = compressed_message(kind, stored, LOSSLESS_WEBP if kind == '.webp' else ())
    if kind == '.tiff':
        picture = dataclasses.replace(parse(msg.data), orientation=orientation)
        return with_data(msg, write_tiff(stored[..., ::-1], picture))
    picture = dataclasses.replace(parse(msg.data), orientation=orientation)
    return with_data(msg, assemble(msg.data, picture))


def test_no_old_thumbnail_is_in_a_new_file():
    msg = compressed_message('.jpg', scene())
    body = exif(6, extra=b'THUMBNAIL')
    data = insert_segment(insert_segment(msg.data, 0xE1, body), 0xFE, b'COMMENT')
    for out in (
        decode_compressed(with_data(msg, data)).encode(NO_RECTS),
        paint(decode_compressed(with_data(msg, data))),
    ):
        assert b'THUMBNAIL' not in out
        assert b'COMMENT' not in out
        assert read_header(out).orientation == 6


@pytest.mark.parametrize('extension', ['.jpg', '.png', '.webp'])
@pytest.mark.parametrize('tail', [b'\0' * 9, b'\xff\xd8\xff\xe0', b'\0\0\0\x18ftypmp42'])
def test_bytes_behind_the_end_do_not_pass(extension, tail):
    msg = compressed_message(extension, scene())
    frame = decode_compressed(with_data(msg, msg.data + tail))
    assert frame.encode(NO_RECTS) == msg.data
    assert paint(frame) == paint(decode_compressed(msg))


@pytest.mark.parametrize(
    'samples',
    [
        scene(),
        scene()[..., 0],
        np.dstack([scene(), ALPHA]),
        scene()[..., 0].astype(np.uint16) * 16 + 5,
        scene().astype(np.uint16) * 256 + 77,
        np.dstack([scene(), ALPHA]).astype(np.uint16) * 256 + 3,
    ],
    ids=['bgr', 'grey', 'bgra', 'grey12', 'bgr16', 'bgra16'],
)
def test_png_keeps_depth_alpha_and_all_outside(samples):
    msg = compressed_message('.png', samples)
    frame = decode_compressed(msg)
    colour = (90, 90, 90) if samples.ndim == 2 else COLOUR
    out = decoded(paint(frame, colour=colour))
    assert (out.dtype, out.shape) == (samples.dtype, samples.shape)
    outside = np.ones((64, 96), bool)
    outside[16:48, 32:64] = False
    assert (out[outside] == samples[outside]).all()
    again = decode_compressed(compressed_message('.png', out))
    assert (again.image_bgr[16:48, 32:64] == colour).all()
    if samples.ndim == 3 and samples.shape[2] == 4:
        assert (out[~outside][:, 3] == np.iinfo(samples.dtype).max).all()


def test_16_bits_without_a_rect_do_not_depend_on_it():
    outputs = []
    for inside in (9, 65535):
        samples = scene()[..., 0].astype(np.uint16) * 16
        samples[16:48, 32:64] = inside
        frame = decode_compressed(compressed_message('.png', samples))
        frame.without(np.array([RECT], np.int32))
        frame.image_bgr[16:48, 32:64] = frame.image_bgr[0, 0]
        outputs.append(bytes(frame.encode(np.array([RECT], np.int32))))
    assert outputs[0] == outputs[1]


def test_8_bits_are_not_decoded_again():
    frame = decode_compressed(compressed_message('.png', scene()))
    before = frame.image_bgr.copy()
    frame.without(np.array([RECT], np.int32))
    assert (frame.image_bgr == before).all()


def test_png_of_a_palette_keeps_its_colours():
    palette = bytes([10, 20, 30, 200, 100, 50])
    rows = b''.join(b'\0' + bytes([0b01010101]) for _ in range(4))
    data = b'\x89PNG\r\n\x1a\n' + png_chunk(
        b'IHDR', bytes([0, 0, 0, 8, 0, 0, 0, 4, 1, 3, 0, 0, 0])
    )
    data += png_chunk(b'PLTE', palette) + png_chunk(b'IDAT', zlib.compress(rows))
    data += png_chunk(b'IEND', b'')
    frame = decode_compressed(SimpleNamespace(format='png', data=data))
    assert frame.image_bgr[0, :2].tolist() == [[30, 20, 10], [50, 100, 200]]
    out = decoded(paint(frame, (0, 0, 2, 1), (1, 2, 3)))
    assert out[0, :4].tolist() == [[1, 2, 3], [1, 2, 3], [30, 20, 10], [50, 100, 200]]


def test_png_of_grey_with_alpha_keeps_both():
    rows = b''.join(b'\0' + bytes([50, 255, 60, 255, 70, 0]) for _ in range(2))
    header = bytes([0, 0, 0, 3, 0, 0, 0, 2, 8, 4, 0, 0, 0])
    data = b'\x89PNG\r\n\x1a\n' + png_chunk(b'IHDR', header)
    data += png_chunk(b'IDAT', zlib.compress(rows)) + png_chunk(b'IEND', b'')
    profile = b'grey\0\0' + zlib.compress(icc_profile())
    data = insert_chunk(insert_chunk(data, b'iCCP', profile), b'gAMA', b'\0\0\xb1\x8f')
    out = paint(
        decode_compressed(SimpleNamespace(format='png', data=data)), (0, 0, 1, 1), (1, 2, 3)
    )
    expected = [[1, 2, 3, 255], [60, 60, 60, 255], [70, 70, 70, 0]]
    assert decoded(out)[0].tolist() == expected
    assert (b'gAMA' in out, b'iCCP' in out) == (True, False)


def test_png_keeps_colour_chunks_and_no_others():
    msg = compressed_message('.png', scene())
    data = insert_chunk(insert_chunk(msg.data, b'gAMA', b'\0\0\xb1\x8f'), b'tEXt', b'a\0NOTE')
    out = paint(decode_compressed(with_data(msg, data)))
    assert png_chunk(b'gAMA', b'\0\0\xb1\x8f') in out
    assert b'NOTE' not in out
    assert (decoded(out)[0] == scene()[0]).all()


def test_lossless_webp_stays_lossless():
    msg = compressed_message('.webp', scene(), LOSSLESS_WEBP)
    out = paint(decode_compressed(msg))
    expected = scene()
    expected[16:48, 32:64] = COLOUR
    assert out[12:16] == b'VP8L'
    assert (decoded(out) == expected).all()


def test_lossy_webp_comes_in_the_stated_quality():
    msg = compressed_message('.webp', scene(), LOSSY_WEBP)
    frame = decode_compressed(msg)
    out = paint(frame)
    expected = compressed_message(
        '.webp', frame.image_bgr, (cv2.IMWRITE_WEBP_QUALITY, LOSSY_WEBP_QUALITY)
    )
    assert out == expected.data
    assert out[12:15] == b'VP8'
    assert out[15:16] != b'L'


@pytest.mark.parametrize('options', [LOSSLESS_WEBP, LOSSY_WEBP])
def test_webp_keeps_alpha(options):
    msg = compressed_message('.webp', np.dstack([scene(), ALPHA]), options)
    before, out = decoded(msg.data), decoded(paint(decode_compressed(msg)))
    expected = before[..., 3].copy()
    expected[16:48, 32:64] = 255
    assert (out[..., 3] == expected).all()


WEBP = compressed_message('.webp', scene(), LOSSY_WEBP).data
JPEG = compressed_message('.jpg', scene()).data
PNG = compressed_message('.png', scene()).data


@pytest.mark.parametrize(
    ('data', 'message'),
    [
        (b'', 'got 0 bytes that begin with nothing, expected a JPEG, PNG, WebP, TIFF or BMP file'),
        (b'GIF89a..', '8 bytes that begin with 47 49 46'),
        (b'BM345678', 'cut off at 8 bytes'),
        (JPEG[:1], '1 bytes that begin with ff'),
        (JPEG[: len(JPEG) // 2], 'data ends before its picture'),
        (JPEG[:300], 'JPEG cut off at'),
        (JPEG[: len(JPEG) // 2] + b'\xff\xd9', 'data ends before its picture'),
        (PNG[: len(PNG) // 2], 'PNG cut off at'),
        (PNG[:-1], 'PNG cut off at'),
        (PNG[:60] + bytes([PNG[60] ^ 255]) + PNG[61:], 'OpenCV decoded nothing'),
        (PNG[:16] + bytes(4) + PNG[20:], 'png of 0x64 pixels, expected 1 to'),
        (PNG[:16] + b'\x7f' + PNG[17:], 'png of 2130706528x64 pixels, expected 1 to 256000000'),
        (PNG[:25] + b'\7' + PNG[26:], 'PNG with an impossible header'),
        (b'\x89PNG\r\n\x1a\n' + png_chunk(b'IEND', b''), 'png of 0x0 pixels, expected 1'),
        (insert_chunk(PNG, b'acTL', bytes(8)), 'animated PNG'),
        (WEBP[: len(WEBP) // 2], 'WebP cut off at'),
        (WEBP[:-2], 'WebP cut off at'),
        (
            webp_file(webp_chunk(b'VP8X', bytes(10)), webp_chunk(b'ANIM', bytes(6))),
            'animated WebP',
        ),
        (webp_file(webp_chunk(b'ANMF', bytes(24))), 'animated WebP'),
        (webp_file(WEBP[12:], WEBP[12:]), 'several pictures'),
        (webp_file(webp_chunk(b'VP8 ', bytes(5))), 'cut-off picture header'),
        (webp_file(webp_chunk(b'VP8 ', bytes(12))), 'webp of 0x0 pixels, expected 1'),
        (webp_file(b'VP8 \xff\xff\0\0' + bytes(16)), 'longer than the file'),
        (webp_file(), 'without a picture'),
        (webp_file(webp_chunk(b'VP8 ', WEBP[20:30] + bytes(9))), 'OpenCV decoded nothing'),
    ],
)
def test_what_is_refused(data, message):
    with pytest.raises(ImageError, match=message):
        decode_compressed(SimpleNamespace(format='jpeg', data=data))


@pytest.mark.parametrize(
    'name', ['16UC1; compressedDepth png', '32FC1; compressedDepth', '16UC1; png compressed ']
)
def test_depth_is_refused(name):
    with pytest.raises(ImageError, match='expected a picture.*`copy_topics`'):
        decode_compressed(compressed_message('.png', scene(), name=name))


def test_depth_as_a_png_without_a_word_of_it_is_refused():
    samples = np.full((64, 96), 900, np.uint16) + np.arange(96, dtype=np.uint16) * 3
    samples[20:40, 30:50] = 0
    msg = compressed_message('.png', samples)
    with pytest.raises(ImageError, match='samples are distances'):
        decode_compressed(msg)
    samples[20:40, 30:50] = 800
    msg = compressed_message('.png', samples)
    decode_compressed(msg)
    with pytest.raises(ImageError, match='16-bit grey on /depth/image'):
        decode_compressed(msg, topic='/depth/image')


@pytest.mark.parametrize('cut', [0.5, 0.97, 1.0])
@pytest.mark.parametrize(
    ('extension', 'samples', 'options'),
    [
        ('.jpg', scene(), (cv2.IMWRITE_JPEG_QUALITY, 60)),
        ('.png', scene(), ()),
        ('.png', np.dstack([scene(), ALPHA]), ()),
        ('.png', scene()[..., 0].astype(np.uint16) * 16, ()),
        ('.webp', scene(), LOSSY_WEBP),
        ('.webp', scene(), LOSSLESS_WEBP),
    ],
)
def test_black(extension, samples, options, cut):
    msg = compressed_message(extension, samples, options)
    black = decoded(black_compressed(with_data(msg, msg.data[: int(len(msg.data) * cut)])))
    assert (black.dtype, black.shape) == (samples.dtype, samples.shape)
    assert not black[..., :3].any()
    if samples.shape[2:] == (4,):
        assert (black[..., 3] == 255).all()


def test_black_of_a_grey_jpeg_is_grey():
    msg = compressed_message('.jpg', scene()[..., 0])
    assert decoded(black_compressed(msg)).shape == (64, 96)


@pytest.mark.parametrize(
    ('name', 'beginning'),
    [('rgb8; jpeg compressed bgr8', b'\xff\xd8\xff'), ('png', b'\x89PNG'), ('webp', b'RIFF')],
)
def test_black_of_a_size_told(name, beginning):
    msg = SimpleNamespace(format=name, data=b'')
    black = black_compressed(msg, (20, 10))
    assert black.startswith(beginning)
    assert decode_compressed(SimpleNamespace(format='', data=black)).image_bgr.shape == (10, 20, 3)
    with pytest.raises(ImageError, match='the data states no kind or size'):
        black_compressed(msg)


def test_black_of_a_file_that_states_an_absurd_size_is_of_the_size_told():
    data = WEBP[:26] + bytes([0xFF, 0x3F, 0xFF, 0x3F]) + WEBP[30:]
    msg = SimpleNamespace(format='webp', data=data)
    assert decoded(black_compressed(msg, (20, 10))).shape == (10, 20, 3)
    with pytest.raises(ImageError, match='the data states no kind or size'):
        black_compressed(msg)


def test_black_of_a_size_that_no_camera_has():
    with pytest.raises(ImageError, match='png of 65536x65536 pixels, expected 1 to'):
        black_compressed(SimpleNamespace(format='png', data=b''), (65536, 65536))


def test_random_damage_is_refused_or_decoded():
    rng = np.random.default_rng(0)
    files = [JPEG, PNG, WEBP, insert_segment(JPEG, 0xE1, exif(6))]
    refused = 0
    for i in range(400):
        damaged = bytearray(files[i % 4])
        at = int(rng.integers(3, len(damaged) if i % 3 else 700))
        damaged[at : at + i % 5] = rng.bytes(i % 7)
        msg = SimpleNamespace(format='', data=bytes(damaged))
        try:
            paint(decode_compressed(msg), (0, 0, 8, 8))
        except ImageError:
            refused += 1
        try:
            black_compressed(msg, (8, 8))
        except ImageError:
            refused += 1
    assert 100 < refused < 500


def test_black_of_nothing_known():
    with pytest.raises(ImageError, match="no black picture for 'h264'.*got 3 bytes"):
        black_compressed(SimpleNamespace(format='h264', data=b'abc'), (20, 10))
    with pytest.raises(ImageError, match='`copy_topics`'):
        black_compressed(SimpleNamespace(format='16UC1; compressedDepth png', data=b''), (20, 10))


@pytest.mark.parametrize('extension', ['.jpg', '.png', '.webp'])
def test_what_is_passed_as_it_is_is_the_same_object(extension):
    data = memoryview(compressed_message(extension, scene()).data)
    assert decode_compressed(SimpleNamespace(format='', data=data)).encode(NO_RECTS) is data


def test_bytes_in_the_scans_of_a_progressive_picture_do_not_pass():
    """No decoder here tells where their last blocks end, so the picture is encoded anew."""
    msg = compressed_message('.jpg', scene(), (cv2.IMWRITE_JPEG_PROGRESSIVE, 1))
    data = bytes(msg.data)
    hidden = bytes(range(1, 200)) * 9
    behind_first = data.index(b'\xff\xc4', data.index(b'\xff\xda'))
    for at in (behind_first, len(data) - 2):
        out = bytes(
            decode_compressed(with_data(msg, data[:at] + hidden + data[at:])).encode(NO_RECTS)
        )
        assert hidden[:64] not in out
        assert read_header(out).progressive
        assert np.abs(decoded(out).astype(int) - decoded(data)).mean() < 3
