"""H.264 and H.265 as topics carry them, a packet a picture: decoded and encoded again in order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ffs_anonymizer.errors import ImageError, SettingsError
from ffs_anonymizer.frames.frame import Buffer, Frame
from ffs_anonymizer.frames.video import Samples, samples_of
from ffs_anonymizer.frames.video_codecs import (
    CODECS,
    COLOURS,
    DECODERS,
    ENCODERS,
    open_decoder,
    open_encoder,
    TIME_BASE,
)
import numpy as np
from numpy.typing import NDArray

try:
    import av
    from av.error import FFmpegError
    from av.video.codeccontext import VideoCodecContext
    from av.video.frame import PictureType
except ImportError as error:
    raise ImportError(f'{error}; H.264 and H.265 topics need PyAV: pip install av') from error

# By what a message may call its codec: the codec's name, or that of an encoder.
_NAMES = {'h264': 'h264', 'avc': 'h264', 'x264': 'h264', 'h265': 'hevc', 'hevc': 'hevc'}
_NAMES['x265'] = 'hevc'
# NAL units that a decoder can begin with: an IDR picture; of H.265 all random access points.
_H264_IDR = 5
_HEVC_RANDOM_ACCESS = range(16, 22)
_START = b'\0\0\1'
# Larger than the least that devices take, and in whole blocks of any codec.
_ROUND_WH = (320, 192)
_ROUND_GOP = 3


def codec_of(name: str) -> str:
    """
    Return `h264` or `hevc`.

    :param name: as a message states it: `h264`, `hevc`, `libx265`, `h264_nvenc;yuv420p;bgr8` ...
    :raises ImageError: it is another codec.
    """
    first = name.split(';')[0].strip().lower()
    for word, codec in _NAMES.items():
        if word in first:
            return codec
    raise ImageError(f'got packets of {name!r}, expected h264 or h265 (hevc)')


def is_keyframe(data: Buffer, codec: str) -> bool:
    """
    Tell whether a decoder can begin with a packet.

    :param data: NAL units behind start codes (Annex B).
    :param codec: `h264` or `hevc`.
    """
    for first in _nal_headers(bytes(data)):
        if codec == 'h264' and first & 0x1F == _H264_IDR:
            return True
        if codec == 'hevc' and first >> 1 & 0x3F in _HEVC_RANDOM_ACCESS:
            return True
    return False


@dataclass(frozen=True)
class DecodedPicture:
    """
    Hold the picture of one packet.

    :param samples: as a raw ROS image.
    :param keyframes: how many the stream has had up to here. Where it is more than at the picture
        before, the packet made of this one is a keyframe too.
    :param colours: range, primaries, transfer and matrix of its samples, as FFmpeg numbers them.
    """

    samples: Samples
    keyframes: int
    colours: tuple[int, ...] = ()


class PacketDecoder:
    """
    Decode the packets of one topic, in their order.

    After a packet that is damaged or missing its reference nothing is handed out until the next
    keyframe: what the decoder would make of it is no faithful picture.

    :param codec: `h264` or `hevc`.
    :param kind: who decodes: one of `DECODERS`.
    :param limit_pixels: the largest picture that is decoded.
    :param keyframes: how many the stream has had before.
    """

    def __init__(
        self,
        codec: str,
        *,
        kind: str = 'software',
        limit_pixels: int = 1 << 26,
        keyframes: int = 0,
    ) -> None:
        self._codec = codec
        self._decoder = DECODERS[kind][codec]
        self._limit_pixels = limit_pixels
        self._context: VideoCodecContext | None = None
        self._pts = 0
        self._keyframes = keyframes

    def decode(self, data: Buffer) -> DecodedPicture:
        """
        Return the picture of a packet.

        :raises ImageError: there is none, or none yet.
        """
        is_key = is_keyframe(data, self._codec)
        if is_key and self._context is None:
            self._context = open_decoder(self._decoder, limit_pixels=self._limit_pixels)
        if self._context is None:
            raise ImageError('no keyframe has come yet: this packet cannot be decoded')
        try:
            frame = self._decoded(self._context, bytes(data))
            self._keyframes += is_key
            return DecodedPicture(samples_of(frame), self._keyframes, _colours(self._context))
        except (FFmpegError, ValueError) as error:
            self._context = None
            raise ImageError(
                f'got a damaged {self._codec} packet; the next keyframe starts anew: {error}'
            ) from error
        except ImageError:
            self._context = None
            raise

    def _decoded(self, context: VideoCodecContext, data: bytes) -> av.VideoFrame:
        self._pts += 1
        packet = av.Packet(data + self._decoder.end)
        packet.pts = packet.dts = self._pts
        packet.time_base = TIME_BASE
        frames = context.decode(packet)
        if len(frames) != 1:
            raise ImageError(
                f'got a packet with {len(frames)} pictures, expected 1; '
                'streams with B-frames, or parts of a picture a packet, cannot be anonymized live'
            )
        (frame,) = frames
        if frame.pts != self._pts:
            raise ImageError('got a stream with B-frames, whose packets are not in order')
        if frame.is_corrupt:
            raise ImageError('got a picture that is not whole; the next keyframe starts anew')
        return frame


class PacketEncoder:
    """
    Encode pictures into packets, one each, keyframes where they were.

    A picture may be left out; if it was a keyframe, the next one becomes it.

    :param codec: `h264` or `hevc`.
    :param kind: who encodes: one of `ENCODERS`.
    """

    def __init__(self, codec: str, *, kind: str = 'software') -> None:
        self._codec = codec
        self._encoder = ENCODERS[kind][codec]
        self._context: VideoCodecContext | None = None
        self._size_wh = (0, 0)
        self._pts = 0
        self._keyframes = 0

    def encode(self, picture: DecodedPicture, data: Buffer) -> bytes:
        """
        Return the packet of a picture.

        :param data: its samples, anonymized.
        :raises ImageError: it cannot be encoded.
        """
        samples = picture.samples.with_data(data)
        size_wh = (samples.width, samples.height)
        if size_wh != self._size_wh:
            self._context, self._size_wh = None, size_wh
        if self._context is None:
            self._context = open_encoder(self._encoder, size_wh, picture.colours)
        frame = _frame(samples).reformat(format=self._context.pix_fmt)
        self._pts += 1
        frame.pts, frame.time_base = self._pts, TIME_BASE
        is_key = picture.keyframes != self._keyframes
        frame.pict_type = PictureType.I if is_key else PictureType.NONE
        try:
            packets = self._context.encode(frame)
        except (FFmpegError, ValueError) as error:
            name = self._encoder.name
            raise ImageError(f'{name}: the picture cannot be encoded: {error}') from error
        if len(packets) != 1:
            self._context = None
            raise ImageError(f'{self._encoder.name} gave {len(packets)} packets, expected 1')
        made = bytes(packets[0])
        if is_key and not is_keyframe(made, self._codec):
            self._context = None
            raise ImageError(f'{self._encoder.name} made no keyframe where one was ordered')
        self._keyframes = picture.keyframes
        return made


def _colours(context: VideoCodecContext) -> tuple[int, ...]:
    return tuple(int(getattr(context, name)) for name in COLOURS)


class PacketFrame(Frame):
    """Hold the picture of a packet, of which another packet is made."""

    def __init__(
        self,
        picture: DecodedPicture,
        encoder: PacketEncoder,
        decode: Callable[[Samples], Frame] = Samples.decode,
    ) -> None:
        self._picture, self._encoder = picture, encoder
        self._inner = decode(picture.samples)
        self.image_bgr = self._inner.image_bgr
        self.align_wh_px, self.bleed_px = self._inner.align_wh_px, self._inner.bleed_px

    def without(self, rects_xyxy_px: NDArray[np.int32]) -> None:
        """Do nothing: eight bits have one brightness."""

    def encode(self, touched_xyxy_px: NDArray[np.int32]) -> bytes:
        """
        Return the packet, a new one also where nothing was touched.

        What a packet shows depends on those before it, in which something may have been. Pictures
        of one stream are to be encoded in their order.

        :raises ImageError: it cannot be encoded.
        """
        return self._encoder.encode(self._picture, self._inner.encode(touched_xyxy_px))


class Transcoder:
    """
    Take the packets of one topic in their order, each as a frame of which a packet is made.

    Decoding and encoding may be done in two threads; what fails leaves the rest as it is.

    :param limit_pixels: the largest picture that is decoded.
    :param encoder: one of `ENCODERS`.
    :param decoder: one of `DECODERS`.
    """

    def __init__(
        self,
        *,
        limit_pixels: int = 1 << 26,
        encoder: str = 'software',
        decoder: str = 'software',
    ) -> None:
        self._limit_pixels = limit_pixels
        self._kinds = encoder, decoder
        self._codec = ''
        self._keyframes = 0
        self._decoder: PacketDecoder | None = None
        self._encoder: PacketEncoder | None = None

    def restart(self) -> None:
        """Hand nothing out until the next keyframe, since packets are missing."""
        self._decoder = None

    def decode(
        self, data: Buffer, codec: str, decode: Callable[[Samples], Frame] = Samples.decode
    ) -> PacketFrame:
        """
        Return the picture of a packet.

        :param codec: as the message states it; if it changes, both sides begin anew.
        :param decode: makes the frame of the picture's samples.
        :raises ImageError: there is none, or none yet.
        """
        wanted = codec_of(codec)
        if wanted != self._codec or self._encoder is None:
            self._codec, self._decoder = wanted, None
            self._encoder = PacketEncoder(wanted, kind=self._kinds[0])
        if self._decoder is None:
            self._decoder = PacketDecoder(
                wanted,
                kind=self._kinds[1],
                limit_pixels=self._limit_pixels,
                keyframes=self._keyframes,
            )
        picture = self._decoder.decode(data)
        self._keyframes = picture.keyframes
        return PacketFrame(picture, self._encoder, decode)


def check_codecs(encoder: str, decoder: str) -> list[str]:
    """
    Send some pictures round, and return why a codec does not work here; one of them must.

    What opens may still hold pictures back, make no keyframes, or begin without parameters.

    :param encoder: one of `ENCODERS`.
    :param decoder: one of `DECODERS`.
    :raises SettingsError: neither H.264 nor H.265 works.
    """
    found = [_what_fails(codec, encoder, decoder) for codec in CODECS]
    reasons = [reason for reason in found if reason]
    if len(reasons) == len(CODECS):
        raise SettingsError(
            f'video.encoder: {encoder} with video.decoder: {decoder} does not work here: '
            f'{"; ".join(reasons)}; choose software'
        )
    return reasons


def _what_fails(codec: str, encoder: str, decoder: str) -> str:
    try:
        _go_round(codec, encoder, decoder)
    except ImageError as error:
        return f'{codec}: {error}'
    return ''


def _go_round(codec: str, encoder: str, decoder: str) -> None:
    """Raise ImageError if pictures do not come back, one for one, with keyframes as ordered."""
    make, read = PacketEncoder(codec, kind=encoder), PacketDecoder(codec, kind=decoder)
    later = PacketDecoder(codec)
    for at in range(2 * _ROUND_GOP):
        data = np.full((_ROUND_WH[1] * 3 // 2, _ROUND_WH[0]), 128, np.uint8)
        data[: _ROUND_WH[1]] = np.add.outer(np.arange(_ROUND_WH[1]), np.arange(_ROUND_WH[0])) // 4
        data[: _ROUND_WH[1], : 16 * at] = 200
        samples = Samples(_ROUND_WH[1], _ROUND_WH[0], 'nv12', _ROUND_WH[0], data.tobytes())
        packet = make.encode(DecodedPicture(samples, keyframes=1 + at // _ROUND_GOP), samples.data)
        # Who comes later begins at the second keyframe.
        for reader in (read, later) if at >= _ROUND_GOP else (read,):
            seen = np.frombuffer(reader.decode(packet).samples.data, np.uint8)
            is_like = seen.size == data.size and np.abs(seen - data.ravel().astype(int)).mean() < 8
            if not is_like:
                raise ImageError('another picture came back than was sent')


def _frame(samples: Samples) -> av.VideoFrame:
    rows = np.frombuffer(samples.data, np.uint8).reshape(-1, samples.step)
    if samples.encoding == 'nv12':
        return av.VideoFrame.from_ndarray(rows, format='nv12')
    pixels = rows.reshape(samples.height, samples.width, 3)
    return av.VideoFrame.from_ndarray(pixels, format='bgr24')


def _nal_headers(data: bytes) -> Iterator[int]:
    at = data.find(_START)
    while at >= 0 and at + 3 < len(data):
        yield data[at + 3]
        at = data.find(_START, at + 3)
