"""The metadata.yaml of a bag."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

from ffs_anonymizer.errors import BagError
from ffs_anonymizer.rosbag2.storage import Topic
import yaml

FILE_NAME = 'metadata.yaml'
ROOT = 'rosbag2_bagfile_information'
# Since 5 there is an entry for each file; 9 writes QoS as lists instead of text.
FIRST_WITH_FILES, FIRST_WITH_CUSTOM_DATA, FIRST_WITH_HASH = 5, 6, 7
FIRST_WITH_DISTRO, FIRST_WITH_QOS_LIST, NEWEST = 8, 9, 9
STORAGES = ('mcap', 'sqlite3')
COMPRESSION_MODES = ('none', 'file', 'message')
# What rosbag2 writes as the starting time of a bag without messages.
NEVER_NS = 2**63 - 1


@dataclass(frozen=True)
class TopicEntry:
    """Hold a topic as metadata.yaml lists it; `raw` is its own part of the YAML."""

    name: str
    type_name: str
    message_count: int
    raw: Mapping[str, Any]


@dataclass(frozen=True)
class BagMetadata:
    """
    Hold what a bag says of itself; the defaults are those of a single storage file.

    :param version: 0 where nothing says it.
    :param compression_mode: none, file or message.
    """

    version: int = 0
    storage: str = ''
    files: tuple[str, ...] = ()
    message_count: int | None = None
    topics: tuple[TopicEntry, ...] = ()
    compression_mode: str = 'none'
    custom_data: Mapping[str, str] = field(default_factory=dict)
    ros_distro: str = ''


@dataclass
class FileSpan:
    """Hold one storage file's name, time and number of messages."""

    name: str
    first_ns: int = NEVER_NS
    last_ns: int = 0
    message_count: int = 0

    def include(self, log_ns: int) -> None:
        """Count a message."""
        self.first_ns = min(self.first_ns, log_ns)
        self.last_ns = max(self.last_ns, log_ns)
        self.message_count += 1

    @property
    def duration_ns(self) -> int:
        """Return the time from the first message to the last."""
        return max(self.last_ns - self.first_ns, 0) if self.message_count else 0


def load(folder: Path) -> BagMetadata:
    """
    Read a bag folder's metadata.yaml.

    :raises BagError: it is missing, no YAML, incomplete, or newer than what is known here.
    """
    path = folder / FILE_NAME
    try:
        content = yaml.load(path.read_text(encoding='utf-8'), _LOADER)
    except FileNotFoundError as error:
        raise BagError(
            f'{folder} has no {FILE_NAME}: not a bag, or a recording that was cut off; '
            f'`ros2 bag reindex {folder}` makes one'
        ) from error
    except (OSError, *_NO_YAML) as error:
        raise BagError(f'cannot read {path}: {_line(error)}') from error
    if not isinstance(content, dict) or not isinstance(content.get(ROOT), dict):
        raise BagError(f'{path}: got no section {ROOT}, expected the metadata of a ROS 2 bag')
    return parse(content[ROOT], str(path))


def parse_text(text: str, where: str) -> BagMetadata:
    """
    Read the metadata that lies inside a storage file.

    :param where: the file, for errors.
    :raises BagError: it is no YAML or incomplete.
    """
    try:
        content = yaml.load(text, _LOADER)
    except _NO_YAML as error:
        raise BagError(f'{where}: its rosbag2 metadata is no YAML: {_line(error)}') from error
    if isinstance(content, dict) and isinstance(content.get(ROOT), dict):
        content = content[ROOT]
    if not isinstance(content, dict):
        raise BagError(f'{where}: its rosbag2 metadata is no mapping')
    return parse(content, where)


def parse(raw: Mapping[str, Any], where: str) -> BagMetadata:
    """
    Read the section of a bag.

    :raises BagError: a key is missing or of the wrong type, or something is not known here.
    """
    try:
        version = _whole(raw['version'])
        if not 1 <= version <= NEWEST:
            raise BagError(
                f'{where}: got metadata version {version}, expected 1 to {NEWEST}; '
                'convert the bag with the ROS 2 that recorded it'
            )
        mode = str(raw.get('compression_mode') or 'none').lower()
        compression = str(raw.get('compression_format') or '')
        if mode not in COMPRESSION_MODES or (mode != 'none' and compression != 'zstd'):
            raise BagError(
                f'{where}: got compression {mode} {compression!r}, '
                f'expected one of {", ".join(COMPRESSION_MODES)} with zstd'
            )
        topics = []
        for entry in raw['topics_with_message_count'] or ():
            topic = entry['topic_metadata']
            topics.append(
                TopicEntry(
                    str(topic['name']), str(topic['type']), _whole(entry['message_count']), topic
                )
            )
        custom = raw.get('custom_data') or {}
        return BagMetadata(
            version=version,
            storage=str(raw['storage_identifier']),
            # Before version 4 the paths began with the name of the folder.
            files=tuple(PurePosixPath(str(name)).name for name in raw['relative_file_paths']),
            message_count=_whole(raw['message_count']),
            topics=tuple(topics),
            compression_mode=mode,
            custom_data={str(name): str(value) for name, value in custom.items()},
            ros_distro=str(raw.get('ros_distro') or ''),
        )
    except KeyError as error:
        raise BagError(f'{where}: the key {error} is missing') from error
    except (TypeError, ValueError, AttributeError, OverflowError) as error:
        raise BagError(f'{where} is not the metadata of a ROS 2 bag: {error}') from error


