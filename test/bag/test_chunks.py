"""Test bags that several processes make, and runs that are killed and go on."""

from dataclasses import replace
import json
from pathlib import Path
import pickle
import random
import shutil
import signal
import subprocess
import time

from ffs_anonymizer.bag import chunks, conversion
from ffs_anonymizer.bag.chunks import plan_chunks, run_chunk
from ffs_anonymizer.bag.plan import BagJob
from ffs_anonymizer.cli.program import main
from ffs_anonymizer.errors import BagError, ModelError
from ffs_anonymizer.jobs import chunks as jobs
from ffs_anonymizer.jobs.chunks import ChunkResult, DetectedBefore, kept_results
from ffs_anonymizer.jobs.journal import journal_of
from ffs_anonymizer.models.manifest import file_sha256
from ffs_anonymizer.models.roster import default_detector
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
import pytest
from support.bags import (
    command,
    digest,
    drive,
    image_cdr,
    leftovers,
    raw_cdr,
    Record,
    ROOT,
    SPECS,
    STEP,
    T0,
    write_bag,
)
from support.onnx_models import exchange
from support.sensor_bags import sensor_bag, TYPES_OF
from support.video_packets import stream
from test_bag_video import faces, VIDEO, write
from test_measured import rows

SETTINGS = {
    'face.method': 'solid',
    'detector.scale': 1.0,
    'detector.plate_model_path': 'none',
    'threads': 1,
}
WORDS = ('--set', 'detector.plate_model_path=none', '--threads', '1')


class Counting(DetectedBefore):
    """Counts what is asked for, and what is not known."""

    def __init__(self, results) -> None:
        super().__init__(results)
        self.asked = self.missed = 0

    def find(self, fingerprint):
        found = super().find(fingerprint)
        self.asked += 1
        self.missed += found is None
        return found


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    monkeypatch.setattr(jobs, 'LEAST_FRAMES', 3)
    yield
    jobs.recipe_that_finds.cache_clear()


def job_of(source: Path, target: Path, **changes) -> BagJob:
    settings = Settings().updated(SETTINGS)
    return BagJob(source=source, target=target, settings=settings, **changes)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def moving(face_bgr, count: int, folder: Path, *, every: int = 1) -> Path:
    """Write a bag with a face that is lost from time to time, so that tracks end and begin."""
    dark = np.zeros_like(face_bgr)
    records = [
        Record('/cam/image', T0 + i * STEP, T0, i, raw_cdr(np.roll(image, i * every, 1)))
        for i in range(count)
        for image in [dark if i % 11 in (5, 6) else face_bgr]
    ]
    return write_bag(folder, records, specs=SPECS[:1], splits=1)


@pytest.mark.parametrize(
    'options', [{}, {'storage': 'sqlite3'}, {'mode': 'MESSAGE'}], ids=['mcap', 'sqlite3', 'zstd']
)
def test_chunks_make_the_bag_that_one_pass_makes(tmp_path, face_bgr, options):
    source = write_bag(tmp_path / 'in', drive(face_bgr, 7), **options)
    found = [tmp_path / 'one.jsonl', tmp_path / 'two.jsonl']
    conversion.run(job_of(source, tmp_path / 'out', write_detections=found[0]))

    job = job_of(source, tmp_path / 'new' / 'out', write_detections=found[1])
    pieces = plan_chunks(job)
    # They travel to other machines, and come back in any order.
    results = [
        pickle.loads(pickle.dumps(run_chunk(pickle.loads(pickle.dumps(p))))) for p in pieces
    ]
    random.Random(1).shuffle(results)
    known = Counting(results)
    conversion.run(job, detected=known)

    assert [piece.number for piece in pieces] == list(range(len(pieces)))
    assert len(pieces) > 3
    assert sum(piece.frames for piece in pieces) == known.asked == 14
    assert known.missed == 0
    assert contents(tmp_path / 'new' / 'out') == contents(tmp_path / 'out')
    assert found[0].read_bytes() == found[1].read_bytes()


