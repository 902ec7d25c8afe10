"""Test what is written with other programs' readers."""

from mcap.reader import make_reader
from mcap.writer import CompressionType
import pytest
from rosbags import rosbag2 as rosbags_rosbag2
from support.bags import drive, others, read_bag, run, stamps, write_bag
import yaml


def test_metadata_is_what_rosbag2_writes(tmp_path, face_bgr):
    records = drive(face_bgr)
    source = write_bag(tmp_path / 'in', records, mode='MESSAGE', custom={'driver': 'me'})

    assert run(source, tmp_path / 'out') == 0

    ours = yaml.safe_load((tmp_path / 'out' / 'metadata.yaml').read_text())
    theirs = yaml.safe_load((source / 'metadata.yaml').read_text())
    ours, theirs = (data['rosbag2_bagfile_information'] for data in (ours, theirs))
    span = {
        'path': 'out_0.mcap',
        'starting_time': theirs['starting_time'],
        'duration': theirs['duration'],
        'message_count': len(records),
    }
    assert ours == {**theirs, 'relative_file_paths': ['out_0.mcap'], 'files': [span]}
    assert ours['custom_data'] == {'driver': 'me'}
    reader = make_reader((tmp_path / 'out' / 'out_0.mcap').open('rb'))
    (note,) = (note for note in reader.iter_metadata() if note.name == 'rosbag2')
    reader._stream.close()
    assert note.name == 'rosbag2'
    assert yaml.safe_load(note.metadata['serialized_metadata']) == ours
    settings = yaml.safe_load((tmp_path / 'out' / 'anonymizer.param.yaml').read_text())
    assert settings['/**']['ros__parameters']['face']['method'] == 'solid'


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('mode', ['none', 'file', 'message'])
def test_another_reader_reads_what_is_written(tmp_path, face_bgr, storage, mode):
    records = drive(face_bgr, 1)
    source = write_bag(tmp_path / 'in', records)

    words = ['--storage', storage, '--compression-mode', mode]
    assert run(source, tmp_path / 'out', *words) == 0

    with rosbags_rosbag2.Reader(tmp_path / 'out') as reader:
        assert reader.message_count == len(records)
        assert {c.topic: c.msgcount for c in reader.connections}['/empty'] == 0
        durability = {
            c.topic: [qos.durability.name for qos in c.ext.offered_qos_profiles]
            for c in reader.connections
        }
        assert durability['/map'] == ['TRANSIENT_LOCAL']
        assert durability['/odd'] == ['VOLATILE']
        read = sorted((c.topic, stamp, bytes(data)) for c, stamp, data in reader.messages())
    expected = sorted((record.topic, record.log_ns, record.data) for record in others(records))
    assert [row for row in read if not row[0].startswith('/cam/')] == expected
    info = yaml.safe_load((tmp_path / 'out' / 'metadata.yaml').read_text())
    info = info['rosbag2_bagfile_information']
    assert info['storage_identifier'] == storage
    assert info['compression_mode'] == ('' if mode == 'none' else mode.upper())


def test_chunks_are_compressed_as_they_were(tmp_path, face_bgr):
    records = drive(face_bgr, 1)
    for name, compression in (('zstd', CompressionType.ZSTD), ('lz4', CompressionType.LZ4)):
        source = write_bag(tmp_path / name, records, compression=compression)
        assert run(source, tmp_path / f'{name}_out') == 0
        file = tmp_path / f'{name}_out' / f'{name}_out_0.mcap'
        with file.open('rb') as stream:
            chunks = make_reader(stream).get_summary().chunk_indexes
        assert {chunk.compression for chunk in chunks} == {name}
        assert read_bag(tmp_path / f'{name}_out').records[0] == records[0]


def test_splits_by_size_and_by_duration(tmp_path, face_bgr):
    records = drive(face_bgr, 4)
    source = write_bag(tmp_path / 'in', records, splits=1)

    assert run(source, tmp_path / 'size', '--max-bag-size', 100_000) == 0
    assert run(source, tmp_path / 'time', '--max-bag-duration', 1, '-s', 'sqlite3') == 0

    info = yaml.safe_load((tmp_path / 'size' / 'metadata.yaml').read_text())
    info = info['rosbag2_bagfile_information']
    assert info['relative_file_paths'] == ['size_0.mcap', 'size_1.mcap', 'size_2.mcap']
    assert sum(file['message_count'] for file in info['files']) == len(records)
    assert stamps(read_bag(tmp_path / 'size').records) == stamps(records)
    assert len(list((tmp_path / 'time').glob('*.db3'))) == 1
    with rosbags_rosbag2.Reader(tmp_path / 'size') as reader:
        assert len(list(reader.messages())) == len(records)
