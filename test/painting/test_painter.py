"""The recipe through a painter: the kernels on this machine's CPU, and the generator between."""

import contextlib

from ffs_anonymizer.anonymizer import Recipe, Request
from ffs_anonymizer.backend import open_model
from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.frames.message import decode
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.painting.budget import Cost
from ffs_anonymizer.regions.detections import Detections, FACE, PLATE
from ffs_anonymizer.settings.runtime import Settings
from ffs_anonymizer.stream import Stream
import numpy as np
import pytest
from support.host_kernels import compiled_for_the_host, GXX, KernelPainter
from support.onnx_models import save_coded_generator, save_failing_generator, save_generator
from support.recipes import with_settings

SIZE_PX = 32
pytestmark = pytest.mark.skipif(GXX is None, reason='needs g++')


@pytest.fixture(scope='module')
def kernels(tmp_path_factory):
    return compiled_for_the_host(tmp_path_factory.mktemp('kernels'))


class Message:
    """A sensor_msgs/Image."""

    def __init__(self, image, encoding='bgr8'):
        self.height, self.width = image.shape[:2]
        self.encoding, self.is_bigendian, self.step = encoding, 0, image.shape[1] * 3
        self.data = image.tobytes()


def settings(tmp_path, **changes):
    path = save_generator(tmp_path / 'generator.onnx', size_px=SIZE_PX)
    return Settings().updated(
        {
            'generator.model_path': str(path),
            'face.method': 'generate',
            'plate.method': 'mosaic',
            'device': 'cpu',
            **changes,
        }
    )


@pytest.fixture
def both(tmp_path, kernels):
    """Return the recipe by its stages, and the same through a painter."""
    with contextlib.ExitStack() as stack:

        def make(**changes):
            wanted = settings(tmp_path, **changes)
            plain, painted = (
                Recipe(stack.enter_context(Networks(wanted)), wanted) for _ in range(2)
            )
            painters = painted._painters.devices
            for i, generator in enumerate(painted._generators):
                painters[i] = KernelPainter(kernels, generator.model)
            return plain, painted

        yield make


def detections(boxes):
    classes = [PLATE if i % 3 == 2 else FACE for i in range(len(boxes))]
    found = Detections.empty()
    for box, index in zip(boxes, classes, strict=True):
        found += Detections.of([box], [0.9], index)
    return found


def run(anonymizer, image, found):
    result, _ = anonymizer.anonymize(decode(Message(image)), Stream(), detections=found)
    return np.frombuffer(bytes(result.data), np.uint8).reshape(image.shape), result


BOXES = [
    [(60, 50, 90, 95)],
    [(20, 20, 40, 50), (35, 30, 60, 55), (33, 25, 56, 48)],
    [(0, 0, 25, 25), (170, 0, 200, 20), (150, 5, 190, 30), (161, 127, 200, 150), (5, 5, 9, 9)],
]


def picture():
    return np.random.default_rng(0).integers(0, 256, (150, 200, 3), np.uint8)


@pytest.mark.parametrize('boxes', BOXES)
@pytest.mark.parametrize('feather', [0.0, 0.1, 0.4])
def test_a_painter_does_what_the_stages_do(both, boxes, feather):
    plain, painted = both(feather=feather)
    want, first = run(plain, picture(), detections(boxes))
    got, second = run(painted, picture(), detections(boxes))
    assert len(painted._painters.devices[0].jobs) == 1
    assert np.array_equal(first.replaced.touched_xyxy_px, second.replaced.touched_xyxy_px)
    assert first.replaced.counts == second.replaced.counts
    assert np.abs(got.astype(int) - want).max() <= 3
    assert np.abs(got.astype(int) - want).mean() < 0.05


@pytest.mark.parametrize('boxes', BOXES)
def test_a_painter_draws_the_same_faces_where_they_have_latent_and_points(both, tmp_path, boxes):
    path = save_coded_generator(tmp_path / 'coded.onnx', size_px=SIZE_PX)
    plain, painted = both(**{'generator.model_path': str(path)})
    want, _ = run(plain, picture(), detections(boxes))
    got, _ = run(painted, picture(), detections(boxes))
    assert len(painted._painters.devices[0].jobs) == 1
    assert np.abs(got.astype(int) - want).max() <= 3
    other, _ = run(with_settings(plain, generator__seed=5), picture(), detections(boxes))
    assert np.abs(other.astype(int) - want).max() > 3