def test_tracks_go_on_across_chunks_and_what_is_missing_is_looked_for(tmp_path, face_bgr):
    source = moving(face_bgr, 30, tmp_path / 'in')
    conversion.run(job_of(source, tmp_path / 'out', write_detections=tmp_path / 'one.jsonl'))
    job = job_of(source, tmp_path / 'new' / 'out', write_detections=tmp_path / 'two.jsonl')
    results = [run_chunk(piece) for piece in plan_chunks(job)]
    assert sum(len(result.detections) for result in results) < 30
    del results[2::3]
    report = conversion.run(job, detected=DetectedBefore(results))
    assert report.frames == 30
    assert contents(tmp_path / 'new' / 'out') == contents(tmp_path / 'out')
    lines = (tmp_path / 'one.jsonl').read_text()
    assert lines == (tmp_path / 'two.jsonl').read_text()
    counts = [len(json.loads(line).get('regions', ())) for line in lines.splitlines()[1:]]
    assert sum(counts) == 30


@pytest.mark.parametrize('codec', ['h264', 'hevc'])
def test_videos_are_decoded_from_the_keyframe_before_a_chunk(tmp_path, face_bgr, codec):
    pictures = faces(face_bgr, 14)
    packets = stream(pictures, codec, gop=5)
    write(tmp_path / 'in', VIDEO, packets, codec, (192, 144))
    job = job_of(tmp_path / 'in', tmp_path / 'out')
    pieces = plan_chunks(job)
    assert len(pieces) > 3
    known = Counting([run_chunk(piece) for piece in pieces])
    conversion.run(job, detected=known)
    assert (known.asked, known.missed) == (14, 0)


def test_results_survive_the_disk(tmp_path, face_bgr):
    source = moving(face_bgr, 3, tmp_path / 'in')
    (piece,) = plan_chunks(job_of(source, tmp_path / 'out'))
    result = run_chunk(piece)
    again = ChunkResult.unpacked(piece, result.packed())
    assert (again.job_sha256, again.number) == (result.job_sha256, result.number)
    for name in ('fingerprints', 'counts'):
        np.testing.assert_array_equal(getattr(again, name), getattr(result, name))
    for name in result.detections.COLUMNS:
        one, other = getattr(again.detections, name), getattr(result.detections, name)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_the_number_of_threads_changes_no_bit(tmp_path, face_bgr):
    source = moving(face_bgr, 4, tmp_path / 'in')
    pieces = plan_chunks(job_of(source, tmp_path / 'out'))
    one, three = ([run_chunk(p, threads=n).packed() for p in pieces] for n in (1, 3))
    assert one == three


def test_cuts_lie_between_times_and_within_the_given_ones(tmp_path, face_bgr):
    image = raw_cdr(face_bgr)
    times = [0, 0, 0, 0, 0, 1, 1, 2, 3, 3, 3, 3, 9]
    records = [Record('/cam/image', T0 + at, T0, i, image) for i, at in enumerate(times)]
    source = write_bag(tmp_path / 'in', records, specs=SPECS[:1], splits=1)
    job = job_of(source, tmp_path / 'out')
    spans = [(p.start_ns - T0, p.end_ns - T0, p.frames) for p in plan_chunks(job)]
    assert spans == [(0, 0, 5), (1, 2, 3), (3, 3, 4), (9, 9, 1)]
    later = plan_chunks(replace(job, start_ns=T0 + 1, end_ns=T0 + 3))
    assert [(p.start_ns - T0, p.frames) for p in later] == [(1, 3), (3, 4)]
    assert plan_chunks(replace(job, start_ns=T0 + 10)) == []
    assert plan_chunks(replace(job, detections=tmp_path / 'list')) == []


def test_other_settings_inputs_and_outputs_are_other_jobs(tmp_path, face_bgr):
    source = moving(face_bgr, 3, tmp_path / 'in')
    job = job_of(source, tmp_path / 'out')

    def sha256(job: BagJob) -> str:
        return plan_chunks(job)[0].job_sha256

    same = [job, replace(job, on_error='black'), replace(job, target=tmp_path / 'elsewhere')]
    assert len({*map(sha256, same)}) == 1
    moved = tmp_path / 'moved'
    source.rename(moved)
    assert sha256(replace(job, source=moved)) == sha256(replace(job, source=moved))
    moved.rename(source)
    others = [
        replace(job, settings=job.settings.updated({'face.threshold': 0.3})),
        replace(job, start_ns=T0 + 1),
        replace(job, storage='sqlite3'),
        replace(job, write_detections=tmp_path / 'list'),
        replace(job, source=moving(face_bgr, 3, tmp_path / 'other', every=2)),
    ]
    assert len({*map(sha256, [job, *others])}) == 1 + len(others)


