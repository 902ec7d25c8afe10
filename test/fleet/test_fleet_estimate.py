"""Test what a fleet is said to amount to before it is begun."""

from pathlib import Path

import cv2
from ffs_anonymizer.bag.plan import BagJob
from ffs_anonymizer.cli.program import main
from ffs_anonymizer.errors import AnonymizerError
from ffs_anonymizer.fleet.estimate import estimate
from ffs_anonymizer.fleet.plan import FleetPlan
from ffs_anonymizer.media.files import MediaJob
from ffs_anonymizer.settings.runtime import Settings
import pytest
from support.bags import drive, QUICK, write_bag
from support.media import TIMES_MS, write_video

SETTINGS = Settings().updated(
    {'face.method': 'solid', 'detector.scale': 1.0, 'detector.plate_model_path': 'none'}
)


def plan_of(source: Path) -> FleetPlan:
    nowhere = {'source': Path(), 'target': Path(), 'settings': SETTINGS}
    output = source.with_name('out')
    return FleetPlan.of(str(source), output, bag=BagJob(**nowhere), media=MediaJob(**nowhere))


def test_all_recordings_count_and_few_are_looked_at(tmp_path, face_bgr):
    source = tmp_path / 'in'
    source.mkdir()
    for number in range(9):
        write_bag(source / f'bag_{number}', drive(face_bgr, 3))
    cv2.imwrite(str(source / 'face.png'), face_bgr)
    write_video(source / 'film.mp4', face_bgr)
    found = estimate(plan_of(source), sample_s=0.2)
    # Two topics of each bag; bags are of nearly one size.
    assert found.frames == pytest.approx(9 * 6 + 1 + len(TIMES_MS), abs=2)
    assert found.seconds > 0
    written = sum(path.stat().st_size for path in source.rglob('*') if path.is_file())
    assert 0.5 * written < found.size_bytes < 1.5 * written
    assert found.sampled <= 4 * 6 + 1 + len(TIMES_MS)
    assert not (tmp_path / 'out').exists()


def test_bags_that_cannot_be_read_do_not_count(tmp_path, face_bgr):
    source = tmp_path / 'in'
    source.mkdir()
    (source / 'torn.mcap').write_bytes(b'torn')
    with pytest.raises(AnonymizerError, match='torn'):
        estimate(plan_of(source), sample_s=0.1)
    write_bag(source / 'bag', drive(face_bgr, 2))
    assert estimate(plan_of(source), sample_s=0.1).frames == 4


def test_a_dry_run_says_it(tmp_path, face_bgr, capsys):
    cv2.imwrite(str(tmp_path / 'face.png'), face_bgr)
    words = ['fleet', '-i', str(tmp_path / 'face.png'), '-o', str(tmp_path / 'out'), '--dry-run']
    assert main([*words, *QUICK[:-1]]) == 0
    said = capsys.readouterr().out
    assert 'estimate: 1 images, about ' in said
    assert not (tmp_path / 'out').exists()
