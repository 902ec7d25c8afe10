import io
import struct
import zlib

import cv2
from ffs_anonymizer.errors import ImageError
from ffs_anonymizer.frames.compressed import decode_file
from ffs_anonymizer.frames.containers import parse, png_chunk, runs_on, sniff, unpacked
import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageCms, ImageOps
import pytest

SECRET = b'Elm Street 13'
NO_RECTS = np.empty((0, 4), np.int32)
ICC = ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes()


def noise(height: int = 40, width: int = 56) -> NDArray[np.uint8]:
    rng = np.random.default_rng(5)
    small = rng.integers(0, 255, (height // 8, width // 8, 3), np.uint8)
    return np.asarray(cv2.resize(small, (width, height)), np.uint8)


def encoded(kind: str, orientation: int = 1, **options: object) -> bytes:
    """Return an image file full of things that must not get out."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = SECRET.decode()
    exif.get_ifd(0x8825)[29] = SECRET.decode()
    file = io.BytesIO()
    Image.fromarray(noise()[:, :, ::-1]).save(
        file, kind, exif=exif, icc_profile=ICC, xmp=SECRET, comment=SECRET, **options
    )
    return file.getvalue()


def jpeg(orientation: int = 1) -> bytes:
    """Return a JPEG with a thumbnail, and another picture after its end, as phones write."""
    plain = encoded('JPEG', orientation)
    thumbnail = b'\xff\xe0' + struct.pack('>H', 2 + 5 + len(SECRET)) + b'JFXX\0' + SECRET
    return plain[:2] + thumbnail + plain[2:] + plain + SECRET


def png(orientation: int = 1) -> bytes:
    plain = encoded('PNG', orientation)
    text = b'tEXtComment\0' + SECRET
    chunk = struct.pack('>I', len(text) - 4) + text + struct.pack('>I', zlib.crc32(text))
    return plain[:33] + chunk + plain[33:] + SECRET


def webp(orientation: int = 1) -> bytes:
    return encoded('WEBP', orientation, lossless=True)


def bmp(orientation: int = 1) -> bytes:
    del orientation
    return bytes(cv2.imencode('.bmp', noise())[1])


def shown(data: bytes) -> NDArray[np.uint8]:
    """Return the picture as a viewer shows it."""
    with Image.open(io.BytesIO(data)) as image:
        upright = ImageOps.exif_transpose(image)
        return np.asarray(upright.convert('RGB'))[:, :, ::-1]


@pytest.mark.parametrize('make', [jpeg, png, webp])
@pytest.mark.parametrize('orientation', [1, 6])
def test_only_pixels_colour_and_orientation_stay(make: object, orientation: int) -> None:
    data = make(orientation)
    assert SECRET in data
    kept = bytes(decode_file(data).encode(NO_RECTS))
    assert SECRET not in kept
    assert np.array_equal(shown(kept), shown(data))
    with Image.open(io.BytesIO(kept)) as image:
        assert image.info['icc_profile'] == ICC
        assert dict(image.getexif()) == ({} if orientation == 1 else {0x0112: orientation})
    assert parse(kept).coded == parse(data).coded
    assert decode_file(kept).encode(NO_RECTS) is kept


@pytest.mark.parametrize('make', [jpeg, png, webp, bmp])
def test_a_changed_picture_keeps_all_but_the_change(make: object) -> None:
    data = make()
    frame = decode_file(data)
    frame.image_bgr[8:24, 16:32] = (0, 0, 255)
    kept = bytes(frame.encode(np.array([[16, 8, 32, 24]], np.int32)))
    assert SECRET not in kept
    after, before = shown(kept).astype(int), shown(data).astype(int)
    assert np.abs(after[10:22, 18:30] - (0, 0, 255)).max() < 16
    outside = np.ones(after.shape[:2], bool)
    outside[0:32, 8:40] = False
    assert np.abs(after - before)[outside].max() <= (12 if make is jpeg else 0)
    if make is not bmp:
        with Image.open(io.BytesIO(kept)) as image:
            assert image.info['icc_profile'] == ICC


@pytest.mark.parametrize('orientation', range(1, 9))
def test_upright_is_what_viewers_show(orientation: int) -> None:
    data = png(orientation)
    frame = decode_file(data)
    assert np.array_equal(frame.image_bgr, shown(data))
    frame.image_bgr[4:9, 10:30] = (255, 0, 0)
    expected = frame.image_bgr.copy()
    kept = bytes(frame.encode(np.array([[10, 4, 30, 9]], np.int32)))
    assert np.array_equal(shown(kept), expected)


@pytest.mark.parametrize('subsampling', ['4:2:0', '4:4:4'])
@pytest.mark.parametrize('progressive', [False, True])
def test_all_kinds_of_jpeg_stay_the_same_picture(subsampling: str, progressive: bool) -> None:
    data = encoded('JPEG', subsampling=subsampling, progressive=progressive, restart_marker_rows=1)
    kept = bytes(decode_file(data).encode(NO_RECTS))
    if progressive:
        # More may be coded in it, so it is encoded anew, as it was.
        header, before = parse(kept).header, parse(data).header
        assert header
        assert before
        assert header.progressive
        assert [c.sampling_wh for c in header.components] == [
            c.sampling_wh for c in before.components
        ]
        assert np.abs(shown(kept).astype(int) - shown(data)).mean() < 6
        return
    assert np.array_equal(shown(kept), shown(data))
    assert parse(kept).coded == parse(data).coded


def animated(kind: str) -> bytes:
    file = io.BytesIO()
    frames = [Image.fromarray(noise()), Image.fromarray(255 - noise())]
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


@pytest.mark.parametrize(
    ('data', 'text'),
    [
        (b'', 'begin with nothing, expected a JPEG, PNG, WebP, TIFF or BMP file'),
        (b'GIF89a......', 'begin with 47 49 46 38 39 61 2e 2e, expected'),
        (b'\xff\xd8\xff', 'JPEG cut off at 3 bytes'),
        (jpeg()[:200], 'cut off at 200 bytes'),
        (b'\xff\xd8\xff\x00\x01', 'cut off'),
        (encoded('PNG')[:-30], 'PNG cut off'),
        (webp()[:-10], 'WebP cut off'),
        (animated('PNG'), 'got an animated PNG, expected one picture'),
        (animated('WEBP'), 'got an animated WebP, expected one picture'),
        (bmp()[:-500], 'BMP cut off'),
        (bmp()[:20], 'BMP cut off'),
        (b'BM' + b'\0' * 60, 'bmp of 0x0 pixels, expected 1 to'),
        (b'II*\0\xff\0\0\0', 'cut off at 8 bytes'),
    ],
)
def test_what_is_no_whole_picture_is_refused(data: bytes, text: str) -> None:
    with pytest.raises(ImageError, match=text):
        parse(data)


@pytest.mark.parametrize(
    'exif', [b'', b'XX', b'II*\0', b'MM\0*\0\0\0\x08\0\x09', b'II*\0\xff\xff\xff\xff\0\0']
)
def test_a_broken_orientation_means_upright(exif: bytes) -> None:
    plain = encoded('JPEG')
    segment = b'\xff\xe1' + struct.pack('>H', 8 + len(exif)) + b'Exif\0\0' + exif
    assert parse(plain[:2] + segment + plain[2:]).orientation == 1


# Bytes in which a second picture is, as they are and so that a JPEG scan can hold them.
ORIGINAL = bytes(cv2.imencode('.jpg', 255 - noise(), [cv2.IMWRITE_JPEG_QUALITY, 60])[1])
STUFFED = ORIGINAL.replace(b'\xff', b'\xff\0')


def segment(marker: int, body: bytes) -> bytes:
    return bytes([0xFF, marker]) + struct.pack('>H', len(body) + 2) + body


def plain(kind: str, *options: int) -> bytes:
    return bytes(cv2.imencode(f'.{kind}', noise(), list(options))[1])


def behind_header(data: bytes, part: bytes) -> bytes:
    at = 33 if data.startswith(b'\x89PNG') else 2
    return data[:at] + part + data[at:]


def with_idat_tail(data: bytes, tail: bytes) -> bytes:
    """Put bytes behind the end of the zlib stream of a PNG."""
    at = data.index(b'IDAT') - 4
    (length,) = struct.unpack_from('>I', data, at)
    body = data[at + 8 : at + 8 + length] + tail
    return data[:at] + png_chunk(b'IDAT', body) + data[at + 12 + length :]


def with_more_rows(data: bytes) -> bytes:
    """Put more rows into a PNG than its header says."""
    at = data.index(b'IDAT') - 4
    (length,) = struct.unpack_from('>I', data, at)
    rows = zlib.decompress(data[at + 8 : at + 8 + length]) + ORIGINAL
    return data[:at] + png_chunk(b'IDAT', zlib.compress(rows, 0)) + data[at + 12 + length :]


def riff(*chunks: bytes) -> bytes:
    body = b'WEBP' + b''.join(chunks)
    return b'RIFF' + struct.pack('<I', len(body)) + body


def webp_chunk(name: bytes, body: bytes) -> bytes:
    return name + struct.pack('<I', len(body)) + body + b'\0' * (len(body) % 2)


def webp_with_chunk(name: bytes) -> bytes:
    header = webp_chunk(b'VP8X', bytes([0x20, 0, 0, 0]) + bytes([55, 0, 0, 39, 0, 0]))
    return riff(header, webp_chunk(name, ORIGINAL), plain('webp')[12:])


def webp_with_tail(lossy: bool) -> bytes:
    data = plain('webp', cv2.IMWRITE_WEBP_QUALITY, 80) if lossy else plain('webp')
    return riff(webp_chunk(data[12:16], data[20:] + ORIGINAL))


JPEG, PNG = plain('jpg'), plain('png')
ICC_OF_JPEG = ICC[:-4] + b'\xff\xd8\xff\xe0'
HIDING = {
    'jpeg profile': behind_header(JPEG, segment(0xE2, b'ICC_PROFILE\0\1\1' + ORIGINAL)),
    'jpeg profile that parses': behind_header(
        JPEG, segment(0xE2, b'ICC_PROFILE\0\1\1' + ICC_OF_JPEG)
    ),
    'jpeg comment': behind_header(JPEG, segment(0xFE, ORIGINAL)),
    'jpeg segment': behind_header(JPEG, segment(0xEB, ORIGINAL)),
    'jpeg xmp': behind_header(JPEG, segment(0xE1, b'http://ns.adobe.com/xap/1.0/\0' + ORIGINAL)),
    'jpeg exif thumbnail': behind_header(JPEG, segment(0xE1, b'Exif\0\0MM\0*' + ORIGINAL)),
    'jpeg jfif thumbnail': JPEG[:2] + segment(0xE0, JPEG[6:18] + b'\1\1' + ORIGINAL) + JPEG[20:],
    'jpeg end': JPEG + ORIGINAL,
    'jpeg png end': JPEG + PNG,
    'jpeg scan': JPEG[:-2] + STUFFED + b'\xff\xd9',
    'jpeg tables': JPEG[:2] + segment(0xDB, (b'\3' + b'\7' * 64) * 600) + JPEG[2:],
    'png end': PNG + ORIGINAL,
    'png end chunk': PNG[:-12] + png_chunk(b'IEND', ORIGINAL),
    'png chunk': behind_header(PNG, png_chunk(b'prIv', ORIGINAL)),
    'png text': behind_header(PNG, png_chunk(b'tEXt', b'Comment\0' + ORIGINAL)),
    'png pHYs': behind_header(PNG, png_chunk(b'pHYs', ORIGINAL)),
    'png gAMA twice': behind_header(PNG, png_chunk(b'gAMA', bytes(4)) * 500),
    'png iCCP': behind_header(PNG, png_chunk(b'iCCP', b'x\0\0' + zlib.compress(ORIGINAL, 0))),
    'png iCCP tail': behind_header(
        PNG, png_chunk(b'iCCP', b'x\0\0' + zlib.compress(ICC) + ORIGINAL)
    ),
    'png palette': behind_header(PNG, png_chunk(b'PLTE', ORIGINAL[:768])),
    'png idat tail': with_idat_tail(PNG, ORIGINAL),
    'png idat more': behind_header(PNG[:-12], b'') + png_chunk(b'IDAT', ORIGINAL) + PNG[-12:],
    'png rows': with_more_rows(PNG),
    'webp end': plain('webp') + ORIGINAL,
    'webp iccp': webp_with_chunk(b'ICCP'),
    'webp xmp': webp_with_chunk(b'XMP '),
    'webp unknown': webp_with_chunk(b'priv'),
    'webp tail': webp_with_tail(lossy=False),
    'webp lossy tail': webp_with_tail(lossy=True),
    'bmp end': bmp() + ORIGINAL,
    'tiff end': plain('tiff') + ORIGINAL,
}


@pytest.mark.parametrize('name', HIDING)
def test_no_second_picture_passes(name: str) -> None:
    data = HIDING[name]
    if name.startswith('png idat') and cv2.__version__ < '4.6':
        with pytest.raises(ImageError, match='OpenCV decoded nothing'):
            decode_file(data)
        return
    for rects in (NO_RECTS, np.array([[0, 0, 8, 8]], np.int32)):
        out = bytes(decode_file(data).encode(rects))
        for i in range(ORIGINAL.index(b'\xff\xda') + 16, len(ORIGINAL) - 40, 40):
            assert ORIGINAL[i : i + 24] not in out
            assert STUFFED[i : i + 24] not in out
        assert len(out) < 1.2 * len(plain(parse(data).kind)) + 200
    error = np.abs(shown(bytes(decode_file(data).encode(NO_RECTS))).astype(int) - shown(data))
    assert np.median(error) <= (2 if 'lossy' in name else 1)


@pytest.mark.parametrize('kind', ['jpg', 'png', 'webp'])
def test_honest_files_pass_byte_for_byte(kind: str) -> None:
    options = {'webp': [(cv2.IMWRITE_WEBP_QUALITY, q) for q in (20, 80, 101)]}
    options['png'] = [(cv2.IMWRITE_PNG_COMPRESSION, level) for level in (0, 1, 9)]
    options['jpg'] = [(cv2.IMWRITE_JPEG_QUALITY, q) for q in (20, 80, 100)]
    for option in options[kind]:
        for shape in ((40, 56), (9, 17), (160, 240)):
            for picture in (cv2.resize(noise(), shape[::-1]), np.full((*shape, 3), 70, np.uint8)):
                data = bytes(cv2.imencode(f'.{kind}', picture, option)[1])
                assert not runs_on(parse(data))
                assert decode_file(data).encode(NO_RECTS) is data


@pytest.mark.parametrize('size', [(1, 1), (3, 2), (9, 17), (40, 33)])
@pytest.mark.parametrize('mode', ['1', 'L', 'LA', 'P', 'RGB', 'RGBA', 'I;16'])
def test_all_kinds_of_png_pass_byte_for_byte(mode: str, size: tuple[int, int]) -> None:
    file = io.BytesIO()
    samples = cv2.resize(noise(), size)
    if mode == 'I;16':
        image = Image.fromarray(samples[..., 0].astype(np.uint16) * 99)
    else:
        image = Image.fromarray(samples).convert(mode)
    image.save(file, 'PNG')
    data = file.getvalue()
    assert decode_file(data).encode(NO_RECTS) is data


def interlaced(picture: NDArray[np.uint8]) -> bytes:
    """Return an interlaced PNG, which Pillow and OpenCV do not write."""
    height, width = picture.shape[:2]
    starts = [(0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2)]
    rows = b''
    for x, y, step_x, step_y in [*starts, (0, 1, 1, 2)]:
        for row in picture[y::step_y, x::step_x]:
            rows += b'\0' + row.tobytes() if row.size else b''
    header = struct.pack('>IIBBBBB', width, height, 8, 0, 0, 0, 1)
    chunks = [(b'IHDR', header), (b'IDAT', zlib.compress(rows)), (b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(png_chunk(*chunk) for chunk in chunks)


@pytest.mark.parametrize('size_wh', [(1, 1), (5, 3), (17, 30)])
def test_an_interlaced_png_passes_byte_for_byte(size_wh: tuple[int, int]) -> None:
    picture = cv2.resize(noise()[..., 0], size_wh)
    data = interlaced(picture)
    frame = decode_file(data)
    assert np.array_equal(frame.image_bgr[..., 0], picture)
    assert frame.encode(NO_RECTS) is data
    assert runs_on(parse(with_idat_tail(data, b'x')))


@pytest.mark.parametrize('bits', [1, 2, 4, 8, 16])
def test_grey_that_is_transparent_stays_so(bits: int) -> None:
    top = 2**bits - 1
    values = np.array([[0, 1, top, 1, 0, 1, top, 0]] * 4)
    packed = b''.join(
        b'\0' + int(''.join(f'{v:0{bits}b}' for v in row), 2).to_bytes(bits, 'big')
        for row in values.tolist()
    )
    header = struct.pack('>IIBBBBB', 8, 4, bits, 0, 0, 0, 0)
    chunks = [(b'IHDR', header), (b'tRNS', b'\0\1'), (b'IDAT', zlib.compress(packed))]
    data = b'\x89PNG\r\n\x1a\n' + b''.join(png_chunk(*c) for c in [*chunks, (b'IEND', b'')])
    assert decode_file(data).encode(NO_RECTS) is data
    frame = decode_file(data)
    clear = frame.image_bgr[0, 1, 0]
    frame.image_bgr[2:, :4] = clear
    out = bytes(frame.encode(np.array([[0, 2, 4, 4]], np.int32)))
    with Image.open(io.BytesIO(out)) as image:
        key = image.info['transparency']
        samples = np.asarray(image).astype(int)
    is_clear = samples == key
    assert is_clear[:2].tolist() == (values[:2] == 1).tolist()
    assert is_clear[2:, 4:].tolist() == (values[2:, 4:] == 1).tolist()
    assert not is_clear[2:, :4].any()


@pytest.mark.parametrize('orientation', [1, 8])
@pytest.mark.parametrize('compression', [1, 5, 8])
@pytest.mark.parametrize(
    'samples', [noise(), noise()[..., 0], noise().astype(np.uint16) * 256 + 9]
)
def test_tiff(samples: NDArray[np.generic], compression: int, orientation: int) -> None:
    options = [cv2.IMWRITE_TIFF_COMPRESSION, compression]
    data = bytes(cv2.imencode('.tiff', samples, options)[1])
    frame = decode_file(data)
    out = bytes(frame.encode(NO_RECTS))
    assert sniff(out) == 'tiff'
    with Image.open(io.BytesIO(out)) as image:
        assert (image.info['compression'] == 'raw') == (compression == 1)
    after = cv2.imdecode(np.frombuffer(out, np.uint8), cv2.IMREAD_UNCHANGED)
    assert after.dtype == samples.dtype
    assert np.array_equal(after, samples)


@pytest.mark.skipif(not hasattr(cv2, 'imencodemulti'), reason='OpenCV is older than 4.6')
def test_a_tiff_of_several_pictures_is_refused() -> None:
    data = bytes(cv2.imencodemulti('.tiff', [noise(), noise()])[1])
    with pytest.raises(ImageError, match='TIFF of several pictures'):
        parse(data)


@pytest.mark.parametrize(
    ('data', 'kind'),
    [
        (JPEG, 'jpg'),
        (PNG, 'png'),
        (plain('webp'), 'webp'),
        (bmp(), 'bmp'),
        (plain('tiff'), 'tiff'),
        (b'MM\0*\0\0\0\x08', 'tiff'),
        (b'GIF89a', 'gif'),
        (b'\0\0\0\x18ftypheic', 'heif'),
        (b'\0\0\0\x18ftypavif', 'avif'),
        (b'\0\0\0\x18ftypmp42', 'mp4'),
        (b'\0\0\0\x18ftypisom', 'mp4'),
        (b'\0\0\0\x14ftypqt  ', 'mov'),
        (b'\0\0\0\x08wide\0\0', 'mov'),
        (b'\x1aE\xdf\xa3', 'mkv'),
        (b'RIFF....AVI ', 'avi'),
        (b'RIFF....WAVE', ''),
        (b'\0\0\1\xba', 'mpg'),
        (b'text', ''),
        (b'', ''),
    ],
)
def test_sniff(data: bytes, kind: str) -> None:
    assert sniff(data[:32]) == kind


def png_of(size_wh: tuple[int, int], bits: int = 1, colour: int = 0) -> bytes:
    """Return a PNG of zeros, which are next to nothing when they are compressed."""
    width, height = size_wh
    header = struct.pack('>IIBBBBB', width, height, bits, colour, 0, 0, 0)
    rows = bytes((1 + -(-width * bits // 8)) * height)
    chunks = [(b'IHDR', header), (b'IDAT', zlib.compress(rows, 9)), (b'IEND', b'')]
    return b'\x89PNG\r\n\x1a\n' + b''.join(png_chunk(*chunk) for chunk in chunks)


def bmp_of(size_wh: tuple[int, int], compression: int) -> bytes:
    header = struct.pack('<IiiHHIIiiII', 40, *size_wh, 1, 8, compression, 0, 0, 0, 0, 0)
    return b'BM' + struct.pack('<IHHI', 1078, 0, 0, 1078) + header + bytes(1024)


def jpeg_of(size_wh: tuple[int, int]) -> bytes:
    at = JPEG.index(b'\xff\xc0')
    return JPEG[: at + 5] + struct.pack('>HH', *size_wh[::-1]) + JPEG[at + 9 :]


@pytest.mark.parametrize(
    ('data', 'text'),
    [
        (png_of((8192, 8192)), 'png of 8192x8192 pixels in .* made to exhaust memory'),
        (bmp_of((30000, 30000), 1), 'bmp of 30000x30000 pixels, expected 1 to'),
        (bmp_of((16000, 16000), 1), 'bmp of 16000x16000 pixels in 1078 bytes, .* exhaust memory'),
        (bmp_of((300, 300), 0), r'BMP of \(300, 300\) pixels in 1078 bytes'),
        (jpeg_of((65000, 65000)), 'jpg of 65000x65000 pixels, expected 1 to'),
        (jpeg_of((16000, 16000)), 'jpg of 16000x16000 pixels in'),
    ],
)
def test_what_would_exhaust_memory_is_refused_by_its_header(data: bytes, text: str) -> None:
    with pytest.raises(ImageError, match=text):
        parse(data)


@pytest.mark.parametrize('data', [PNG, JPEG, plain('webp'), bmp(), plain('tiff')])
def test_the_limit_counts_for_all_kinds(data: bytes) -> None:
    parse(data, most_pixels=40 * 56)
    with pytest.raises(ImageError, match=r'of 56x40 pixels, expected 1 to 2239 \(`limits.max_pix'):
        parse(data, most_pixels=40 * 56 - 1)


def test_a_profile_that_is_a_bomb_is_left_out() -> None:
    bomb = zlib.compress(bytes(1 << 26), 9)
    data = behind_header(PNG, png_chunk(b'iCCP', b'x\0\0' + bomb))
    assert parse(data).colour == b''


def test_a_png_is_inflated_once_and_looks_the_same() -> None:
    """What is decoded in its place is not compressed, and ends where the picture does."""
    for picture in (noise(), noise()[..., 0], noise()[:1, :1], cv2.resize(noise(), (301, 299))):
        parsed = parse(bytes(cv2.imencode('.png', picture)[1]))
        plain, more = unpacked(parsed)
        assert more is False
        assert len(plain) > picture.nbytes
        same = [cv2.imdecode(np.frombuffer(d, 'u1'), -1) for d in (plain, parsed.coded)]
        assert np.array_equal(*same)
    tail = parse(with_idat_tail(bytes(cv2.imencode('.png', noise())[1]), b'x'))
    assert unpacked(tail) == (tail.coded, True)
