from functools import partial
from pathlib import Path
from types import SimpleNamespace

from ffs_anonymizer.anonymizer import Recipe, Request
from ffs_anonymizer.backend import open_model
from ffs_anonymizer.errors import AnonymizerError, ModelError
from ffs_anonymizer.frames.array import ArrayFrame
from ffs_anonymizer.frames.message import decode_image
from ffs_anonymizer.models.manifest import file_sha256, Manifest, save_manifest
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.painting.chooser import Chooser
from ffs_anonymizer.painting.crops import Crops
from ffs_anonymizer.regions.detections import Detections, FACE
from ffs_anonymizer.settings.runtime import Settings
from ffs_anonymizer.stream import Drawn, Stream
import numpy as np
import pytest
from support.onnx_models import save_chooser, save_coded_generator

SIDE, LENGTH = 32, 8
BOX = (30, 20, 60, 55)


def save_pair(folder, *, length=LENGTH, wide=None, **options):
    """Write a generator, its chooser and the manifest that ties them together."""
    generator = save_coded_generator(folder / 'g.onnx', size_px=SIDE, length=LENGTH)
    side = SIDE if wide is None else SIDE // 2
    chooser = save_chooser(folder / 'f.onnx', size_px=side, length=length, **options)
    empty = {'condition': ('N', 3, SIDE, SIDE)}
    if wide is not None:
        told = 'f', 'chooser', '0', file_sha256(chooser), empty, empty, side, wide
        save_manifest(Manifest(*told, 'fp32', '', ''), chooser)
    manifest = Manifest(
        'g',
        'generator',
        '0',
        file_sha256(generator),
        empty,
        empty,
        SIDE,
        1.3,
        'fp32',
        '',
        '',
        chooser='f.onnx',
    )
    save_manifest(manifest, generator)
    return generator


@pytest.fixture
def opened(tmp_path):
    """Return what opens a recipe over such a pair, and close all at the end."""
    made = []

    def open_pair(*, changes=None, **options):
        folder = tmp_path / str(len(made))
        folder.mkdir()
        settings = Settings().updated(
            {
                'face.method': 'generate',
                'detector.plate_model_path': 'none',
                'generator.model_path': str(save_pair(folder, **options)),
                'generator.min_region_px': 1,
                'tracker.max_gap_ms': 400.0,
                'device': 'cpu',
                **(changes or {}),
            }
        )
        made.append(Networks(settings))
        return Recipe(made[-1], settings)

    yield open_pair
    for networks in made:
        networks.close()


def shown(recipe, stream, stamp_ms, *, level=100, boxes=(BOX,), inside=None, far=100):
    """Return the latent of the first region, and the stream after it."""
    image = np.full((72, 96, 3), level, np.uint8)
    image[:, 86:] = far
    if inside is not None:
        x0, y0, x1, y1 = BOX
        image[y0:y1, x0:x1] = inside
    found = Detections.of(list(boxes), np.ones(len(boxes)), FACE)
    regions, seen = recipe.find(
        found, stream.seen, names=stream.names, size_wh=(96, 72), stamp_ns=int(stamp_ms * 1e6)
    )
    choice, drawn = recipe.choose(ArrayFrame(image), regions, stream.drawn, stream=stream.names[0])
    return choice.latents, Stream(stream.names, seen, drawn)


def test_surroundings_and_chance_choose_the_face(opened):
    recipe = opened()
    (first,), _ = shown(recipe, Stream(('front',)), 0)
    assert first.shape == (LENGTH,)
    assert np.array_equal(first, shown(recipe, Stream(('front',)), 0)[0][0])
    assert not np.array_equal(first, shown(recipe, Stream(('rear',)), 0)[0][0])
    assert not np.array_equal(first, shown(recipe, Stream(('front',)), 0, level=160)[0][0])


def test_nothing_of_the_face_itself_has_a_say(opened):
    recipe, rng = opened(), np.random.default_rng(0)
    noise = rng.integers(0, 256, (BOX[3] - BOX[1], BOX[2] - BOX[0], 3), np.uint8)
    plain, covered = (
        shown(recipe, Stream(('front',)), 0, inside=inside)[0][0] for inside in (0, noise)
    )
    assert np.array_equal(plain, covered)


@pytest.mark.parametrize(('wide', 'alike'), [(1.2, True), (3.0, False)])
def test_a_chooser_sees_as_much_as_its_manifest_says(opened, wide, alike):
    recipe = opened(wide=wide)
    (plain,), _ = shown(recipe, Stream(('front',)), 0)
    (other,), _ = shown(recipe, Stream(('front',)), 0, far=200)
    assert np.array_equal(plain, other) == alike


def test_not_even_the_brightness_of_a_deep_image_follows_from_the_face(opened):
    recipe, rng = opened(), np.random.default_rng(0)
    samples = rng.integers(3000, 5000, (72, 96, 3)).astype('<u2')
    x0, y0, x1, y1 = BOX
    chosen = []
    for inside in (0, 65535):
        samples[y0:y1, x0:x1] = inside
        msg = SimpleNamespace(
            height=72,
            width=96,
            encoding='bgr16',
            is_bigendian=0,
            step=576,
            data=samples.tobytes(),
        )
        found = Detections.of([BOX], np.ones(1), FACE)
        regions, _ = recipe.find(
            found, Stream().seen, names=('',), size_wh=(96, 72), stamp_ns=None
        )
        choice, _ = recipe.choose(decode_image(msg), regions, Drawn())
        chosen.append(choice.latents[0])
    assert np.array_equal(*chosen)


