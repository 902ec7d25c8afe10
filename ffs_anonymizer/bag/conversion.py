"""One bag in, one bag out: what is done from beginning to end."""

from __future__ import annotations

from collections.abc import Callable, Generator
from concurrent.futures import ThreadPoolExecutor, wait
import contextlib
from dataclasses import dataclass
from datetime import datetime, timezone
import json
from pathlib import Path
import time
from typing import Any, TYPE_CHECKING, Union

from ffs_anonymizer.bag.measured import blank, may_show_persons, MeasuredMessage
from ffs_anonymizer.bag.pictures import decoding, fingerprint, Picture
from ffs_anonymizer.bag.plan import BagJob, BagPlan, table
from ffs_anonymizer.bag.preflight import check_first_images
from ffs_anonymizer.bag.selection import Action, depth_error, picture_error, refusal
from ffs_anonymizer.bag.video import VideoImage, Videos
from ffs_anonymizer.errors import AnonymizerError, BagError, ImageError
from ffs_anonymizer.frames.message import black_like, is_depth
from ffs_anonymizer.jobs.chunks import Detected
from ffs_anonymizer.jobs.earlier import Earlier, earlier_of, refuse_reuse
from ffs_anonymizer.jobs.job import (
    looked_up,
    nobody,
    opened,
    raising,
    read_list,
    refuse_outputs,
    Tell,
    written_list,
)
from ffs_anonymizer.jobs.output import BESIDE, Outputs, record_of, sync
from ffs_anonymizer.jobs.record import Describing, FORMAT, summary_of, write_record
from ffs_anonymizer.jobs.report import counted, progress_bar, Report, Tally
from ffs_anonymizer.pipeline import anonymize_all, Outcome, Task
from ffs_anonymizer.regions.detections import CLASSES
from ffs_anonymizer.regions.detections_file import DetectionsReader, DetectionsWriter, Found
from ffs_anonymizer.rosbag2 import cdr
from ffs_anonymizer.rosbag2.prefetch import read_ahead
from ffs_anonymizer.rosbag2.reader import BagReader, decompressed
from ffs_anonymizer.rosbag2.storage import Attachment, Item, Message, Note, Topic
from ffs_anonymizer.rosbag2.writer import BagWriter, Follow
from ffs_anonymizer.settings.parameter_file import to_yaml

if TYPE_CHECKING:
    from ffs_anonymizer.anonymizer import Recipe
    from ffs_anonymizer.frames.frame import Frame
    from ffs_anonymizer.networks import Networks

SETTINGS_FILE = 'anonymizer.param.yaml'
SCRATCH = 'scratch'


@dataclass(frozen=True)
class _Picture:
    """
    Hold an image message beside what was read of it; None if it cannot be read.

    :param stamp_ns: of the camera, else of the recording.
    """

    message: Message
    image: Picture | None
    stamp_ns: int


@dataclass(frozen=True)
class _Kept:
    """Hold an image message whose earlier output stands."""

    message: Message
    payload: bytes
    stamp_ns: int
    known: Found


_Passing = Union[Item, _Picture, _Kept, MeasuredMessage]


