"""Test videos that several processes look at: the same bytes, kills, damage, folders."""

from collections.abc import Iterator
import json
from pathlib import Path
import shutil
import signal
import subprocess
import sys
import time

from ffs_anonymizer.cli.program import main
from ffs_anonymizer.jobs import chunks as jobs
from ffs_anonymizer.jobs.chunks import ChunkResult, DetectedBefore
from ffs_anonymizer.media import chunks, conversion
from ffs_anonymizer.media.chunks import plan_chunks, run_chunk
from ffs_anonymizer.media.files import MediaJob, MediaPlan
from ffs_anonymizer.models.roster import default_detector
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
from numpy.typing import NDArray
import pytest
from support.media import damage, files, media, write_jpeg, write_video
from support.onnx_models import exchange
from support.program import ROOT

SETTINGS = {'face.method': 'solid', 'detector.plate_model_path': 'none', 'threads': 1}
WORDS = (
    *('--method', 'solid', '--set', 'detector.plate_model_path=none', '--threads', '1'),
    '--disable-progress-output',
)


class Counting(DetectedBefore):
    """Counts what is asked for, and what is not known."""

    asked = missed = 0

    def find(self, fingerprint: bytes):
        found = super().find(fingerprint)
        self.asked += 1
        self.missed += found is None
        return found


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(jobs, 'LEAST_FRAMES', 3)
    yield
    jobs.recipe_that_finds.cache_clear()


def results_of(job: MediaJob) -> list[ChunkResult]:
    return [run_chunk(piece) for piece in plan_chunks(job, MediaPlan.of(job).files[0])]


