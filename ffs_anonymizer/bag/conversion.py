"""One bag in, one bag out: what the command does, from beginning to end."""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
import contextlib
from contextlib import contextmanager
from dataclasses import dataclass, field
import errno
import json
import os
from pathlib import Path
import shutil
import sys
import time
from typing import Any, TextIO, TYPE_CHECKING, Union

from ffs_anonymizer.bag.ledger import Ledger
from ffs_anonymizer.bag.prefetch import read_ahead
from ffs_anonymizer.bag.preflight import check_first_images
from ffs_anonymizer.bag.selection import (
    Action,
    can_carry_pictures,
    depth_error,
    DEPTH_SUFFIX,
    is_picture,
    is_suspect,
    picture_error,
    Selection,
)
from ffs_anonymizer.errors import AnonymizerError, BagError, SettingsError
from ffs_anonymizer.frames.message import black_like, decode, is_depth
from ffs_anonymizer.pipeline import anonymize_all, callers, Outcome, Task
from ffs_anonymizer.regions.detections import CLASSES
from ffs_anonymizer.rosbag2 import cdr
from ffs_anonymizer.rosbag2.reader import BagReader, decompressed
from ffs_anonymizer.rosbag2.storage import Attachment, Item, Message, Note, Topic
from ffs_anonymizer.rosbag2.writer import BagWriter, Format
from ffs_anonymizer.settings.parameter_file import to_yaml
from ffs_anonymizer.settings.runtime import Settings

if TYPE_CHECKING:
    from ffs_anonymizer.anonymizer import Anonymizer
    from ffs_anonymizer.frames.frame import Frame

SETTINGS_FILE = 'anonymizer.param.yaml'
PARTIAL = '.partial'
SCRATCH = 'scratch'


@dataclass(frozen=True)
class Job:
    """
    Say what is to be made of a bag.

    :param source: a bag folder, or one of its storage files.
    :param target: the folder to make.
    :param storage: mcap or sqlite3; empty: the source's.
    :param compression_mode: none, file, message or chunk; empty: the source's.
    :param start_ns: leave out messages recorded before.
    :param end_ns: leave out messages recorded after.
    :param on_error: stop, or black: a black frame stands for one that cannot be anonymized.
    :param detections: file for what was replaced, a line of JSON a frame.
    """

    source: Path
    target: Path
    selection: Selection = field(default_factory=Selection)
    storage: str = ''
    compression_mode: str = ''
    start_ns: int | None = None
    end_ns: int | None = None
    on_error: str = 'stop'
    detections: Path | None = None
    max_bytes: int = 0
    max_duration_ns: int = 0

    @property
    def partial(self) -> Path:
        """Return the folder that the bag is written to until it is complete."""
        return self.target.with_name(self.target.name + PARTIAL)


@dataclass
class TopicReport:
    """Hold what became of a topic."""

    action: Action
    messages: int = 0
    replaced: dict[str, int] = field(default_factory=dict)
    methods: dict[str, int] = field(default_factory=dict)
    failed: int = 0


@dataclass
class Report:
    """
    Hold what became of a bag.

    :param undone: what could not be done, as words; not empty means exit code 1.
    :param warnings: what did not go as configured, with the number of frames; faces are covered
        all the same.
    """

    topics: dict[tuple[str, str], TopicReport] = field(default_factory=dict)
    undone: list[str] = field(default_factory=list)
    warnings: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def frames(self) -> int:
        """Return the number of images that went through the recipe."""
        reports = self.topics.values()
        return sum(t.messages for t in reports if t.action is Action.ANONYMIZE)

    @property
    def replaced(self) -> int:
        """Return the number of regions that were replaced."""
        return sum(sum(t.replaced.values()) for t in self.topics.values())


@dataclass(frozen=True)
class _Picture:
    """Hold an image message beside what was read of it; None if it cannot be read."""

    message: Message
    image: cdr.CdrImage | cdr.CdrCompressedImage | None


_Passing = Union[Item, _Picture]


