"""What is to become of a bag, topic by topic, and what its user should know before."""

from __future__ import annotations

from collections.abc import Sequence
import contextlib
from dataclasses import dataclass, field, replace

from ffs_anonymizer.bag.ledger import Ledger
from ffs_anonymizer.bag.measured import Sensors
from ffs_anonymizer.bag.selection import (
    Action,
    can_carry_pictures,
    DEPTH_SUFFIX,
    hides_bytes,
    is_plain_text,
    is_searched,
    is_suspect,
    is_undefined,
    picture_error,
    Selection,
    shows_picture,
    WAY_OUT,
)
from ffs_anonymizer.clouds.cloud import Cloud
from ffs_anonymizer.errors import AnonymizerError, BagError, SettingsError
from ffs_anonymizer.frames.message import idle_rotations, rotation_of
from ffs_anonymizer.jobs.job import FileJob
from ffs_anonymizer.regions.zones import Zone
from ffs_anonymizer.rosbag2 import cdr
from ffs_anonymizer.rosbag2.reader import BagReader, decompressed, ROS1
from ffs_anonymizer.rosbag2.storage import Message, Note, Topic
from ffs_anonymizer.rosbag2.writer import Format
from ffs_anonymizer.terminal import printable

# What goes through the recipe.
_PICTURES = (Action.ANONYMIZE, Action.CLOUD)
_MOST_BYTES = 1 << 28


@dataclass(frozen=True, kw_only=True)
class BagJob(FileJob):
    """
    Say what is to be made of a bag, a folder or one of its storage files.

    :param storage: mcap or sqlite3; empty: the source's.
    :param compression_mode: none, file, message or chunk; empty: the source's.
    :param start_ns: leave out messages recorded before.
    :param end_ns: leave out messages recorded after.
    :param max_bytes: begin a new file at this size; 0: one file.
    :param max_duration_ns: begin a new file after this time; 0: one file.
    """

    selection: Selection = field(default_factory=Selection)
    storage: str = ''
    compression_mode: str = ''
    start_ns: int | None = None
    end_ns: int | None = None
    max_bytes: int = 0
    max_duration_ns: int = 0