def run(
    job: BagJob,
    *,
    plan: BagPlan | None = None,
    detected: Detected | None = None,
    outputs: Outputs = BESIDE,
    networks: Networks | None = None,
    tell: Tell = nobody,
    shows_progress: bool = False,
) -> Report:
    """
    Write the bag; it has its final name only when all of it is there and was read back.

    :param plan: of the job, where it was made already.
    :param detected: what was detected already; in other pictures, the networks look.
    :param outputs: that it is made in.
    :param networks: that are open already.
    :param tell: is told which models run, a line each.
    :param shows_progress: whether a bar is drawn on standard error.
    :raises AnonymizerError: there is no output.
    """
    started, started_at = time.monotonic(), datetime.now(timezone.utc)
    if job.skips_existing and job.target.exists():
        return Report()
    plan = plan or BagPlan(job)
    refuse_outputs(job, [job.target, record_of(job.target)], outputs.resumed)
    if plan.waits_for_cameras:
        refuse_reuse(job, 'clouds and depth images follow what their cameras saw')
    check_first_images(plan)
    report = Report(
        undone=[
            f'custom data {name!r} of metadata.yaml is no plain text: left out; with '
            f'--keep-attachments {name} it is copied as it is'
            for name in plan.hidden_data
        ]
    )
    with Describing() as describing, contextlib.ExitStack() as stack:
        source = describing.describe(job.source)
        recipe = (
            stack.enter_context(opened(job.settings, report, tell, networks))
            if plan.chosen
            else None
        )
        found = stack.enter_context(read_list(job, map(plan.label, plan.chosen)))
        earlier = stack.enter_context(earlier_of(job, found))
        lines = stack.enter_context(written_list(job, outputs))
        folder = stack.enter_context(outputs.folder(job.target))
        conversion = _Conversion(plan, folder, report, found, detected, earlier, lines)
        conversion.write(recipe, follow=describing.follow, shows_progress=shows_progress)
        if recipe is not None:
            (folder / SETTINGS_FILE).write_text(to_yaml(job.settings), encoding='utf-8')
        # Nothing may come or go in the folder while it is described, and it has this name only
        # until the stack is closed.
        if plan.layout.compression_mode == 'file':
            conversion.verify_and_sync()
            conversion.remove_scratch()
            about = describing.describe(folder)
        else:
            conversion.remove_scratch()
            about = describing.describe(folder)
            conversion.verify_and_sync()
        wait([about])
        stack.close()
        report.written = 1
        write_record(
            job,
            job.target,
            report,
            started_at,
            outputs=outputs,
            source=source,
            about=about,
        )
    report.seconds = time.monotonic() - started
    outputs.finish(report.as_dict())
    return report