def fitting_version(source: BagMetadata, topics: list[Topic]) -> int:
    """Return the version to write: the source's own where it can say all that is needed."""
    if source.version:
        return max(source.version, FIRST_WITH_FILES)
    named = any(isinstance(qos.get('history'), str) for t in topics for qos in _profiles(t.qos))
    return FIRST_WITH_QOS_LIST if named else FIRST_WITH_DISTRO


def build(
    source: BagMetadata,
    *,
    version: int,
    storage: str,
    topics: list[tuple[Topic, int]],
    files: list[FileSpan],
    file_names: list[str],
    compression_mode: str,
) -> dict[str, Any]:
    """
    Return the section of a bag, its keys in rosbag2's order.

    :param source: of the bag that this one is made from; its topics come first, as they stood.
    :param topics: with their number of messages.
    :param files: of the bag, in order.
    :param file_names: their final names, compressed or not.
    """
    counts: dict[tuple[str, str], int] = {}
    firsts: dict[tuple[str, str], Topic] = {}
    for topic, count in topics:
        key = (topic.name, topic.type_name)
        counts[key] = counts.get(key, 0) + count
        firsts.setdefault(key, topic)
    raw_by_key: dict[tuple[str, str], Mapping[str, Any]] = {
        (entry.name, entry.type_name): entry.raw
        for entry in source.topics
        if (entry.name, entry.type_name) in counts
    }
    order = [*raw_by_key, *(key for key in counts if key not in raw_by_key)]
    used = [span for span in files if span.message_count]
    first_ns = min((span.first_ns for span in used), default=NEVER_NS)
    last_ns = max((span.last_ns for span in used), default=NEVER_NS)
    section: dict[str, Any] = {
        'version': version,
        'storage_identifier': storage,
        'duration': {'nanoseconds': last_ns - first_ns},
        'starting_time': {'nanoseconds_since_epoch': first_ns},
        'message_count': sum(counts.values()),
        'topics_with_message_count': [
            {
                'topic_metadata': _topic_section(firsts[key], raw_by_key.get(key), version),
                'message_count': counts[key],
            }
            for key in order
        ],
        'compression_format': '' if compression_mode == 'none' else 'zstd',
        'compression_mode': '' if compression_mode == 'none' else compression_mode.upper(),
        'relative_file_paths': file_names,
        'files': [
            {
                'path': name,
                'starting_time': {'nanoseconds_since_epoch': span.first_ns},
                'duration': {'nanoseconds': span.duration_ns},
                'message_count': span.message_count,
            }
            for name, span in zip(file_names, files, strict=True)
        ],
    }
    if version >= FIRST_WITH_CUSTOM_DATA:
        section['custom_data'] = dict(source.custom_data) or None
    if version >= FIRST_WITH_DISTRO:
        section['ros_distro'] = source.ros_distro
    return section


def dump(section: Mapping[str, Any]) -> str:
    """Return a section as YAML."""
    return yaml.dump(
        section, Dumper=_DUMPER, sort_keys=False, default_flow_style=False, width=1000
    )


def _topic_section(topic: Topic, raw: Mapping[str, Any] | None, version: int) -> dict[str, Any]:
    section: dict[str, Any] = {
        'name': topic.name,
        'type': topic.type_name,
        'serialization_format': topic.serialization_format,
    }
    # A list as it may stand in the source only where the version written has lists.
    listed = version >= FIRST_WITH_QOS_LIST
    section['offered_qos_profiles'] = _profiles(topic.qos) if listed else topic.qos
    if version >= FIRST_WITH_HASH:
        section['type_description_hash'] = topic.type_hash
    known = (*section, 'type_description_hash')
    section.update(
        {name: value for name, value in (raw or {}).items() if name in known and value is not None}
    )
    return section


def _profiles(text: str) -> list[dict[str, Any]]:
    try:
        profiles = yaml.load(text, _LOADER)
    except _NO_YAML as error:
        raise BagError(f'a topic has QoS profiles that are no YAML: {_line(error)}') from error
    if not isinstance(profiles, list):
        return []
    return [profile for profile in profiles if isinstance(profile, dict)]


def _line(error: Exception) -> str:
    return ' '.join(str(error).split())


def _whole(value: object) -> int:
    if not isinstance(value, int) or not 0 <= value <= NEVER_NS:
        raise ValueError(f'got {str(value)[:40]!r}, expected a whole number from 0 to 2^63 - 1')
    return value


_NO_YAML = (yaml.YAMLError, ValueError, OverflowError, RecursionError, AttributeError)
_LOADER: Any = getattr(yaml, 'CSafeLoader', yaml.SafeLoader)
_DUMPER: Any = getattr(yaml, 'CSafeDumper', yaml.SafeDumper)
