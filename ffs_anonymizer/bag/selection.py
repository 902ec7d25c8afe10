"""What happens to each topic of a bag: anonymized, copied, or refused because it would leak."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
import enum
import fnmatch
import re

from ffs_anonymizer.errors import BagError
from ffs_anonymizer.media.files import IMAGE_SUFFIXES, VIDEO_SUFFIXES
from ffs_anonymizer.rosbag2.cdr import IMAGE_TYPES, POINT_CLOUD
from ffs_anonymizer.rosbag2.reader import TopicSummary
from ffs_anonymizer.rosbag2.storage import Attachment, Data, Note, Topic

# Types that carry pictures in a way that cannot be anonymized here. Types whose definition, where
# the bag has it, contains one of these or an image count as well.
PICTURE_TYPES = frozenset(
    (
        'foxglove.CompressedImage',
        'foxglove.CompressedVideo',
        'foxglove.RawImage',
        'h264_msgs/msg/Packet',
        'realsense2_camera_msgs/msg/RGBD',
        'rtabmap_msgs/msg/RGBDImage',
        'rtabmap_msgs/msg/RGBDImages',
        'rtabmap_msgs/msg/SensorData',
        'rtabmap_msgs/msg/Node',
        'rtabmap_msgs/msg/MapData',
        'sensor_msgs/CompressedImage',
        'sensor_msgs/Image',
        'stereo_msgs/DisparityImage',
        'stereo_msgs/msg/DisparityImage',
        'theora_image_transport/msg/Packet',
        'theora_image_transport/Packet',
        'wfov_camera_msgs/msg/WFOVImage',
    )
)
DEPTH_SUFFIX = '/compressedDepth'
WAY_OUT = (
    'leave them out with --drop-topics, or, if they show no persons, copy them as they are with '
    '--exclude-topics'
)
# Their textures are drawn by programs, not taken by cameras.
_MARKER_PACKAGE = 'visualization_msgs'
_SUSPECT = re.compile(
    r'image|cloud|picture|photo|video|jpe?g|h\.?26[45]|packet|frame(s|data)?$', re.I
)
_FOLDERS = r'(?:msg|srv|action)'
_FOLDER = re.compile(rf'/{_FOLDERS}/')
_LOCAL = re.compile(r'^\s*([A-Z]\w*)', re.M)
_REFERENCE = re.compile(rf'\b([a-z]\w*)(?:/|::)(?:{_FOLDERS}(?:/|::))?([A-Z]\w*)')
_SECTION = re.compile(r'^={5,}\s*\n(?:MSG|IDL): *(\S+) *$', re.M)
# Bytes without a bound, or with a large one, under any name.
_BYTES = re.compile(
    r'(?:^|[{;])\s*(?:(?:uint8|byte|char)\[(?:<=\d{4,}|\d{4,})?\]'
    r'|sequence<\s*(?:octet|uint8|char)\s*(?:,\s*\d{4,}\s*)?>)\s+(\w+)',
    re.M,
)
_PICTURE_WORD = re.compile(
    r'im(?:g|age)|picture|photo|video|jpe?g|png|webp|thumb|snapshot|bitmap|pixels|h26[45]'
    r'|frames?\b',
    re.I,
)
# What stands beside the bytes of a picture, and of nothing else that is common.
_CODEC_FIELD = re.compile(
    r'(?:^|[{;])\s*(?:string(?:<\d+>)?)\s+(?:encoding|format|codec|mime\w*|media_type)\b', re.M
)
# Packages whose definitions everybody knows; of what they hold, only bytes and texts are open.
_KNOWN_PACKAGES = re.compile(
    r'(?:action_msgs|actionlib_msgs|builtin_interfaces|diagnostic_msgs|geometry_msgs|'
    r'lifecycle_msgs|nav_msgs|rcl_interfaces|rosgraph_msgs|sensor_msgs|service_msgs|shape_msgs|'
    r'statistics_msgs|std_msgs|stereo_msgs|tf2_msgs|trajectory_msgs|type_description_interfaces|'
    r'unique_identifier_msgs|vision_msgs|visualization_msgs)/'
)
_OPEN_TYPES = frozenset(
    f'std_msgs/msg/{name}' for name in ('String', 'ByteMultiArray', 'UInt8MultiArray')
)
# As pictures and films begin, and the encodings of raw images as CDR strings; each long enough to
# be no accident in gigabytes of noise, and with a beginning that is searched for fast.
_PICTURE_BYTES = tuple(
    re.compile(pattern, re.DOTALL)
    for pattern in (
        rb'\xff\xd8\xff(?:\xe0..JFIF\0|\xe1..Exif\0|\xdb\0[\x43\x84]|\xc0\0[\x0b\x11]\x08)',
        rb'\x89PNG\r\n\x1a\n',
        rb'RIFF....WEBPVP8',
        rb'ftyp(?:isom|mp4|avc1|qt  |heic|avif)',
        rb'\0\0\0\x01(?:[\x27\x47\x67][\x42\x4d\x58\x64\x6e\x7a]|\x40\x01\x0c\x01)',
        rb'\0\0\0[\x05-\x0c]?(?:bgra?8|rgba?8|mono8|mono16|nv12|nv21|uyvy|yuyv|8UC3'
        rb'|bayer_[rgb]{4}8|yuv422(?:_yuy2)?)\0',
    )
)
_HEAD_BYTES = 1 << 12
_IMAGE_MEDIA = ('image/', 'video/')
_IMAGE_SUFFIXES = (*IMAGE_SUFFIXES, '.gif', '.heic')
_VIDEO_SUFFIXES = (*VIDEO_SUFFIXES, '.h264', '.h265', '.mjpeg')
_IMAGE_MAGIC = (b'\xff\xd8\xff', b'\x89PNG', b'GIF8', b'BM', b'II*\0', b'MM\0*', b'\x1aE\xdf\xa3')
# A long run of base64 or hexadecimal digits can hold anything.
_HIDDEN_BYTES = re.compile(r'[A-Za-z0-9+/_-]{512}|(?:[A-Za-z0-9+/_=-]{32,}\s+){10}')
_NO_TEXT = re.compile(r'[^\t\n\r\x20-\x7e\xa0-\U0010ffff]')


class Action(enum.Enum):
    """What happens to a topic; the value is how the user is told."""

    ANONYMIZE = 'anonymize'
    CLOUD = 'anonymize the cloud'
    DEPTH = "hide what its camera's picture hides"
    COPY = 'copy'
    COPY_ASKED = 'copy, as asked'
    COPY_LEFT = 'COPY WITH FACES: not among the chosen topics'
    DROP = 'drop'
    REFUSE = 'refuse: pictures that cannot be anonymized'
    REFUSE_DEPTH = 'refuse: depth is no picture'


@dataclass(frozen=True)
class Selection:
    """
    Hold which topics the user wants anonymized and which not.

    :param topics: names; with `regex`, the images to anonymize. Without both: all images.
    :param exclude_topics: names of topics that are copied whatever they carry.
    :param copy_topics: names or globs of the same, from the settings.
    :param drop_topics: names of topics that the new bag does not have.
    :param depth_topics: names or globs of depth images with a camera, from the settings.
    :param keep_attachments: names or globs of attachments and metadata records that are copied
        whatever they hold.
    """

    topics: tuple[str, ...] = ()
    regex: str = ''
    exclude_topics: tuple[str, ...] = ()
    exclude_regex: str = ''
    copy_topics: tuple[str, ...] = ()
    drop_topics: tuple[str, ...] = ()
    depth_topics: tuple[str, ...] = ()
    keep_attachments: tuple[str, ...] = ()

    def action(self, topic: Topic | TopicSummary) -> Action:
        """Return what happens to a topic."""
        detail = topic if isinstance(topic, Topic) else topic.topic
        if topic.name in self.drop_topics:
            return Action.DROP
        if self._is_excluded(topic.name):
            return Action.COPY_ASKED
        is_cdr = detail is None or detail.serialization_format == 'cdr'
        if topic.type_name == POINT_CLOUD:
            return Action.CLOUD if is_cdr else Action.REFUSE
        if topic.type_name in IMAGE_TYPES:
            if is_cdr and _fits_any(topic.name, self.depth_topics):
                return Action.DEPTH
            if not self._is_chosen(topic.name):
                return Action.COPY_LEFT
            if topic.name.endswith(DEPTH_SUFFIX):
                return Action.REFUSE_DEPTH
            return Action.ANONYMIZE if is_cdr else Action.REFUSE
        return Action.REFUSE if can_carry_pictures(topic) else Action.COPY

    def keeps(self, item: Attachment | Note) -> bool:
        """Return whether the user wants an attachment or a metadata record as it is."""
        return any(fnmatch.fnmatchcase(item.name, pattern) for pattern in self.keep_attachments)

    def check(self, topics: Sequence[TopicSummary]) -> dict[tuple[str, str], Action]:
        """
        Return what happens to each topic, by name and type.

        :raises BagError: a name or an expression fits no topic of the bag, or a topic would leak.
        """
        self._check_names(topics)
        actions = {(topic.name, topic.type_name): self.action(topic) for topic in topics}
        refused = [key for key, action in actions.items() if action is Action.REFUSE]
        depth = [name for (name, _), action in actions.items() if action is Action.REFUSE_DEPTH]
        if refused:
            raise picture_error(refused)
        if depth:
            raise depth_error(depth)
        return actions

    def _check_names(self, topics: Sequence[TopicSummary]) -> None:
        """Refuse what fits no topic: whoever wrote it expects something else to happen."""
        every = ('topic', sorted({t.name for t in topics}))
        images = ('image topic', sorted({t.name for t in topics if t.type_name in IMAGE_TYPES}))
        for option, names, (kind, known) in (
            ('--topics', self.topics, images),
            ('--exclude-topics', self.exclude_topics, every),
            ('--drop-topics', self.drop_topics, every),
        ):
            wrong = [name for name in names if name not in known]
            if wrong:
                raise BagError(
                    f'{option}: got {", ".join(wrong)}, expected {kind}s of the bag: '
                    f'{", ".join(known) or "it has none"}'
                )
        for option, pattern, (kind, known) in (
            ('--regex', self.regex, images),
            ('--exclude-regex', self.exclude_regex, every),
        ):
            if pattern and not any(_matches(pattern, name) for name in known):
                raise BagError(
                    f'{option}: got {pattern!r}, expected what fits the whole name of one {kind} '
                    'of the bag or more, as `.*compressed` fits all names that end so: '
                    f'{", ".join(known) or "it has none"}'
                )

    def _is_chosen(self, name: str) -> bool:
        if not self.topics and not self.regex:
            return True
        return name in self.topics or _matches(self.regex, name)

    def _is_excluded(self, name: str) -> bool:
        return (
            name in self.exclude_topics
            or _matches(self.exclude_regex, name)
            or _fits_any(name, self.copy_topics)
        )


def picture_error(keys: Sequence[tuple[str, str]]) -> BagError:
    """Return the error for topics, by name and type, that nothing here can anonymize."""
    names = ', '.join(f'{name} ({type_name})' for name, type_name in keys)
    return BagError(
        f'these topics can carry pictures that cannot be anonymized: {names}; {WAY_OUT}'
    )


def depth_error(names: Sequence[str]) -> BagError:
    """Return the error for topics with depth images."""
    return BagError(
        f'got depth images in {", ".join(names)}, expected pictures; leave them out with '
        '--drop-topics, name the picture that they are registered to in the setting '
        'depth.cameras, or copy them as they are with --exclude-topics or the setting copy_topics'
    )


def can_carry_pictures(topic: Topic | TopicSummary) -> bool:
    """Return whether messages of the topic can hold pictures, as far as is known by now."""
    detail = topic if isinstance(topic, Topic) else topic.topic
    return topic.type_name in (*IMAGE_TYPES, *PICTURE_TYPES) or (
        detail is not None and contains_picture(detail)
    )


def is_suspect(type_name: str) -> bool:
    """Return whether the name of an unknown type sounds as if it carried pictures."""
    return _SUSPECT.search(type_name.rpartition('/')[2]) is not None


def is_searched(topic: Topic | TopicSummary) -> bool:
    """Return whether messages that are copied are to be looked into: their type leaves it open."""
    return topic.type_name in _OPEN_TYPES or not _KNOWN_PACKAGES.match(topic.type_name)


def is_undefined(topic: Topic | TopicSummary) -> bool:
    """Return whether nothing says what messages of a topic hold."""
    detail = topic if isinstance(topic, Topic) else topic.topic
    return (
        detail is not None and not detail.definition and not _KNOWN_PACKAGES.match(topic.type_name)
    )


def shows_picture(topic: Topic, data: Data) -> bool:
    """
    Return whether a message holds what pictures or films begin with.

    :param data: not compressed. All of it is searched where the type has no definition, else its
        beginning.
    """
    searched = data if is_undefined(topic) else data[:_HEAD_BYTES]
    return any(pattern.search(searched) for pattern in _PICTURE_BYTES)


def refusal(item: Attachment | Note) -> str:
    """Return why an attachment or a metadata record must not pass, as words; nothing: it may."""
    if isinstance(item, Note):
        parts = [*item.entries, *item.entries.values()]
        hides = not all(map(is_plain_text, parts))
        return f'metadata record {item.name!r} holds what is no plain text' if hides else ''
    what = f'attachment {item.name!r} ({item.media_type})'
    if is_picture(item):
        return f'{what} is a picture'
    return '' if is_plain_text(item.data) else f'{what} is no plain text'


def hides_bytes(topic: Topic) -> bool:
    """Return whether what a topic says of itself is long enough to be something else."""
    texts = (topic.name, topic.qos, topic.type_hash, *(topic.channel_metadata or {}).values())
    definition = topic.definition.decode('utf-8', 'replace')
    is_text = topic.definition_encoding in ('', 'ros2msg', 'ros2idl')
    return not all(map(is_plain_text, texts)) or (
        is_text and _HIDDEN_BYTES.search(definition) is not None
    )


def is_plain_text(data: bytes | str) -> bool:
    """Return whether this is text in which nothing else can hide."""
    try:
        text = data if isinstance(data, str) else data.decode('utf-8')
    except UnicodeDecodeError:
        return False
    return not _NO_TEXT.search(text) and not _HIDDEN_BYTES.search(text)


def is_picture(attachment: Attachment) -> bool:
    """Return whether an attachment is an image or a video, by what it says or by its content."""
    head = attachment.data[:12]
    return (
        attachment.media_type.lower().startswith(_IMAGE_MEDIA)
        or attachment.name.lower().endswith(_IMAGE_SUFFIXES + _VIDEO_SUFFIXES)
        or head.startswith(_IMAGE_MAGIC)
        or (head[:4] == b'RIFF' and head[8:] in (b'WEBP', b'AVI '))
        or head[4:8] == b'ftyp'
    )


def contains_picture(topic: Topic) -> bool:
    """Return whether a message of the topic can hold a picture, by its stored definition."""
    text = topic.definition.decode('utf-8', 'replace')
    if topic.definition_encoding not in ('', 'ros2msg', 'ros2idl'):
        # Schemas of other kinds name the types that they hold.
        return any(name in text for name in PICTURE_TYPES)
    own = _canonical(topic.type_name)
    parts = _SECTION.split(text)
    bodies = {own: parts[0]} if parts[0].strip() else {}
    for name, body in zip(parts[1::2], parts[2::2], strict=True):
        bodies[_canonical(name)] = body
    pictures = {_canonical(name) for name in (*IMAGE_TYPES, *PICTURE_TYPES)}
    seen: set[str] = set()
    # A definition of another name, as those of services have, counts from all that it says.
    waiting = [own] if own in bodies else [own, *bodies]
    while waiting:
        name = waiting.pop()
        if name in seen or name.startswith(f'{_MARKER_PACKAGE}/'):
            continue
        if name in pictures:
            return True
        seen.add(name)
        package = name.partition('/')[0]
        # In IDL, a # begins no comment but an include.
        code = '\n'.join(
            line if '#include' in line else line.partition('#')[0].partition('//')[0]
            for line in bodies.get(name, '').splitlines()
        )
        if _has_picture_bytes(name, code):
            return True
        waiting += ['/'.join(found) for found in _REFERENCE.findall(code)]
        # A type of the same package may stand without its package.
        waiting += [f'{package}/{first}' for first in _LOCAL.findall(code)]
    return False


def _has_picture_bytes(name: str, code: str) -> bool:
    """Return whether bytes of a type are a picture's, by their names and by what stands beside."""
    fields = _BYTES.findall(code)
    if not fields or _KNOWN_PACKAGES.match(name):
        return False
    return (
        _PICTURE_WORD.search(name.partition('/')[2]) is not None
        or any(_PICTURE_WORD.search(field) for field in fields)
        or _CODEC_FIELD.search(code) is not None
    )


def _canonical(type_name: str) -> str:
    return _FOLDER.sub('/', type_name)


def _fits_any(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


def _matches(pattern: str, name: str) -> bool:
    return bool(pattern) and re.fullmatch(pattern, name) is not None
