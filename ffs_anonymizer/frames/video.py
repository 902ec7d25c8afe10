"""Video files: pictures out of one and into another, their times and colours kept; uses PyAV."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
import contextlib
import dataclasses
from dataclasses import dataclass
from fractions import Fraction
import functools
from pathlib import Path
import re
from typing import Any, Union

from ffs_anonymizer.cores import features
from ffs_anonymizer.errors import MediaError
from ffs_anonymizer.frames.frame import Buffer
from ffs_anonymizer.frames.message import black_like, decode_image, Frame
from ffs_anonymizer.frames.upright import upright
import numpy as np
from numpy.typing import NDArray

try:
    import av
    from av.error import FFmpegError
except ImportError as error:
    raise ImportError(f'{error}; videos need PyAV: pip install av') from error

# With AVX-512 the macroblock tree of x264 (core 165) reads memory that nobody wrote, and makes
# other bytes of the same pictures now and then.
_X264 = {
    'preset': 'veryfast',
    **({'x264-params': 'asm=AVX2'} if 'avx512f' in features() else {}),
}
# What the container allows; a fast preset, since the networks need the cores more.
_ENCODERS: dict[str, tuple[str, dict[str, str]]] = {
    '.webm': ('libvpx-vp9', {'deadline': 'realtime', 'cpu-used': '7', 'row-mt': '1', 'b': '0'}),
    '.avi': ('libx264', {**_X264, 'bf': '0'}),
}
_H264 = ('libx264', _X264)
# Metadata in another alphabet is no reason to refuse a file; PyAV 19 never did.
LENIENT = {'metadata_errors': 'ignore'} if int(av.__version__.split('.')[0]) < 19 else {}
# Without random identifiers: the same input gives the same bytes.
_SAME_BYTES = {'fflags': 'bitexact'}
# More than rounding takes from a time, and less than two frames.
_SPARE_STEPS = 1.5
# Segment information and, in it, a duration of 4 or 8 bytes.
_MATROSKA_LENGTH = re.compile(rb'\x15\x49\xa9\x66.{1,4096}?\x44\x89[\x84\x88]', re.DOTALL)
_COLOURS = ('color_range', 'color_primaries', 'color_trc', 'colorspace')
# What RGB becomes when it is converted to YUV: BT.601 with luma in 16..235.
_FROM_RGB = {'color_range': 1, 'colorspace': 5}


@dataclass(frozen=True)
class Samples:
    """
    Hold a picture's samples, in the form of a raw ROS image.

    :param encoding: nv12, or bgr8 where a side is odd and chroma cannot be halved.
    """

    height: int
    width: int
    encoding: str
    step: int
    data: Buffer
    is_bigendian: int = 0

    def with_data(self, data: Buffer) -> Samples:
        """Return other samples of the same form."""
        return dataclasses.replace(self, data=data)

    def decode(self) -> Frame:
        """Return the picture as the recipe takes it."""
        return decode_image(self)


@dataclass(frozen=True)
class Shot:
    """
    Hold one picture of a video.

    :param pts: its time in units of the stream's time base, greater than that of the one before.
    :param duration: in the same units; 0: unknown.
    :param stamp_ns: its time in nanoseconds.
    :param picture: as the decoder gave it; None where it could not decode it.
    :param quarter_turns: how often it is to be turned by 90 degrees, counter-clockwise.
    """

    pts: int
    duration: int
    stamp_ns: int
    picture: Any
    quarter_turns: int = 0

    @functools.cached_property
    def samples(self) -> Samples:
        """
        Return the picture's samples, upright.

        :raises MediaError: the decoder gave no picture, or a damaged one.
        """
        if self.picture is None or self.picture.is_corrupt:
            raise MediaError(f'the picture at {self.stamp_ns / 1e9:.3f} s cannot be decoded')
        return samples_of(self.picture, self.quarter_turns)

    def decode(self, rotation: int = 0) -> Frame:
        """
        Return the picture as the recipe takes it.

        :param rotation: degrees clockwise that make it upright, beyond what the file says.
        :raises MediaError: the decoder gave no picture, or a damaged one.
        """
        return upright(self.samples.decode(), rotation=rotation)


class VideoSource:
    """
    Read a video's pictures in the order in which they are shown.

    :param keep_audio: whether packets of sound come along.
    :raises MediaError: it cannot be opened, or holds no video. Of several it is the one that
        players show.
    """

    def __init__(self, path: Path, *, keep_audio: bool = False) -> None:
        self.path = path
        with as_media_error(path):
            self._container = av.open(str(path), **LENIENT)
        try:
            self._open(keep_audio)
        except BaseException:
            self._container.close()
            raise

    def _open(self, keep_audio: bool) -> None:
        covers = av.stream.Disposition.attached_pic
        streams = [s for s in self._container.streams.video if not s.disposition & covers]
        if not streams:
            raise MediaError(f'{self.path}: got no video stream, expected one')
        default = av.stream.Disposition.default
        self.stream = next((s for s in streams if s.disposition & default), streams[0])
        self._left_out = len(streams) - 1
        self.stream.thread_type = 'AUTO'
        self.audio = list(self._container.streams.audio) if keep_audio else []
        # A damaged picture must not pass as a whole one.
        self.stream.codec_context.options = {'err_detect': 'explode'}
        first = self._first_picture()
        if first.rotation % 90:
            raise MediaError(
                f'{self.path}: got a video turned by {first.rotation} degrees, '
                'expected a multiple of 90'
            )
        self.quarter_turns = first.rotation // 90 % 4
        blank = samples_of(first, self.quarter_turns)
        self.width, self.height, self.encoding = blank.width, blank.height, blank.encoding
        self.rate = self.stream.average_rate or Fraction(30)
        self.time_base: Fraction = self.stream.time_base
        self.is_avi = self._container.format.name == 'avi'
        self._packets_read = 0
        self._last_dts = -1
        self._end_s = 0.0

    def _first_picture(self) -> Any:
        with as_media_error(self.path), av.open(str(self.path), **LENIENT) as probe:
            # The last packet is an empty one, which has the decoder hand out what it holds.
            for packet in probe.demux(probe.streams[self.stream.index]):
                with contextlib.suppress(FFmpegError):
                    for picture in packet.decode():
                        return picture
        raise MediaError(f'{self.path}: got no picture that can be decoded')

    def __iter__(self) -> Iterator[Union[Shot, Any]]:
        """
        Yield each picture as a Shot, and packets of sound between them as they come.

        What cannot be decoded yields a Shot without a picture, or with a damaged one.

        :raises MediaError: the file cannot be read on.
        """
        times = _Times(self)
        sound = {stream.index for stream in self.audio}
        # All streams, for the longest of them is as long as the header says.
        packets = self._container.demux()
        while True:
            with as_media_error(self.path):
                packet = next(packets, None)
            if packet is None:
                yield from times.rest()
                return
            self._note_end(packet)
            times.note(packet)
            if packet.stream.index != self.stream.index:
                if packet.stream.index in sound and packet.dts is not None:
                    yield packet
                continue
            try:
                frames = packet.decode()
            except FFmpegError:
                times.lost += 1
                continue
            for frame in frames:
                if (frame.width, frame.height) != self._stored_wh():
                    raise MediaError(
                        f'{self.path}: got a picture of {frame.width}x{frame.height} pixels '
                        f'in a video of {self.width}x{self.height}; its size must not change'
                    )
                yield from times.shots(frame)

    def _stored_wh(self) -> tuple[int, int]:
        size_wh = (self.width, self.height)
        return size_wh[::-1] if self.quarter_turns % 2 else size_wh

    def _note_end(self, packet: Any) -> None:
        if packet.stream.index == self.stream.index and packet.size:
            self._packets_read += 1
            self._last_dts = max(self._last_dts, -1 if packet.dts is None else packet.dts)
        if packet.pts is not None:
            end_s = float((packet.pts + (packet.duration or 0)) * packet.time_base)
            self._end_s = max(self._end_s, end_s)

    @property
    def colours(self) -> dict[str, int]:
        """Return what says how the colours of `Shot.samples` look, by the names of FFmpeg."""
        context = self.stream.codec_context
        colours = {name: int(getattr(context, name)) for name in _COLOURS}
        return {**colours, **_FROM_RGB} if av.VideoFormat(context.pix_fmt).is_rgb else colours

    def shortfall(self) -> str:
        """Return how much less was read than the file holds or announces; nothing: all of it."""
        tracks = f'{self._left_out} further video tracks are left out' * bool(self._left_out)
        return '; '.join(filter(None, (tracks, self._missing())))

    def _missing(self) -> str:
        kind = self._container.format.name
        missing = 0.0
        if 'mp4' in kind:
            missing = self.stream.frames - self._packets_read
        elif self.is_avi:
            # Pictures that were dropped on purpose are counted in it, and have a time.
            missing = self.stream.frames - (self._last_dts + 1)
            missing = missing if missing > _SPARE_STEPS else 0
        if missing > 0:
            return f'ends early: its header counts {missing} pictures more than it holds'
        length_s = (self._container.duration or 0) / av.time_base
        missing_s = length_s - self._end_s
        if 'matroska' in kind and missing_s * self.rate > _SPARE_STEPS and self._says_length():
            return (
                f'ends early: its header says {length_s:.3f} s, what it holds ends at '
                f'{self._end_s:.3f} s'
            )
        return ''

    def _says_length(self) -> bool:
        # Where a file says none, FFmpeg guesses one from its bit rate.
        with as_media_error(self.path), self.path.open('rb') as file:
            return _MATROSKA_LENGTH.search(file.read(1 << 16)) is not None

    def black(self) -> Samples:
        """Return a black picture of this video."""
        step = self.width * (3 if self.encoding == 'bgr8' else 1)
        rows = self.height * 3 // 2 if self.encoding == 'nv12' else self.height
        blank = Samples(self.height, self.width, self.encoding, step, bytes(step * rows))
        return blank.with_data(black_like(blank))

    def close(self) -> None:
        """Close the file."""
        self._container.close()


class VideoTarget:
    """
    Write the pictures of a video that was read into a new file of the same kind.

    Nothing but pictures, and sound where it was asked for, gets into it: no metadata, subtitles,
    chapters, attachments or cover.

    :param source: gives size, times and colours.
    :param suffix: of the final name, which decides container and encoder.
    :param crf: constant rate factor of the encoder: less is better and larger.
    :raises MediaError: it cannot be created.
    """

    def __init__(self, path: Path, source: VideoSource, *, suffix: str, crf: int) -> None:
        self.path = path
        self._source = source
        self._pts: list[int] = []
        muxer = {'.m4v': 'mp4', '.mkv': 'matroska'}.get(suffix, suffix[1:])
        encoder, options = _ENCODERS.get(suffix, _H264)
        with as_media_error(path):
            self._container = av.open(str(path), 'w', format=muxer, options=_SAME_BYTES)
            self._stream = self._container.add_stream(
                encoder, rate=source.rate, options={**options, 'crf': str(crf)}
            )
            context = self._stream.codec_context
            context.width, context.height = source.width, source.height
            context.pix_fmt = _pixel_format(source.encoding, encoder)
            context.time_base = source.time_base
            context.thread_type = 'AUTO'
            aspect = source.stream.sample_aspect_ratio
            if aspect:
                context.sample_aspect_ratio = 1 / aspect if source.quarter_turns % 2 else aspect
            for name, value in source.colours.items():
                setattr(context, name, value)
            self._sound = {
                stream.index: self._container.add_stream_from_template(stream)
                for stream in source.audio
            }
            for stream in self._sound.values():
                stream.metadata.clear()

    def write(self, shot: Shot, samples: Samples) -> None:
        """
        Append a picture.

        :param shot: gives the time.
        :param samples: its pixels.
        :raises MediaError: it cannot be written.
        """
        with as_media_error(self.path):
            self._container.mux(self._stream.encode(self._frame(shot, samples)))
        self._pts.append(shot.pts)

    def write_sound(self, packet: Any) -> None:
        """
        Append a packet of sound.

        :raises MediaError: it cannot be written.
        """
        packet.stream = self._sound[packet.stream.index]
        with as_media_error(self.path):
            self._container.mux(packet)

    def _frame(self, shot: Shot, samples: Samples) -> Any:
        rows = samples.height * 3 // 2 if samples.encoding == 'nv12' else samples.height
        array = np.frombuffer(samples.data, np.uint8).reshape(rows, samples.width, -1)
        if samples.encoding == 'nv12':
            frame = av.VideoFrame.from_ndarray(array[:, :, 0], 'nv12')
        else:
            frame = av.VideoFrame.from_ndarray(array, 'bgr24')
        frame.pts, frame.time_base = shot.pts, self._source.time_base
        if shot.duration:
            frame.duration = shot.duration
        for name, value in self._source.colours.items():
            setattr(frame, name, value)
        return frame

    def finish(self) -> None:
        """
        Write what the encoder still holds, close the file and check what is in it.

        :raises MediaError: it cannot be written, or does not hold all pictures at their times.
        """
        with as_media_error(self.path):
            self._container.mux(self._stream.encode(None))
            self._container.close()
            with av.open(str(self.path)) as written:
                stream = written.streams.video[0]
                # Once its file is closed, a stream tells nothing any more (PyAV 19).
                tolerance = stream.time_base
                # In AVI, pictures are numbered as they lie; their times are a reader's guess.
                name = 'dts' if written.format.name == 'avi' else 'pts'
                packets = [packet for packet in written.demux(stream) if packet.size]
                known = (getattr(packet, name) for packet in packets)
                found = sorted(time * stream.time_base for time in known if time is not None)
        expected = [pts * self._source.time_base for pts in self._pts]
        if len(found) != len(expected) or any(
            abs((a - found[0]) - (b - expected[0])) > tolerance
            for a, b in zip(found, expected, strict=True)
        ):
            raise MediaError(
                f'{self.path}: got {len(found)} pictures in the written file at other times '
                f'than the {len(expected)} that were to be written'
            )

    def close(self) -> None:
        """Close the file as it is."""
        with contextlib.suppress(FFmpegError, OSError, ValueError):
            self._container.close()


def count_pictures(path: Path) -> int:
    """Return how many pictures a video has, about; 0 where nothing in the file says it."""
    try:
        with av.open(str(path), **LENIENT) as container:
            stream = next(iter(container.streams.video), None)
            if stream is None:
                return 0
            seconds = (container.duration or 0) / av.time_base
            return int(stream.frames or seconds * (stream.average_rate or 0))
    except (FFmpegError, OSError, ValueError):
        return 0


class _Times:
    """
    Give every picture a time after that of the one before, and lost ones a place between.

    :param lost: packets that gave no picture when they were decoded. A decoder may still hand out
        what it has of it, marked as damaged.
    """

    def __init__(self, source: VideoSource) -> None:
        self.lost = 0
        self._source = source
        self._last: int | None = None
        self._step = max(1, round(1 / (source.rate * source.time_base)))
        # AVI keeps no times of pictures, only their order, and where some were dropped.
        self._by_count = source.is_avi
        self._slots: deque[int] = deque()
        self._first_slot: int | None = None

    def note(self, packet: Any) -> None:
        """Take in where a packet lies: pictures are shown in places that were taken in order."""
        slot = packet.dts
        is_own = packet.stream.index == self._source.stream.index
        if self._by_count and is_own and packet.size and slot is not None:
            if self._first_slot is None:
                self._first_slot = slot - (self._source.stream.start_time or 0)
            self._slots.append(slot - self._first_slot)

    def shots(self, picture: Any) -> Iterator[Shot]:
        """Yield the lost pictures for which there is a gap before a picture, and then that."""
        if picture.is_corrupt and self.lost:
            self.lost -= 1
        known = picture.pts is not None and not self._by_count
        while self.lost and (not known or picture.pts >= self._next() + self._step):
            self.lost -= 1
            yield self._shot(None, self._next())
        yield self._shot(picture, picture.pts if known else self._next())

    def rest(self) -> Iterator[Shot]:
        """Yield the lost pictures that are left at the end."""
        while self.lost:
            self.lost -= 1
            yield self._shot(None, self._next())

    def _next(self) -> int:
        if self._slots:
            return self._slots[0]
        if self._last is None:
            return self._source.stream.start_time or 0
        return self._last + self._step

    def _shot(self, picture: Any, pts: int) -> Shot:
        if self._slots:
            self._slots.popleft()
        if self._last is not None and pts <= self._last:
            pts = self._last + 1
        self._last = pts
        duration = getattr(picture, 'duration', None) or 0
        stamp_ns = int(pts * self._source.time_base * 1_000_000_000)
        return Shot(pts, duration, stamp_ns, picture, self._source.quarter_turns)


@contextlib.contextmanager
def as_media_error(path: Path) -> Iterator[None]:
    """Translate FFmpeg's errors about a file; their own text has numbers and its name twice."""
    try:
        yield
    except (FFmpegError, OSError, ValueError) as error:
        raise MediaError(f'{path}: {getattr(error, "strerror", None) or error}') from error


