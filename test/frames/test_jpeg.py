import cv2
from ffs_anonymizer.errors import ImageError
from ffs_anonymizer.frames import jpeg
import numpy as np
import pytest
from support.messages import compressed_message, exif, insert_segment, jpeg_segment, scene

Q, PROGRESSIVE, RESTARTS = (
    cv2.IMWRITE_JPEG_QUALITY,
    cv2.IMWRITE_JPEG_PROGRESSIVE,
    cv2.IMWRITE_JPEG_RST_INTERVAL,
)
OPTIMIZED = (cv2.IMWRITE_JPEG_OPTIMIZE, 1)
EOI = b'\xff\xd9'
NEEDS_SAMPLING = pytest.mark.skipif(
    not hasattr(cv2, 'IMWRITE_JPEG_SAMPLING_FACTOR'), reason='OpenCV before 4.7'
)


def encoded(picture=None, options=()):
    return compressed_message('.jpg', scene() if picture is None else picture, options).data


def decoded(data, header):
    flags = cv2.IMREAD_GRAYSCALE if len(header.components) == 1 else cv2.IMREAD_COLOR
    return cv2.imdecode(np.frombuffer(data, np.uint8), flags)


def passes(check, *args):
    try:
        check(*args)
    except ImageError:
        return False
    return True


def is_complete(data):
    """Return whether the fast check and the exact count pass; they must agree."""
    header = jpeg.read_header(data)
    fast = passes(jpeg.check_complete, header, decoded(data, header))
    assert fast == all(passes(jpeg.count_blocks, header, scan) for scan in header.scans)
    return fast


@pytest.mark.parametrize('colour', [True, False])
def test_quality_is_exact_for_all(colour):
    picture = scene(16, 16) if colour else scene(16, 16)[..., 0]
    for quality in range(1, 101):
        assert jpeg.jpeg_quality(encoded(picture, (Q, quality))) == quality


def test_quality_of_other_tables_is_the_nearest():
    data = encoded(options=(Q, 80))
    header = jpeg.read_header(data)
    header.tables[0] = tuple(max(1, v + (-1) ** i) for i, v in enumerate(header.tables[0]))
    assert abs(jpeg.quality_of(header) - 80) <= 1


@NEEDS_SAMPLING
@pytest.mark.parametrize('name', ['444', '422', '440', '420', '411'])
def test_sampling(name):
    factor = getattr(cv2, f'IMWRITE_JPEG_SAMPLING_FACTOR_{name}')
    data = encoded(options=(cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor))
    assert jpeg.jpeg_sampling(data) == name
    assert is_complete(data)


def test_sampling_of_grey():
    assert jpeg.jpeg_sampling(encoded(scene()[..., 0])) == 'grey'


@pytest.mark.parametrize('progressive', [0, 1])
@pytest.mark.parametrize('size_wh', [(96, 64), (17, 9), (1, 1)])
def test_header(size_wh, progressive):
    data = encoded(scene(*size_wh), (PROGRESSIVE, progressive))
    header = jpeg.read_header(data + b'behind')
    assert header.size_wh == size_wh
    assert header.progressive == bool(progressive)
    assert len(header.components) == 3
    assert header.end == len(data)
    assert (header.orientation, header.icc) == (1, b'')
    assert jpeg.jpeg_size_wh(data) == size_wh


@pytest.mark.parametrize(
    'options',
    [
        (),
        OPTIMIZED,
        (Q, 5),
        (Q, 100),
        (RESTARTS, 1),
        (RESTARTS, 3),
        (RESTARTS, 6),
        (RESTARTS, 100),
    ],
)
@pytest.mark.parametrize('size_wh', [(96, 64), (95, 63), (8, 8)])
@pytest.mark.parametrize('channels', [1, 3])
def test_whole_files_are_complete(channels, size_wh, options):
    picture = scene(*size_wh)
    assert is_complete(encoded(picture if channels == 3 else picture[..., 1], options))


@pytest.mark.parametrize('options', [(), OPTIMIZED, (RESTARTS, 2), (PROGRESSIVE, 1)])
def test_files_cut_off_anywhere_are_refused(options):
    data = encoded(options=options)
    for length in range(2, len(data)):
        with pytest.raises(ImageError, match='cut off|damaged'):
            jpeg.read_header(data[:length])


@pytest.mark.parametrize('options', [(), OPTIMIZED, (Q, 30)])
@pytest.mark.parametrize('channels', [1, 3])
def test_cut_off_data_with_an_end_marker_is_refused(channels, options):
    picture = scene()
    data = encoded(picture if channels == 3 else picture[..., 1], options)
    header = jpeg.read_header(data)
    start = len(data) - 2 - len(header.scans[0].parts[0])
    for left in np.linspace(0.02, 0.95, 12):
        cut = data[: start + int(left * len(header.scans[0].parts[0]))].rstrip(b'\xff')
        assert not is_complete(cut + EOI)


def test_a_part_cut_out_of_the_middle_is_refused():
    data = encoded()
    header = jpeg.read_header(data)
    middle = len(data) - len(header.scans[0].parts[0]) // 2
    assert not is_complete(data[: middle - 200] + data[middle:])


def test_restart_markers_are_counted():
    data = encoded(options=(RESTARTS, 2))
    assert len(jpeg.read_header(data).scans[0].restarts) == 11
    for number in (0, 5):
        at = data.index(bytes([0xFF, 0xD0 + number]))
        following = data.index(bytes([0xFF, 0xD1 + number]))
        for lost in (data[:at] + data[following:], data[:at] + data[at + 2 :]):
            with pytest.raises(ImageError, match='10 restart markers, expected 11 in order'):
                jpeg.read_header(lost)


