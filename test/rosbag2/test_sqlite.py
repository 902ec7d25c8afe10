"""Test the sqlite3 storage, in the layouts of old and new distributions."""

import pytest
from support.bags import digest, drive, LATCHED, others, read_bag, RELIABLE, run, SPECS, write_bag
import yaml


@pytest.mark.parametrize('layout', [2, 4])
@pytest.mark.parametrize('mode', ['', 'MESSAGE', 'FILE'])
def test_sqlite_in_both_layouts(tmp_path, face_bgr, layout, mode):
    records = drive(face_bgr, 2)
    version = 5 if layout == 2 else 9
    source = write_bag(
        tmp_path / 'in', records, storage='sqlite3', mode=mode, layout=layout, version=version
    )
    before = digest(source)

    assert run(source, tmp_path / 'out') == 0

    assert digest(source) == before
    result = read_bag(tmp_path / 'out')
    assert [r[:2] for r in result.records] == [r[:2] for r in records]
    assert [r.data for r in others(result.records)] == [r.data for r in others(records)]
    assert result.topics['/map'][4] == LATCHED
    info = yaml.safe_load((tmp_path / 'out' / 'metadata.yaml').read_text())
    info = info['rosbag2_bagfile_information']
    assert info['version'] == version
    if layout == 2:
        assert result.topics['/odd'][1] is None
        assert 'custom_data' not in info
    else:
        assert result.topics['/odd'][1:3] == ('ros2msg', SPECS[3].definition)


def test_sqlite_to_mcap_and_back(tmp_path, face_bgr, capsys):
    records = drive(face_bgr, 2)
    source = write_bag(tmp_path / 'in', records, storage='sqlite3')

    assert run(source, tmp_path / 'one', '-s', 'mcap', '-x', '.*') == 0
    assert run(tmp_path / 'one', tmp_path / 'two', '-s', 'sqlite3', '-x', '.*') == 0

    first, middle, last = (read_bag(tmp_path / name) for name in ('in', 'one', 'two'))
    assert middle.records == [r._replace(publish_ns=r.log_ns, sequence=0) for r in records]
    assert last == first
    assert middle.topics == first.topics
    assert 'sqlite3 has no place for publish times' in capsys.readouterr().err


def test_sqlite_without_definitions_to_mcap(tmp_path, face_bgr, capsys):
    records = drive(face_bgr, 1)
    source = write_bag(tmp_path / 'in', records, storage='sqlite3', layout=2, version=5)

    assert run(source, tmp_path / 'out', '-s', 'mcap') == 0

    assert 'the bag has no message definitions for these types' in capsys.readouterr().err
    result = read_bag(tmp_path / 'out')
    assert result.topics['/odd'] == ('nobody_msgs/msg/Unheard', '', '', 'cdr', RELIABLE, '')
    assert [r.data for r in others(result.records)] == [r.data for r in others(records)]