class _Conversion:
    """
    Hold a bag that is being written.

    :param folder: exists and is empty.
    :param found: list of what was found before.
    :param detected: what was detected before, and is to be tracked.
    :param earlier: output whose frames are taken over.
    :param lines: takes what is found.
    """

    def __init__(
        self,
        plan: BagPlan,
        folder: Path,
        report: Report,
        found: DetectionsReader | None,
        detected: Detected | None,
        earlier: Earlier | None,
        lines: DetectionsWriter | None,
    ) -> None:
        self._recipe: Recipe | None = None
        self._earlier = earlier
        self._plan = plan
        self._job = plan.job
        self._reader = plan.reader
        self._folder = folder
        self._scratch = folder / SCRATCH
        self._scratch.mkdir()
        self._report = report
        self._found = found
        self._detected = detected
        self._lines = lines
        self._decided: dict[Topic, Action] = {}
        self._tallies: dict[Topic, Tally] = {}
        self._read = plan.ledger()
        video = plan.job.settings.video
        self._videos = Videos(encoder=video.encoder, decoder=video.decoder)
        # Of each topic, why packets have no picture.
        self._left_out: dict[str, list[str]] = {}
        # The picture of the packet that was read last.
        self._decoded: VideoImage | None = None
        self._sizes_wh: dict[str, tuple[int, int]] = {}
        for key, action in plan.actions.items():
            if action is Action.DROP:
                report.stream(plan.label(key), action.value)

    def write(self, recipe: Recipe | None, *, follow: Follow, shows_progress: bool) -> None:
        """
        Write all that the new bag is to hold.

        :param follow: reads the bag's files while they are written.
        """
        job, layout = self._job, self._plan.layout
        writer = BagWriter(
            self._folder, job.target.name, layout, self._reader.metadata, follow=follow
        )
        try:
            with (
                contextlib.closing(self._outcomes(recipe)) as outcomes,
                progress_bar(
                    total=self._reader.size_bytes,
                    shown=shows_progress,
                    unit='B',
                    unit_scale=True,
                    unit_divisor=1024,
                ) as bar,
            ):
                for number, outcome in enumerate(outcomes):
                    self._write_item(writer, outcome)
                    if number % 16 == 0:
                        self._show(bar)
                self._show(bar)
            if not sum(self._read.counts.values()):
                dropped = ' but those of dropped topics' * bool(job.selection.drop_topics)
                raise BagError(f'{job.source} has no messages in the given time{dropped}')
            for label, reasons in self._left_out.items():
                self._report.undone.append(
                    f'{label}: {len(reasons)} packets have no picture and are left out: '
                    f'{reasons[0]}'
                )
            self._write_record(writer)
            writer.finish()
        except BaseException:
            with contextlib.suppress(OSError):
                writer.abort()
            raise

    def verify_and_sync(self) -> None:
        """Read the new bag back while the disk still takes in its files."""
        files = [path for path in self._folder.iterdir() if path.is_file()]
        thread = ThreadPoolExecutor(1, thread_name_prefix='sync')
        try:
            syncs = [thread.submit(sync, path) for path in files]
            self._verify()
            for each in syncs:
                each.result()
        finally:
            thread.shutdown(cancel_futures=True)

    def remove_scratch(self) -> None:
        """Remove the folder for files that are compressed as a whole, when no more are read."""
        self._scratch.rmdir()

    def _write_record(self, writer: BagWriter) -> None:
        """Say inside of an mcap, too, what it is; the hashes stand beside it."""
        if self._plan.chosen and self._plan.layout.storage == 'mcap':
            summary = summary_of(self._job.settings, self._report)
            # What is left out leaves no trace inside, not even its name.
            summary['streams'] = {
                name: stream
                for name, stream in summary['streams'].items()
                if stream['action'] != Action.DROP.value
            }
            note = Note(FORMAT, {name: json.dumps(value) for name, value in summary.items()})
            self._read.enter(note)
            writer.add_note(note)

    def _outcomes(self, recipe: Recipe | None) -> Any:
        if recipe is None:
            return self._copied()
        self._recipe = recipe
        outcomes = anonymize_all(self._tasks(), recipe)
        return self._plan.sensors.in_order(outcomes) if self._plan.waits_for_cameras else outcomes

    def _show(self, bar: Any) -> None:
        report = self._report
        replaced = report.regions.total()
        bar.set_postfix(frames=report.frames, replaced=replaced, refresh=False)
        bar.update(self._reader.read_bytes - bar.n)

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
            elif self._decided[item.topic] in (Action.CLOUD, Action.DEPTH):
                yield self._measured_task(item)
            else:
                # Held for the look-ahead, which the chunk that it lies in is not.
                item = item._replace(data=bytes(item.data))
                yield Task(item, clock_ns=item.log_ns, size_bytes=len(item.data))

    def _items(self) -> Generator[Item, None, None]:
        """Yield what is kept, entered into the ledger, and decide about topics."""
        job = self._job
        for item in self._reader.items(job.start_ns, job.end_ns, scratch=self._scratch):
            if isinstance(item, Topic):
                self._decided[item] = self._plan.decide(item)
            topic = item.topic if isinstance(item, Message) else item
            if isinstance(topic, Topic) and self._decided[topic] is Action.DROP:
                continue
            if isinstance(item, Message) and not self._has_picture(item):
                continue
            if isinstance(item, Message) and (
                self._shows_colours(item) or self._plan.shows_picture(item)
            ):
                raise picture_error([(item.topic.name, item.topic.type_name)])
            if isinstance(item, (Attachment, Note)) and not self._is_kept(item):
                continue
            self._read.enter(item)
            yield item

    def _has_picture(self, message: Message) -> bool:
        """Decode a packet of a video; return False, and count it, where it has no picture."""
        topic = message.topic
        if topic.type_name not in cdr.VIDEO_TYPES or self._decided[topic] is not Action.ANONYMIZE:
            return True
        payload = bytes(message.data)
        try:
            if self._reader.messages_compressed:
                payload = decompressed(payload)
            packet = cdr.parse(topic.type_name, payload)
            assert isinstance(packet, cdr.CdrPacket)
            self._decoded = self._videos.read(topic.name, packet)
        except ImageError as error:
            left_out = self._left_out.setdefault(self._label(topic), [])
            left_out.append(f'{error} (first at {message.log_ns} ns)')
            return False
        return True

    def _is_kept(self, item: Attachment | Note) -> bool:
        """Return whether an attachment or a metadata record may pass; list it if not."""
        if self._plan.layout.storage != 'mcap':
            return False
        if self._job.selection.keeps(item):
            return True
        reason = refusal(item)
        if reason:
            self._report.undone.append(
                f'{reason}: left out; with --keep-attachments {item.name} it is copied as it is'
            )
        return not reason

    def _shows_colours(self, message: Message) -> bool:
        """Return whether a cloud has colours that is copied because the first had none."""
        topic = message.topic
        is_copied = self._decided[topic] is Action.COPY
        is_cloud = topic.type_name == cdr.POINT_CLOUD
        return is_copied and is_cloud and self._plan.is_coloured(message)

    def _measured_task(self, message: Message) -> Task[_Passing]:
        topic = message.topic
        payload = bytes(message.data)
        message = message._replace(data=payload)
        try:
            if self._reader.messages_compressed:
                payload = decompressed(payload)
            if topic.type_name == cdr.POINT_CLOUD:
                cloud = cdr.parse_point_cloud(payload)
                if not self._plan.sensors.links(topic.name, topic.type_name):
                    return self._cloud_task(message, cloud)
                measured = MeasuredMessage(message, cloud)
            else:
                measured = MeasuredMessage(message, cdr.parse(topic.type_name, payload))
        except AnonymizerError as error:
            return _failing(message, error)
        return Task(measured, clock_ns=message.log_ns, size_bytes=len(message.data))

    def _cloud_task(self, message: Message, cloud: cdr.CdrPointCloud) -> Task[_Passing]:
        if not may_show_persons(cloud):
            return Task(message, clock_ns=message.log_ns, size_bytes=len(message.data))
        return self._picture_task(message, cloud)

    def _image_task(self, message: Message) -> Task[_Passing]:
        payload = bytes(message.data)
        message = message._replace(data=payload)
        topic = message.topic.name
        if message.topic.type_name in cdr.VIDEO_TYPES:
            assert self._decoded is not None
            return self._picture_task(message, self._decoded)
        try:
            if self._reader.messages_compressed:
                payload = decompressed(payload)
            image = cdr.parse(message.topic.type_name, payload)
        except AnonymizerError as error:
            return _failing(message, error)
        described = image.encoding if isinstance(image, cdr.CdrImage) else image.format
        if is_depth(described, topic):
            raise depth_error([topic])
        return self._picture_task(message, image)

    def _picture_task(self, message: Message, image: Picture) -> Task[_Passing]:
        topic = message.topic
        stamp_ns = image.stamp_ns or message.log_ns
        decode_image: Callable[[], Frame] = decoding(
            image, topic.name, self._job.settings, self._plan.sensors
        )
        label = self._label(message.topic)
        decode_image, known = looked_up(
            self._found, decode_image, label, stamp_ns=stamp_ns, log_ns=message.log_ns
        )
        if known is not None:
            kept = self._kept(message, stamp_ns, known)
            if kept is not None:
                return Task(kept, clock_ns=message.log_ns, size_bytes=len(kept.payload))
        detections = None
        if self._detected is not None and known is None:
            detections = self._detected.find(fingerprint(image, (topic.name, topic.type_name)))
        return Task(
            _Picture(message, image, stamp_ns),
            decode_image,
            stream=topic.name,
            stamp_ns=stamp_ns,
            clock_ns=message.log_ns,
            size_bytes=len(message.data),
            detections=detections,
            found=None if known is None else known.regions,
        )

    def _kept(self, message: Message, stamp_ns: int, known: Found) -> _Kept | None:
        if self._earlier is None:
            return None
        name, log_ns = message.topic.name, message.log_ns
        label = self._label(message.topic)
        if not self._earlier.holds(known, label, stamp_ns=stamp_ns, log_ns=log_ns):
            self._earlier.pass_over(name, log_ns)
            return None
        return _Kept(message, self._earlier.payload(name, log_ns), stamp_ns, known)

    def _label(self, topic: Topic) -> str:
        return self._plan.label((topic.name, topic.type_name))

    def _write_item(self, writer: BagWriter, outcome: Outcome[_Passing]) -> None:
        item = outcome.item
        if isinstance(item, _Picture):
            self._report.count(self._label(item.message.topic), outcome)
            self._write_picture(writer, item, outcome)
            if self._lines is not None:
                self._lines.add(
                    self._label(item.message.topic),
                    stamp_ns=item.stamp_ns,
                    log_ns=item.message.log_ns,
                    size_wh=outcome.size_wh,
                    regions=outcome.regions,
                    error='' if outcome.error is None else str(outcome.error),
                )
        elif isinstance(item, _Kept):
            self._write_kept(writer, item)
        elif isinstance(item, MeasuredMessage):
            self._write_measured(writer, item)
        elif isinstance(item, Message):
            self._tallies[item.topic].items += 1
            writer.add_message(item, item.data, is_compressed=self._reader.messages_compressed)
        elif isinstance(item, Topic):
            self._tallies[item] = self._report.stream(self._label(item), self._decided[item].value)
            writer.add_topic(item)
        elif isinstance(item, Attachment):
            writer.add_attachment(item)
        elif isinstance(item, Note):
            writer.add_note(item)

    def _write_picture(
        self, writer: BagWriter, picture: _Picture, outcome: Outcome[_Passing]
    ) -> None:
        message, image = picture.message, picture.image
        name = message.topic.name
        if image is None or outcome.data is None or outcome.error is not None:
            error = outcome.error or BagError('there is no image')
            data = self._black_instead(picture, error)
            writer.add_message(message, data, is_compressed=False)
            return
        if isinstance(image, VideoImage):
            self._sizes_wh[name] = outcome.size_wh
            # Of a video every packet is new, since each shows what those before it showed.
            writer.add_message(message, image.with_data(outcome.data), is_compressed=False)
            return
        is_raw = isinstance(image, cdr.CdrImage)
        if is_raw and len(outcome.data) != len(image.data):
            raise BagError(f'{name}: got {len(outcome.data)} bytes, expected {len(image.data)}')
        self._sizes_wh[name] = outcome.size_wh
        if outcome.data is image.data:
            is_compressed = self._reader.messages_compressed
            writer.add_message(message, message.data, is_compressed=is_compressed)
        else:
            writer.add_message(message, image.with_data(outcome.data), is_compressed=False)

    def _write_kept(self, writer: BagWriter, kept: _Kept) -> None:
        message, known = kept.message, kept.known
        label = self._label(message.topic)
        self._report.count_kept(label, known.regions)
        writer.add_message(message, kept.payload, is_compressed=False)
        if self._lines is not None:
            self._lines.add(
                label,
                stamp_ns=kept.stamp_ns,
                log_ns=message.log_ns,
                size_wh=known.size_wh,
                regions=known.regions,
            )

    def _write_measured(self, writer: BagWriter, measured: MeasuredMessage) -> None:
        message = measured.message
        tally = self._report.stream(self._label(message.topic))
        tally.items += 1
        assert self._recipe is not None
        try:
            data, done = self._plan.sensors.hide(measured, self._recipe)
        except AnonymizerError as error:
            tally.failed += 1
            data = self._blank_instead(measured, error)
        else:
            tally.regions.update(CLASSES[index] for index in done.regions.classes.tolist())
            tally.methods.update(done.replaced.counts)
            self._report.warnings.update(done.replaced.warnings)
        writer.add_message(message, data, is_compressed=False)

    def _blank_instead(self, measured: MeasuredMessage, error: AnonymizerError) -> bytes:
        """Return a message in which nothing was measured, where the user wants to go on."""
        message = measured.message
        where = f'{message.topic.name}, message recorded at {message.log_ns} ns: {error}'
        if self._job.on_error == 'stop':
            raise BagError(
                f'{where}; with --on-error black, one in which nothing was measured would stand '
                'for it'
            ) from error
        self._report.undone.append(f'{where}; it is blank now')
        try:
            return blank(measured.content)
        except AnonymizerError as second:
            raise BagError(f'{where}; nor can a blank one stand for it: {second}') from second

    def _black_instead(self, picture: _Picture, error: AnonymizerError) -> bytes:
        """Return a message with a black picture, where the user wants to go on with one."""
        name, image = picture.message.topic.name, picture.image
        where = f'{name}, message recorded at {picture.message.log_ns} ns: {error}'
        if self._job.on_error == 'stop':
            raise stopped_at(name, picture.message.log_ns, error) from error
        if image is None:
            raise BagError(f'{where}; nor is there anything to put a black frame into') from error
        self._report.undone.append(f'{where}; it is black now')
        if len(image.data) == 0:
            return image.with_data(b'')
        try:
            if isinstance(image, cdr.CdrPointCloud):
                return blank(image)
            if isinstance(image, VideoImage):
                return image.black()
            return image.with_data(black_like(image, self._sizes_wh.get(name)))
        except AnonymizerError as second:
            raise BagError(f'{where}; nor can a black frame stand for it: {second}') from second

    def _verify(self) -> None:
        """Read the new bag back."""
        written = self._plan.ledger()
        for item in BagReader(self._folder).items(scratch=self._scratch):
            written.enter(item)
        differences = self._read.differences(written)
        if differences:
            raise BagError(f'the new bag is not what it should be: {"; ".join(differences)}')


