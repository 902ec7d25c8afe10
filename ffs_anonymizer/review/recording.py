"""The frames of a bag, a video, a picture or a folder of them: one after the other, or any one."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Iterator, Mapping
import contextlib
from dataclasses import dataclass
import functools
from pathlib import Path
import tempfile
from typing import Any, TYPE_CHECKING

from ffs_anonymizer.bag.measured import Sensors
from ffs_anonymizer.clouds.cloud import Cloud, decode_cloud
from ffs_anonymizer.errors import AnonymizerError, ImageError, MediaError
from ffs_anonymizer.frames import message
from ffs_anonymizer.frames.compressed import decode_file
from ffs_anonymizer.frames.frame import Frame
from ffs_anonymizer.frames.message import is_depth, MOST_PIXELS, rotation_of
from ffs_anonymizer.jobs.job import raising
from ffs_anonymizer.media.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from ffs_anonymizer.rosbag2 import cdr
from ffs_anonymizer.rosbag2.access import BagAccess
from ffs_anonymizer.rosbag2.reader import BagReader, decompressed, STORAGE_BY_SUFFIX
from ffs_anonymizer.rosbag2.storage import Message
from ffs_anonymizer.settings.runtime import Settings

if TYPE_CHECKING:
    from ffs_anonymizer.bag.video import Videos
    from ffs_anonymizer.frames.video_seeker import VideoSeeker

# Clouds are looked at where they are pictures, too: rows and columns of coloured points.
_SEEN_TYPES = (*cdr.IMAGE_TYPES, cdr.POINT_CLOUD)
_NO_ROWS = 'clouds whose points lie in no rows and columns, without a camera in cloud.cameras'
_DEPTH = 'depth images without a camera in depth.cameras'


@dataclass(frozen=True)
class RecordedFrame:
    """
    Hold one frame of a recording, not yet decoded.

    :param stream: the camera: a topic, or a file's path below the folder.
    :param number: counted from 0 in its stream.
    :param stamp_ns: when it was recorded, or its time in the video; 0 for a still picture.
    :param decode: makes the frame; raises AnonymizerError where it cannot.
    :param camera_ns: as lists of detections have it: the camera's stamp where it set one, else
        stamp_ns; None for a still picture.
    :param log_ns: when it was recorded, of a bag.
    """

    stream: str
    number: int
    stamp_ns: int
    decode: Callable[[], Frame]
    camera_ns: int | None = None
    log_ns: int | None = None


class Recording(ABC):
    """
    Look into a recording; it is only read.

    :param path: of the recording.
    :param settings: say which cameras hang turned, and how large a picture may be.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        self.path = path
        self._settings = settings

    def _options(self, *names: str) -> dict[str, Any]:
        """Return how pictures are decoded, of a stream by the names that settings may call it."""
        return {
            'rotation': rotation_of(self._settings.rotation, *names),
            'most_pixels': self._settings.limits.max_pixels or MOST_PIXELS,
        }

    @property
    def own_name(self) -> str:
        """Return what the output of a single file is called, to fit it; empty for all others."""
        return self.path.name if self.path.is_file() else ''

    @property
    @abstractmethod
    def names(self) -> frozenset[str]:
        """Return the names of the streams, without reading the recording for them."""

    @property
    @abstractmethod
    def streams(self) -> dict[str, list[int]]:
        """Return the time of each frame in nanoseconds, by stream."""

    @property
    def unseen(self) -> dict[str, str]:
        """Return what the recording holds beside pictures: names with what they are."""
        return {}

    def unlisted(self, listed: Collection[str]) -> dict[str, str]:
        """Return what may show persons and is not in a list of detections, and what of it."""
        return dict.fromkeys(sorted(self.names.difference(listed)), 'was not searched')

    def take(self, listed_ns: Mapping[str, Collection[int]]) -> None:  # noqa: B027
        """
        Count frames as a list of detections does, which lacks messages that show no picture.

        :param listed_ns: when the frames of each stream in the list were recorded.
        """

    @abstractmethod
    def frames(self) -> Iterator[RecordedFrame]:
        """Yield all frames, those of one stream in their order."""

    @abstractmethod
    def frame(self, stream: str, number: int) -> RecordedFrame:
        """
        Return one frame.

        :raises AnonymizerError: there is none.
        """

    def close(self) -> None:  # noqa: B027
        """Close what is open."""


