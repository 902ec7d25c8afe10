from ffs_anonymizer.errors import BagError
from ffs_anonymizer.rosbag2.access import BagAccess
from mcap.writer import CompressionType
import pytest
from support.bags import (
    damaged_chunk,
    drive,
    Record,
    SPECS,
    STEP,
    T0,
    write_bag,
    write_mcap,
)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('mode', ['', 'MESSAGE'])
def test_any_message_is_found_by_its_number(tmp_path, face_bgr, storage, mode):
    records = drive(face_bgr)
    access = BagAccess(write_bag(tmp_path / 'in', records, mode=mode, storage=storage))
    for spec in SPECS:
        expected = sorted((r for r in records if r.topic == spec.name), key=lambda r: r.log_ns)
        assert access.stamps_ns(spec.name) == [r.log_ns for r in expected]
        for number in reversed(range(len(expected))):
            assert access.payload(spec.name, number) == expected[number].data
    assert access.types['/map'] == 'nav_msgs/msg/OccupancyGrid'
    with pytest.raises(BagError, match=r'/map: got message number 1, expected 0 to 0'):
        access.payload('/map', 1)
    with pytest.raises(BagError, match='expected 0 to -1'):
        access.payload('/nowhere', 0)


def test_messages_of_one_time_keep_their_order(tmp_path):
    records = [Record('/map', T0, T0, i, bytes([i])) for i in range(3)]
    access = BagAccess(write_bag(tmp_path / 'in', records, splits=1))
    assert [access.payload('/map', i) for i in range(3)] == [b'\0', b'\1', b'\2']


def test_compressed_chunks(tmp_path):
    records = [Record('/map', T0 + i * STEP, T0, i, bytes([i]) * 300) for i in range(5)]
    path = tmp_path / 'in.mcap'
    write_mcap(path, SPECS, records, compression=CompressionType.ZSTD)
    assert BagAccess(path).payload('/map', 3) == bytes([3]) * 300


def test_whole_files_that_are_compressed_cannot_be_looked_into(tmp_path, face_bgr):
    with pytest.raises(BagError, match='got a bag whose files are compressed as a whole'):
        BagAccess(write_bag(tmp_path / 'in', drive(face_bgr), mode='FILE'))


def test_a_damaged_chunk_is_an_error(tmp_path, face_bgr):
    source = write_bag(tmp_path / 'in', drive(face_bgr, 12))
    damaged_chunk(source)
    access = BagAccess(source)
    numbers = [(topic, n) for topic in access.types for n in range(len(access.stamps_ns(topic)))]
    with pytest.raises(BagError, match='damaged or cut off'):
        [access.payload(topic, number) for topic, number in numbers]