def test_data_missing_before_a_restart_marker_is_refused():
    data = encoded(options=(RESTARTS, 6))
    at = data.index(b'\xff\xd1')
    assert is_complete(data)
    assert not is_complete(data[: at - 200] + data[at:])


@pytest.mark.parametrize('options', [(), OPTIMIZED, (RESTARTS, 1)])
@pytest.mark.parametrize('channels', [1, 3])
def test_a_picture_that_is_mid_grey_is_complete(channels, options):
    picture = np.full((40, 56, 3), 128, np.uint8)
    assert is_complete(encoded(picture if channels == 3 else picture[..., 0], options))


def test_bytes_too_many_are_allowed():
    data = encoded()
    assert is_complete(data[:-2] + b'\0' + EOI)
    assert is_complete(data[:-2] + b'\xff\xff' + EOI)


def test_missing_scans_are_refused():
    data = encoded(options=(PROGRESSIVE, 1))
    scans = [i for i in range(len(data) - 1) if data[i : i + 2] == b'\xff\xda']
    for at in scans[1:]:
        with pytest.raises(ImageError, match='last scans are missing|cut off|Huffman'):
            jpeg.read_header(data[:at] + EOI)


def replaced(data, marker, index, value):
    """Return the file with a byte of the body of the first such segment replaced."""
    at = data.index(bytes([0xFF, marker])) + 4 + index
    return data[:at] + bytes([value]) + data[at + 1 :]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda d: replaced(d, 0xC0, -3, 0xC9), 'SOF9 with 8 bits, expected baseline'),
        (lambda d: replaced(d, 0xC0, -3, 0xC3), 'SOF3 with 8 bits, expected baseline'),
        (lambda d: replaced(d, 0xC0, 0, 12), 'SOF0 with 12 bits, expected baseline'),
        (lambda d: replaced(d, 0xC0, 5, 4), 'cut-off frame header'),
        (lambda d: replaced(d, 0xC0, 2, 0), r'of \(96, 0\) pixels; it is damaged'),
        (lambda d: replaced(d, 0xC0, 7, 0), 'it is damaged'),
        (lambda d: replaced(d, 0xC0, 8, 3), 'quantization table it does not have'),
        (lambda d: replaced(d, 0xDA, 0, 4), 'scan header that does not fit'),
        (lambda d: replaced(d, 0xDA, 1, 9), 'scan of an unknown component'),
        (lambda d: d[:2] + b'\0' + d[2:], 'no marker at byte 2'),
        (lambda d: d[:2] + EOI, 'without a frame header'),
        (lambda d: d[: d.index(b'\xff\xda')] + EOI, 'last scans are missing'),
        (lambda d: insert_segment(d, 0xDB, b'\0' + bytes(9)), 'cut-off quantization table'),
        (lambda d: insert_segment(d, 0xDB, b'\0' + bytes(64)), 'cut-off quantization table'),
        (lambda d: insert_segment(d, 0xC4, b'\0' + b'\1' * 17), 'cut-off Huffman table'),
        (lambda d: insert_segment(d, 0xE2, b'MPF\0II'), 'several pictures'),
        (
            lambda d: insert_segment(d, 0xC0, d[d.index(b'\xff\xc0') + 4 :][:15]),
            'two frame headers',
        ),
    ],
)
def test_what_is_refused(change, message):
    with pytest.raises(ImageError, match=message):
        jpeg.read_header(change(encoded()))


def test_size_needs_a_frame_header():
    data = encoded()
    at = data.index(b'\xff\xc0')
    assert jpeg.jpeg_size_wh(data[: at + 30]) == (96, 64)
    with pytest.raises(ImageError, match='cut off'):
        jpeg.jpeg_size_wh(data[: at + 4])
    with pytest.raises(ImageError, match='without a frame header'):
        jpeg.jpeg_size_wh(data[:2] + EOI)


def test_count_needs_its_huffman_tables():
    data = encoded()
    at = data.index(b'\xff\xc4')
    header = jpeg.read_header(data[:at] + data[data.index(b'\xff\xda') :])
    with pytest.raises(ImageError, match='Huffman table it does not have'):
        jpeg.count_blocks(header, header.scans[0])


@pytest.mark.parametrize('order', ['II', 'MM'])
@pytest.mark.parametrize(('stated', 'expected'), [(1, 1), (3, 3), (6, 6), (8, 8), (0, 1), (9, 1)])
def test_orientation(stated, expected, order):
    header = jpeg.read_header(insert_segment(encoded(), 0xE1, exif(stated, order)))
    assert header.orientation == expected


@pytest.mark.parametrize(
    'body', [b'Exif\0\0', b'Exif\0\0XX', exif(6)[:12], b'http://ns.adobe.com/xap']
)
def test_orientation_that_is_not_there(body):
    assert jpeg.read_header(insert_segment(encoded(), 0xE1, body)).orientation == 1


def test_metadata_keeps_orientation_and_colours_only():
    icc = b'ICC_PROFILE\0\1\1' + b'colours'
    data = insert_segment(encoded(), 0xE2, icc)
    data = insert_segment(data, 0xE1, exif(6, extra=b'THUMBNAIL'))
    data = insert_segment(data, 0xFE, b'a comment')
    kept = jpeg.metadata_of(jpeg.read_header(data))
    assert kept.endswith(jpeg_segment(0xE2, icc))
    assert b'THUMBNAIL' not in kept
    assert b'comment' not in kept
    again = jpeg.insert_metadata(encoded(), kept)
    header = jpeg.read_header(again)
    assert (header.orientation, header.icc) == (6, jpeg_segment(0xE2, icc))
    assert again[2:4] == b'\xff\xe0'
    assert jpeg.metadata_of(jpeg.read_header(encoded())) == b''
