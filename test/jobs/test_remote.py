"""A real S3 server, over a wire that can be cut."""

from collections.abc import Iterator
from dataclasses import replace
from functools import partial
import http.server
from pathlib import Path
import pickle
import re
import sys
import threading

import cv2
from ffs_anonymizer.cli.program import main
from ffs_anonymizer.errors import AnonymizerError, MediaError, OutputError
from ffs_anonymizer.fleet.worker import Worker
from ffs_anonymizer.jobs.output import record_of
from ffs_anonymizer.jobs.remote import location, RemotePath
from ffs_anonymizer.rosbag2.reader import BagReader
from ffs_anonymizer.rosbag2.storage import Message
from fsspec.registry import _registry
import pytest
import s3fs
from support.bags import drive, leftovers, read_bag, SPECS, write_bag
from support.fleet_tasks import SETTINGS, task_of
from support.s3 import s3_server, Wire


@pytest.fixture(scope='module')
def server() -> Iterator[Wire]:
    with s3_server('data') as wire:
        yield wire


@pytest.fixture
def wire(server) -> Iterator[Wire]:
    server.mend()
    yield server
    server.mend()
    system = s3fs.S3FileSystem()
    for key in system.find('data'):
        system.rm_file(key)


@pytest.fixture(scope='module')
def worker() -> Worker:
    return Worker(SETTINGS)


@pytest.fixture
def bag(tmp_path, face_bgr) -> Path:
    return write_bag(tmp_path / 'in', drive(face_bgr, 3), specs=SPECS)


def put(folder: Path, name: str) -> RemotePath:
    s3fs.S3FileSystem().put(str(folder), f'data/{name}', recursive=True)
    return location(f's3://data/{name}')


def keys() -> list[str]:
    return s3fs.S3FileSystem().find('data')


@pytest.mark.parametrize(
    ('text', 'expected', 'name'),
    [
        ('s3://bucket/a/b.mcap', 's3://bucket/a/b.mcap', 'b.mcap'),
        ('s3://bucket//a/', 's3://bucket/a', 'a'),
        ('http://host:80/x', 'http://host:80/x', 'x'),
        ('file:///tmp/x', '/tmp/x', 'x'),
        ('/tmp/y/../x', '/tmp/x', 'x'),
    ],
)
def test_places(text, expected, name) -> None:
    place = location(text)
    assert (str(place), place.name) == (expected, name)
    assert pickle.loads(pickle.dumps(place)) == place
    assert str(place.with_name('other').parent / 'z') == expected.rpartition('/')[0] + '/z'
    assert (place / 'a' / 'b').relative_to(place).as_posix() == 'a/b'


def test_a_bag_is_read_where_it_lies(wire, bag) -> None:
    there = put(bag, 'bag')
    read = [
        (item.topic.name, item.log_ns, bytes(item.data))
        for item in BagReader(there).items()
        if isinstance(item, Message)
    ]
    assert read == [(r.topic, r.log_ns, r.data) for r in read_bag(bag).records]
    assert there.exists()
    assert there.is_dir()
    assert not there.is_file()
    assert sorted(p.name for p in there.iterdir()) == sorted(p.name for p in bag.iterdir())
    assert (there / 'metadata.yaml').stat().st_size == (bag / 'metadata.yaml').stat().st_size


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_from_there_to_there(wire, worker, bag, face_bgr, tmp_path, storage, monkeypatch) -> None:
    if storage == 'sqlite3':
        bag = write_bag(tmp_path / 'sq', drive(face_bgr, 3), specs=SPECS, storage='sqlite3')
    (tmp_path / 'scratch').mkdir()
    monkeypatch.setattr('tempfile.tempdir', str(tmp_path / 'scratch'))
    put(bag, f'raw/{bag.name}')
    done = worker(task_of('s3://data/raw', 's3://data/clean'), 0)
    assert done.error == ''
    told = f'copied to the machine that works on it, as it is {storage}; removed again'
    assert done.notes == (() if storage == 'mcap' else (told,))
    assert not any((tmp_path / 'scratch').iterdir())
    s3fs.S3FileSystem().get(f'data/clean/{bag.name}', str(tmp_path / 'got'), recursive=True)
    here = worker(task_of(str(bag), str(tmp_path / 'here')), 0)
    assert here.report.streams == done.report.streams
    made = tmp_path / 'here' / bag.name
    assert {p.name: p.read_bytes() for p in (tmp_path / 'got').iterdir()} == {
        p.name: p.read_bytes() for p in made.iterdir()
    }
    before = keys()
    assert f'data/clean/{bag.name}.privacy.json' in before
    again = worker(replace(task_of('s3://data/raw', 's3://data/clean'), resumes=True), 0)
    assert (again.error, again.kept) == ('', True)
    assert keys() == before


