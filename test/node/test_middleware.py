from __future__ import annotations

from pathlib import Path
import xml.etree.ElementTree as ElementTree

from ffs_anonymizer.node import middleware
import pytest
from support.program import loaded_by, ROOT


def test_profile_is_found_in_a_checkout() -> None:
    path = middleware.profile_path()
    assert path is not None
    assert path.name == 'fastdds.xml'


def test_profile_holds_large_frames() -> None:
    space = '{http://www.eprosima.com/XMLSchemas/fastRTPS_Profiles}'
    root = ElementTree.parse(ROOT / 'config' / 'fastdds.xml').getroot()
    values = {element.tag.replace(space, ''): element.text for element in root.iter()}
    frame_bytes = 3840 * 2160 * 3
    assert int(values['maxMessageSize'] or 0) >= frame_bytes
    assert int(values['segment_size'] or 0) >= 4 * frame_bytes
    assert int(values['receiveBufferSize'] or 0) >= 4 << 20
    assert values['useBuiltinTransports'] == 'false'


def test_own_profile_is_set_where_there_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in middleware.PROFILE_VARIABLES:
        monkeypatch.setenv(name, '')
    path = middleware.use_large_frames()
    assert path == middleware.profile_path()
    assert [middleware.os.environ[name] for name in middleware.PROFILE_VARIABLES] == [
        str(path)
    ] * 2


def test_launch_files_set_the_same_as_the_node_does_itself() -> None:
    profile = str(ROOT / 'config' / 'fastdds.xml')
    assert middleware.environment() == {
        'FASTRTPS_DEFAULT_PROFILES_FILE': profile,
        'FASTDDS_DEFAULT_PROFILES_FILE': profile,
        'MALLOC_MMAP_THRESHOLD_': '1073741824',
        'MALLOC_TRIM_THRESHOLD_': '2147483647',
        'MALLOC_ARENA_MAX': '1',
    }


def test_launch_files_import_nothing_heavy() -> None:
    heavy = {'numpy', 'cv2', 'yaml', 'rclpy', 'onnxruntime'}
    assert loaded_by('from ffs_anonymizer.node import middleware', heavy) == set()


@pytest.mark.parametrize('name', middleware.PROFILE_VARIABLES)
def test_profile_of_the_user_stays(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for variable in middleware.PROFILE_VARIABLES:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv(name, '/mine.xml')
    assert middleware.use_large_frames() == Path('/mine.xml')
    other = next(variable for variable in middleware.PROFILE_VARIABLES if variable != name)
    assert other not in middleware.os.environ