@pytest.mark.parametrize(
    ('suffix', 'codec', 'options'),
    [
        ('.mp4', 'libx264', {'g': '5'}),
        ('.mkv', 'libx264', {'g': '4', 'x264-params': 'open-gop=1'}),
        ('.avi', 'mjpeg', {}),
        ('.webm', 'libvpx-vp9', {}),
    ],
)
def test_chunks_make_the_video_that_one_pass_makes(
    suffix: str,
    codec: str,
    options: dict[str, str],
    tmp_path: Path,
    face_bgr: NDArray[np.uint8],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pixels = 'yuvj420p' if codec == 'mjpeg' else 'yuv420p'
    source = write_video(
        tmp_path / f'a{suffix}',
        face_bgr,
        times_ms=range(100, 900, 50),
        codec=codec,
        pixels=pixels,
        options=options,
    )
    settings = Settings().updated(SETTINGS)
    found = [tmp_path / f'{i}.jsonl' for i in range(2)]
    job = MediaJob(source=source, target=tmp_path / f'b{suffix}', settings=settings)
    one = MediaJob(**{**vars(job), 'write_detections': found[0]})
    assert conversion.run(one).written == 1

    target = tmp_path / 'new' / job.target.name
    several = MediaJob(**{**vars(job), 'target': target, 'write_detections': found[1]})
    known = Counting(results_of(job))
    # As processes would have returned them.
    monkeypatch.setattr(conversion, 'detect_in_processes', lambda *_, **__: known)
    cut = []
    monkeypatch.setattr(chunks, 'plan_chunks', lambda *a: cut.append(a) or plan_chunks(*a))
    report = conversion.run(several, workers=1)
    assert (report.frames, report.undone, len(cut)) == (16, [], 1)
    assert known.asked == len(known) == 16
    assert known.missed == 0
    assert target.read_bytes() == job.target.read_bytes()
    assert found[0].read_bytes() == found[1].read_bytes()
    assert files(tmp_path / 'new') == [target.name, f'{target.name}.privacy.json']


def kill_with(words: list[str], journal: Path, lines: int) -> None:
    """Kill a run as soon as its journal has so many lines, its head among them."""
    command = [sys.executable, '-m', 'ffs_anonymizer', *words]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not journal.exists() or journal.read_bytes().count(b'\n') < lines:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()


def record_of(path: Path) -> dict[str, object]:
    record: dict[str, object] = json.loads(path.with_name(path.name + '.privacy.json').read_text())
    del record['started'], record['ended']
    return record


def test_a_killed_video_goes_on(
    tmp_path: Path,
    face_bgr: NDArray[np.uint8],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed with chunks done, one of them damaged then; the same command makes the same."""
    # As the process that is killed has it.
    monkeypatch.undo()
    source = write_video(tmp_path / 'a.mkv', face_bgr, times_ms=range(0, 1200, 25))
    target = tmp_path / 'b.mkv'
    words = ['media', '-i', str(source), '-o', str(target), *WORDS, '--workers', '1']
    journal = tmp_path / 'b.mkv.partial' / 'journal'
    kill_with(words, journal, 3)
    assert files(tmp_path) == ['a.mkv', 'b.mkv.partial/journal']
    assert main([*words, '--crf', '30']) == 1
    assert 'other settings, another input or another version' in capsys.readouterr().err
    assert main(words[:-2]) == 1
    assert 'with --workers, which goes on' in capsys.readouterr().err

    lines = journal.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"data": "', b'"data": "AA')
    journal.write_bytes(b''.join(lines))
    assert main(words) == 0
    said = f'resuming: {len(lines) - 2} of 3 chunks are there, 1 damaged ones are done again'
    assert said in capsys.readouterr().out
    (tmp_path / 'one').mkdir()
    assert media('-i', source, '-o', tmp_path / 'one' / 'b.mkv', *WORDS) == 0
    assert target.read_bytes() == (tmp_path / 'one' / 'b.mkv').read_bytes()
    assert record_of(target) == record_of(tmp_path / 'one' / 'b.mkv')
    outputs = ['b.mkv', 'b.mkv.privacy.json']
    assert files(tmp_path) == ['a.mkv', *outputs, *(f'one/{name}' for name in outputs)]


def test_a_detector_that_is_exchanged_before_it_looks_is_refused(
    tmp_path: Path, face_bgr: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / 'faces.onnx'
    shutil.copyfile(default_detector(), path)
    settings = Settings().updated({**SETTINGS, 'detector.model_path': str(path)})
    (tmp_path / 'in').mkdir()
    write_video(tmp_path / 'in' / 'a.mp4', face_bgr)
    job = MediaJob(source=tmp_path / 'in', target=tmp_path / 'out', settings=settings)
    real = conversion.read_list

    def exchanging(*args: object) -> object:
        exchange(path)
        return real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(conversion, 'read_list', exchanging)
    report = conversion.run(job, workers=1)
    (problem,) = report.undone
    assert problem.startswith('a.mp4: got other detectors on ')
    assert not (tmp_path / 'out' / 'a.mp4').exists()


class KilledError(BaseException):
    """Ends a run as a signal does."""


def test_killed_while_names_are_given(
    tmp_path: Path, face_bgr: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch
) -> None:
    source = write_video(tmp_path / 'a.mp4', face_bgr)
    job = MediaJob(
        source=source,
        target=tmp_path / 'b.mp4',
        settings=Settings().updated(SETTINGS),
        write_detections=tmp_path / 'list',
        previews=True,
    )

    def killed(self: object) -> None:
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr('ffs_anonymizer.jobs.journal.Journal.give_names', killed)
        with pytest.raises(KilledError):
            conversion.run(job, workers=1)
    assert not job.target.exists()
    told: list[str] = []
    report = conversion.run(job, workers=1, tell=told.append)
    assert told == ['resuming: all is there, and gets its names']
    assert (report.frames, report.written, report.exit_code) == (8, 1, 0)
    outputs = ['b.mp4', 'b.mp4.preview.jpg', 'b.mp4.privacy.json', 'list']
    assert files(tmp_path) == ['a.mp4', *outputs]


@pytest.mark.parametrize('has_name', [False, True])
def test_of_a_folder_each_video_goes_on(
    tmp_path: Path, face_bgr: NDArray[np.uint8], monkeypatch: pytest.MonkeyPatch, has_name: bool
) -> None:
    (tmp_path / 'in').mkdir()
    write_jpeg(tmp_path / 'in' / 'a.jpg', face_bgr)
    for name in ('b.mp4', 'c.mp4'):
        write_video(tmp_path / 'in' / name, face_bgr, times_ms=(0, 40, 80))
    settings = Settings().updated(SETTINGS)
    job = MediaJob(
        source=tmp_path / 'in', target=tmp_path / 'out', settings=settings, skips_existing=True
    )
    whole = MediaJob(source=tmp_path / 'in', target=tmp_path / 'one', settings=settings)
    assert conversion.run(whole).written == 3
    real = conversion.Journal.give_names
    calls = []

    def killed(self: object) -> None:
        calls.append(self)
        if has_name or len(calls) == 1:
            real(self)  # type: ignore[arg-type]
        if len(calls) > 1:
            raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr(conversion.Journal, 'give_names', killed)
        with pytest.raises(KilledError):
            conversion.run(job, workers=1)
    left = files(tmp_path / 'out')
    named = ['a.jpg', 'b.mp4', *['c.mp4'] * has_name]
    assert left[: len(named)] == named
    assert {name.partition('/')[0] for name in left[len(named) :]} == {'c.mp4.partial'}
    told: list[str] = []
    report = conversion.run(job, workers=1, tell=told.append)
    assert 'resuming: all is there, and gets its names' in told
    assert (report.written, report.undone) == (1, [])
    assert set(report.streams) == {'c.mp4'}
    for name in ('a.jpg', 'b.mp4', 'c.mp4'):
        one = (tmp_path / 'one' / name).read_bytes()
        assert (tmp_path / 'out' / name).read_bytes() == one
    assert files(tmp_path / 'out') == ['a.jpg', 'b.mp4', 'c.mp4']


def test_of_a_folder_one_goes_on_that_was_killed_at_once(
    tmp_path: Path, face_bgr: NDArray[np.uint8]
) -> None:
    (tmp_path / 'in').mkdir()
    write_video(tmp_path / 'in' / 'a.mp4', face_bgr, times_ms=(0, 40, 80))
    (tmp_path / 'out' / 'a.mp4.partial').mkdir(parents=True)
    settings = Settings().updated(SETTINGS)
    job = MediaJob(source=tmp_path / 'in', target=tmp_path / 'out', settings=settings)
    assert conversion.run(job, workers=1).written == 1
    assert files(tmp_path / 'out') == ['a.mp4']


def test_a_picture_that_cannot_be_decoded_stops_it_and_what_is_done_is_kept(
    tmp_path: Path, face_bgr: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    source = write_video(
        tmp_path / 'a.avi', face_bgr, codec='mjpeg', pixels='yuvj420p', options={'bf': '0'}
    )
    damage(source, 3)
    words = ['media', '-i', str(source), '-o', str(tmp_path / 'b.avi'), *WORDS]
    assert main(words) == 1
    plain = capsys.readouterr().err.splitlines()[-1].strip()
    assert files(tmp_path) == ['a.avi']
    assert main([*words, '--workers', '1']) == 1
    assert capsys.readouterr().err.splitlines()[-1].endswith(plain)
    assert files(tmp_path)[-1] == 'b.avi.partial/journal'
    assert main([*words, '--workers', '1', '--on-error', 'black']) == 1
    said = capsys.readouterr()
    assert 'resuming: 3 of 3 chunks are there\n' in said.out
    assert '1 frames could not be anonymized and are black' in said.err
    (tmp_path / 'one').mkdir()
    words[4] = str(tmp_path / 'one' / 'b.avi')
    assert main([*words, '--on-error', 'black']) == 1
    one = (tmp_path / 'one' / 'b.avi').read_bytes()
    assert (tmp_path / 'b.avi').read_bytes() == one
