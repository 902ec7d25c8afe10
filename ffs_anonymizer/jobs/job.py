"""What every job on files says, and the recipe that it is done with."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator
import contextlib
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NoReturn, TYPE_CHECKING

from ffs_anonymizer.errors import AnonymizerError, DetectionsError, OutputError
from ffs_anonymizer.jobs.output import BESIDE, Outputs, refuse
from ffs_anonymizer.jobs.report import Report
from ffs_anonymizer.pipeline import concurrency
from ffs_anonymizer.regions.detections_file import DetectionsReader, DetectionsWriter, Found
from ffs_anonymizer.settings.runtime import Settings

if TYPE_CHECKING:
    from ffs_anonymizer.anonymizer import Recipe
    from ffs_anonymizer.frames.frame import Frame
    from ffs_anonymizer.networks import Networks

_LISTED_NAMES = 10
Tell = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class FileJob:
    """
    Say what is to be made of files; plain data, to be sent to other processes and machines.

    :param source: the input, which stays as it is.
    :param target: what is made; nothing is overwritten.
    :param on_error: stop, or black: a black frame stands for one that cannot be anonymized.
    :param skips_existing: whether an input whose output exists is left out.
    :param detections: list of what was found before; then nothing is found or tracked anew.
    :param write_detections: file for what was found.
    :param reuse: earlier output of the same input and settings, whose frames are taken over where
        `detections` says what `reuse_detections`, the list that it was made from, says.
    """

    source: Path
    target: Path
    settings: Settings = field(default_factory=Settings)
    on_error: str = 'stop'
    skips_existing: bool = False
    detections: Path | None = None
    write_detections: Path | None = None
    reuse: Path | None = None
    reuse_detections: Path | None = None

    @property
    def options(self) -> dict[str, Any]:
        """Return what is asked for beside settings, files and folders, as plain data."""
        left_out = ('settings', 'skips_existing')
        return {
            name: value
            for name, value in asdict(self).items()
            if name not in left_out and not isinstance(value, (Path, type(None)))
        }


def nobody(_: str) -> None:
    """Take what is told, and do nothing."""


@contextmanager
def opened(
    settings: Settings, report: Report, tell: Tell, networks: Networks | None = None
) -> Iterator[Recipe]:
    """
    Yield the recipe, and close at the end what was opened for it.

    :param report: gets to know the models.
    :param tell: is told of them, a line each.
    :param networks: of whoever does many jobs, which stay open; None: open them.
    :raises ModelError: a model is missing or unfit.
    """
    from ffs_anonymizer.anonymizer import Recipe
    from ffs_anonymizer.networks import Networks

    # A recording has time, and the record names all that paints.
    settings = settings.updated({'budget_ms': 0.0})
    with contextlib.ExitStack() as stack:
        if networks is None:
            networks = stack.enter_context(Networks(settings, concurrency=concurrency(settings)))
        recipe = Recipe(networks, settings)
        report.models.update(networks.words())
        for name, value in report.models.items():
            tell(f'  {name}: {value}')
        yield recipe


@contextmanager
def read_list(job: FileJob, streams: Iterable[str]) -> Iterator[DetectionsReader | None]:
    """
    Yield the list of detections that a job goes by; None: it looks itself.

    :param streams: that are to be anonymized.
    :raises DetectionsError: it cannot be read, or is of another recording.
    """
    if job.detections is None:
        yield None
        return
    with DetectionsReader(job.detections) as reader:
        wanted = sorted(streams)
        if wanted and {*wanted}.isdisjoint(reader.streams):
            raise DetectionsError(
                f'{job.detections} lists what was found in {reader.source!r}, and has nothing of '
                f'{", ".join(wanted[:_LISTED_NAMES])}; expected the list of {job.source}'
            )
        yield reader


@contextmanager
def written_list(job: FileJob, outputs: Outputs = BESIDE) -> Iterator[DetectionsWriter | None]:
    """
    Yield where to write what is found; it gets its name when the block ends well.

    :param outputs: that it is made in.
    :raises OutputError: it cannot be written.
    """
    if job.write_detections is None:
        yield None
        return
    name = job.source.resolve().name
    with (
        outputs.file(job.write_detections) as partial,
        partial.open('w', encoding='utf-8') as file,
    ):
        writer = DetectionsWriter(file, source=name, settings=job.settings)
        yield writer
        writer.finish()


def looked_up(
    reader: DetectionsReader | None,
    decode: Callable[[], Frame],
    stream: str,
    *,
    stamp_ns: int | None,
    log_ns: int | None = None,
) -> tuple[Callable[[], Frame], Found | None]:
    """
    Return how to decode a frame, and what a list of detections knows of it.

    Without a list it is decoded as ever, and None is known. A frame that the list does not have,
    or has in another size, cannot be decoded.

    :param reader: the list; None: there is none.
    :param decode: the frame's own.
    """
    if reader is None:
        return decode, None
    try:
        known = reader.find(stream, stamp_ns=stamp_ns, log_ns=log_ns)
    except AnonymizerError as error:
        return raising(error), None
    return _as_found(known, decode), known


def _as_found(found: Found, decode: Callable[[], Frame]) -> Callable[[], Frame]:
    """
    Return a way to decode a frame that refuses one to which what was found does not fit.

    :param decode: the frame's own.
    """

    def checked() -> Frame:
        frame = decode()
        height, width = frame.image_bgr.shape[:2]
        found.check((width, height))
        return frame

    return checked


def raising(error: AnonymizerError) -> Callable[[], NoReturn]:
    """Return what stands for the decoding of a frame that is known to have no image."""

    def decode() -> NoReturn:
        raise error

    return decode


def refuse_outputs(job: FileJob, outputs: Iterable[Path], resumed: Collection[Path] = ()) -> None:
    """
    Refuse to begin where the outputs of a job or its list of detections have no place.

    :param resumed: of the outputs, those whose unfinished state is taken up.
    :raises OutputError: something exists, is named twice, lies in the input, or has no folder.
    """
    found = job.write_detections
    if found is not None and not found.parent.is_dir():
        raise OutputError(
            f'{found}: got no folder {found.parent}, expected one for the detections; create it, '
            'or choose another'
        )
    refuse(
        [*outputs, *([] if found is None else [found])],
        source=job.source,
        resumed=resumed,
        way_out=', or leave out inputs that have one with --skip-existing',
    )