def open_recording(path: Path, settings: Settings, *, name: str = '') -> Recording:
    """
    Open a bag, a video, a picture or a folder of pictures and videos, told by what is there.

    :param settings: that it was anonymized with.
    :param name: what a single video or picture is called, in place of its own name.
    :raises AnonymizerError: it is none of these, or cannot be read.
    """
    if not path.exists():
        raise MediaError(f'{path}: no such file or folder')
    if path.is_dir() and (path / 'metadata.yaml').is_file():
        return BagRecording(path, settings)
    if path.is_dir():
        return FolderRecording(path, settings)
    suffix = path.suffix.lower()
    if suffix in STORAGE_BY_SUFFIX:
        return BagRecording(path, settings)
    if suffix in VIDEO_SUFFIXES:
        return VideoRecording(path, settings, name)
    if suffix in IMAGE_SUFFIXES:
        return FolderRecording(path.parent, settings, only=path, name=name)
    raise MediaError(
        f'{path}: got {suffix or "a name without extension"}, expected a bag, a video, a picture '
        'or a folder'
    )


class BagRecording(Recording):
    """
    The pictures of a bag: images, videos a packet a picture, and organized clouds with colours.

    The index that single frames need is read when one is wanted.
    """

    def __init__(self, path: Path, settings: Settings) -> None:
        super().__init__(path, settings)
        self._topics = BagReader(path).topics()
        self._index: BagAccess | None = None
        self._skipped: dict[str, Counter[str]] = defaultdict(Counter)
        self._numbers: dict[str, list[int]] = {}
        self._decoded: dict[str, tuple[int, Videos]] = {}
        self._sensors = Sensors(settings, are_compressed=False)

    @property
    def types(self) -> dict[str, str]:
        """Return the types of the topics."""
        return {t.name: t.type_name for t in self._topics}

    @property
    def names(self) -> frozenset[str]:
        """Return the topics that can hold pictures."""
        return frozenset(t.name for t in self._topics if t.type_name in _SEEN_TYPES)

    @property
    def streams(self) -> dict[str, list[int]]:
        """Return the time of each frame in nanoseconds, by topic."""
        access = self._access()
        return {
            topic: [access.stamps_ns(topic)[place] for place in self._places(topic)]
            for topic, type_name in access.types.items()
            if type_name in _SEEN_TYPES
        }

    @property
    def unseen(self) -> dict[str, str]:
        """Return the types of all other topics, and what `frames` passed over, with reasons."""
        unseen = {t.name: t.type_name for t in self._topics if t.type_name not in _SEEN_TYPES}
        for topic, reasons in self._skipped.items():
            unseen[topic] = ', '.join(f'{count} {reason}' for reason, count in reasons.items())
        return unseen

    def unlisted(self, listed: Collection[str]) -> dict[str, str]:
        """Return topics that the list does not have; those with a camera follow its boxes."""
        unlisted = super().unlisted(listed)
        for name in unlisted:
            links = self._sensors.links(name, self.types[name])
            if links:
                images = ' and '.join(link.image for link in links)
                unlisted[name] = f'follows the boxes of {images}'
        return unlisted

    def take(self, listed_ns: Mapping[str, Collection[int]]) -> None:
        """Leave packets and clouds out that the list does not have."""
        for topic, type_name in self._access().types.items():
            if topic in listed_ns and type_name in (*cdr.VIDEO_TYPES, cdr.POINT_CLOUD):
                listed = Counter(listed_ns[topic])
                self._numbers[topic] = [
                    place
                    for place, log_ns in enumerate(self._access().stamps_ns(topic))
                    if listed[log_ns] and not listed.subtract([log_ns])
                ]

    def frames(self) -> Iterator[RecordedFrame]:
        """Yield all frames in the order of the bag; packets of videos are decoded at once."""
        from ffs_anonymizer.bag.video import Videos

        reader = BagReader(self.path)
        numbers: Counter[str] = Counter()
        videos = Videos()
        self._skipped.clear()
        with _scratch(reader) as scratch:
            for item in reader.items(scratch=scratch):
                if not isinstance(item, Message) or item.topic.type_name not in _SEEN_TYPES:
                    continue
                name, type_name = item.topic.name, item.topic.type_name
                data = bytes(item.data)
                payload = decompressed(data) if reader.messages_compressed else data
                content = _parsed(type_name, payload)
                reason = _why_unseen(content, name)
                if isinstance(content, cdr.CdrPacket):
                    try:
                        content = videos.read(name, content)
                    except ImageError:
                        # As `bag` leaves them out.
                        reason = 'packets without a picture'
                # What has a camera is looked at with the camera's picture.
                has_camera = bool(self._sensors.links(name, type_name))
                if reason or (has_camera and type_name != cdr.POINT_CLOUD):
                    if not has_camera:
                        self._skipped[name][reason] += 1
                    continue
                yield self._of_content(name, numbers[name], content, item.log_ns)
                numbers[name] += 1

    def contents(self, topics: Collection[str]) -> Iterator[tuple[Message, Any]]:
        """
        Yield the messages of some topics, not compressed, in the order of the bag.

        Beside each stands what it holds, or why it cannot be read; None: it is no picture and no
        measurement.
        """
        reader = BagReader(self.path)
        with _scratch(reader) as scratch:
            for item in reader.items(scratch=scratch):
                if not isinstance(item, Message) or item.topic.name not in topics:
                    continue
                data = bytes(item.data)
                payload = decompressed(data) if reader.messages_compressed else data
                type_name = item.topic.type_name
                content = _parsed(type_name, payload) if type_name in _SEEN_TYPES else None
                yield item._replace(data=payload), content

    def frame(self, stream: str, number: int) -> RecordedFrame:
        """Return one frame; those of videos one at a time."""
        access = self._access()
        places = self._places(stream)
        # The bag's own error is raised for what it does not have.
        place = places[number] if 0 <= number < len(places) else len(access.stamps_ns(stream))
        content: Any = _parsed(access.types[stream], access.payload(stream, place))
        if isinstance(content, cdr.CdrPacket):
            try:
                content = self._picture(stream, place)
            except AnonymizerError as error:
                content = error
        return self._of_content(stream, number, content, access.stamps_ns(stream)[place])

    def _of_content(self, stream: str, number: int, content: Any, log_ns: int) -> RecordedFrame:
        if isinstance(content, AnonymizerError):
            return RecordedFrame(stream, number, log_ns, raising(content), log_ns, log_ns)
        options = self._options(stream)
        decode: Callable[[], Frame]
        if isinstance(content, cdr.CdrPointCloud):
            decode = functools.partial(decode_cloud, content, 'keep', rotation=options['rotation'])
        elif isinstance(content, (cdr.CdrImage, cdr.CdrCompressedImage)):
            decode = functools.partial(message.decode, content, topic=stream, **options)
        else:
            decode = functools.partial(content.decode, options['rotation'])
        camera_ns = content.stamp_ns or log_ns
        return RecordedFrame(stream, number, log_ns, decode, camera_ns, log_ns)

    def _picture(self, stream: str, place: int) -> Any:
        """Decode a packet, and those before it from a keyframe or from where the last one was."""
        from ffs_anonymizer.bag.video import Videos
        from ffs_anonymizer.frames.video_packets import codec_of, is_keyframe

        last, videos = self._decoded.pop(stream, (-1, Videos()))
        waiting: list[cdr.CdrPacket] = []
        for at in range(place, -1, -1):
            if at == last:
                break
            packet = _parsed(self._access().types[stream], self._access().payload(stream, at))
            if not isinstance(packet, cdr.CdrPacket):
                continue
            waiting.append(packet)
            if is_keyframe(packet.data, codec_of(packet.format)):
                videos = Videos()
                break
        else:
            videos = Videos()
        for packet in reversed(waiting[1:]):
            with contextlib.suppress(ImageError):
                videos.read(stream, packet)
        picture = videos.read(stream, waiting[0])
        self._decoded[stream] = (place, videos)
        return picture

    def _places(self, topic: str) -> list[int]:
        """Return which messages are the frames of a topic."""
        return self._numbers.get(topic) or [*range(len(self._access().stamps_ns(topic)))]

    def _access(self) -> BagAccess:
        if self._index is None:
            self._index = BagAccess(self.path)
        return self._index