def test_a_bag_that_cannot_be_read_from_anywhere(tmp_path, face_bgr):
    source = write_bag(tmp_path / 'in', drive(face_bgr, 2), mode='FILE')
    with pytest.raises(BagError, match='compressed as a whole.*or leave out --workers$'):
        plan_chunks(job_of(source, tmp_path / 'out'))


def test_a_picture_that_cannot_be_anonymized_stops_it_and_what_is_done_is_kept(
    tmp_path, face_bgr, capsys, monkeypatch
):
    records = [Record('/cam/image', T0 + i * STEP, T0, i, raw_cdr(face_bgr)) for i in range(10)]
    short = image_cdr(np.zeros(10, np.uint8), 144, 192, 'bgr8', 576)
    records[8] = records[8]._replace(data=short)
    source = write_bag(tmp_path / 'in', records, specs=SPECS[:1], splits=1)
    monkeypatch.setattr(jobs, 'LEAST_FRAMES', 4)
    words = ['bag', '-i', source, '-o', tmp_path / 'out', '--method', 'solid', *WORDS]
    words = [*map(str, words), '--disable-progress-output']
    assert main(words) == 1
    plain = capsys.readouterr().err.splitlines()[-1]
    assert leftovers(tmp_path) == []
    assert main([*words, '--workers', '1']) == 1
    assert capsys.readouterr().err.splitlines()[-1] == plain
    assert leftovers(tmp_path) == ['out.partial']
    assert main([*words, '--workers', '1', '--on-error', 'black']) == 1
    assert 'resuming: 2 of 3 chunks are there\n' in capsys.readouterr().out
    words[4] = str(tmp_path / 'one' / 'out')
    assert main([*words, '--on-error', 'black']) == 1
    assert contents(tmp_path / 'one' / 'out') == contents(tmp_path / 'out')


def test_clouds_that_are_pictures_are_looked_at_too(tmp_path, face_bgr):
    source = sensor_bag(tmp_path / 'in', rows(face_bgr), TYPES_OF)
    job = job_of(source, tmp_path / 'out')
    cameras = {'cloud.cameras': ('/lidar /cam/image',), 'depth.cameras': ('/depth/* /cam/image',)}
    depth = replace(job.selection, depth_topics=('/depth/*',))
    job = replace(job, settings=job.settings.updated(cameras), selection=depth)
    pieces = plan_chunks(job)
    assert [piece.topics for piece in pieces] == [('/cam/image', '/points')]
    known = Counting([run_chunk(piece) for piece in pieces])
    conversion.run(job, detected=known)
    assert (known.asked, known.missed) == (2, 0)


def test_killed_runs_go_on(tmp_path, face_bgr, capsys, monkeypatch):
    """Killed with chunks done, one of them damaged then; the same command makes the same bag."""
    # As the process that is killed has it.
    monkeypatch.undo()
    source = moving(face_bgr, 48, tmp_path / 'in')
    before = digest(source)
    words = command(source, tmp_path / 'out', *WORDS, '--workers', '1')
    journal = tmp_path / 'out.partial' / 'journal'
    with subprocess.Popen(words, cwd=ROOT, stdout=subprocess.DEVNULL) as process:
        deadline = time.monotonic() + 60
        while not journal.exists() or journal.read_bytes().count(b'\n') < 3:
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert leftovers(tmp_path) == ['out.partial']
    assert main([*words[3:], '--threads', '2']) == 1
    assert 'other settings, another input or another version' in capsys.readouterr().err

    lines = journal.read_bytes().splitlines(keepends=True)
    lines[1] = lines[1].replace(b'"data": "', b'"data": "AA')
    journal.write_bytes(b''.join(lines))
    assert main(words[3:]) == 0
    said = f'resuming: {len(lines) - 2} of 3 chunks are there, 1 damaged ones are done again'
    assert said in capsys.readouterr().out

    (tmp_path / 'one').mkdir()
    assert main(command(source, tmp_path / 'one' / 'out', *WORDS)[3:]) == 0
    assert contents(tmp_path / 'out') == contents(tmp_path / 'one' / 'out')
    told, expected = (
        json.loads(path.with_name('out.privacy.json').read_text())
        for path in (tmp_path / 'out', tmp_path / 'one' / 'out')
    )
    for record in (told, expected):
        del record['started'], record['ended']
    assert told == expected
    assert leftovers(tmp_path) == ['one', 'out', 'out.privacy.json']
    assert digest(source) == before


