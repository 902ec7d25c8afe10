"""A second look as a job: an original and its output in, a page and an entry in the record out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
import contextlib
from dataclasses import dataclass
from datetime import datetime, timezone
import hashlib
from pathlib import Path
from typing import Any

from ffs_anonymizer import __version__
from ffs_anonymizer.anonymizer import Recipe
from ffs_anonymizer.errors import MediaError
from ffs_anonymizer.frames.array import ArrayFrame
from ffs_anonymizer.jobs.output import new_file, record_of, refuse
from ffs_anonymizer.jobs.record import add_audit, differences, read_record
from ffs_anonymizer.jobs.report import progress_bar
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.pipeline import concurrency
from ffs_anonymizer.regions.detections import CLASSES, Regions
from ffs_anonymizer.regions.detections_file import DetectionsReader
from ffs_anonymizer.review.audit import Audit, audit, Listed
from ffs_anonymizer.review.audit_page import audit_page
from ffs_anonymizer.review.recording import open_recording, RecordedFrame, Recording
from ffs_anonymizer.review.second_look import SecondLook
from ffs_anonymizer.settings.runtime import PARAMETERS, Settings

# The exit code where something is left uncovered.
LEFT = 3
_TOLD = 3


@dataclass(frozen=True, kw_only=True)
class AuditJob:
    """
    Say what is to be looked at once more; plain data, as the jobs that make files are.

    :param original: a bag, a video, a picture or a folder of them.
    :param output: what was made of it.
    :param report: the new page.
    :param settings: that the output was made with.
    :param detections: list of what was replaced; None: the pixels alone tell.
    :param second_model: face detector of the second look; empty: the same.
    :param threshold: lowest score that counts.
    :param is_thorough: whether all views of every frame are looked at.
    :param sample: number of frames that are drawn for a person.
    :param seed: of the sample.
    :param names: what the page calls original and output; empty: by their paths.
    """

    original: Path
    output: Path
    report: Path
    settings: Settings
    detections: Path | None = None
    second_model: str = ''
    threshold: float = 0.35
    is_thorough: bool = False
    sample: int = 100
    seed: int = 1
    names: tuple[str, str] = ('', '')


@dataclass(frozen=True)
class Audited:
    """
    Hold what a second look found.

    :param unseen: what nobody looked at, with the reasons.
    """

    audit: Audit
    unseen: Mapping[str, str]

    @property
    def exit_code(self) -> int:
        """Return 0 where all is covered, LEFT where something is not, or nothing was seen."""
        return LEFT if self.audit.findings or not self.audit.looked_at else 0


def run(
    job: AuditJob, *, networks: Networks | None = None, shows_progress: bool = False
) -> Audited:
    """
    Look once more, write the page, and enter the result into the privacy record, if there is one.

    :param networks: that are open already, for these settings.
    :param shows_progress: whether a bar is drawn on standard error.
    :raises AnonymizerError: the recordings cannot be read, or do not belong together.
    """
    refuse([job.report], source=job.original)
    record = record_beside(job.output)
    told = [] if record is None else differences(record, job.output)
    if told:
        raise MediaError(
            f'{job.output}: is not what its privacy record says: {"; ".join(told[:_TOLD])}; '
            'audit what bag or media made'
        )
    original = open_recording(job.original, job.settings)
    anonymized = open_recording(job.output, job.settings, name=original.own_name)
    threads = concurrency(job.settings)
    with contextlib.ExitStack() as stack:
        stack.callback(original.close)
        stack.callback(anonymized.close)
        reader = None
        if job.detections is not None:
            reader = stack.enter_context(DetectionsReader(job.detections))
        if networks is None:
            networks = stack.enter_context(Networks(job.settings, concurrency=threads))
        look = _second_look(job, networks)
        listed = _ListedRegions(reader, Recipe(networks, job.settings), original.names)
        report = stack.enter_context(new_file(job.report))
        total = 0 if reader is None else reader.frames
        bar = stack.enter_context(progress_bar(total=total, shown=shows_progress, unit='frame'))
        result = audit(
            original,
            anonymized,
            look,
            listed=listed,
            sample=job.sample,
            seed=job.seed,
            threads=threads,
            progress=bar.update,
            settings=job.settings,
        )
        unseen = _unseen(original, result)
        text = audit_page(
            result,
            title=Path(job.names[0] or job.original).name,
            facts=_facts(job, look, networks, record),
            counts={
                **listed.counts,
                **_methods(record),
                'clouds and depth images whose shapes were looked at': result.measured,
            },
            unseen=unseen,
            look=look.describe(),
        )
        # Names of files need not be UTF-8.
        page = text.encode('utf-8', 'backslashreplace')
        report.write_bytes(page)
    if record is not None:
        _enter_audit(job.output, look.describe(), result, unseen, page)
    return Audited(result, unseen)


def record_beside(output: Path) -> dict[str, Any] | None:
    """
    Return the privacy record of an output; None where there is none.

    :raises MediaError: it is damaged.
    """
    return read_record(record_of(output)) if record_of(output).exists() else None


def recorded_settings(record: Mapping[str, Any]) -> Settings:
    """Return the settings that a privacy record tells of."""
    known = {parameter.name for parameter in PARAMETERS}
    values = {name: value for name, value in record['settings'].items() if name in known}
    return Settings().updated(values)


def _second_look(job: AuditJob, networks: Networks) -> SecondLook:
    changes: dict[str, object] = {
        'face.threshold': job.threshold,
        'plate.threshold': job.threshold,
        'detector.scale': 1.0,
        # Nothing is painted here.
        'face.method': 'solid',
    }
    if job.second_model:
        changes['detector.model_path'] = job.second_model
    recipe = Recipe(networks, job.settings.updated(changes))
    is_other = bool(job.second_model) and job.second_model != job.settings.detector.model_path
    return SecondLook(
        lambda image_bgr: recipe.detect(ArrayFrame(image_bgr)), is_other, job.is_thorough
    )


class _ListedRegions:
    """
    Look up what was replaced in a frame, and count it.

    :param reader: None where there is no list.
    :param names: streams of the original.
    """

    def __init__(
        self, reader: DetectionsReader | None, recipe: Recipe, names: frozenset[str]
    ) -> None:
        self._reader = reader
        self._recipe = recipe
        listed = set() if reader is None else set(reader.streams)
        # Topics of a bag that were copied, or follow what a camera saw, are in no list.
        self._unlisted = names - listed if listed <= names else frozenset()
        self.counts: dict[str, Counter[str]] = {}

    def __call__(self, frame: RecordedFrame) -> Listed:
        """Return None where nobody knows."""
        is_of_bag = frame.log_ns is not None
        if self._reader is None or (is_of_bag and frame.stream in self._unlisted):
            return None
        found = self._reader.find(frame.stream, stamp_ns=frame.camera_ns, log_ns=frame.log_ns)
        regions = found.regions
        self._count('regions by class', [CLASSES[index] for index in regions.classes.tolist()])
        how = ['detected' if detected else 'coasted' for detected in regions.detected.tolist()]
        self._count('regions by how they were found', how)

        def of_size(size_wh: tuple[int, int]) -> Regions:
            found.check(size_wh)
            return self._recipe.cover(regions, names=(frame.stream,), size_wh=size_wh)

        return of_size

    def _count(self, name: str, words: list[str]) -> None:
        self.counts.setdefault(name, Counter()).update(words)


def _facts(
    job: AuditJob, look: SecondLook, networks: Networks, record: Mapping[str, Any] | None
) -> dict[str, str]:
    facts = {
        'original': job.names[0] or str(job.original),
        'output': job.names[1] or str(job.output),
        'detections': str(job.detections or 'not given: coverage is told by the pixels alone'),
        'second look by': job.second_model or 'the same detector',
        'lowest score': f'{job.threshold:g}',
        'seed of the sample': str(job.seed),
        'tool': f'ffs_anonymizer {__version__}',
        'audited': datetime.now(timezone.utc).isoformat(timespec='seconds'),
        **{name: str(value) for name, value in networks.words().items()},
    }
    if record is not None:
        facts['anonymized'] = f'{record["started"]} to {record["ended"]}'
        facts['settings sha256'] = str(record['settings_sha256'])
        facts['warnings'] = '; '.join(f'{n} frames: {w}' for w, n in record['warnings'].items())
        facts['not done'] = '; '.join(record['undone'])
    return facts


def _methods(record: Mapping[str, Any] | None) -> dict[str, Counter[str]]:
    methods: Counter[str] = Counter()
    for stream in (record or {'streams': {}})['streams'].values():
        methods.update(stream['methods'])
    return {'what took their place': methods} if methods else {}


def _unseen(original: Recording, result: Audit) -> dict[str, str]:
    """Return what nobody looked at, with the reasons."""
    unseen = dict(original.unseen)
    for topic, reasons in result.unmeasured.items():
        words = '; '.join(f'{count} messages: {reason}' for reason, count in reasons.items())
        unseen[topic] = '; '.join(filter(None, (unseen.get(topic), words)))
    return unseen


def _enter_audit(
    output: Path, look: str, result: Audit, unseen: Mapping[str, str], page: bytes
) -> None:
    add_audit(
        record_of(output),
        {
            'tool_version': __version__,
            'ended': datetime.now(timezone.utc).isoformat(timespec='seconds'),
            'look': look,
            'frames': result.looked_at,
            'missed_frames': result.missed_frames,
            'findings': len(result.findings),
            'measured': dict(result.measured),
            'missed_measured': result.missed_measured,
            'unseen': dict(unseen),
            'report_sha256': hashlib.sha256(page).hexdigest(),
        },
    )