def _parsed(type_name: str, payload: bytes) -> Any:
    """Return what a message holds, or why it cannot be read."""
    try:
        if type_name == cdr.POINT_CLOUD:
            return cdr.parse_point_cloud(payload)
        return cdr.parse(type_name, payload)
    except AnonymizerError as error:
        return error


def _why_unseen(content: Any, topic: str) -> str:
    """Return why a message is no picture to look at; nothing: it is one."""
    if isinstance(content, cdr.CdrPointCloud):
        try:
            cloud = Cloud(content)
        except ImageError:
            return ''
        if not len(content.data):
            return 'clouds without points'
        if not cloud.is_coloured:
            return 'clouds without colours'
        return '' if cloud.is_organized else _NO_ROWS
    if isinstance(content, (cdr.CdrImage, cdr.CdrCompressedImage)):
        described = content.encoding if isinstance(content, cdr.CdrImage) else content.format
        return _DEPTH if is_depth(described, topic) else ''
    return ''


@contextlib.contextmanager
def _scratch(reader: BagReader) -> Iterator[Path | None]:
    """Give a bag that is compressed file by file a place to unpack one to."""
    if reader.metadata.compression_mode != 'file':
        yield None
        return
    with tempfile.TemporaryDirectory(prefix='ffs_anonymizer_') as folder:
        yield Path(folder)


