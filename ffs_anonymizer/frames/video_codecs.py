"""Which of FFmpeg's codecs make and read packets of H.264 and H.265, and how each is asked."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from fractions import Fraction

from ffs_anonymizer.errors import ImageError

try:
    import av
    from av.error import FFmpegError
    from av.video.codeccontext import VideoCodecContext
except ImportError as error:
    raise ImportError(f'{error}; H.264 and H.265 topics need PyAV: pip install av') from error

CODECS = ('h264', 'hevc')
TIME_BASE = Fraction(1, 1000)
COLOURS = ('color_range', 'color_primaries', 'color_trc', 'colorspace')
# Each program is asked for one packet a picture, without looking ahead, with keyframes where they
# are ordered and nowhere else, each with all that a decoder needs to begin.
_NO_KEYFRAMES = '1000000'
_X265 = (
    'log-level=error:annexb=1:repeat-headers=1:bframes=0:rc-lookahead=0:scenecut=0:open-gop=0:'
    'keyint=-1:frame-threads=1:info=0'
)
_NVENC = {
    'preset': 'p4',
    'tune': 'ull',
    'zerolatency': '1',
    'delay': '0',
    'rc': 'constqp',
    'qp': '23',
    'bf': '0',
    'forced-idr': '1',
    'no-scenecut': '1',
    'g': _NO_KEYFRAMES,
}
_V4L2 = {'b': '8000000', 'bf': '0', 'g': _NO_KEYFRAMES}


@dataclass(frozen=True)
class Encoder:
    """
    Say how FFmpeg calls an encoder.

    :param formats: of its pictures, by preference; a device takes what its driver takes.
    """

    name: str
    options: Mapping[str, str]
    formats: tuple[str, ...] = ('yuv420p',)


@dataclass(frozen=True)
class Decoder:
    """
    Say how FFmpeg calls a decoder.

    :param end: what follows each picture; it holds one back until it sees that it has ended.
    """

    name: str
    end: bytes = field(default=b'')


_AS_FOUND = ('yuv420p', 'nv12')
ENCODERS = {
    'software': {
        'h264': Encoder(
            'libx264',
            {
                'preset': 'veryfast',
                'tune': 'zerolatency',
                'forced-idr': '1',
                'x264-params': 'annexb=1:repeat-headers=1:scenecut=0:bframes=0',
                'g': _NO_KEYFRAMES,
                'crf': '20',
            },
        ),
        'hevc': Encoder(
            'libx265',
            {
                'preset': 'ultrafast',
                'tune': 'zerolatency',
                'forced-idr': '1',
                'x265-params': _X265,
                'crf': '22',
            },
        ),
    },
    'nvenc': {
        'h264': Encoder('h264_nvenc', _NVENC),
        'hevc': Encoder('hevc_nvenc', _NVENC),
    },
    'v4l2m2m': {
        'h264': Encoder('h264_v4l2m2m', _V4L2, _AS_FOUND),
        'hevc': Encoder('hevc_v4l2m2m', _V4L2, _AS_FOUND),
    },
}
# The access unit delimiter, with which the next picture would begin.
DECODERS = {
    'software': {'h264': Decoder('h264'), 'hevc': Decoder('hevc')},
    'nvdec': {
        'h264': Decoder('h264_cuvid', b'\0\0\0\1\x09\xf0'),
        'hevc': Decoder('hevc_cuvid', b'\0\0\0\1\x46\x01\x50'),
    },
    'v4l2m2m': {'h264': Decoder('h264_v4l2m2m'), 'hevc': Decoder('hevc_v4l2m2m')},
}


def open_encoder(
    encoder: Encoder, size_wh: tuple[int, int], colours: tuple[int, ...] = ()
) -> VideoCodecContext:
    """
    Return an encoder that is ready.

    :param colours: range, primaries, transfer and matrix, as FFmpeg numbers them.
    :raises ImageError: this FFmpeg has none of this name, or it does not open.
    """
    odd = size_wh[0] % 2 or size_wh[1] % 2
    first, *others = ('yuv444p',) if odd else encoder.formats
    try:
        return _opened_encoder(encoder, size_wh, colours, first)
    except (FFmpegError, ValueError) as error:
        if not others:
            raise ImageError(_no(encoder.name, error)) from error
    return open_encoder(replace(encoder, formats=tuple(others)), size_wh, colours)


def _opened_encoder(
    encoder: Encoder, size_wh: tuple[int, int], colours: tuple[int, ...], pixel_format: str
) -> VideoCodecContext:
    context = av.CodecContext.create(encoder.name, 'w')
    assert isinstance(context, VideoCodecContext)
    context.width, context.height = size_wh
    context.pix_fmt = pixel_format
    context.time_base = TIME_BASE
    context.framerate = Fraction(30)
    context.options = dict(encoder.options)
    for name, value in zip(COLOURS, colours, strict=False):
        setattr(context, name, value)
    context.open()
    return context


def open_decoder(decoder: Decoder, *, limit_pixels: int) -> VideoCodecContext:
    """
    Return a decoder that is ready.

    :param limit_pixels: the largest picture that is decoded.
    :raises ImageError: this FFmpeg has none of this name, or it does not open.
    """
    try:
        context = av.CodecContext.create(decoder.name, 'r')
        assert isinstance(context, VideoCodecContext)
        # One thread: more of them hand a picture out some packets late.
        context.thread_count = 1
        context.options = {
            'err_detect': 'explode',
            'flags': 'low_delay',
            'max_pixels': str(limit_pixels),
        }
        context.open()
    except (FFmpegError, ValueError) as error:
        raise ImageError(_no(decoder.name, error)) from error
    return context


def _no(name: str, reason: Exception) -> str:
    if isinstance(reason, FFmpegError):
        return f"FFmpeg's {name} does not open on this machine: {reason.strerror}"
    return f'this FFmpeg has no {name}'