@pytest.mark.parametrize('when', ['before it looks', 'after it looked'])
def test_the_record_names_the_detector_that_looked(tmp_path, face_bgr, monkeypatch, when):
    """Whatever becomes of its file meanwhile."""
    path = tmp_path / 'faces.onnx'
    shutil.copyfile(default_detector(), path)
    old = file_sha256(path)
    settings = Settings().updated({**SETTINGS, 'detector.model_path': str(path)})
    source = moving(face_bgr, 6, tmp_path / 'in')
    job = replace(job_of(source, tmp_path / 'out'), settings=settings)
    place = 'check_first_images' if when == 'before it looks' else 'detect_in_processes'
    real = getattr(chunks, place)

    def exchanging(*args, **options):
        made = real(*args, **options)
        exchange(path)
        return made

    monkeypatch.setattr(chunks, place, exchanging)
    if when == 'before it looks':
        with pytest.raises(ModelError, match='got other detectors on .* nobody to exchange them'):
            chunks.run(job, workers=1)
        assert not job.target.exists()
    else:
        assert chunks.run(job, workers=1).frames == 6
        record = json.loads((tmp_path / 'out.privacy.json').read_text())
        assert f'sha256:{old[:12]}' in record['models']['face detector']
    assert file_sha256(path) != old


def test_killed_while_names_are_given(tmp_path, face_bgr, monkeypatch, capsys):
    source = moving(face_bgr, 3, tmp_path / 'in')
    job = job_of(source, tmp_path / 'out', write_detections=tmp_path / 'list')

    class KilledError(BaseException):
        pass

    def killed(self):
        raise KilledError

    with monkeypatch.context() as patched:
        patched.setattr('ffs_anonymizer.jobs.journal.Journal.give_names', killed)
        with pytest.raises(KilledError):
            chunks.run(job, workers=1)
    assert leftovers(tmp_path) == ['out.partial']
    told = []
    report = chunks.run(job, workers=1, tell=told.append)
    assert told == ['resuming: all is there, and gets its names']
    assert (report.frames, report.written, report.exit_code) == (3, 1, 0)
    assert report.regions['face'] == 3
    assert leftovers(tmp_path) == ['list', 'out', 'out.privacy.json']


def test_a_stranger_s_partial_is_left_alone(tmp_path, face_bgr):
    source = moving(face_bgr, 3, tmp_path / 'in')
    (tmp_path / 'out.partial').mkdir()
    (tmp_path / 'out.partial' / 'mine').touch()
    with pytest.raises(Exception, match='another run is writing it, or one was killed'):
        chunks.run(job_of(source, tmp_path / 'out'), workers=1)
    assert [path.name for path in (tmp_path / 'out.partial').iterdir()] == ['mine']


def test_a_journal_can_be_filled_by_others(tmp_path, face_bgr):
    """As machines of a fleet do, which return results in any order."""
    source = moving(face_bgr, 12, tmp_path / 'in')
    job = job_of(source, tmp_path / 'out')
    pieces = plan_chunks(job)
    with journal_of(job.target, pieces[0].job_sha256) as journal:
        for piece in reversed(pieces):
            journal.keep(piece.name, run_chunk(piece).packed())
        known = DetectedBefore(list(kept_results(pieces, journal).values()))
        assert conversion.run(job, detected=known, outputs=journal).frames == 12
    assert leftovers(tmp_path) == ['out', 'out.privacy.json']