def stopped_at(topic: str, log_ns: int, error: AnonymizerError) -> BagError:
    """Return the error of a job that stops at a picture that cannot be anonymized."""
    return BagError(
        f'{topic}, message recorded at {log_ns} ns: {error}; with --on-error black, a black frame '
        'would stand for it'
    )


def summary(report: Report) -> str:
    """Return what became of each topic, as a table."""
    rows = []
    for name, tally in report.streams.items():
        is_image = tally.action in (
            Action.ANONYMIZE.value,
            Action.CLOUD.value,
            Action.DEPTH.value,
        )
        rows.append(
            (
                name,
                tally.action,
                '-' if tally.action == Action.DROP.value else str(tally.items),
                (counted(tally.regions) or '0') if is_image else '-',
                (counted(tally.methods) or '-') if is_image else '-',
                str(tally.failed) if is_image else '-',
            )
        )
    lines = table(('topic', 'action', 'messages', 'replaced', 'by', 'failed'), rows)
    rate = report.frames / report.seconds if report.seconds else 0.0
    lines.append(
        f'{sum(tally.items for tally in report.streams.values())} messages, {report.frames} '
        f'images in {report.seconds:.1f} s ({rate:.1f} images/s)'
    )
    return '\n'.join(lines)


def _failing(message: Message, error: AnonymizerError) -> Task[_Passing]:
    """Return the task of a message that cannot be read."""
    return Task(
        _Picture(message, None, message.log_ns),
        raising(error),
        stream=message.topic.name,
        stamp_ns=message.log_ns,
        clock_ns=message.log_ns,
    )