class VideoRecording(Recording):
    """The one stream of a video file, which goes by its name."""

    def __init__(self, path: Path, settings: Settings, name: str = '') -> None:
        super().__init__(path, settings)
        self._name = name or path.name
        self._open: VideoSeeker | None = None

    @property
    def names(self) -> frozenset[str]:
        """Return the one name."""
        return frozenset({self._name})

    @property
    def streams(self) -> dict[str, list[int]]:
        """Return the time of each picture in nanoseconds."""
        return {self._name: self._seeker().stamps_ns}

    def frames(self) -> Iterator[RecordedFrame]:
        """Yield the pictures in the order in which they are shown."""
        from ffs_anonymizer.frames.video import VideoSource

        rotation = self._options(self._name)['rotation']
        with contextlib.closing(VideoSource(self.path)) as source:
            for number, shot in enumerate(source):
                decode = functools.partial(shot.decode, rotation)
                yield RecordedFrame(
                    self._name, number, shot.stamp_ns, decode, camera_ns=shot.stamp_ns
                )

    def frame(self, stream: str, number: int) -> RecordedFrame:
        """Return one picture."""
        seeker = self._seeker()
        stamp_ns = seeker.stamps_ns[number] if 0 <= number < len(seeker.stamps_ns) else 0
        rotation = self._options(self._name)['rotation']
        return RecordedFrame(
            self._name,
            number,
            stamp_ns,
            lambda: seeker.shot(number).decode(rotation),
            camera_ns=stamp_ns,
        )

    def close(self) -> None:
        """Close the file."""
        if self._open is not None:
            self._open.close()
            self._open = None

    def _seeker(self) -> VideoSeeker:
        from ffs_anonymizer.frames.video_seeker import VideoSeeker

        if self._open is None:
            self._open = VideoSeeker(self.path)
        return self._open


class FolderRecording(Recording):
    """
    The pictures and videos of a folder, each a stream that goes by its path below the folder.

    :param only: a single picture of it.
    :param name: of that picture.
    """

    def __init__(
        self, path: Path, settings: Settings, *, only: Path | None = None, name: str = ''
    ) -> None:
        super().__init__(only or path, settings)
        known = (*IMAGE_SUFFIXES, *VIDEO_SUFFIXES)
        files = [only] if only is not None else sorted(path.rglob('*'))
        self._files: dict[str, Path] = {}
        self._other: dict[str, str] = {}
        for file in files:
            own_name = name or file.relative_to(path).as_posix()
            if file.suffix.lower() in known and file.is_file():
                self._files[own_name] = file
            elif file.is_file():
                self._other[own_name] = 'neither a picture nor a video by its name'
        if not self._files:
            raise MediaError(f'{path}: got no picture or video in it, expected at least one')
        self._videos: dict[str, VideoRecording] = {}

    @property
    def names(self) -> frozenset[str]:
        """Return the paths below the folder."""
        return frozenset(self._files)

    @functools.cached_property
    def streams(self) -> dict[str, list[int]]:
        """Return the times of the frames, by the file's name."""
        return {
            name: self._video(name).streams[name] if self._is_video(name) else [0]
            for name in self._files
        }

    @property
    def unseen(self) -> dict[str, str]:
        """Return the files that are neither pictures nor videos."""
        return self._other

    def frames(self) -> Iterator[RecordedFrame]:
        """Yield all frames, file by file."""
        for name in self._files:
            if self._is_video(name):
                yield from VideoRecording(self._files[name], self._settings, name).frames()
            else:
                yield self.frame(name, 0)

    def frame(self, stream: str, number: int) -> RecordedFrame:
        """Return one frame."""
        if stream not in self._files:
            raise MediaError(f'{self.path}: got no {stream!r} in it')
        if self._is_video(stream):
            return self._video(stream).frame(stream, number)
        folder = Path(stream).parent.as_posix()
        decode = functools.partial(
            _decode_picture, self._files[stream], self._options(folder, stream)
        )
        return RecordedFrame(stream, 0, 0, decode)

    def close(self) -> None:
        """Close the videos."""
        for video in self._videos.values():
            video.close()
        self._videos.clear()

    def _is_video(self, name: str) -> bool:
        return self._files[name].suffix.lower() in VIDEO_SUFFIXES

    def _video(self, name: str) -> VideoRecording:
        if name not in self._videos:
            self._videos[name] = VideoRecording(self._files[name], self._settings, name)
        return self._videos[name]


def _decode_picture(path: Path, options: dict[str, Any]) -> Frame:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise MediaError(f'{path}: {error.strerror or error}') from error
    return decode_file(data, **options)
