from __future__ import annotations

from pathlib import Path

from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.node.parameter_files import check_parameter_file, is_for
import pytest


@pytest.mark.parametrize(
    ('key', 'node', 'expected'),
    [
        ('/**', '/anonymizer', True),
        ('/**', '/bus/front/anonymizer', True),
        ('/*', '/anonymizer', True),
        ('/*', '/bus/anonymizer', False),
        ('/**/anonymizer', '/bus/front/anonymizer', True),
        ('/**/anonymizer', '/anonymizer', True),
        ('/**/anonymizer', '/other', False),
        ('anonymizer', '/anonymizer', True),
        ('anonymizer', '/bus/anonymizer', False),
        ('/bus/anonymizer', '/bus/anonymizer', True),
        ('/*/anonymizer', '/bus/anonymizer', True),
        ('/anonymizer', '/anonymizer_2', False),
        ('/', '/anonymizer', False),
        ('/cam.ra', '/camera', False),
    ],
)
def test_sections_are_matched_as_rcl_does(key: str, node: str, expected: bool) -> None:
    assert is_for(key, node) is expected


def file(folder: Path, text: str) -> Path:
    path = folder / 'params.yaml'
    path.write_text(text)
    return path


@pytest.mark.parametrize(
    'text',
    [
        '/**:\n  ros__parameters: {lazy: false}\n',
        'bus:\n  anonymizer:\n    ros__parameters: {}\n',
        'camera:\n  ros__parameters: {fps: 5}\n/bus/anonymizer:\n  ros__parameters: {}\n',
    ],
)
def test_file_for_the_node_is_taken(tmp_path: Path, text: str) -> None:
    check_parameter_file(file(tmp_path, text), '/bus/anonymizer')


@pytest.mark.parametrize(
    ('text', 'reason'),
    [
        (
            'anonymiser:\n  ros__parameters: {}\n',
            'got /anonymiser, expected a section for the node /anonymizer; '
            'name it /anonymizer or /\\*\\*',
        ),
        ('lazy: false\n', 'got no section with ros__parameters'),
        ('', 'got no section with ros__parameters'),
        ('a: [1\n', 'cannot read the parameter file .*params.yaml'),
    ],
)
def test_other_files_are_refused(tmp_path: Path, text: str, reason: str) -> None:
    with pytest.raises(SettingsError, match=reason):
        check_parameter_file(file(tmp_path, text), '/anonymizer')


def test_missing_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r'cannot read the parameter file .*none.yaml'):
        check_parameter_file(tmp_path / 'none.yaml', '/anonymizer')
