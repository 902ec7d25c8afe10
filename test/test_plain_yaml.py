"""YAML that is made to exhaust whoever reads it, or that Python trips over."""

from ffs_anonymizer.cli.program import main
from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.node.parameter_files import check_parameter_file
from ffs_anonymizer.plain_yaml import parse
from ffs_anonymizer.training.settings import load_settings
import pytest

BOMB = 'a0: &a0 {x: 1, y: 2, z: 3, u: 4, v: 5, w: 6, t: 7, s: 8}\n' + ''.join(
    f'a{i}: &a{i} {{{", ".join(f"k{k}: *a{i - 1}" for k in range(9))}}}\n' for i in range(1, 10)
)
HOSTILE = {
    'aliases': (BOMB, 'got an alias'),
    'itself': ('a: &f\n  b: *f\n', 'got an alias'),
    'a date that is none': ('face: {threshold: 2023-99-99}\n', 'month must be in 1..12'),
    'nested': ('[' * 20_000, 'got no YAML'),
    'a number of 5,000 digits': (f'threads: {"9" * 5000}\n', ''),
    'no YAML': ('a: [1, 2\n', 'got no YAML'),
}


@pytest.mark.parametrize('name', HOSTILE)
def test_what_is_hostile_is_a_line(tmp_path, capsys, name):
    text, message = HOSTILE[name]
    path = tmp_path / 'own.yaml'
    path.write_text(text)
    assert main(['media', '-i', str(path), '-o', 'never.png', '--config', str(path)]) in (1, 2)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('error: ')
    assert message in line
    assert len(line) < 7000
    with pytest.raises(SettingsError):
        check_parameter_file(path, '/anonymizer')
    if message:
        with pytest.raises(SettingsError, match=message):
            load_settings(path)


def test_what_is_honest_is_read():
    assert parse('a: {b: [1, 0.5, yes, text]}') == {'a': {'b': [1, 0.5, True, 'text']}}
    assert parse('') is None


def test_a_setting_of_the_command_line(capsys):
    assert main(['media', '-i', 'x', '-o', 'y', '--set', 'face.threshold=2023-99-99']) == 2
    assert 'month must be in 1..12' in capsys.readouterr().err