@pytest.mark.parametrize('boxes', BOXES)
def test_nothing_inside_the_regions_reaches_the_output(both, boxes):
    _, painted = both(**{'plate.method': 'solid', 'face.fallback': 'solid'})
    noisy, rng = picture(), np.random.default_rng(1)
    got, result = run(painted, picture(), detections(boxes))
    for x0, y0, x1, y1 in result.regions.xyxy_px:
        inside = slice(int(np.floor(y0)), int(np.ceil(y1))), slice(int(x0), int(np.ceil(x1)))
        noisy[inside] = rng.integers(0, 256, noisy[inside].shape, np.uint8)
    assert np.array_equal(got, run(painted, noisy, detections(boxes))[0])
    assert not np.array_equal(noisy, picture())


def test_without_faces_to_generate_the_painter_rests(both):
    _, painted = both(**{'face.method': 'blur'})
    assert painted._generators == ()
    _, painted = both()
    run(painted, picture(), Detections.empty())
    run(painted, picture(), Detections.of([(5, 5, 60, 20)], [0.9], PLATE))
    assert painted._painters.devices[0].jobs == []


def test_a_painter_that_fails_is_one_error_or_the_fallback(both, tmp_path, kernels):
    broken = open_model(save_failing_generator(tmp_path / 'failing.onnx', size_px=SIZE_PX))
    for on_error in ('stop', 'fallback'):
        plain, painted = both(**{'generator.on_error': on_error})
        painted._painters.devices[0] = KernelPainter(kernels, broken)
        if on_error == 'stop':
            with pytest.raises(ModelError, match='failing.onnx'):
                run(painted, picture(), detections(BOXES[1]))
            continue
        got, result = run(painted, picture(), detections(BOXES[1]))
        assert result.replaced.counts == {'blur': 2, 'mosaic': 1}
        assert 'faces use the fallback' in result.replaced.warnings[0]
        plain = with_settings(plain, face__method='blur')
        assert np.array_equal(got, run(plain, picture(), detections(BOXES[1]))[0])


def test_faces_of_two_generators_go_by_the_stages(both, tmp_path):
    small = save_generator(tmp_path / 'small.onnx', size_px=SIZE_PX, seed=1)
    _, painted = both(**{'generator.small_model_path': str(small)})
    painted = with_settings(painted, budget_ms=1000.0)
    large, less = painted._generators
    painter = painted._painters.devices[0]
    # The first face would take all the time there is, the second none.
    large.cost, less.cost = Cost(0.0, 600.0), Cost(0.0, 1.0)
    _, result = run(
        painted, picture(), Detections.of([(5, 5, 60, 70), (80, 5, 190, 140)], [0.9] * 2, FACE)
    )
    assert result.replaced.counts == {'generate': 1, 'generate (small)': 1}
    assert painter.jobs == []
    _, result = run(painted, picture(), Detections.of([(5, 5, 60, 70)], [0.9], FACE))
    assert result.replaced.counts == {'generate': 1}
    assert len(painter.jobs) == 1


def test_frames_that_go_together_keep_their_own_patches(both):
    """The painter's memory is written anew by each call."""
    plain, painted = both()
    pictures = [np.roll(picture(), 31 * i, axis=1) for i in range(3)]
    found = [detections(boxes) for boxes in BOXES]

    def requests():
        return [
            Request(decode(Message(image)), detections=boxes)
            for image, boxes in zip(pictures, found, strict=True)
        ]

    want, got = plain.anonymize_together(requests()), painted.anonymize_together(requests())
    for (one, _), (other, _) in zip(want, got, strict=True):
        first, second = (np.frombuffer(bytes(frame.data), np.uint8) for frame in (one, other))
        assert np.abs(first.astype(int) - second).max() <= 3
    assert len(painted._painters.devices[0].jobs) == 3
