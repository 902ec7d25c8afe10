import io
import os
from pathlib import Path
import sys

import cv2
from ffs_anonymizer.cli import program
from ffs_anonymizer.terminal import printable, say
import pytest
from support.bags import Record, run, Spec, T0, write_bag
from support.program import run_program


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('Straße 顔 /cam/image', 'Straße 顔 /cam/image'),
        ('\x1b[2J\x07\r\n\t', r'\x1b[2J\x07\r\n\t'),
        ('caf\udce9.jpg', r'caf\udce9.jpg'),
        ('\u202egpj.exe\x9b', r'\u202egpj.exe\x9b'),
        ('', ''),
    ],
)
def test_no_name_commands_the_terminal(text: str, expected: str) -> None:
    assert printable(text) == expected


def test_lines_stay_lines_in_any_encoding() -> None:
    for encoding, expected in (('utf-8', '顔\n\\x1b[2J\n'), ('ascii', '\\u9854\n\\x1b[2J\n')):
        raw = io.BytesIO()
        stream = io.TextIOWrapper(raw, encoding)
        say('顔\n\x1b[2J', file=stream)
        assert raw.getvalue().decode() == expected


def test_topics_with_escapes_in_their_names(tmp_path: Path, capsys) -> None:
    name = '/cam\x1b[2J\n/error: all is well'
    specs = [Spec(name, 'nobody_msgs/msg/CameraImage\x1b[31m')]
    source = write_bag(tmp_path / 'in', [Record(name, T0, T0, 1, b'')], specs=specs, splits=1)
    for words in ((), ('--topics', '\x1b[2J'), ('--on-error', 'black')):
        run(source, tmp_path / 'out', *words)
        said = capsys.readouterr()
        assert '\x1b' not in said.out + said.err
        assert not any(line.startswith('/error') for line in (said.out + said.err).splitlines())


def test_what_nobody_thought_of_is_called_a_bug(monkeypatch, capsys) -> None:
    def fail(*_: object) -> None:
        raise ZeroDivisionError('of\nall')

    monkeypatch.setattr(program, 'settings_from', fail)
    assert program.main(['params']) == 70
    error = capsys.readouterr().err
    assert error.startswith(r'error: a bug: please report ZeroDivisionError: of\nall (test_term')
    assert error.count('\n') == 1


@pytest.mark.skipif(sys.platform != 'linux', reason='names of other systems are text')
@pytest.mark.parametrize('locale', ['C.UTF-8', 'C'])
def test_files_whose_names_are_no_utf_8(tmp_path: Path, face_bgr, locale: str) -> None:

    source, output = tmp_path / 'in', tmp_path / 'out'
    source.mkdir()
    data = cv2.imencode('.jpg', face_bgr)[1]
    names = ['caf\udce9.jpg', 'caf\udce9 cut.jpg', 'plain.jpg']
    for name in names:
        (source / name).write_bytes(data.tobytes()[: -1000 if 'cut' in name else None])
    found = tmp_path / 'found\udcff.jsonl'

    env = {**os.environ, 'LC_ALL': locale, 'PYTHONIOENCODING': '', 'PYTHONUTF8': '0'}
    words = ('media', '-i', source, '-o', output, '--method', 'blur', '--write-detections', found)
    result = run_program(*words, env=env)
    assert result.returncode == 1
    assert r'caf\udce9 cut.jpg: ' in result.stderr
    assert 'Traceback' not in result.stderr
    assert sorted(path.name for path in output.iterdir()) == sorted([names[0], names[2]])
    again = run_program(*words[:4], tmp_path / 'again', '--method', 'blur', '--detections', found)
    assert '2 of 3 files written' in again.stdout
