import io
import struct
import zlib

import cv2
from ffs_anonymizer.errors import ImageError
from ffs_anonymizer.frames import image_file as picture
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
    source = picture.parse(data)
    assert SECRET in data
    assert SECRET not in source.data
    assert source.orientation == orientation
    frame = picture.decode(source)
    kept = picture.assemble(bytes(frame.encode(NO_RECTS)), source)
    assert SECRET not in kept
    assert np.array_equal(shown(kept), shown(data))
    with Image.open(io.BytesIO(kept)) as image:
        assert image.info['icc_profile'] == ICC
        assert dict(image.getexif()) == ({} if orientation == 1 else {0x0112: orientation})
    assert picture.parse(kept) == source


@pytest.mark.parametrize('make', [jpeg, png, webp, bmp])
def test_a_changed_picture_keeps_all_but_the_change(make: object) -> None:
    data = make()
    source = picture.parse(data)
    frame = picture.decode(source)
    frame.image_bgr[8:24, 16:32] = (0, 0, 255)
    kept = picture.assemble(bytes(frame.encode(np.array([[16, 8, 32, 24]], np.int32))), source)
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
    source = picture.parse(data)
    frame = picture.decode(source)
    assert np.array_equal(frame.image_bgr, shown(data))
    frame.image_bgr[4:9, 10:30] = (255, 0, 0)
    expected = frame.image_bgr.copy()
    kept = picture.assemble(bytes(frame.encode(np.array([[10, 4, 30, 9]], np.int32))), source)
    assert np.array_equal(shown(kept), expected)


def test_upright_turns_what_the_recipe_must_keep_to() -> None:
    source = picture.parse(jpeg(6))
    frame = picture.decode(source)
    assert frame.image_bgr.shape == (56, 40, 3)
    stored = picture.decode(picture.parse(jpeg(1)))
    assert frame.align_wh_px == stored.align_wh_px[::-1]
    assert frame.bleed_px == stored.bleed_px


@pytest.mark.parametrize('subsampling', ['4:2:0', '4:4:4'])
@pytest.mark.parametrize('progressive', [False, True])
def test_all_kinds_of_jpeg_stay_the_same_picture(subsampling: str, progressive: bool) -> None:
    data = encoded('JPEG', subsampling=subsampling, progressive=progressive, restart_marker_rows=1)
    source = picture.parse(data)
    assert np.array_equal(shown(picture.assemble(source.data, source)), shown(data))


def animated(kind: str) -> bytes:
    file = io.BytesIO()
    frames = [Image.fromarray(noise()), Image.fromarray(255 - noise())]
    frames[0].save(file, kind, save_all=True, append_images=frames[1:])
    return file.getvalue()


@pytest.mark.parametrize(
    ('data', 'text'),
    [
        (b'', 'begins with nothing, expected a JPEG, PNG, WebP or BMP'),
        (b'GIF89a......', 'begins with 47 49 46 38 39 61 2e 2e, expected'),
        (b'\xff\xd8', 'ends after 2 bytes: truncated'),
        (jpeg()[:200], 'truncated'),
        (encoded('JPEG')[:-300], 'no end of the image in'),
        (b'\xff\xd8\x00\x01', 'got byte 0x00 at 2, expected a marker'),
        (encoded('PNG')[:-30], 'truncated'),
        (webp()[:-10], 'truncated'),
        (animated('PNG'), 'PNG: got an animation, expected one picture'),
        (animated('WEBP'), 'WebP: got an animation, expected one picture'),
    ],
)
def test_what_is_no_whole_picture_is_refused(data: bytes, text: str) -> None:
    with pytest.raises(ImageError, match=text):
        picture.parse(data)


@pytest.mark.parametrize('data', [bmp()[:-500], b'BM' + b'\0' * 60])
def test_a_damaged_bmp_is_refused(data: bytes) -> None:
    with pytest.raises(ImageError, match='BMP'):
        picture.decode(picture.parse(data))


@pytest.mark.parametrize(
    'exif', [b'', b'XX', b'II*\0', b'MM\0*\0\0\0\x08\0\x09', b'II*\0\xff\xff\xff\xff\0\0']
)
def test_a_broken_orientation_means_upright(exif: bytes) -> None:
    plain = encoded('JPEG')
    segment = b'\xff\xe1' + struct.pack('>H', 8 + len(exif)) + b'Exif\0\0' + exif
    assert picture.parse(plain[:2] + segment + plain[2:]).orientation == 1
