"""Picture files, those of sensor_msgs/CompressedImage among them, to BGR and back."""

from __future__ import annotations

from typing import Any

import cv2
from ffs_anonymizer.errors import ImageError
from ffs_anonymizer.frames import jpeg
from ffs_anonymizer.frames.containers import (
    assemble,
    check_size,
    fits,
    MOST_PIXELS,
    parse,
    Picture,
    PNG_CHANNELS,
    png_chunk,
    png_header,
    runs_on,
    sniff,
    unpacked,
    webp_size,
    write_tiff,
)
from ffs_anonymizer.frames.frame import (
    bgr_from,
    Buffer,
    Frame,
    LINEAR,
    may_be_picture,
    opaque,
    Tone,
    write_bgr,
)
from ffs_anonymizer.frames.raw import as_buffer, refuse_depth, refuse_depth_samples
from ffs_anonymizer.frames.upright import upright
import numpy as np
from numpy.typing import NDArray

LOSSY_WEBP_QUALITY = 90
BLACK_JPEG_QUALITY = 95
_CHANNELS = {1: 'mono', 3: 'bgr', 4: 'bgra'}
_LOSSLESS = 101
_KINDS = {'png': 'png', 'webp': 'webp', 'tif': 'tiff', 'jpeg': 'jpg', 'jpg': 'jpg', 'bmp': 'bmp'}


class _FileFrame(Frame):
    """Hold the samples of a file; where it is not 8-bit BGR, also apart from the picture."""

    def __init__(self, picture: Picture, source: Buffer, data: bytes, topic: str) -> None:
        self._picture, self._source, self._data = picture, source, data
        coded, self._runs_on = unpacked(picture)
        self._samples = _decode(picture, coded)
        channels = 1 if self._samples.ndim == 2 else self._samples.shape[2]
        self._channels = _CHANNELS[channels]
        self._hides = channels == 4 and may_be_picture(cv2.extractChannel(self._samples, 3))
        if self._hides:
            self._samples[..., 3] = opaque(self._samples.dtype)
        if channels == 1 and self._is_deep():
            refuse_depth_samples(self._samples, topic)
        self._tone = Tone.of(self._samples) if self._is_deep() else LINEAR
        self.image_bgr = bgr_from(self._samples, self._channels, self._tone)

    def without(self, rects_xyxy_px: NDArray[np.int32]) -> None:
        """Choose the brightness of 16 bits from the samples outside the rectangles."""
        if not self._is_deep():
            return
        tone = Tone.of(self._samples, rects_xyxy_px)
        if tone != self._tone:
            self._tone = tone
            self.image_bgr[:] = bgr_from(self._samples, self._channels, tone)

    def encode(self, touched_xyxy_px: NDArray[np.int32]) -> Buffer:
        """Return the coded picture as it is if nothing was touched, else one encoded anew."""
        rects = list(self._inside(touched_xyxy_px))
        picture = self._picture
        if not rects and not self._hides and not self._holds_more():
            data = assemble(picture.coded, picture)
            return self._source if data == self._data else data
        if not np.shares_memory(self._samples, self.image_bgr):
            for rect in rects:
                write_bgr(self._samples, self.image_bgr, rect, self._channels, self._tone)
        if picture.clear_grey is not None:
            for x0, y0, x1, y1 in rects:
                patch = self._samples[y0:y1, x0:x1]
                # What was written must not become a hole.
                patch[patch == picture.clear_grey] = picture.clear_grey ^ 1
        return assemble(_encode(picture, self._samples), picture)

    def _holds_more(self) -> bool:
        return runs_on(self._picture) if self._runs_on is None else self._runs_on

    def _is_deep(self) -> bool:
        return bool(self._samples.dtype == np.uint16)


