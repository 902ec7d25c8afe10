"""Single pictures of a video by number, decoded from the key frame before them."""

from __future__ import annotations

from collections.abc import Iterator
import contextlib
from pathlib import Path

from ffs_anonymizer.errors import MediaError
from ffs_anonymizer.frames.video import as_media_error, LENIENT, Shot, VideoSource

try:
    import av
    from av.error import FFmpegError
except ImportError as error:
    raise ImportError(f'{error}; videos need PyAV: pip install av') from error


class VideoSeeker:
    """
    Look pictures up; one thread at a time.

    :param path: of the file, whose packets are listed once and not decoded.
    :raises MediaError: it cannot be opened, or gives its pictures no times.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with contextlib.closing(VideoSource(path)) as source:
            self._quarter_turns = source.quarter_turns
            self._index = source.stream.index
        with as_media_error(path):
            self._container = av.open(str(path), **LENIENT)
            self._stream = self._container.streams[self._index]
            packets = self._container.demux(self._stream)
            times = {packet.pts for packet in packets if packet.size and packet.pts is not None}
        if not times:
            raise MediaError(f'{path}: got no times of its pictures, expected one for each')
        self._pts = sorted(times)

    @property
    def stamps_ns(self) -> list[int]:
        """Return the time of each picture in nanoseconds, in order."""
        return [self._stamp_ns(pts) for pts in self._pts]

    def shot(self, number: int) -> Shot:
        """
        Return a picture.

        :raises MediaError: there is none of this number, or it cannot be decoded.
        """
        if not 0 <= number < len(self._pts):
            raise MediaError(
                f'{self.path}: got picture number {number}, expected 0 to {len(self._pts) - 1}'
            )
        pts = self._pts[number]
        with as_media_error(self.path):
            self._container.seek(pts, stream=self._stream)
            for picture in self._container.decode(self._stream):
                if picture.pts is not None and picture.pts >= pts:
                    return Shot(pts, 0, self._stamp_ns(pts), picture, self._quarter_turns)
        raise MediaError(f'{self.path}: the picture number {number} cannot be decoded')

    def shots(self, first: int, count: int) -> Iterator[Shot]:
        """
        Yield the pictures from a number on, without those that cannot be decoded from here.

        :param count: how many there are to be.
        :raises MediaError: the file cannot be read on.
        """
        wanted = self._pts[first : first + count]
        if not wanted:
            return
        with as_media_error(self.path):
            self._container.seek(wanted[0], stream=self._stream)
            for packet in self._container.demux(self._stream):
                pictures = []
                with contextlib.suppress(FFmpegError):
                    pictures = packet.decode()
                for picture in pictures:
                    if picture.pts is None or picture.pts < wanted[0]:
                        continue
                    if picture.pts > wanted[-1]:
                        return
                    stamp_ns = self._stamp_ns(picture.pts)
                    yield Shot(picture.pts, 0, stamp_ns, picture, self._quarter_turns)

    def close(self) -> None:
        """Close the file."""
        self._container.close()

    def _stamp_ns(self, pts: int) -> int:
        return int(pts * self._stream.time_base * 1_000_000_000)