def _pixel_format(encoding: str, encoder: str) -> str:
    if encoding == 'bgr8':
        return 'yuv444p'
    return 'nv12' if encoder == 'libx264' else 'yuv420p'


def samples_of(picture: Any, quarter_turns: int = 0) -> Samples:
    """Return the samples of a decoded picture, turned counter-clockwise."""
    if picture.width % 2 or picture.height % 2:
        pixels = np.rot90(picture.to_ndarray(format='bgr24'), quarter_turns)
        height, width = pixels.shape[:2]
        return Samples(height, width, 'bgr8', width * 3, pixels.tobytes())
    if picture.format.name in ('yuv420p', 'yuvj420p'):
        luma, u, v = (_plane(plane) for plane in picture.planes)
    else:
        full_range = picture.format.name.startswith('yuvj')
        limits = {'dst_color_range': 'MPEG'} if picture.format.is_rgb else {}
        converted = picture.reformat(format='yuvj420p' if full_range else 'yuv420p', **limits)
        luma, u, v = (_plane(plane) for plane in converted.planes)
    if quarter_turns:
        luma, u, v = (np.rot90(plane, quarter_turns) for plane in (luma, u, v))
    height, width = luma.shape
    data = np.empty((height * 3 // 2, width), np.uint8)
    data[:height] = luma
    data[height:, 0::2] = u
    data[height:, 1::2] = v
    return Samples(height, width, 'nv12', width, data.tobytes())


def _plane(plane: Any) -> NDArray[np.uint8]:
    rows = np.frombuffer(plane, np.uint8).reshape(-1, plane.line_size)
    return rows[: plane.height, : plane.width]
