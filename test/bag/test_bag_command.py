"""Test the command `bag`: its words, processes that are ended, disks that are full."""

import contextlib
import fcntl
import functools
import os
import pty
import re
import resource
import signal
import struct
import subprocess
import termios
import time

import pytest
from support.bags import (
    command,
    digest,
    drive,
    IMAGE,
    leftovers,
    long_bag,
    ROOT,
    run,
    write_bag,
)


def test_a_topic_both_chosen_and_excluded(tmp_path, capsys):
    words = ['--topics', '/a', '/b', '--exclude-topics', '/b']
    assert run(tmp_path / 'in', tmp_path / 'out', *words) == 2
    assert 'got /b in --topics and in --exclude-topics' in capsys.readouterr().err
    words = ['--drop-topics', '/a', '/b', '--exclude-topics', '/b']
    assert run(tmp_path / 'in', tmp_path / 'out', *words) == 2
    assert 'got /b in --exclude-topics and in --drop-topics' in capsys.readouterr().err


def test_a_name_that_no_metadata_can_hold(tmp_path, face_bgr, capsys):
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1))
    assert run(source, tmp_path / os.fsdecode(b'caf\xe9')) == 1
    assert 'got a name that is no UTF-8, expected one, as meta' in capsys.readouterr().err
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize('value', ['0.5', '-1', 'ten'])
def test_sizes_and_durations_that_are_none(tmp_path, capsys, value):
    with pytest.raises(SystemExit, match='2'):
        run(tmp_path / 'in', tmp_path / 'out', f'--max-bag-duration={value}')
    text = f"--max-bag-duration: got '{value}', expected a whole number, 0 or more"
    assert text in capsys.readouterr().err


def test_a_regular_expression_that_is_none(tmp_path, capsys):
    assert run(tmp_path / 'in', tmp_path / 'out', '-e', '(') == 2
    assert "--regex: got '(', expected a regular expression" in capsys.readouterr().err


def test_dry_run_touches_nothing(tmp_path, face_bgr, capsys):
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1), mode='MESSAGE')
    assert run(source, tmp_path / 'out', '--dry-run', '--topics', '/cam/image') == 0
    printed = capsys.readouterr()
    lines = [line.split() for line in printed.out.splitlines()]
    assert ['/cam/image', IMAGE, '1', 'anonymize'] in lines
    assert ['/empty', 'std_msgs/msg/String', '0', 'copy'] in lines
    assert ['face.method:', 'solid'] in lines
    assert leftovers(tmp_path) == []


def test_nothing_is_overwritten(tmp_path, face_bgr, capsys):
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1))
    target = tmp_path / 'out'
    for existing in (target, tmp_path / 'out.partial', tmp_path / 'found'):
        existing.mkdir()
        assert run(source, target, '--write-detections', tmp_path / 'found') == 1
        error = capsys.readouterr().err
        assert str(existing) in error
        assert list(existing.iterdir()) == []
        existing.rmdir()
        assert leftovers(tmp_path) == []
    assert run(source, source / 'inside') == 1
    assert 'lies inside the input' in capsys.readouterr().err
    target.mkdir()
    assert run(source, target, '--skip-existing') == 0
    assert list(target.iterdir()) == []


@pytest.mark.parametrize(
    ('number', 'code'),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129), (signal.SIGKILL, -9)],
)
def test_ended_midway(tmp_path, face_bgr, number, code):
    source = long_bag(tmp_path / 'in', face_bgr, 400)
    before = digest(source)
    partial = tmp_path / 'out.partial' / 'out_0.mcap'
    words = command(source, tmp_path / 'out')
    # Under nohup, children are born deaf to SIGHUP.
    hearing = functools.partial(signal.signal, signal.SIGHUP, signal.SIG_DFL)
    with subprocess.Popen(
        words, cwd=ROOT, stdout=subprocess.DEVNULL, preexec_fn=hearing
    ) as process:
        deadline = time.monotonic() + 60
        while not (partial.exists() and partial.stat().st_size > 1_000_000):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        assert process.wait(30) == code
    assert digest(source) == before
    assert not (tmp_path / 'out').exists()
    assert (tmp_path / 'out.partial').exists() == (number == signal.SIGKILL)
    if number == signal.SIGKILL:
        again = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert again.returncode == 1
        assert 'out.partial is there: another run is writing it, or one was killed' in again.stderr


@pytest.mark.parametrize('words', [[], ['--disable-progress-output']])
def test_progress_on_a_terminal(tmp_path, face_bgr, words):
    source = long_bag(tmp_path / 'in', face_bgr, 20)
    terminal, end = pty.openpty()
    fcntl.ioctl(end, termios.TIOCSWINSZ, struct.pack('HHHH', 40, 120, 0, 0))
    off = '--disable-progress-output'
    plain = [word for word in command(source, tmp_path / 'out') if word != off]
    with subprocess.Popen(
        [*plain, *words], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=end
    ) as process:
        os.close(end)
        shown = b''
        # The other end closes with the process, which reads as an error on Linux.
        with contextlib.suppress(OSError):
            while block := os.read(terminal, 4096):
                shown += block
    os.close(terminal)
    assert process.returncode == 0
    if words:
        assert shown == b''
    else:
        assert re.search(rb'100%\|.*B/s, frames=20, replaced=20', shown)
        assert re.search(rb'\[\d\d:\d\d<\d\d:\d\d, ', shown)


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_file_that_cannot_grow(tmp_path, face_bgr, storage):
    source = long_bag(tmp_path / 'in', face_bgr, 20)
    result = subprocess.run(
        command(source, tmp_path / 'out', '-s', storage),
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2_000_000, 2_000_000)),
    )
    assert result.returncode == 1
    assert 'out.partial: ' in result.stderr.splitlines()[-1]
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
def test_a_full_disk(tmp_path, face_bgr, capsys, storage):
    source = long_bag(tmp_path / 'in', face_bgr, 20)
    disk = tmp_path / 'disk'
    disk.mkdir()
    mounted = subprocess.run(
        ['mount', '-t', 'tmpfs', '-o', 'size=2m', 'tmpfs', disk], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f'mounting a small disk needs root: {mounted.stderr.decode().strip()}')
    try:
        assert run(source, disk / 'out', '-s', storage) == 1
        assert list(disk.iterdir()) == []
    finally:
        subprocess.run(['umount', disk], check=True)
    assert f'no space left for {disk / "out.partial"}' in capsys.readouterr().err
