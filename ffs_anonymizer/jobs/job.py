"""What every job on files says, and the recipe that it is done with."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
import contextlib
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ffs_anonymizer.errors import OutputError
from ffs_anonymizer.jobs.output import refuse
from ffs_anonymizer.jobs.report import Report
from ffs_anonymizer.pipeline import callers
from ffs_anonymizer.settings.runtime import Settings

if TYPE_CHECKING:
    from ffs_anonymizer.anonymizer import Anonymizer

Tell = Callable[[str], object]


@dataclass(frozen=True, kw_only=True)
class FileJob:
    """
    Say what is to be made of files; plain data, to be sent to other processes and machines.

    :param source: the input, which stays as it is.
    :param target: what is made; nothing is overwritten.
    :param on_error: stop, or black: a black frame stands for one that cannot be anonymized.
    :param skips_existing: whether an input whose output exists is left out.
    :param write_detections: file for what was found.
    """

    source: Path
    target: Path
    settings: Settings = field(default_factory=Settings)
    on_error: str = 'stop'
    skips_existing: bool = False
    write_detections: Path | None = None


def nobody(_: str) -> None:
    """Take what is told, and do nothing."""


@contextmanager
def opened(settings: Settings, report: Report, tell: Tell) -> Iterator[Anonymizer]:
    """
    Yield the recipe, and close it at the end.

    :param report: gets to know the models.
    :param tell: is told of them, a line each.
    :raises ModelError: a model is missing or unfit.
    """
    from ffs_anonymizer.anonymizer import Anonymizer

    with contextlib.closing(Anonymizer(settings, callers=callers(settings))) as anonymizer:
        report.models.update(anonymizer.describe())
        for name, value in report.models.items():
            tell(f'  {name}: {value}')
        yield anonymizer


def refuse_outputs(job: FileJob, outputs: Iterable[Path]) -> None:
    """
    Refuse to begin where the outputs of a job or its list of detections have no place.

    :raises OutputError: something exists, is named twice, lies in the input, or has no folder.
    """
    found = job.write_detections
    if found is None:
        refuse(outputs, source=job.source)
        return
    if not found.parent.is_dir():
        raise OutputError(
            f'{found}: got no folder {found.parent}, expected one for the detections; create it, '
            'or choose another'
        )
    refuse([*outputs, found], source=job.source)
