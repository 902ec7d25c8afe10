"""Test the command `media`: its words, processes that are ended."""

import os
from pathlib import Path
import signal
import subprocess
import sys
import time

import cv2
from ffs_anonymizer.regions.detections import CLASSES, PLATE
import numpy as np
from numpy.typing import NDArray
import pytest
from support.media import BLUR, files, media, write_video
from support.onnx_models import save_answering
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


def yolo_table(rows: int, wide: int, row: tuple[float, ...]) -> NDArray[np.float64]:
    """Return what YOLO gives out for a picture of 64x64 with one plate, [1, rows, wide]."""
    table = np.zeros((1, rows, wide))
    table[0, 7, : len(row)] = row
    return table


# Of a picture of 128x64 a network of 64x64 sees half the size: (16, 8) to (48, 24) is the plate.
CELLS = 8 * 8 + 4 * 4 + 2 * 2
YOLOS = {
    'v5': yolo_table(3 * CELLS, 6, (16, 8, 16, 8, 0.95, 0.95)),
    'v8 and v11': yolo_table(CELLS, 5, (16, 8, 16, 8, 0.9)).swapaxes(1, 2),
    'v10, end to end': yolo_table(300, 6, (8, 4, 24, 12, 0.9, 0)),
}


@pytest.mark.parametrize('table', YOLOS.values(), ids=YOLOS.keys())
def test_plates_are_found_by_a_yolo_of_the_user_s(
    table: NDArray[np.float64], tmp_path: Path
) -> None:
    model = save_answering(tmp_path / 'plates.onnx', {'output0': table}, input_hw=(64, 64))
    source = np.full((64, 128, 3), 90, np.uint8)
    cv2.imwrite(str(tmp_path / 'a.png'), source)
    listed = tmp_path / 'found.jsonl'
    named = ('--set', f'detector.plate_model_path={model}', '--write-detections', listed)
    solid = ('--method', 'plate=solid')
    assert media('-i', tmp_path / 'a.png', '-o', tmp_path / 'b.png', *named, *solid) == 0
    black = (cv2.imread(str(tmp_path / 'b.png')) == 0).all(2)
    # The box and its margin of 1.25, and nothing else.
    assert black[8:24, 16:48].all()
    assert np.count_nonzero(black) == 20 * 40
    assert f'"class": "{CLASSES[PLATE]}"' in listed.read_text(encoding='utf-8')
    assert '"xyxy_px": [16.0, 8.0, 48.0, 24.0]' in listed.read_text(encoding='utf-8')


def test_a_yolo_of_masks_is_refused_and_says_what_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    masks = yolo_table(CELLS - 3, 37, (16, 8, 16, 8, 0.9))
    model = save_answering(tmp_path / 'masks.onnx', {'output0': masks}, input_hw=(64, 64))
    cv2.imwrite(str(tmp_path / 'a.png'), np.full((64, 128, 3), 90, np.uint8))
    named = ('--set', f'detector.plate_model_path={model}')
    assert media('-i', tmp_path / 'a.png', '-o', tmp_path / 'b.png', *named) != 0
    assert 'masks, points and turned boxes are not read' in capsys.readouterr().err
    assert not (tmp_path / 'b.png').exists()