def decode_compressed(
    msg: Any, *, topic: str = '', rotation: int = 0, most_pixels: int = MOST_PIXELS
) -> Frame:
    """
    Decode a sensor_msgs/CompressedImage, or anything with its fields.

    What the data is, its first bytes say; the format string is only asked whether it is a depth
    image. For all else see `decode_file`.

    :param msg: format and data.
    :param topic: its name, which may say that it is depth.
    :param rotation: degrees clockwise that make the camera's picture upright.
    :param most_pixels: limit of width times height.
    :raises ImageError: a depth image, another kind of file, one that is cut off or damaged, or
        one that holds more than one picture.
    """
    refuse_depth(msg.format)
    return decode_file(
        as_buffer(msg.data), topic=topic, rotation=rotation, most_pixels=most_pixels
    )


def decode_file(
    source: Buffer, *, topic: str = '', rotation: int = 0, most_pixels: int = MOST_PIXELS
) -> Frame:
    """
    Decode a file of one picture: JPEG, PNG, WebP, TIFF or BMP.

    The frame is upright; what it encodes lies as its source did. A file that nothing was written
    to keeps its coded picture byte for byte. Else JPEG comes back in the quality and chroma
    subsampling it came in, lossy WebP in quality `LOSSY_WEBP_QUALITY`, all others bit-identical
    outside the touched rectangles. Colour profiles that are profiles, and the orientation, are
    kept. Nothing else passes: no metadata, no thumbnail, no bytes behind the end or behind the
    last block, no alpha plane that might be a picture (it becomes opaque).

    :param topic: its name, which may say that it is depth.
    :param rotation: degrees clockwise that make the camera's picture upright.
    :param most_pixels: limit of width times height.
    :raises ImageError: as `decode_compressed`.
    """
    data = bytes(source)
    picture = parse(data, most_pixels=most_pixels)
    return upright(_FileFrame(picture, source, data, topic), picture.orientation, rotation)


def black_compressed(msg: Any, size_wh: tuple[int, int] | None = None) -> bytes:
    """
    Return a black file of the kind, size, depth and colours of a message that may be damaged.

    :param size_wh: taken where the data does not say its size.
    :raises ImageError: neither the data nor `size_wh` say the size, or nothing says the kind.
    """
    refuse_depth(msg.format)
    data = bytes(as_buffer(msg.data))
    try:
        picture = parse(data)
    except ImageError as error:
        picture = _guess(data, msg.format, size_wh, error)
    width, height = picture.size_wh
    shape = (height, width) if picture.channels == 1 else (height, width, picture.channels)
    black = np.zeros(shape, np.uint16 if picture.bits == 16 else np.uint8)
    if picture.channels == 4:
        black[..., 3] = np.iinfo(black.dtype).max
    return assemble(_encode(picture, black), picture)


def _decode(picture: Picture, coded: bytes) -> NDArray[Any]:
    """
    Return the samples, (H, W) or (H, W, C), as they are stored.

    :param coded: a file that decodes as the picture's own.
    """
    flags = cv2.IMREAD_UNCHANGED
    if picture.header is not None:
        flags = cv2.IMREAD_GRAYSCALE if picture.channels == 1 else cv2.IMREAD_COLOR
        flags |= cv2.IMREAD_IGNORE_ORIENTATION
    kind, (width, height) = picture.kind, picture.size_wh
    try:
        samples = cv2.imdecode(np.frombuffer(coded, np.uint8), flags)
    except cv2.error as error:
        raise ImageError(f'got a {kind} that OpenCV cannot decode: {error}') from error
    if samples is None or samples.shape[:2] != (height, width):
        got = 'nothing' if samples is None else f'{samples.shape[1]}x{samples.shape[0]} pixels'
        raise ImageError(f'{kind} of {width}x{height} pixels: OpenCV decoded {got}; it is damaged')
    channels = 1 if samples.ndim == 2 else samples.shape[2]
    if samples.dtype not in (np.uint8, np.uint16) or channels not in _CHANNELS:
        raise ImageError(
            f'got a {kind} of {channels} channels of {samples.dtype}, '
            'expected 1, 3 or 4 of 8 or 16 bits; encode it anew'
        )
    if picture.header is not None:
        jpeg.check_complete(picture.header, samples)
    return np.asarray(samples)


