"""A stub of Google Cloud Storage: the same as with S3, by another library."""

from collections.abc import Iterator

from ffs_anonymizer.errors import MediaError, OutputError
from ffs_anonymizer.fleet.worker import Worker
from ffs_anonymizer.jobs.remote import location
import pytest
from support.bags import drive, SPECS, write_bag
from support.fleet_tasks import SETTINGS, task_of
from support.gs import gs_server
from support.s3 import Wire


@pytest.fixture(scope='module')
def wire() -> Iterator[Wire]:
    with gs_server('data') as made:
        yield made


def test_from_there_to_there(wire, face_bgr, tmp_path) -> None:
    bag = write_bag(tmp_path / 'in', drive(face_bgr, 2), specs=SPECS)
    location('gs://data/raw/in').upload(bag)
    assert sorted(p.name for p in location('gs://data/raw/in').iterdir()) == [
        path.name for path in sorted(bag.iterdir())
    ]
    worker = Worker(SETTINGS)
    done = worker(task_of('gs://data/raw', 'gs://data/clean'), 0)
    assert (done.error, done.notes) == ('', ())
    here = worker(task_of(str(bag), str(tmp_path / 'here')), 0)
    assert here.report.streams == done.report.streams
    for path in (tmp_path / 'here' / 'in').iterdir():
        assert location(f'gs://data/clean/in/{path.name}').read_bytes() == path.read_bytes()
    assert location('gs://data/clean/in.privacy.json').is_file()
    again = worker(task_of('gs://data/raw', 'gs://data/clean'), 1)
    assert (again.error, again.kept) == ('', True)


def test_nothing_is_put_in_place_of_another(wire, tmp_path) -> None:
    """The stub overwrites whatever it is told; so this is refused where the request forbids it."""
    (tmp_path / 'bag').mkdir()
    for name in ('a.mcap', 'metadata.yaml'):
        (tmp_path / 'bag' / name).write_bytes(b'1')
    wire.refused = b'ifGenerationMatch=0'
    target = location('gs://data/never/bag')
    with pytest.raises(OutputError, match=r'^gs://data/never/bag/metadata.yaml: '):
        target.upload(tmp_path / 'bag')
    wire.mend()
    # Nor is anything left of it.
    assert not target.exists()


def test_what_is_not_there(wire) -> None:
    with pytest.raises(MediaError, match=r'^gs://data/x: there is no such file or folder$'):
        location('gs://data/x').read_bytes()