def test_a_track_keeps_its_face_in_other_surroundings_until_it_is_gone(opened):
    recipe = opened()
    (first,), stream = shown(recipe, Stream(('front',)), 0)
    (again, other), stream = shown(recipe, stream, 33, level=160, boxes=(BOX, (70, 10, 90, 30)))
    assert np.array_equal(first, again)
    assert not np.array_equal(again, other)
    assert len(stream.drawn.faces) == 2
    for stamp_ms in range(100, 1200, 100):
        _, stream = shown(recipe, stream, stamp_ms, boxes=())
    assert not stream.drawn.faces


def test_no_two_people_in_sight_wear_one_face(opened):
    recipe = opened(gallery=6)
    boxes = tuple(
        (10 + 28 * i, 5 + 34 * j, 30 + 28 * i, 30 + 34 * j) for i in range(3) for j in (0, 1)
    )
    latents, stream = shown(recipe, Stream(('front',)), 0, boxes=boxes[:3])
    assert len({face.tobytes() for face in latents}) == 3
    latents, _ = shown(recipe, stream, 33, boxes=boxes[:5])
    assert len({face.tobytes() for face in latents}) >= 4
    few, _ = shown(opened(gallery=1), Stream(('front',)), 0, boxes=boxes)
    assert len({face.tobytes() for face in few}) == 1


def test_what_is_worn_is_what_is_painted(opened):
    recipe = opened()
    found = Detections.of([BOX], np.ones(1), FACE)
    painted = []
    for level in (100, 160):
        frame = ArrayFrame(np.full((72, 96, 3), level, np.uint8))
        result, _ = recipe.anonymize(frame, Stream(('front',)), stamp_ns=0, detections=found)
        assert result.replaced.counts == {'generate': 1}
        painted.append(frame.image_bgr[37, 45].astype(int) - level)
    assert (painted[0] != painted[1]).any()


def test_faces_of_another_chooser_are_not_worn(opened):
    recipe, other = opened(), opened(seed=1)
    (first,), stream = shown(recipe, Stream(('front',)), 0)
    (chosen,), _ = shown(other, stream, 33)
    assert not np.array_equal(first, chosen)


@pytest.mark.parametrize('on_error', ['stop', 'fallback'])
def test_a_chooser_that_fails_lets_no_face_through(opened, on_error):
    recipe = opened(fails=True, changes={'generator.on_error': on_error})
    image = np.full((72, 96, 3), 100, np.uint8)
    run = partial(
        recipe.anonymize,
        ArrayFrame(image),
        Stream(),
        stamp_ns=0,
        detections=Detections.of([BOX], np.ones(1), FACE),
    )
    if on_error == 'stop':
        with pytest.raises(AnonymizerError):
            run()
    else:
        result, _ = run()
        assert result.replaced.counts == {'blur': 1}
        assert '1 faces use the fallback' in result.replaced.warnings[0]


def test_cameras_side_by_side_keep_their_own_faces(opened):
    recipe, found = opened(), Detections.of([BOX], [1.0], FACE)
    streams = {name: Stream((name,)) for name in ('front', 'rear')}
    worn = []
    for i, order in enumerate((['front', 'rear'], ['rear', 'front'], ['rear'], ['front', 'rear'])):
        requests = [
            Request(
                ArrayFrame(np.full((72, 96, 3), 100 + 20 * i, np.uint8)),
                streams[name],
                stamp_ns=i * 33_000_000,
                detections=found,
            )
            for name in order
        ]
        answers = recipe.anonymize_together(requests)
        streams.update({name: after for name, (_, after) in zip(order, answers, strict=True)})
        worn.append({n: [f.tolist() for f in s.drawn.faces.values()] for n, s in streams.items()})
    assert worn[0] == worn[1] == worn[2] == worn[3]
    assert worn[0]['front'] != worn[0]['rear']


def test_a_generator_without_chooser_draws_its_latents(opened, tmp_path):
    recipe = opened()
    path = save_coded_generator(tmp_path / 'alone.onnx', size_px=SIDE)
    settings = recipe.settings.updated({'generator.model_path': str(path)})
    latents, stream = shown(Recipe(recipe.networks, settings), Stream(), 0)
    assert latents == (None,)
    assert stream.drawn.faces == {}


def test_a_pair_that_does_not_fit_is_refused(opened):
    text = r'f\.onnx: got latents of 5 numbers, expected 8'
    with pytest.raises(ModelError, match=text):
        opened(length=5)


def test_a_chooser_that_is_missing_is_told(opened):
    settings = opened().settings
    Path(settings.generator.model_path).with_name('f.onnx').unlink()
    with pytest.raises(ModelError, match=r'f\.onnx: got nothing there'):
        Networks(settings)


def test_what_is_no_chooser_is_refused(tmp_path):
    model = open_model(save_coded_generator(tmp_path / 'g.onnx'), device='cpu')
    with pytest.raises(ModelError, match='expected condition'):
        Chooser(model)
    model.close()


def test_latents_that_are_not_finite_are_refused(tmp_path):
    model = open_model(save_chooser(tmp_path / 'f.onnx', size_px=SIDE), device='cpu')
    condition = np.full((1, 3, SIDE, SIDE), np.inf, np.float32)
    crops = Crops(condition, np.ones((1, 1, SIDE, SIDE), np.float32), np.zeros((1, 3), np.int32))
    with pytest.raises(ModelError, match='not finite'):
        Chooser(model).choose(
            crops, seeds=np.zeros(1, np.uint64), points_px=np.zeros((1, 5, 2), np.float32)
        )
    model.close()