def test_images_and_patterns(wire, worker, face_bgr, tmp_path) -> None:
    cv2.imwrite(str(tmp_path / 'face.png'), face_bgr)
    s3fs.S3FileSystem().put(str(tmp_path / 'face.png'), 'data/in/a/face.png')
    done = worker(task_of('s3://data/in/*/face.png', str(tmp_path / 'out')), 0)
    assert (done.error, done.report.regions['face']) == ('', 1)
    assert (tmp_path / 'out' / 'face.png').is_file()


def test_what_is_not_there(wire, tmp_path) -> None:
    with pytest.raises(MediaError, match=r'^s3://data/nothing: no such file or folder$'):
        task_of('s3://data/nothing', str(tmp_path))
    for look in (location('s3://data/x').read_bytes, location('s3://data/x').stat):
        with pytest.raises(MediaError, match=r'^s3://data/x: there is no such file or folder$'):
            look()
    with pytest.raises(AnonymizerError, match=r'^nonsense://: '):
        location('nonsense://x').exists()


def test_a_library_that_is_missing_is_named(monkeypatch) -> None:
    for scheme in ('gs', 'gcs'):
        monkeypatch.delitem(_registry, scheme, raising=False)
    monkeypatch.setitem(sys.modules, 'gcsfs', None)
    expected = re.escape("pip install 'ffs_anonymizer[remote,gs]'")
    with pytest.raises(AnonymizerError, match=f'^gs://: .*gcsfs.*; {expected}$'):
        location('gs://bucket/x').exists()


def test_access_that_is_denied(wire, worker, bag, tmp_path) -> None:
    put(bag, 'bag')
    task = task_of('s3://data/bag', str(tmp_path / 'out'))
    wire.refused = b'HTTP/1.1'
    done = worker(task, 0)
    assert done.error.startswith('s3://data/bag: access is denied: ')
    assert '\n' not in done.error
    assert not (tmp_path / 'out').exists() or leftovers(tmp_path / 'out') == ['fleet.partial']


def test_a_wire_that_is_cut_while_reading(wire, worker, bag, tmp_path) -> None:
    put(bag, 'bag')
    task = task_of('s3://data/bag', str(tmp_path / 'out'))
    wire.to_client = 100_000
    done = worker(task, 0)
    assert done.error.startswith('s3://data/bag')
    assert '\n' not in done.error
    assert leftovers(tmp_path / 'out') in ([], ['fleet.partial'])
    wire.mend()
    assert worker(task, 0).error == ''


def test_a_wire_that_is_cut_while_writing(wire, worker, bag) -> None:
    task = task_of(str(bag), 's3://data/out')
    wire.to_server = 40_000
    done = worker(task, 0)
    assert done.error.startswith('s3://data/out')
    wire.mend()
    # What could not be taken away again has no metadata.yaml, so it is no bag.
    assert 'data/out/in/metadata.yaml' not in keys()
    assert worker(task, 1).kept is False
    assert location('s3://data/out/in/metadata.yaml').is_file()


def test_what_says_that_a_bag_is_whole_comes_last(wire, bag, caplog) -> None:
    target = location('s3://data/out/bag')
    with caplog.at_level('INFO', 'werkzeug'):
        target.upload(bag)
    put_there = [name for text in caplog.messages for name in re.findall('PUT /data/(.*) H', text)]
    assert [name.removeprefix('out/bag/') for name in put_there] == [
        *('in_0.mcap', 'in_1.mcap', 'metadata.yaml')
    ]
    with pytest.raises(OutputError, match='exists already, has come up meanwhile'):
        target.upload(bag)
    assert len(keys()) == 3


def test_what_was_put_before_a_failure_is_taken_away(wire, bag) -> None:
    wire.refused = b'in_1.mcap'
    with pytest.raises(OutputError, match=r'^s3://data/out/bag/in_1.mcap: access is denied: '):
        location('s3://data/out/bag').upload(bag)
    wire.mend()
    assert keys() == []


class _Quiet(http.server.SimpleHTTPRequestHandler):
    """Serve, and say nothing."""

    def log_message(self, *_: object) -> None:
        pass


def test_http_is_read(worker, face_bgr, tmp_path) -> None:
    (tmp_path / 'web').mkdir()
    cv2.imwrite(str(tmp_path / 'web' / 'face.png'), face_bgr)
    with http.server.ThreadingHTTPServer(
        ('127.0.0.1', 0), partial(_Quiet, directory=str(tmp_path / 'web'))
    ) as web:
        threading.Thread(target=web.serve_forever, daemon=True).start()
        address = f'http://127.0.0.1:{web.server_port}/face.png'
        assert location(address).is_file()
        assert not location(address).is_dir()
        done = worker(task_of(address, str(tmp_path / 'out')), 0)
        assert done.error == ''
        web.shutdown()
    assert record_of(tmp_path / 'out' / 'face.png').is_file()


def test_http_is_not_written(tmp_path, capsys) -> None:
    (tmp_path / 'x.png').write_bytes(b'')
    assert main(['fleet', '-i', str(tmp_path), '-o', 'http://host/x']) == 2
    assert 'got http, expected a folder, s3:// or gs://' in capsys.readouterr().err
