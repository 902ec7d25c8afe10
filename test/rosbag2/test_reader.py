"""Test the reader on bags that are damaged, cut off or none."""

from ffs_anonymizer.rosbag2.reader import BagReader
import pytest
from support.bags import (
    bag_yaml,
    damaged_chunk,
    digest,
    drive,
    LATCHED,
    leftovers,
    others,
    read_bag,
    run,
    SPECS,
    write_bag,
    write_mcap,
    zstd,
)
import yaml


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_what_has_been_read_grows_to_all_of_it(tmp_path, face_bgr, storage):
    reader = BagReader(write_bag(tmp_path / 'in', drive(face_bgr, 6), storage=storage))
    read = [reader.read_bytes for _ in reader.items()]
    assert read == sorted(read)
    assert 0 < read[len(read) // 2] <= reader.read_bytes == reader.size_bytes


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_single_file_without_its_folder(tmp_path, face_bgr, storage):
    records = drive(face_bgr, 1)
    folder = write_bag(tmp_path / 'in', records, splits=1, storage=storage)
    (file,) = (path for path in folder.iterdir() if path.suffix != '.yaml')

    assert run(file, tmp_path / 'out') == 0

    result = read_bag(tmp_path / 'out')
    assert [r.data for r in others(result.records)] == [r.data for r in others(records)]
    info = yaml.safe_load((tmp_path / 'out' / 'metadata.yaml').read_text())
    info = info['rosbag2_bagfile_information']
    # These QoS profiles have words in them, which only the newest version can say.
    assert info['version'] == 9
    by_name = {t['topic_metadata']['name']: t for t in info['topics_with_message_count']}
    assert by_name['/map']['topic_metadata']['offered_qos_profiles'] == yaml.safe_load(LATCHED)
    assert by_name['/odd']['message_count'] == 3


def truncated(folder):
    file = folder / 'in_1.mcap'
    file.write_bytes(file.read_bytes()[:-1000])


def empty_file(folder):
    (folder / 'in_0.mcap').write_bytes(b'')


def missing_split(folder):
    (folder / 'in_1.mcap').unlink()


def no_metadata(folder):
    (folder / 'metadata.yaml').unlink()


def broken_yaml(folder):
    (folder / 'metadata.yaml').write_text('a: [')


def no_section(folder):
    (folder / 'metadata.yaml').write_text('a: 1')


def changed_metadata(old, new):
    def change(folder):
        path = folder / 'metadata.yaml'
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new))

    return change


def no_database(folder):
    for path in folder.glob('*.mcap'):
        path.rename(path.with_suffix('.db3'))
    changed_metadata('mcap', 'db3')(folder)
    changed_metadata('storage_identifier: db3', 'storage_identifier: sqlite3')(folder)


BAD_BAGS = {
    'corrupt chunk': (damaged_chunk, 'in_1.mcap is damaged or cut off'),
    'truncated': (truncated, 'in_1.mcap is damaged or cut off'),
    'empty file': (empty_file, 'in_0.mcap is damaged or cut off'),
    'missing split': (missing_split, '1 of its 2 files are missing: in_1.mcap'),
    'no metadata': (no_metadata, 'has no metadata.yaml'),
    'no YAML': (broken_yaml, 'cannot read'),
    'no section': (no_section, 'got no section rosbag2_bagfile_information'),
    'unknown storage': (
        changed_metadata('storage_identifier: mcap', 'storage_identifier: leveldb'),
        "got storage 'leveldb', expected mcap or sqlite3",
    ),
    'unknown compression': (
        changed_metadata("compression_mode: ''", 'compression_mode: FILE'),
        "got compression file '', expected one of none, file, message with zstd",
    ),
    'newer than known': (changed_metadata('version: 9', 'version: 10'), 'got metadata version 10'),
    'missing key': (changed_metadata('message_count: 14', 'x: 14'), "key 'message_count' is miss"),
    'no sqlite3': (no_database, 'is damaged or no sqlite3 bag'),
}


@pytest.mark.parametrize('what', BAD_BAGS)
def test_bags_that_cannot_be_read_completely(tmp_path, face_bgr, capsys, what):
    damages, text = BAD_BAGS[what]
    records = drive(face_bgr, 4)[:14]
    source = write_bag(tmp_path / 'in', records)
    damages(source)
    before = digest(source)

    assert run(source, tmp_path / 'out') == 1

    error = capsys.readouterr().err
    assert error.splitlines()[-1].startswith('error: ')
    assert text in error
    assert leftovers(tmp_path) == []
    assert digest(source) == before


def test_a_compressed_file_that_is_cut_off(tmp_path, face_bgr, capsys):
    source = write_bag(tmp_path / 'in', drive(face_bgr), mode='FILE')
    file = source / 'in_1.mcap.zstd'
    file.write_bytes(file.read_bytes()[:-100])
    assert run(source, tmp_path / 'out') == 1
    assert 'in_1.mcap.zstd is cut off: its compressed data has no end' in capsys.readouterr().err
    assert leftovers(tmp_path) == []


def test_a_damaged_compressed_message(tmp_path, face_bgr, capsys):
    records = [r._replace(data=zstd(r.data)) for r in drive(face_bgr, 1)]
    records[1] = records[1]._replace(data=records[1].data[:-9])
    folder = tmp_path / 'in'
    folder.mkdir()
    write_mcap(folder / 'in_0.mcap', SPECS, records)
    text = bag_yaml(SPECS, [('in_0.mcap', records)], mode='MESSAGE')
    (folder / 'metadata.yaml').write_text(text)
    assert run(folder, tmp_path / 'out') == 1
    assert 'a compressed message is cut off' in capsys.readouterr().err
    assert leftovers(tmp_path) == []


def test_a_sqlite_file_whose_recording_was_not_ended(tmp_path, face_bgr, capsys):
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1), storage='sqlite3', splits=1)
    (source / 'in_0.db3-wal').write_bytes(b'pages')
    assert run(source, tmp_path / 'out') == 1
    assert 'was not closed properly: in_0.db3-wal holds messages' in capsys.readouterr().err


def test_a_truncated_sqlite_file(tmp_path, face_bgr, capsys):
    source = write_bag(tmp_path / 'in', drive(face_bgr), storage='sqlite3', splits=1)
    file = source / 'in_0.db3'
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    assert run(source, tmp_path / 'out') == 1
    assert 'in_0.db3 is damaged or no sqlite3 bag' in capsys.readouterr().err
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ('name', 'text'),
    [
        ('nowhere', 'got no bag at'),
        ('file.txt', 'got a .txt file, expected a bag folder or one of: .mcap, .db3, .bag'),
    ],
)
def test_inputs_that_are_no_bags(tmp_path, capsys, name, text):
    (tmp_path / 'file.txt').write_bytes(b'some text')
    assert run(tmp_path / name, tmp_path / 'out') == 1
    assert text in capsys.readouterr().err
