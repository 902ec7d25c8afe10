"""Test the command `media`: its words, processes that are ended."""

import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import numpy as np
from numpy.typing import NDArray
import pytest
from support.media import BLUR, files, media, write_video
from support.program import ROOT


def test_it_says_what_runs_and_under_which_licence(
    photo: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    drawn = ('--method', 'generate')
    assert media('-i', photo, '-o', photo.with_name('generated.jpg'), *drawn) == 0
    said = capsys.readouterr().out
    assert '  face detector: ' in said
    assert "  generator's licence: Apache-2.0" in said
    assert media('-i', photo, '-o', photo.with_name('blurred.jpg'), *BLUR) == 0
    said = capsys.readouterr().out
    assert "generator's licence" not in said
    assert "  plate detector's licence: Apache-2.0" in said


def test_dry_run_writes_nothing(photo: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source, output = photo.parent, photo.parent.parent / 'out'
    assert media('-i', source, '-o', output, '--method', 'solid', '--dry-run') == 0
    said = capsys.readouterr().out
    assert f'{photo} -> {output / "a.jpg"}' in said
    assert '    method: solid' in said
    assert not output.exists()


@pytest.mark.parametrize(
    ('number', 'code', 'left', 'text'),
    [
        (signal.SIGINT, 130, [], 'interrupted: what was not finished has no final name\n'),
        (signal.SIGTERM, 143, [], 'terminated: what was not finished has no final name\n'),
        (signal.SIGKILL, -9, ['b.mkv.partial'], ''),
    ],
)
def test_ended_midway_it_leaves_nothing_under_the_final_name(
    number: int, code: int, left: list[str], text: str, tmp_path: Path, face_bgr: NDArray[np.uint8]
) -> None:
    source = write_video(tmp_path / 'a.mkv', face_bgr, times_ms=range(0, 15000, 10))
    before = source.read_bytes()
    command = [sys.executable, '-m', 'ffs_anonymizer', 'media', '-i', source]
    with subprocess.Popen(
        [*command, '-o', tmp_path / 'b.mkv'], stderr=subprocess.PIPE, text=True, cwd=ROOT
    ) as process:
        partial = tmp_path / 'b.mkv.partial'
        end_s = time.monotonic() + 30
        while not partial.exists() and time.monotonic() < end_s:
            time.sleep(0.05)
        os.kill(process.pid, number)
        said = process.communicate(timeout=30)[1]
    assert process.returncode == code
    assert said == text
    assert files(tmp_path) == ['a.mkv', *left]
    assert source.read_bytes() == before
