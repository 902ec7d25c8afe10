import cv2
from ffs_anonymizer.errors import ImageError
from ffs_anonymizer.frames import jpeg
import numpy as np
import pytest
from support.messages import (
    compressed_message,
    exif,
    icc_profile,
    insert_segment,
    jpeg_segment,
    scene,
)

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
    assert header.coded == data
    assert (header.orientation, header.profile, header.has_end) == (1, b'', True)
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
    last_unit = 60
    for length in (*range(2, 700), *range(700, len(data) - last_unit, 37)):
        with pytest.raises(ImageError, match='cut off|damaged|missing'):
            check(data[:length])


def check(data):
    header = jpeg.read_header(data)
    jpeg.check_complete(header, decoded(header.coded, header))


@pytest.mark.parametrize('options', [(), OPTIMIZED, (RESTARTS, 2)])
@pytest.mark.parametrize('last', [b'', b'\xff'])
def test_a_whole_file_without_an_end_marker_is_given_one(options, last):
    data = encoded(options=options)
    header = jpeg.read_header(data[:-2] + last)
    assert (header.has_end, header.coded) == (False, data[:-2] + last + EOI)
    check(data[:-2] + last)


def test_a_progressive_file_without_an_end_marker_may_lack_scans():
    with pytest.raises(ImageError, match='without its end marker'):
        jpeg.read_header(encoded(options=(PROGRESSIVE, 1))[:-2])


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
        (lambda d: insert_segment(d, 0xDD, bytes(3)), 'impossible restart interval'),
        (lambda d: insert_segment(d, 0xC0, bytes(16)), 'SOF0 with 0 bits'),
        (lambda d: d[:2] + jpeg_segment(0xFE, b'') * 5000 + d[2:], 'more than 4096 segments'),
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


def without_tables(data):
    while b'\xff\xc4' in data:
        at = data.index(b'\xff\xc4')
        data = data[:at] + data[at + 2 + int.from_bytes(data[at + 2 : at + 4], 'big') :]
    return data


@pytest.mark.parametrize('grey_from', [0, 48])
def test_a_file_without_huffman_tables_has_the_standard_ones(grey_from):
    picture = scene()
    picture[grey_from:] = 128
    data = without_tables(encoded(picture, (RESTARTS, 6)))
    assert is_complete(data)
    assert not jpeg.runs_on(jpeg.read_header(data))
    assert not is_complete(without_tables(encoded())[:-300] + EOI)


def test_count_needs_its_huffman_tables():
    data = encoded()
    header = jpeg.read_header(replaced(data, 0xDA, 2, 0x33))
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


def test_only_what_is_coded_is_kept_and_what_is_understood():
    profile = icc_profile()
    data = insert_segment(encoded(), 0xE2, b'ICC_PROFILE\0\1\1' + profile)
    data = insert_segment(data, 0xE1, exif(6, extra=b'THUMBNAIL'))
    data = insert_segment(data, 0xFE, b'a comment')
    data = insert_segment(data, 0xE2, b'MPF\0II')
    data = insert_segment(data, 0xEA, b'unknown')
    header = jpeg.read_header(data + b'behind')
    assert header.coded == encoded()
    assert (header.orientation, header.profile) == (6, profile)


def test_a_thumbnail_of_jfif_is_left_out():
    data = encoded()
    assert data[2:4] == b'\xff\xe0'
    body = data[6:18] + bytes([1, 1]) + b'RGB'
    assert jpeg.read_header(data[:2] + jpeg_segment(0xE0, body) + data[20:]).coded == data


def test_dressed():
    profile = bytes(range(256)) * 300
    data = jpeg.dressed(encoded(), profile=profile, exif=exif(6)[6:])
    header = jpeg.read_header(data)
    assert (header.orientation, header.coded) == (6, encoded())
    assert data[20:22] == b'\xff\xe1'
    first = data.index(b'ICC_PROFILE\0\1\2')
    second = data.index(b'ICC_PROFILE\0\2\2')
    assert data[first + 14 :][:65519] + data[second + 14 :][: 76800 - 65519] == profile
    assert jpeg.dressed(encoded(), profile=b'', exif=b'') == encoded()


