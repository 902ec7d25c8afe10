"""An earlier output of the same input, whose frames are taken over where nothing was corrected."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ffs_anonymizer.errors import AnonymizerError, MediaError, SettingsError
from ffs_anonymizer.jobs.job import FileJob
from ffs_anonymizer.jobs.output import record_of
from ffs_anonymizer.jobs.record import differences, read_record
from ffs_anonymizer.regions.detections_file import DetectionsReader, Found, records
from ffs_anonymizer.rosbag2.access import BagAccess

_TOLD = 3


class Earlier:
    """
    Hold an earlier output and the list that it was made from.

    :param output: a bag, a file or a folder, with its privacy record beside it.
    :param found: the list.
    :param now: the list that goes now.
    :param follows: whether what a frame shows follows from the frames before, as drawn faces do;
        then a stream stands as a whole or not at all.
    """

    def __init__(
        self, output: Path, found: DetectionsReader, now: DetectionsReader, *, follows: bool
    ) -> None:
        self.output = output
        self.follows = follows
        self._found = found
        self._now = now
        self._same: dict[str, bool] = {}
        self._bag: BagAccess | None = None
        self._numbers: dict[str, dict[int, deque[int]]] = {}

    def holds(
        self, known: Found, stream: str, *, stamp_ns: int | None, log_ns: int | None = None
    ) -> bool:
        """
        Tell whether a frame stands: it was made from the very same boxes, and follows from such.

        Each is to be asked for once.

        :param known: what is to be covered now.
        :raises DetectionsError: the earlier list does not have this frame.
        """
        before = self._found.find(stream, stamp_ns=stamp_ns, log_ns=log_ns)
        if self.follows and not self.is_same(stream):
            return False
        return (
            (before.size_wh, before.error, known.error) == (known.size_wh, '', '')
            # Of zones neither says anything: both were made with the same settings.
            and records(before.regions) == records(known.regions)
        )

    def is_same(self, stream: str) -> bool:
        """Tell whether all frames of a stream were made from the very same boxes."""
        if stream not in self._same:
            before, after = (
                [
                    (stamp_ns, found.size_wh, records(found.regions))
                    for stamp_ns, found in reader.all_of(stream)
                    if not found.error
                ]
                for reader in (self._found, self._now)
            )
            self._same[stream] = bool(before) and before == after
        return self._same[stream]

    def payload(self, topic: str, log_ns: int) -> bytes:
        """
        Return the serialized message of a bag; those of one time in their order.

        :raises BagError: the earlier bag does not have it.
        """
        number = self._next(topic, log_ns)
        assert self._bag is not None
        return self._bag.payload(topic, number)

    def pass_over(self, topic: str, log_ns: int) -> None:
        """
        Leave out the message of a bag that is made anew.

        :raises BagError: the earlier bag does not have it.
        """
        self._next(topic, log_ns)

    def _next(self, topic: str, log_ns: int) -> int:
        if self._bag is None:
            self._bag = BagAccess(self.output)
        if topic not in self._numbers:
            numbers: dict[int, deque[int]] = {}
            for number, time_ns in enumerate(self._bag.stamps_ns(topic)):
                numbers.setdefault(time_ns, deque()).append(number)
            self._numbers[topic] = numbers
        waiting = self._numbers[topic].get(log_ns)
        if not waiting:
            raise MediaError(
                f'{self.output}: got no message of {topic} recorded at {log_ns} ns, expected the '
                'earlier output of this very bag'
            )
        return waiting.popleft()


@contextmanager
def earlier_of(job: FileJob, now: DetectionsReader | None) -> Iterator[Earlier | None]:
    """
    Yield the earlier output that a job takes frames from, None where there is none.

    :param now: the list that the job goes by.
    :raises SettingsError: the job names half of what is needed, or has other settings than it.
    :raises MediaError: the earlier output has no record, or is not as recorded.
    """
    if job.reuse is None or job.reuse_detections is None:
        if job.reuse is not None or job.reuse_detections is not None:
            raise SettingsError('--reuse and --reuse-detections: got one of them, expected both')
        yield None
        return
    if now is None:
        raise SettingsError('--reuse: got no --detections, expected the corrected list')
    record = read_record(record_of(job.reuse))
    if record['settings_sha256'] != job.settings.sha256:
        raise SettingsError(
            f'--reuse {job.reuse}: was made with other settings, expected the same; without '
            '--reuse everything is made anew'
        )
    told = differences(record, job.reuse)
    if told:
        raise MediaError(
            f'--reuse {job.reuse}: is not what its record says: {"; ".join(told[:_TOLD])}'
        )
    with DetectionsReader(job.reuse_detections) as found:
        is_drawn = job.settings.face.method == 'generate'
        yield Earlier(job.reuse, found, now, follows=is_drawn)


def refuse_reuse(job: FileJob, reason: str) -> None:
    """
    Refuse to take frames over where that would not be safe.

    :raises AnonymizerError: the job asks for it.
    """
    if job.reuse is not None:
        raise AnonymizerError(f'--reuse: {reason}; without it everything is made anew')
