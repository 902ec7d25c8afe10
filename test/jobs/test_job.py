"""Test that jobs are plain data: sent to another process, they make the same there."""

from concurrent.futures import ProcessPoolExecutor
import multiprocessing
from pathlib import Path
import pickle

import cv2
from ffs_anonymizer.bag import conversion as bag_conversion
from ffs_anonymizer.bag.plan import BagJob
from ffs_anonymizer.bag.selection import Selection
from ffs_anonymizer.errors import OutputError
from ffs_anonymizer.jobs.report import Report
from ffs_anonymizer.media import conversion as media_conversion
from ffs_anonymizer.media.files import MediaJob
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
from numpy.typing import NDArray
import pytest
from support.bags import drive, write_bag
from support.program import loaded_by

SOLID = Settings().updated({'face.method': 'solid', 'detector.scale': 1.0})


def test_jobs_are_done_in_other_processes(tmp_path: Path, face_bgr: NDArray[np.uint8]) -> None:
    bag = write_bag(tmp_path / 'bag', drive(face_bgr, 2))
    photos = tmp_path / 'photos'
    photos.mkdir()
    cv2.imwrite(str(photos / 'a.png'), face_bgr)

    def jobs(out: Path) -> list[tuple[object, BagJob | MediaJob]]:
        selection = Selection(drop_topics=('/odd',))
        return [
            (
                bag_conversion.run,
                BagJob(source=bag, target=out / 'bag', settings=SOLID, selection=selection),
            ),
            (
                media_conversion.run,
                MediaJob(source=photos, target=out / 'photos', settings=SOLID),
            ),
        ]

    here = [run(job) for run, job in jobs(tmp_path / 'here')]
    spawned = multiprocessing.get_context('spawn')
    with ProcessPoolExecutor(1, mp_context=spawned) as pool:
        there = [pool.submit(run, job).result() for run, job in jobs(tmp_path / 'there')]
    for one, other in zip(here, there, strict=True):
        assert isinstance(other, Report)
        assert (other.streams, other.written, other.frames) == (one.streams, 1, one.frames)
        assert other.regions['face'] > 0
    for path in (tmp_path / 'here').rglob('*.*'):
        other = tmp_path / 'there' / path.relative_to(tmp_path / 'here')
        # Records tell when it was done.
        if path.is_file() and path.suffix != '.json':
            assert other.read_bytes() == path.read_bytes()


def test_a_job_is_the_same_after_its_journey() -> None:
    for job in (
        BagJob(source=Path('a'), target=Path('b')),
        MediaJob(source=Path(), target=Path()),
    ):
        assert pickle.loads(pickle.dumps(job)) == job


def test_the_same_output_twice(tmp_path: Path, face_bgr: NDArray[np.uint8]) -> None:
    cv2.imwrite(str(tmp_path / 'a.png'), face_bgr)
    job = MediaJob(source=tmp_path / 'a.png', target=tmp_path / 'b.png', settings=SOLID)
    assert media_conversion.run(job).exit_code == 0
    with pytest.raises(OutputError, match=r'b\.png: exists already'):
        media_conversion.run(job)


def test_a_job_needs_no_command_line() -> None:
    statement = 'import ffs_anonymizer.bag.conversion, ffs_anonymizer.media.conversion'
    assert loaded_by(statement, {'argparse', 'ffs_anonymizer.cli'}) <= {'argparse'}