@pytest.mark.parametrize(
    'parts',
    [
        [b'\1\1' + icc_profile()[:-1]],
        [b'\1\2' + icc_profile()],
        [b'\2\1' + icc_profile()],
        [b'\1\2' + icc_profile(), b'\1\2'],
        [b''],
    ],
)
def test_what_is_no_profile_does_not_pass(parts):
    data = encoded()
    for part in parts:
        data = insert_segment(data, 0xE2, b'ICC_PROFILE\0' + part)
    assert jpeg.read_header(data).profile == b''


def test_a_profile_in_parts():
    profile = icc_profile()
    data = insert_segment(encoded(), 0xE2, b'ICC_PROFILE\0\2\2' + profile[100:])
    data = insert_segment(data, 0xE2, b'ICC_PROFILE\0\1\2' + profile[:100])
    assert jpeg.read_header(data).profile == profile


def noisy(size_wh=(160, 96)):
    """Return a picture whose blocks all have detail, as those of a camera."""
    noise = np.random.default_rng(3).normal(0, 9, (size_wh[1], size_wh[0], 3))
    return np.clip(scene(*size_wh) + noise, 0, 255).astype(np.uint8)


def flat(size_wh=(160, 96)):
    return np.full((size_wh[1], size_wh[0], 3), (90, 140, 60), np.uint8)


KINDS_OF_DATA = [
    (options, factor)
    for options in ((), OPTIMIZED, (Q, 20), (Q, 100), (RESTARTS, 1), (RESTARTS, 7), (RESTARTS, 10))
    for factor in ('420', '444', '422', '440', '411')
]


@NEEDS_SAMPLING
@pytest.mark.parametrize('size_wh', [(160, 96), (151, 83), (8, 8)])
@pytest.mark.parametrize(('options', 'sampling'), KINDS_OF_DATA)
def test_honest_files_do_not_run_on(options, sampling, size_wh):
    factor = getattr(cv2, f'IMWRITE_JPEG_SAMPLING_FACTOR_{sampling}')
    for picture in (noisy(size_wh), flat(size_wh), scene(*size_wh)):
        for shown in (picture, picture[..., 1]):
            options_all = (*options, cv2.IMWRITE_JPEG_SAMPLING_FACTOR, factor)
            header = jpeg.read_header(encoded(shown, options_all))
            assert not jpeg.runs_on(header)


HIDDEN = encoded(noisy((64, 64)), (Q, 40)).replace(b'\xff', b'\xff\0')


@pytest.mark.parametrize('hidden', [HIDDEN, HIDDEN[600:900], b'\0' * 40 + HIDDEN])
@pytest.mark.parametrize('options', [(), OPTIMIZED, (Q, 60), (RESTARTS, 7)])
@pytest.mark.parametrize('picture', [noisy(), flat(), noisy()[..., 1]])
def test_bytes_behind_the_last_block_are_seen(picture, options, hidden):
    data = encoded(picture, options)
    assert jpeg.runs_on(jpeg.read_header(data[:-2] + hidden + EOI))
    if options == (RESTARTS, 7):
        at = data.index(b'\xff\xd2')
        assert jpeg.runs_on(jpeg.read_header(data[:at] + hidden + data[at:]))


def test_tables_that_are_too_many_are_seen():
    data = encoded()
    at = data.index(b'\xff\xdb')
    for _ in range(300):
        data = data[:at] + jpeg_segment(0xDB, b'\3' + HIDDEN[:64]) + data[at:]
    assert jpeg.runs_on(jpeg.read_header(data))


def test_many_scans_are_refused():
    data = encoded(noisy((320, 240)), (PROGRESSIVE, 1))
    at = data.rindex(b'\xff\xda')
    assert len(jpeg.read_header(data).scans) <= 12
    with pytest.raises(ImageError, match='more than 100 scans for 320x240 pixels'):
        jpeg.read_header(data[:-2] + data[at:-2] * 100 + EOI)