def _encode(picture: Picture, samples: NDArray[Any]) -> bytes:
    """Return a file of the same kind, with nothing but the picture."""
    if picture.kind == 'tiff':
        order = {3: cv2.COLOR_BGR2RGB, 4: cv2.COLOR_BGRA2RGBA}
        channels = 1 if samples.ndim == 2 else samples.shape[2]
        turned = samples if channels == 1 else cv2.cvtColor(samples, order[channels])
        return write_tiff(turned, picture)
    try:
        done, encoded = cv2.imencode(f'.{picture.kind}', samples, _options(picture))
    except cv2.error as error:
        raise ImageError(f'OpenCV cannot encode a {picture.kind}: {error}') from error
    if not done:
        raise ImageError(f'OpenCV cannot encode a {picture.kind} of {samples.shape}')
    data: bytes = encoded.tobytes()
    if picture.clear_grey is not None:
        clear = png_chunk(b'tRNS', picture.clear_grey.to_bytes(2, 'big'))
        at = data.index(b'IDAT') - 4
        data = data[:at] + clear + data[at:]
    return data


def _options(picture: Picture) -> list[int]:
    """Return how cv2.imencode writes the picture's like."""
    header = picture.header
    if header is not None:
        options = [cv2.IMWRITE_JPEG_QUALITY, jpeg.quality_of(header)]
        if header.progressive:
            options += [cv2.IMWRITE_JPEG_PROGRESSIVE, 1]
        # OpenCV before 4.7 has no choice and writes 4:2:0.
        sampling = getattr(cv2, f'IMWRITE_JPEG_SAMPLING_FACTOR_{jpeg.sampling_of(header)}', None)
        if sampling is not None:
            options += [cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling]
        return options
    if picture.kind == 'jpg':
        return [cv2.IMWRITE_JPEG_QUALITY, BLACK_JPEG_QUALITY]
    if picture.kind == 'webp':
        options = [cv2.IMWRITE_WEBP_QUALITY, _LOSSLESS if picture.lossless else LOSSY_WEBP_QUALITY]
        if picture.lossless and hasattr(cv2, 'IMWRITE_WEBP_LOSSLESS_PRESERVE_COLOR'):
            exact = cv2.IMWRITE_WEBP_LOSSLESS_PRESERVE_COLOR
            options += [cv2.IMWRITE_WEBP_LOSSLESS_MODE, exact]
        return options
    return []


def _guess(
    data: bytes, format_name: str, size_wh: tuple[int, int] | None, reason: ImageError
) -> Picture:
    """Describe a file of the kind that damaged data begins with, or else that the format names."""
    kind = next((kind for word, kind in _KINDS.items() if word in format_name.lower()), '')
    channels, bits, told_wh = 3, 8, size_wh
    try:
        if sniff(data) == 'jpg':
            kind = 'jpg'
            size_wh = jpeg.jpeg_size_wh(data)
        elif sniff(data) == 'png':
            kind = 'png'
            size_wh, bits, colour = png_header(data[16:29])
            channels = PNG_CHANNELS[colour]
        elif sniff(data) == 'webp' and data[12:16] in (b'VP8 ', b'VP8L'):
            kind = 'webp'
            size_wh = webp_size(data[12:16], data[20:30])
    except ImageError:
        pass
    if size_wh is not None and not fits(size_wh, data):
        size_wh = told_wh
    if not kind or size_wh is None:
        raise ImageError(
            f'no black picture for {format_name!r}: the data states no kind or size ({reason})'
        ) from reason
    check_size(kind, size_wh)
    return Picture(kind, b'', size_wh, channels=channels, bits=bits)