class BagPlan:
    """
    Resolve a job against the bag that it is for.

    :raises BagError: the bag cannot be read, has topics that would leak, or no fit name.
    :raises SettingsError: an area that is to be covered lies in no image of the bag.
    """

    def __init__(self, job: BagJob) -> None:
        self.job = job
        try:
            job.target.name.encode()
        except UnicodeEncodeError as error:
            raise BagError(
                f'{job.target}: got a name that is no UTF-8, expected one, as metadata.yaml and '
                'the files of the new bag hold it'
            ) from error
        most_bytes = job.settings.limits.max_message_mb << 20
        self.reader = BagReader(job.source, most_message_bytes=most_bytes)
        self.hidden_data = self._leave_out_hidden_data()
        self.topics = self.reader.topics()
        self.actions = job.selection.check(self.topics)
        self.sensors = Sensors(job.settings, are_compressed=self.reader.messages_compressed)
        for key in self._uncoloured():
            self.actions[key] = Action.COPY
        self.layout = _layout(job, self.reader)
        self._check_cameras()
        rotation_of(job.settings.rotation)
        idle = self._idle_zones(job.settings.mask_zones, *_PICTURES, Action.DROP)
        if idle:
            names = self._names(*_PICTURES)
            raise SettingsError(
                f'mask_zones: got {idle}, which fits no topic that is anonymized, so that the '
                'area would stay visible; expected the name or a glob of: '
                f'{", ".join(names) or "there is none"}'
            )

    @property
    def chosen(self) -> set[tuple[str, str]]:
        """Return name and type of the topics that are anonymized."""
        changed = (*_PICTURES, Action.DEPTH)
        return {key for key, action in self.actions.items() if action in changed}

    @property
    def waits_for_cameras(self) -> bool:
        """Return whether there is anything whose regions are those of a camera."""
        return any(
            action is Action.DEPTH or (action is Action.CLOUD and self.sensors.links(*key))
            for key, action in self.actions.items()
        )

    def label(self, key: tuple[str, str]) -> str:
        """Return what a topic is called in reports: its name, and its type where two share it."""
        name, type_name = key
        others = [other for other, other_type in self.actions if other == name]
        return name if len(others) < 2 else f'{name} ({type_name})'

    def decide(self, topic: Topic) -> Action:
        """
        Return what happens to a topic now that all is known of it.

        :raises BagError: the metadata kept it secret, or what it carries.
        """
        action = self.job.selection.action(topic)
        key = (topic.name, topic.type_name)
        if key not in self.actions:
            raise BagError(
                f'{topic.name} ({topic.type_name}) is in the storage file but not in '
                'metadata.yaml; `ros2 bag reindex` a copy of the bag'
            )
        if action not in (Action.DROP, Action.COPY_ASKED) and hides_bytes(topic):
            raise BagError(
                f'{topic.name} ({topic.type_name}): what it says of itself is no plain text, or '
                f'can hide other data; {WAY_OUT}'
            )
        if action is Action.CLOUD:
            return self.actions[key]
        if self.actions[key] is not action:
            # Only a file that was compressed as a whole can still tell something new.
            raise picture_error([key])
        return action

    def shows_picture(self, message: Message) -> bool:
        """Return whether a message that is copied unasked holds a picture, whatever its type."""
        topic = message.topic
        key = (topic.name, topic.type_name)
        if self.actions[key] is not Action.COPY or not is_searched(topic):
            return False
        data = message.data
        if self.reader.messages_compressed:
            data = decompressed(data)
        return shows_picture(topic, data)

    def ledger(self) -> Ledger:
        """Return an empty ledger for this bag's messages, read or written."""
        return Ledger(
            keeps_publish_times=self.layout.storage == 'mcap',
            counts_data=self.reader.messages_compressed
            == (self.layout.compression_mode == 'message'),
            changed_topics=self.chosen,
        )

    def words(self) -> str:
        """Return what would be done, topic by topic."""
        meta, layout = self.reader.metadata, self.layout
        was = _layout_words(
            meta.storage, meta.compression_mode, self.reader.chunk_compression, len(meta.files)
        )
        now = _layout_words(layout.storage, layout.compression_mode, layout.chunk_compression, 1)
        lines = [f'{self.job.source} ({was}) -> {self.job.target} ({now})']
        rows = [
            (
                t.name,
                t.type_name,
                '?' if t.message_count is None else str(t.message_count),
                self.actions[t.name, t.type_name].value,
            )
            for t in self.topics
        ]
        return '\n'.join([*lines, *table(('topic', 'type', 'messages', 'action'), rows)])

    def warnings(self) -> list[str]:
        """Return what the user should know before it is too late."""
        return [*self._topic_warnings(), *self._format_warnings()]

    def _topic_warnings(self) -> list[str]:
        left = self._names(Action.COPY_LEFT)
        asked = [
            t.name
            for t in self.topics
            if self.actions[t.name, t.type_name] is Action.COPY_ASKED
            and can_carry_pictures(t)
            and not t.name.endswith(DEPTH_SUFFIX)
        ]
        measured = [
            t.name
            for t in self.topics
            if self.actions[t.name, t.type_name] is Action.COPY_ASKED
            and (t.type_name == cdr.POINT_CLOUD or t.name.endswith(DEPTH_SUFFIX))
        ]
        copied = [
            f'{name} ({type_name})'
            for (name, type_name), action in self.actions.items()
            if action is Action.COPY and is_suspect(type_name) and type_name != cdr.POINT_CLOUD
        ]
        undefined = [
            f'{t.name} ({t.type_name})'
            for t in self.topics
            if self.actions[t.name, t.type_name] is Action.COPY and is_undefined(t)
        ]
        lines = []
        if left:
            lines.append(
                'THESE IMAGES ARE COPIED AS THEY ARE, FACES INCLUDED, since they are not among '
                f'the chosen topics: {", ".join(left)}'
            )
        if asked:
            lines.append(
                'THESE IMAGES ARE COPIED AS THEY ARE, PERSONS INCLUDED, as you asked for: '
                f'{", ".join(sorted({*asked}))}'
            )
        if measured:
            lines.append(
                'these clouds and depth images are copied as you asked for, with the shape of '
                f'whoever is in them, and in their colours: {", ".join(sorted(measured))}'
            )
        if copied:
            lines.append(f'copied unseen; do they carry pictures? {", ".join(copied)}')
        if undefined:
            lines.append(
                'copied, though the bag does not say what their types hold; messages with the '
                f'beginning of a picture are refused: {", ".join(undefined)}'
            )
        if not self.chosen:
            lines.append('no topic of this bag is anonymized: all that is kept is copied')
        idle = self._idle_zones(self.job.settings.ignore_zones, *_PICTURES)
        if idle:
            lines.append(
                f'ignore_zones: {idle} fits no topic that is anonymized, so it has no effect'
            )
        lines += [
            f'rotation: {text!r} fits no topic that is anonymized, so it has no effect'
            for text in idle_rotations(self.job.settings.rotation, self._names(*_PICTURES))
        ]
        return lines

    def _format_warnings(self) -> list[str]:
        lines = []
        if (self.reader.metadata.storage, self.layout.storage) == ('mcap', 'sqlite3'):
            lines.append(
                'sqlite3 has no place for publish times, sequence numbers, attachments and '
                'metadata records: they are left out'
            )
        undefined = [
            t.type_name
            for t in self.topics
            if t.topic
            and not t.topic.definition
            and self.actions[t.name, t.type_name] is not Action.DROP
        ]
        if self.layout.storage == 'mcap' and undefined:
            lines.append(
                'the bag has no message definitions for these types, so the new one has none '
                f'either; viewers that need them cannot show: {", ".join(sorted({*undefined}))}'
            )
        return lines

    def _leave_out_hidden_data(self) -> list[str]:
        """Keep of the custom data in metadata.yaml what is plain text; return the other names."""
        custom = self.reader.metadata.custom_data
        hidden = [
            name
            for name, value in custom.items()
            if not (is_plain_text(name) and is_plain_text(value))
            and not self.job.selection.keeps(Note(name, {}))
        ]
        kept = {name: value for name, value in custom.items() if name not in hidden}
        self.reader.metadata = replace(self.reader.metadata, custom_data=kept)
        return hidden

    def _uncoloured(self) -> set[tuple[str, str]]:
        """Return the clouds that show nobody by colours, as far as a look at each says it."""
        clouds = {key for key, action in self.actions.items() if action is Action.CLOUD}
        waiting = {key for key in clouds if not self.sensors.links(*key)}
        found = {key for key in waiting if self._is_empty(key)}
        waiting -= found
        if not waiting or self.reader.metadata.compression_mode == 'file':
            return found
        with contextlib.closing(self.reader.items()) as items:
            for item in items:
                if not waiting or self.reader.read_bytes > _MOST_BYTES:
                    break
                if not isinstance(item, Message):
                    continue
                key = (item.topic.name, item.topic.type_name)
                if key not in waiting:
                    continue
                waiting.remove(key)
                # What cannot be read is told of later.
                with contextlib.suppress(AnonymizerError):
                    if not self.is_coloured(item):
                        found.add(key)
        return found

    def is_coloured(self, message: Message) -> bool:
        """
        Return whether a cloud has colours for its points, be there any or not.

        :raises AnonymizerError: it cannot be read.
        """
        data = bytes(message.data)
        payload = decompressed(data) if self.reader.messages_compressed else data
        return Cloud(cdr.parse_point_cloud(payload)).is_coloured

    def _is_empty(self, key: tuple[str, str]) -> bool:
        return any((t.name, t.type_name) == key and t.message_count == 0 for t in self.topics)

    def _check_cameras(self) -> None:
        """Refuse cameras whose pictures are not looked at."""
        pictures = self._names(Action.ANONYMIZE)
        for key, action in self.actions.items():
            links = self.sensors.links(*key) if action in (Action.CLOUD, Action.DEPTH) else ()
            for link in links:
                if link.image not in pictures:
                    raise SettingsError(
                        f'cloud.cameras, cloud.registered, depth.cameras: got {link.image} for '
                        f'{key[0]}, expected a picture of this bag that is anonymized: '
                        f'{", ".join(pictures) or "none"}'
                    )

    def _names(self, *actions: Action) -> list[str]:
        return [name for (name, _), action in self.actions.items() if action in actions]

    def _idle_zones(self, zones: Sequence[str], *actions: Action) -> str:
        """Return the zones that fit no topic of these actions, as words."""
        names = self._names(*actions)
        idle = (text for text in dict.fromkeys(zones) if not Zone.parse(text).fits_any(names))
        return ', '.join(map(repr, idle))


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines with columns."""
    head, *rows = ([printable(cell) for cell in row] for row in (head, *rows))
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    return [
        '  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]


def _layout(job: BagJob, reader: BagReader) -> Format:
    storage = job.storage or reader.metadata.storage
    if storage == ROS1:
        storage = 'mcap'
    mode, chunks = reader.metadata.compression_mode, reader.chunk_compression
    if job.compression_mode:
        chunks = 'zstd' if job.compression_mode == 'chunk' else ''
        mode = 'none' if job.compression_mode == 'chunk' else job.compression_mode
    if storage != 'mcap' and job.compression_mode == 'chunk':
        raise BagError('got --compression-mode chunk for sqlite3, which has no chunks; use mcap')
    return Format(storage, mode, chunks, job.max_bytes, job.max_duration_ns)


def _layout_words(storage: str, mode: str, chunks: str, files: int) -> str:
    words = [storage]
    if mode != 'none':
        words.append(f'{mode} compression')
    if chunks:
        words.append(f'{chunks} chunks')
    if files > 1:
        words.append(f'{files} files')
    return ', '.join(words)