class Conversion:
    """
    Make an anonymized bag of a bag.

    :param job: what is to be made of which bag.
    :param settings: of the recipe.
    :raises BagError: the bag cannot be read, or has topics that would leak.
    :raises SettingsError: an area that is to be covered lies in no image of the bag.
    """

    def __init__(self, job: Job, settings: Settings) -> None:
        self.job = job
        self.settings = settings
        self.reader = BagReader(job.source)
        self.actions = job.selection.check(self.reader.topics())
        self.layout = _layout(job, self.reader)
        dropped = [key for key, action in self.actions.items() if action is Action.DROP]
        self.report = Report({key: TopicReport(Action.DROP) for key in dropped})
        self._decided: dict[Topic, Action] = {}
        self._read = self._ledger()
        self._sizes_wh: dict[str, tuple[int, int]] = {}
        idle = self._idle_zones(settings.mask_zones, Action.ANONYMIZE, Action.DROP)
        if idle:
            names = self._names(Action.ANONYMIZE)
            raise SettingsError(
                f'mask_zones: got {idle}, which fits no topic that is anonymized, so that the '
                'area would stay visible; expected the name or a glob of: '
                f'{", ".join(names) or "there is none"}'
            )

    def plan(self) -> str:
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
                _number(t.message_count),
                self.actions[t.name, t.type_name].value,
            )
            for t in self.reader.topics()
        ]
        return '\n'.join([*lines, *_table(('topic', 'type', 'messages', 'action'), rows)])

    def check_first_images(self) -> None:
        """
        Tell now of topics that the run would stop at.

        :raises BagError: an image is none that can be anonymized, or the bag is damaged.
        """
        job = self.job
        if job.on_error == 'stop':
            keys = {(t.name, t.type_name) for t in self.reader.topics() if t.message_count != 0}
            keys = {key for key in keys if self.actions[key] is Action.ANONYMIZE}
            check_first_images(self.reader, keys, start_ns=job.start_ns, end_ns=job.end_ns)

    def warnings(self) -> list[str]:
        """Return what the user should know before it is too late."""
        actions = self.actions.items()
        left = self._names(Action.COPY_LEFT)
        asked = [
            t.name
            for t in self.reader.topics()
            if self.actions[t.name, t.type_name] is Action.COPY_ASKED
            and can_carry_pictures(t)
            and not t.name.endswith(DEPTH_SUFFIX)
        ]
        copied = [
            f'{name} ({type_name})'
            for (name, type_name), action in actions
            if action is Action.COPY and is_suspect(type_name)
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
        if copied:
            lines.append(f'copied unseen; do they carry pictures? {", ".join(copied)}')
        if not any(action is Action.ANONYMIZE for action in self.actions.values()):
            lines.append('no topic of this bag is anonymized: all that is kept is copied')
        idle = self._idle_zones(self.settings.ignore_zones, Action.ANONYMIZE)
        if idle:
            lines.append(
                f'ignore_zones: {idle} fits no topic that is anonymized, so it has no effect'
            )
        if (self.reader.metadata.storage, self.layout.storage) == ('mcap', 'sqlite3'):
            lines.append(
                'sqlite3 has no place for publish times, sequence numbers, attachments and '
                'metadata records: they are left out'
            )
        undefined = [
            t.type_name
            for t in self.reader.topics()
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

    def run(self, *, shows_progress: bool) -> Report:
        """
        Write the bag; it has its final name only when all of it is there and was read back.

        :param shows_progress: whether a bar is drawn on standard error.
        :raises AnonymizerError: there is no output.
        """
        started = time.monotonic()
        self._check_target()
        self.check_first_images()
        with contextlib.ExitStack() as stack:
            anonymizer = self._anonymizer()
            if anonymizer is not None:
                stack.callback(anonymizer.close)
            stack.enter_context(self._partial_folder())
            detections = stack.enter_context(self._detections_file())
            self._write(anonymizer, detections, shows_progress=shows_progress)
            if anonymizer is not None:
                text = to_yaml(self.settings)
                (self.job.partial / SETTINGS_FILE).write_text(text, encoding='utf-8')
            self._verify_and_sync()
            self._publish(detections)
        self.report.seconds = time.monotonic() - started
        return self.report

    def _names(self, *actions: Action) -> list[str]:
        return [name for (name, _), action in self.actions.items() if action in actions]

    def _idle_zones(self, zones: Sequence[str], *actions: Action) -> str:
        """Return the zones that fit no topic of these actions, as words."""
        from ffs_anonymizer.anonymizer import Zone

        names = self._names(*actions)
        idle = (text for text in dict.fromkeys(zones) if not Zone.parse(text).fits_any(names))
        return ', '.join(map(repr, idle))

    def _check_target(self) -> None:
        job = self.job
        for path in (job.target, job.detections):
            if path is not None and (path.exists() or path.is_symlink()):
                raise BagError(f'{path} exists already and is not overwritten; name another one')
        if job.partial.exists():
            raise BagError(
                f'{job.partial} is there: another run is writing it, or one was killed; if none '
                'is running, remove it and start again'
            )
        source = job.source.resolve()
        if source.is_dir() and source in job.target.resolve().parents:
            raise BagError(f'{job.target} lies inside the input, which must stay as it is')

    def _anonymizer(self) -> Anonymizer | None:
        if not any(action is Action.ANONYMIZE for action in self.actions.values()):
            return None
        from ffs_anonymizer.anonymizer import Anonymizer

        anonymizer = Anonymizer(self.settings, callers=callers(self.settings))
        for name, value in anonymizer.describe().items():
            print(f'  {name}: {value}', flush=True)
        return anonymizer

    @contextmanager
    def _partial_folder(self) -> Iterator[None]:
        """Make the folder; whatever goes wrong, it is gone afterwards."""
        with _disk_errors(self.job.partial):
            self.job.partial.mkdir(parents=True)
            try:
                (self.job.partial / SCRATCH).mkdir()
                yield
            finally:
                shutil.rmtree(self.job.partial, ignore_errors=True)

    @contextmanager
    def _detections_file(self) -> Iterator[TextIO | None]:
        if self.job.detections is None:
            yield None
            return
        path = self.job.detections.with_name(self.job.detections.name + PARTIAL)
        with _disk_errors(path), path.open('x', encoding='utf-8') as file:
            try:
                yield file
            finally:
                path.unlink(missing_ok=True)

    def _write(
        self, anonymizer: Anonymizer | None, detections: TextIO | None, *, shows_progress: bool
    ) -> None:
        job, layout = self.job, self.layout
        writer = BagWriter(job.partial, job.target.name, layout, self.reader.metadata)
        try:
            with (
                contextlib.closing(self._outcomes(anonymizer)) as outcomes,
                _progress_bar(self.reader.size_bytes, shows_progress) as bar,
            ):
                for number, outcome in enumerate(outcomes):
                    self._write_item(writer, outcome, detections)
                    if number % 16 == 0:
                        self._show(bar)
                self._show(bar)
            if not sum(self._read.counts.values()):
                dropped = ' but those of dropped topics' * bool(job.selection.drop_topics)
                raise BagError(f'{job.source} has no messages in the given time{dropped}')
            writer.finish()
        except BaseException:
            with contextlib.suppress(OSError):
                writer.abort()
            raise

    def _outcomes(self, anonymizer: Anonymizer | None) -> Any:
        if anonymizer is None:
            return self._copied()
        return anonymize_all(self._tasks(), anonymizer)

    def _show(self, bar: Any) -> None:
        report = self.report
        bar.set_postfix(frames=report.frames, replaced=report.replaced, refresh=False)
        bar.update(self.reader.read_bytes - bar.n)

    def _copied(self) -> Generator[Outcome[_Passing], None, None]:
        with contextlib.closing(read_ahead(self._items())) as items:
            for item in items:
                yield Outcome(item)

    def _tasks(self) -> Generator[Task[_Passing], None, None]:
        for item in self._items():
            if not isinstance(item, Message):
                size_bytes = len(item.data) if isinstance(item, Attachment) else 0
                yield Task(item, size_bytes=size_bytes)
            elif self._decided[item.topic] is Action.ANONYMIZE:
                yield self._image_task(item)
            else:
                # Held for the look-ahead, which the chunk that it lies in is not.
                item = item._replace(data=bytes(item.data))
                yield Task(item, clock_ns=item.log_ns, size_bytes=len(item.data))

    def _items(self) -> Generator[Item, None, None]:
        """Yield what is kept, entered into the ledger, and decide about topics."""
        scratch = self.job.partial / SCRATCH
        for item in self.reader.items(self.job.start_ns, self.job.end_ns, scratch=scratch):
            if isinstance(item, Topic):
                self._decided[item] = self._decide(item)
            topic = item.topic if isinstance(item, Message) else item
            if isinstance(topic, Topic) and self._decided[topic] is Action.DROP:
                continue
            self._read.enter(item)
            yield item

    def _decide(self, topic: Topic) -> Action:
        """Return what happens to a topic now that all is known of it."""
        action = self.job.selection.action(topic)
        key = (topic.name, topic.type_name)
        if key not in self.actions:
            raise BagError(
                f'{topic.name} ({topic.type_name}) is in the storage file but not in '
                'metadata.yaml; `ros2 bag reindex` a copy of the bag'
            )
        if self.actions[key] is not action:
            # Only a file that was compressed as a whole can still tell something new.
            raise picture_error([key])
        return action

    def _image_task(self, message: Message) -> Task[_Passing]:
        topic = message.topic
        payload = bytes(message.data)
        message = message._replace(data=payload)
        try:
            if self.reader.messages_compressed:
                payload = decompressed(payload)
            image = cdr.parse(topic.type_name, payload)
        except AnonymizerError as error:
            return Task(
                _Picture(message, None),
                lambda error=error: _fail(error),  # type: ignore[misc]
                stream=topic.name,
                stamp_ns=message.log_ns,
                clock_ns=message.log_ns,
            )
        if is_depth(image.encoding if isinstance(image, cdr.CdrImage) else image.format):
            raise depth_error([topic.name])
        return Task(
            _Picture(message, image),
            lambda: decode(image),
            stream=topic.name,
            stamp_ns=image.stamp_ns or message.log_ns,
            clock_ns=message.log_ns,
            size_bytes=len(message.data),
        )

    def _write_item(
        self, writer: BagWriter, outcome: Outcome[_Passing], detections: TextIO | None
    ) -> None:
        item = outcome.item
        if isinstance(item, _Picture):
            self._write_picture(writer, item, outcome)
            if detections is not None:
                detections.write(_detection_line(item, outcome))
        elif isinstance(item, Message):
            self.report.topics[item.topic.name, item.topic.type_name].messages += 1
            writer.add_message(item, item.data, is_compressed=self.reader.messages_compressed)
        elif isinstance(item, Topic):
            key = (item.name, item.type_name)
            self.report.topics.setdefault(key, TopicReport(self._decided[item]))
            writer.add_topic(item)
        elif isinstance(item, Attachment):
            if is_picture(item):
                self.report.undone.append(
                    f'attachment {item.name!r} ({item.media_type}) is a picture: left out'
                )
            elif self.layout.storage == 'mcap':
                writer.add_attachment(item)
        elif isinstance(item, Note) and self.layout.storage == 'mcap':
            writer.add_note(item)

    def _write_picture(
        self, writer: BagWriter, picture: _Picture, outcome: Outcome[_Passing]
    ) -> None:
        message, image, regions = picture.message, picture.image, outcome.regions
        name = message.topic.name
        report = self.report.topics[name, message.topic.type_name]
        report.messages += 1
        if image is None or outcome.data is None or outcome.error is not None:
            report.failed += 1
            error = outcome.error or BagError('there is no image')
            data = self._black_instead(picture, error)
            writer.add_message(message, data, is_compressed=False)
            return
        is_raw = isinstance(image, cdr.CdrImage)
        if is_raw and len(outcome.data) != len(image.data):
            raise BagError(f'{name}: got {len(outcome.data)} bytes, expected {len(image.data)}')
        self._sizes_wh[name] = outcome.size_wh
        for index in regions.classes.tolist():
            report.replaced[CLASSES[index]] = report.replaced.get(CLASSES[index], 0) + 1
        if outcome.replaced is not None:
            for method, count in outcome.replaced.counts.items():
                report.methods[method] = report.methods.get(method, 0) + count
            for warning in outcome.replaced.warnings:
                self.report.warnings[warning] = self.report.warnings.get(warning, 0) + 1
        if len(regions) == 0 and len(outcome.data) == len(image.data):
            is_compressed = self.reader.messages_compressed
            writer.add_message(message, message.data, is_compressed=is_compressed)
        else:
            writer.add_message(message, image.with_data(outcome.data), is_compressed=False)

    def _black_instead(self, picture: _Picture, error: AnonymizerError) -> bytes:
        """Return a message with a black picture, where the user wants to go on with one."""
        name, image = picture.message.topic.name, picture.image
        where = f'{name}, message recorded at {picture.message.log_ns} ns: {error}'
        if self.job.on_error == 'stop':
            raise BagError(
                f'{where}; with --on-error black, a black frame would stand for it'
            ) from error
        if image is None:
            raise BagError(f'{where}; nor is there anything to put a black frame into') from error
        self.report.undone.append(f'{where}; it is black now')
        if len(image.data) == 0:
            return image.with_data(b'')
        try:
            return image.with_data(black_like(image, self._sizes_wh.get(name)))
        except AnonymizerError as second:
            raise BagError(f'{where}; nor can a black frame stand for it: {second}') from second

    def _verify_and_sync(self) -> None:
        """Read the new bag back while the disk still takes in its files."""
        files = [path for path in self.job.partial.iterdir() if path.is_file()]
        thread = ThreadPoolExecutor(1, thread_name_prefix='sync')
        try:
            syncs = [thread.submit(_sync, path) for path in files]
            self._verify()
            for sync in syncs:
                sync.result()
        finally:
            thread.shutdown(cancel_futures=True)

    def _verify(self) -> None:
        """Read the new bag back."""
        written = self._ledger()
        reader = BagReader(self.job.partial)
        for item in reader.items(scratch=self.job.partial / SCRATCH):
            written.enter(item)
        differences = self._read.differences(written)
        if differences:
            raise BagError(f'the new bag is not what it should be: {"; ".join(differences)}')

    def _ledger(self) -> Ledger:
        chosen = {key for key, action in self.actions.items() if action is Action.ANONYMIZE}
        was_compressed = self.reader.messages_compressed
        return Ledger(
            keeps_publish_times=self.layout.storage == 'mcap',
            counts_data=was_compressed == (self.layout.compression_mode == 'message'),
            changed_topics=chosen,
        )

    def _publish(self, detections: TextIO | None) -> None:
        job = self.job
        shutil.rmtree(job.partial / SCRATCH)
        _sync(job.partial)
        if detections is not None:
            detections.flush()
            os.fsync(detections.fileno())
        if job.target.exists():
            raise BagError(f'{job.target} has come into being meanwhile and is not overwritten')
        job.partial.rename(job.target)
        _sync(job.target.parent)
        if detections is not None and job.detections is not None:
            detections.close()
            Path(detections.name).rename(job.detections)


def summary(report: Report) -> str:
    """Return what became of each topic, as a table."""
    rows = []
    for (name, _), topic in report.topics.items():
        kinds = _counted(topic.replaced)
        is_image = topic.action is Action.ANONYMIZE
        rows.append(
            (
                name,
                topic.action.value,
                '-' if topic.action is Action.DROP else str(topic.messages),
                (kinds or '0') if is_image else '-',
                (_counted(topic.methods) or '-') if is_image else '-',
                str(topic.failed) if is_image else '-',
            )
        )
    lines = _table(('topic', 'action', 'messages', 'replaced', 'by', 'failed'), rows)
    rate = report.frames / report.seconds if report.seconds else 0.0
    lines.append(
        f'{sum(t.messages for t in report.topics.values())} messages, {report.frames} images in '
        f'{report.seconds:.1f} s ({rate:.1f} images/s)'
    )
    return '\n'.join(lines)


def _fail(error: AnonymizerError) -> Frame:
    raise error


def _layout(job: Job, reader: BagReader) -> Format:
    storage = job.storage or reader.metadata.storage
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


def _detection_line(picture: _Picture, outcome: Outcome[_Passing]) -> str:
    message = picture.message
    line: dict[str, Any] = {
        'topic': message.topic.name,
        'log_ns': message.log_ns,
        'stamp_ns': picture.image.stamp_ns if picture.image is not None else None,
        'size_wh': list(outcome.size_wh),
        'regions': outcome.regions.records(),
    }
    if outcome.error is not None:
        line['error'] = str(outcome.error)
    return json.dumps(line) + '\n'


def _progress_bar(total: int, shown: bool) -> Any:
    from tqdm import tqdm

    return tqdm(
        total=total,
        unit='B',
        unit_scale=True,
        unit_divisor=1024,
        file=sys.stderr,
        dynamic_ncols=True,
        # Without a terminal, None shows nothing.
        disable=None if shown else True,
    )


def _counted(counts: Mapping[str, int]) -> str:
    return ', '.join(f'{count} {word}' for word, count in counts.items())


def _number(count: int | None) -> str:
    return '?' if count is None else str(count)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    widths = [max(len(cell) for cell in column) for column in zip(head, *rows, strict=True)]
    return [
        '  '.join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in (head, *rows)
    ]


def _sync(path: Path) -> None:
    """Have a file or a folder on the disk, so that a final name also survives a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) or 'full' in str(error):
            raise BagError(
                f'no space left for {path}: {error}; nothing is left of it, the input is untouched'
            ) from error
        raise BagError(f'cannot write {path}: {error}') from error
