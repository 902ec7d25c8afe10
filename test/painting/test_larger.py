import json
from types import SimpleNamespace

from ffs_anonymizer.anonymizer import Recipe, Request
from ffs_anonymizer.cli.program import main
from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.frames.array import ArrayFrame
from ffs_anonymizer.jobs.job import nobody, opened
from ffs_anonymizer.jobs.report import Report
from ffs_anonymizer.models import roster
from ffs_anonymizer.models.manifest import file_sha256, Manifest, save_manifest
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.painting.generator import who_paints
from ffs_anonymizer.regions.detections import Detections, FACE
from ffs_anonymizer.settings.runtime import Settings
from ffs_anonymizer.stream import Stream
import numpy as np
import pytest
from support.onnx_models import save_generator

SIDE = 32
SMALL, LARGE = (10, 10, 30, 34), (60, 10, 130, 90)


def save(folder, name, *, larger='', **options):
    """Write a generator with its manifest."""
    path = save_generator(folder / f'{name}.onnx', **options)
    side = options['size_px']
    shape = {'condition': ('N', 3, side, side)}
    told = name, 'generator', '0', file_sha256(path), shape, shape, side, 1.3, 'fp32', '', ''
    save_manifest(Manifest(*told, larger=larger), path)
    return path


def settings(path, **changes):
    return Settings().updated(
        {
            'face.method': 'generate',
            'detector.plate_model_path': 'none',
            'generator.model_path': str(path),
            'generator.min_region_px': 1,
            'device': 'cpu',
            **changes,
        }
    )


def painted(path, image, **changes):
    wanted = settings(path, **changes)
    found = Detections.of([SMALL, LARGE], [0.9] * 2, FACE)
    frame = ArrayFrame(image.copy())
    with Networks(wanted) as networks:
        request = Request(frame, detections=found)
        ((result, _),) = Recipe(networks, wanted).anonymize_together([request])
    return frame.image_bgr, result.regions.xyxy_px.astype(int)


@pytest.fixture
def image():
    return np.random.default_rng(0).integers(0, 256, (100, 160, 3), np.uint8)


def test_large_faces_are_painted_by_the_larger_one(tmp_path, image):
    both = save(tmp_path, 'both', larger='fine.onnx', size_px=SIDE)
    fine = save(tmp_path, 'fine', size_px=2 * SIDE, seed=1)
    alone = save(tmp_path, 'alone', size_px=SIDE)
    got, regions = painted(both, image)
    coarse, finer = painted(alone, image)[0], painted(fine, image)[0]
    inside = [np.s_[y0 + 2 : y1 - 2, x0 + 2 : x1 - 2] for x0, y0, x1, y1 in regions]
    assert np.array_equal(got[inside[0]], coarse[inside[0]])
    assert not np.array_equal(got[inside[0]], finer[inside[0]])
    assert np.array_equal(got[inside[1]], finer[inside[1]])

    # Nothing of any region comes through
    noisy = image.copy()
    for x0, y0, x1, y1 in regions:
        noisy[y0:y1, x0:x1] = 255 - noisy[y0:y1, x0:x1]
    assert np.array_equal(painted(both, noisy)[0], got)

    # What time is short for is left to the first
    assert np.array_equal(painted(both, image, budget_ms=1e4)[0], coarse)


def test_a_track_stays_with_the_generator_that_it_had():
    coarse = SimpleNamespace(
        size_px=SIDE, crop_scale=1.0, larger=SimpleNamespace(size_px=2 * SIDE)
    )
    limit = round(SIDE * 2**0.5)

    def paints(side_px, before):
        rects = np.array([[0, 0, side_px, 9]], np.int32)
        ids, codes = np.array([7], np.int64), np.array([0], np.int8)
        return who_paints(rects, codes, [coarse], larger=True, track_ids=ids, before=before)[0]

    assert [paints(limit - 1, ()), paints(limit + 1, ())] == [0, 1]
    assert [paints(limit - 1, {(1, 7)}), paints(limit + 1, {(0, 7)})] == [1, 0]
    assert [paints(limit - 1, {(1, 8)}), paints(limit + 1, {(0, 8)})] == [0, 1]
    assert [paints(limit - 5, {(1, 7)}), paints(limit + 5, {(0, 7)})] == [0, 1]


def test_it_is_a_role_of_its_own_unless_time_is_short(tmp_path):
    both = save(tmp_path, 'both', larger='fine.onnx', size_px=SIDE)
    roles = roster.roster(settings(both))
    assert [role.name for role in roles] == ['face detector', 'generator', roster.LARGER]
    assert roles[-1].path == tmp_path / 'fine.onnx'
    assert roster.LARGER not in [r.name for r in roster.roster(settings(both, budget_ms=5.0))]
    with pytest.raises(ModelError, match=r'fine\.onnx: got nothing there'):
        Networks(settings(both))
    # A recording has time, whatever the budget
    with pytest.raises(ModelError, match=r'fine\.onnx: got nothing there'):
        roster.check(settings(both, budget_ms=5.0))


def test_it_is_built_whatever_the_budget(tmp_path, capsys):
    both = save(tmp_path, 'both', larger='fine.onnx', size_px=SIDE)
    fine = save(tmp_path, 'fine', size_px=2 * SIDE)
    words = ('--method', 'face=generate', '--generator-model', str(both), '--set', 'budget_ms=5')
    assert main(['build', *words, '--dry-run']) == 0
    assert f'{fine}: shapes to build for' in capsys.readouterr().out


def test_a_budget_that_goes_brings_it(tmp_path, image):
    both = save(tmp_path, 'both', larger='fine.onnx', size_px=SIDE)
    save(tmp_path, 'fine', size_px=2 * SIDE, seed=1)
    found = Detections.of([SMALL, LARGE], [0.9] * 2, FACE)
    hurried = settings(both, budget_ms=1e4)
    with Networks(hurried) as networks:
        assert roster.LARGER not in networks.words()
        # A recording has time
        report = Report()
        with opened(hurried, report, nobody, networks) as recipe:
            assert roster.LARGER in report.models
            frame = ArrayFrame(image.copy())
            recipe.anonymize(frame, Stream(), detections=found)
        assert np.array_equal(frame.image_bgr, painted(both, image)[0])
        frame = ArrayFrame(image.copy())
        Recipe(networks, hurried).anonymize(frame, Stream(), detections=found)
        assert np.array_equal(frame.image_bgr, painted(both, image, budget_ms=1e4)[0])


def test_one_that_is_not_larger_is_refused(tmp_path):
    both = save(tmp_path, 'both', larger='same.onnx', size_px=SIDE)
    save(tmp_path, 'same', size_px=SIDE)
    with pytest.raises(ModelError, match=r'same\.onnx: got latents of 0 numbers and crops of 32'):
        Networks(settings(both))


def test_a_name_elsewhere_is_refused(tmp_path):
    both = save(tmp_path, 'both', size_px=SIDE)
    told = json.loads(both.with_suffix('.json').read_text())
    both.with_suffix('.json').write_text(json.dumps({**told, 'larger': '../fine.onnx'}))
    with pytest.raises(ModelError, match='larger: got .* expected the name of a file beside it'):
        Networks(settings(both))
