"""Test what a job is said to amount to before it is done."""

from pathlib import Path

from ffs_anonymizer.bag.estimate import estimate
from ffs_anonymizer.bag.plan import BagJob, BagPlan
from ffs_anonymizer.jobs.estimate import Estimate
from ffs_anonymizer.settings.runtime import Settings
import pytest
from support.bags import drive, leftovers, others, run, SPECS, T0, write_bag
from support.video_packets import stream
from test_bag_video import faces, VIDEO, write

SETTINGS = {'face.method': 'solid', 'detector.scale': 1.0, 'detector.plate_model_path': 'none'}


def plan_of(source: Path, target: Path, **changes) -> BagPlan:
    return BagPlan(BagJob(source=source, target=target, settings=OWN, **changes))


OWN = Settings().updated(SETTINGS)


def test_frames_time_and_size_of_a_bag(tmp_path, face_bgr):
    source = write_bag(tmp_path / 'in', drive(face_bgr, 6))
    before = sum(path.stat().st_size for path in source.glob('*.mcap'))
    whole = estimate(plan_of(source, tmp_path / 'out'), sample_s=0.3)
    assert whole.frames == 12
    assert 2 <= whole.sampled <= 12
    assert whole.seconds > 0
    assert 0.5 * before < whole.size_bytes < 1.5 * before
    later = estimate(plan_of(source, tmp_path / 'out', start_ns=T0 + 1), sample_s=0.1)
    assert later.frames == 11
    assert leftovers(tmp_path) == []


def test_a_video_is_sampled_from_a_keyframe(tmp_path, face_bgr):
    write(tmp_path / 'in', VIDEO, stream(faces(face_bgr, 12), 'h264', gop=5), 'h264', (192, 144))
    found = estimate(plan_of(tmp_path / 'in', tmp_path / 'out'), sample_s=0.2)
    assert found.frames == 12
    assert found.sampled >= 2


def test_a_bag_without_pictures_needs_no_network(tmp_path, face_bgr):
    source = write_bag(tmp_path / 'in', others(drive(face_bgr, 2)), specs=SPECS[2:], splits=1)
    found = estimate(plan_of(source, tmp_path / 'out'))
    assert (found.frames, found.sampled) == (0, 0)


@pytest.mark.parametrize(
    ('seconds', 'words'), [(90.0, 'about 1.5 minutes'), (9000.0, 'about 2.5 hours')]
)
def test_its_words(seconds, words):
    text = Estimate(12000, seconds, 35.04e9, 9).words()
    assert words in text
    assert text.startswith('estimate: 12000 images, ')
    assert 'about 35 GB; from a sample of 9 images' in text


def test_a_dry_run_says_it_or_why_not(tmp_path, face_bgr, capsys):
    words = ['--dry-run', '--set', 'detector.plate_model_path=none']
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1))
    assert run(source, tmp_path / 'out', *words) == 0
    assert 'estimate: 2 images, about ' in capsys.readouterr().out
    (tmp_path / 'other').mkdir()
    source = write_bag(tmp_path / 'other' / 'in', drive(face_bgr, 1), mode='FILE')
    assert run(source, tmp_path / 'out', *words) == 0
    assert 'no estimate: ' in capsys.readouterr().out
