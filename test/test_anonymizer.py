import contextlib
from functools import partial
import itertools
import re
from types import SimpleNamespace

from ffs_anonymizer.anonymizer import Anonymized, Recipe, Request
from ffs_anonymizer.errors import AnonymizerError, ImageError, ModelError, SettingsError
from ffs_anonymizer.frames.array import ArrayFrame
from ffs_anonymizer.frames.message import decode_image, ENCODINGS
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.painting.budget import Cost
from ffs_anonymizer.regions.detections import Detections, FACE, PLATE
from ffs_anonymizer.regions.zones import MOST_ZONES
from ffs_anonymizer.settings.runtime import Settings
from ffs_anonymizer.stream import Drawn, JUMPED, Seen, Stream
import numpy as np
import pytest
from support.onnx_models import save_coded_generator, save_failing_generator, save_generator
from support.recipes import Memory, with_settings

WIDTH, HEIGHT = 96, 72
# Overlapping faces, faces at all four borders and in a corner, and one inside another's crop.
LAYOUTS = {
    'one': [(30, 20, 60, 55)],
    'overlapping': [(20, 20, 50, 50), (40, 30, 70, 60)],
    'borders': [(0, 20, 18, 40), (78, 20, 96, 40), (40, 0, 60, 15), (40, 55, 60, 72)],
    'corner': [(80, 60, 96, 72)],
    'crop contains another': [(20, 20, 50, 60), (52, 22, 62, 34)],
    'odd edges': [(11.3, 13.7, 34.9, 41.2), (51.5, 33.5, 77.7, 61.1)],
}
LUMA_FIRST = {'yuv422_yuy2': True, 'yuyv': True, 'yuv422': False, 'uyvy': False}
BYTES = {'mono': 1, 'bgr': 3, 'rgb': 3, 'bgra': 4, 'rgba': 4}


def sample_mask(encoding, keep):
    """Return, for each byte of an image's rows, whether it belongs to kept pixels alone."""
    pairs = keep.reshape(HEIGHT, WIDTH // 2, 2).all(axis=2)
    blocks = pairs.reshape(HEIGHT // 2, 2, WIDTH // 2).all(axis=1)
    if encoding.startswith('bayer'):
        return np.repeat(keep, 2, axis=1) if encoding.endswith('16') else keep
    if encoding in LUMA_FIRST:
        samples = [keep, np.repeat(pairs, 2, axis=1)]
        samples = samples if LUMA_FIRST[encoding] else samples[::-1]
        return np.stack(samples, axis=2).reshape(HEIGHT, -1)
    if encoding in ('nv12', 'nv21'):
        return np.concatenate([keep, np.repeat(blocks, 2, axis=1)])
    if encoding in ('i420', 'yv12'):
        return np.concatenate([keep, np.tile(blocks.reshape(-1, WIDTH), (2, 1))])
    if encoding == 'nv24':
        return np.concatenate([keep, np.repeat(keep, 2, axis=1).reshape(-1, WIDTH)])
    channels, bits = re.fullmatch(r'(\D+|8UC\d)(8|16)?', encoding).groups()
    samples = int(channels[3:]) if channels.startswith('8UC') else BYTES[channels]
    return np.repeat(keep, samples * int(bits or 8) // 8, axis=1)


def message(encoding, rng, *, like=None, inside=()):
    """Return an image of noise; with `like`, the same one with new noise inside some boxes."""
    keep = np.ones((HEIGHT, WIDTH), np.bool_)
    for x0, y0, x1, y1 in inside:
        keep[int(np.ceil(y0)) : int(y1), int(np.ceil(x0)) : int(x1)] = False
    mask = sample_mask(encoding, keep)
    data = rng.integers(0, 256, mask.shape, np.uint8)
    if like is not None:
        data = np.where(mask, np.frombuffer(like.data, np.uint8).reshape(mask.shape), data)
    return SimpleNamespace(
        height=HEIGHT,
        width=WIDTH,
        encoding=encoding,
        is_bigendian=0,
        step=mask.shape[1],
        data=data.tobytes(),
    )


def faces(*boxes):
    return Detections.of(boxes, np.ones(len(boxes)), FACE)


def settings(**changes):
    names = {name.replace('__', '.'): value for name, value in changes.items()}
    return Settings().updated({'face.region_scale': 1.0, **names})


def run(recipe, msg, boxes, stream='/camera'):
    frame = decode_image(msg)
    return recipe.anonymize(frame, Stream((stream,)), detections=faces(*boxes))[0]


@pytest.fixture(scope='module')
def make():
    """Return what makes a recipe over networks that are closed at the end."""
    with contextlib.ExitStack() as stack:

        def make(**changes):
            wanted = settings(**changes)
            return Recipe(stack.enter_context(Networks(wanted)), wanted)

        yield make


@pytest.fixture(scope='module')
def generating(make, tmp_path_factory):
    path = save_generator(tmp_path_factory.mktemp('models') / 'g.onnx', size_px=48)
    return make(
        face__method='generate', generator__model_path=str(path), generator__min_region_px=1
    )


@pytest.fixture(scope='module')
def solid(make):
    return make(face__method='solid')


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('encoding', ENCODINGS)
@pytest.mark.parametrize('method', ['generating', 'solid'])
def test_no_output_pixel_depends_on_a_pixel_inside_a_region(request, method, encoding, layout):
    recipe = request.getfixturevalue(method)
    boxes = LAYOUTS[layout]
    rng = np.random.default_rng(7)
    original = message(encoding, rng)
    noisy = message(encoding, rng, like=original, inside=boxes)
    assert original.data != noisy.data
    assert bytes(run(recipe, original, boxes).data) == bytes(run(recipe, noisy, boxes).data)


def test_the_random_generator_does_depend_on_what_is_outside(generating):
    rng = np.random.default_rng(7)
    boxes = [(30, 20, 60, 55)]
    original = message('bgr8', rng)
    elsewhere = message('bgr8', rng, like=original, inside=[(20, 20, 29, 55)])
    inside = (slice(20, 55), slice(30, 60))
    a, b = (
        np.frombuffer(run(generating, msg, boxes).data, np.uint8).reshape(HEIGHT, WIDTH, 3)[inside]
        for msg in (original, elsewhere)
    )
    assert not np.array_equal(a, b)


@pytest.mark.parametrize('layout', ['one', 'overlapping', 'crop contains another'])
def test_faces_are_sharpened_there_by_what_is_outside(generating, layout):
    """Or the test above would say nothing of it."""
    frame = ArrayFrame(np.random.default_rng(7).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8))
    found, _ = generating.find(
        faces(*LAYOUTS[layout]), Seen(), names=('',), size_wh=(WIDTH, HEIGHT), stamp_ns=None
    )
    choice, _ = generating.choose(frame, found, Drawn())
    assert choice.strengths.max() > 0.05


@pytest.mark.parametrize('method', ['generate', 'blur', 'mosaic', 'solid'])
def test_outside_regions_and_feathers_nothing_changes(make, tmp_path, method):
    path = save_generator(tmp_path / 'g.onnx', size_px=48)
    recipe = make(face__method=method, generator__model_path=str(path))
    msg = message('bgr8', np.random.default_rng(0))
    result = run(recipe, msg, [(30, 20, 60, 60)])
    before = np.frombuffer(msg.data, np.uint8).reshape(HEIGHT, WIDTH, 3)
    after = np.frombuffer(result.data, np.uint8).reshape(HEIGHT, WIDTH, 3)
    feather = {'generate': 2, 'blur': 8}.get(method, 0)
    outside = np.ones((HEIGHT, WIDTH), np.bool_)
    outside[20 - feather : 60 + feather, 30 - feather : 60 + feather] = False
    assert np.array_equal(before[outside], after[outside])
    changed = (before[20:60, 30:60] != after[20:60, 30:60]).any(axis=2)
    assert changed.mean() > 0.95


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_a_frame_without_regions_is_the_very_same_bytes(solid, encoding):
    msg = message(encoding, np.random.default_rng(0))
    result = run(solid, msg, [])
    samples = np.frombuffer(msg.data, np.uint16 if encoding.endswith('16') else np.uint8).copy()
    if 'a' in encoding.rstrip('816')[-1:] or encoding == '8UC4':
        samples[3::4] = np.iinfo(samples.dtype).max  # a plane that nobody looks at
    assert bytes(result.data) == samples.tobytes()
    assert len(result.regions) == 0


def test_small_regions_use_the_fallback(make, tmp_path):
    path = save_generator(tmp_path / 'g.onnx', size_px=48)
    changes = {'generator__model_path': str(path), 'generator__min_region_px': 20}
    boxes = [(10, 10, 25, 29), (50, 10, 70, 30)]
    msg = message('bgr8', np.random.default_rng(0))
    mixed, generated, mosaic = (
        np.frombuffer(
            run(
                make(face__method=method, face__fallback='mosaic', **changes),
                msg,
                boxes,
            ).data,
            np.uint8,
        ).reshape(HEIGHT, WIDTH, 3)
        for method, changes in (
            ('generate', changes),
            ('generate', {**changes, 'generator__min_region_px': 1}),
            ('mosaic', {}),
        )
    )
    assert np.array_equal(mixed[10:29, 10:25], mosaic[10:29, 10:25])
    assert np.array_equal(mixed[10:30, 50:70], generated[10:30, 50:70])
    assert not np.array_equal(mixed[10:30, 50:70], mosaic[10:30, 50:70])


def test_each_class_has_its_method(make):
    recipe = make(face__method='solid', plate__method='mosaic', plate__region_scale=1.0)
    found = Detections.of([(10, 10, 30, 30), (50, 10, 80, 30)], [1, 1], [FACE, PLATE])
    msg = message('bgr8', np.random.default_rng(0))
    result, _ = recipe.anonymize(decode_image(msg), Stream(), detections=found)
    out = np.frombuffer(result.data, np.uint8).reshape(HEIGHT, WIDTH, 3)
    assert (out[10:30, 10:30] == 0).all()
    assert len(np.unique(out[10:30, 50:80].reshape(-1, 3), axis=0)) == 3 * 2


@pytest.mark.parametrize('encoding', ['bgr8', 'nv12', 'bayer_rggb8'])
def test_no_pixel_of_a_plate_reaches_what_is_drawn_in_its_place(make, encoding):
    recipe = make(face__method='solid', plate__method='generate', plate__region_scale=1.0)
    boxes = [(20, 30, 60, 42), (62, 34, 92, 44)]
    found = Detections.of(boxes, [1, 1], PLATE)
    rng = np.random.default_rng(0)
    first = message(encoding, rng)
    other = message(encoding, rng, like=first, inside=boxes)
    assert first.data != other.data
    ours, theirs = (
        recipe.anonymize(decode_image(msg), Stream(), detections=found)[0]
        for msg in (first, other)
    )
    assert bytes(ours.data) == bytes(theirs.data)
    assert ours.replaced.counts == {'generate (plate)': 2}


def test_a_track_keeps_its_plate(make):
    recipe = make(face__method='solid', plate__method='generate', plate__region_scale=1.0)
    one = Detections.of([(20, 30, 60, 42)], [1], PLATE)
    grey = message('bgr8', np.random.default_rng(0))
    grey.data = bytes([90]) * len(grey.data)
    shown, stream = [], Stream()
    for stamp in (0, 33_000_000):
        result, stream = recipe.anonymize(
            decode_image(grey), stream, stamp_ns=stamp, detections=one
        )
        shown.append(bytes(result.data))
    assert shown[0] == shown[1]
    both = Detections.of([(20, 10, 60, 22), (20, 40, 60, 52)], [1, 1], PLATE)
    result, _ = recipe.anonymize(decode_image(grey), Stream(), detections=both)
    out = np.frombuffer(result.data, np.uint8).reshape(HEIGHT, WIDTH, 3)
    assert (out[10:22, 20:60] != out[40:52, 20:60]).any()


@pytest.mark.parametrize(
    ('stream', 'zone', 'masked'),
    [
        ('/front/image', '/front/image 10 10 20 20', True),
        ('/front/image', '/front/* 10 10 20 20', True),
        ('/front/image', '* 10 10 20 20', True),
        ('/rear/image', '/front/* 10 10 20 20', False),
    ],
)
def test_mask_zones_are_always_covered(make, stream, zone, masked):
    recipe = make(mask_zones=[zone], obscure__solid_bgr=[1, 2, 3])
    result = run(recipe, message('bgr8', np.random.default_rng(0)), [], stream=stream)
    out = np.frombuffer(result.data, np.uint8).reshape(HEIGHT, WIDTH, 3)
    assert (out[10:20, 10:20] == (1, 2, 3)).all() == masked
    assert len(result.regions) == int(masked)


def test_mask_zones_end_at_the_frame(make):
    recipe = make(mask_zones=['* 90 60 500 500', '* 200 200 300 300'])
    result = run(recipe, message('bgr8', np.random.default_rng(0)), [])
    assert result.regions.xyxy_px.tolist() == [[90, 60, 96, 72]]


def test_ignore_zones_count_by_the_centre(make):
    recipe = make(ignore_zones=['/camera 0 0 40 72'])
    msg = message('bgr8', np.random.default_rng(0))
    result = run(recipe, msg, [(10, 10, 60, 40), (20, 10, 62, 40)])
    assert result.regions.xyxy_px.tolist() == [[20, 10, 62, 40]]


@pytest.mark.parametrize(
    ('save', 'scale', 'message_'),
    [
        (save_failing_generator, None, 'ONNX Runtime failed'),
        (save_generator, np.nan, 'not finite'),
    ],
)
def test_a_generator_that_fails_leaves_no_image(make, tmp_path, save, scale, message_):
    kwargs = {} if scale is None else {'scale': scale}
    path = save(tmp_path / 'g.onnx', size_px=48, **kwargs)
    recipe = make(face__method='generate', generator__model_path=str(path))
    with pytest.raises(AnonymizerError, match=message_):
        run(recipe, message('bgr8', np.random.default_rng(0)), [(30, 20, 60, 60)])


def test_an_unforeseen_error_is_the_one_that_edges_know(solid):
    frame = decode_image(message('bgr8', np.random.default_rng(0)))
    frame.image_bgr.flags.writeable = False
    with pytest.raises(AnonymizerError, match=r'paste: got ValueError.*the frame has no image'):
        solid.anonymize(frame, Stream(), detections=faces((1, 1, 5, 5)))


def test_a_missed_frame_stays_covered(solid):
    memory = Memory(solid)
    frames = []
    for stamp_ms, boxes in ((0, [(10, 10, 30, 30)]), (50, []), (500, [])):
        frame = decode_image(message('bgr8', np.random.default_rng(stamp_ms)))
        found = faces(*boxes)
        frames.append(memory.anonymize(frame, stamp_ns=stamp_ms * 1_000_000, detections=found))
    assert [len(f.regions) for f in frames] == [1, 1, 0]
    out = np.frombuffer(frames[1].data, np.uint8).reshape(HEIGHT, WIDTH, 3)
    assert (out[10:30, 10:30] == 0).all()


def test_a_box_that_trembles_is_drawn_where_it_was(coded):
    recipe, stream, rects = coded(), Stream(), []
    for i, shift in enumerate((0.0, -0.4, 0.4, -0.3, 0.2)):
        frame = ArrayFrame(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        box = (30 + shift, 20 + shift, 60 + shift, 55 + shift)
        result, stream = recipe.anonymize(
            frame, stream, stamp_ns=i * 33_000_000, detections=faces(box)
        )
        assert result.replaced.counts == {'generate': 1}
        rects.append(result.replaced.touched_xyxy_px.tolist())
    assert rects[0] != rects[2]
    assert rects[2] == rects[3] == rects[4]


def test_a_still_is_covered_as_if_it_were_the_first(coded):
    recipe, stream, rects = coded(), Stream(), []
    for shift in (0.0, 0.9):
        frame = ArrayFrame(np.zeros((HEIGHT, WIDTH, 3), np.uint8))
        found = faces((30 + 3 * shift, 20, 60, 55))
        result, stream = recipe.anonymize(frame, stream, detections=found)
        rects.append(result.replaced.touched_xyxy_px.tolist())
    assert rects[0] != rects[1]
    assert stream.drawn == Stream().drawn


def test_streams_and_stills_do_not_share_their_past(solid):
    memory, msg = Memory(solid), message('bgr8', np.random.default_rng(0))

    def covered(stream, stamp_ns, *boxes):
        options = {'stream': stream, 'stamp_ns': stamp_ns, 'detections': faces(*boxes)}
        return len(memory.anonymize(decode_image(msg), **options).regions)

    assert covered('/a', 0, (10, 10, 30, 30)) == 1
    assert covered('/b', 0) == 0
    assert covered('/a', 0) == 1
    assert covered('/a', None) == 0
    assert covered('/a', 0) == 1


@pytest.mark.parametrize('arrivals', [True, False])
@pytest.mark.parametrize(
    'stamps_ms',
    [
        [0, 33, 66, 100, -9000, -8967, -8933, -8900, -8867, -8833],
        [0, 33, 66, 100, 900000, 900033, 900066, 900100, 900133, 900166],
        [100, 90000, 133, 90033, 166, 90066, 200, 90100, 233, 90133],
    ],
)
def test_no_stamp_uncovers_a_face(solid, stamps_ms, arrivals):
    memory, regions, warned = Memory(solid), [], 0
    for i, stamp_ms in enumerate(stamps_ms):
        frame = decode_image(message('bgr8', np.random.default_rng(i)))
        done = memory.anonymize(
            frame,
            stamp_ns=(10_000 + stamp_ms) * 1_000_000,
            arrival_ns=i * 33_000_000 if arrivals else None,
            detections=faces((10, 10, 30, 30)) if i < 4 else faces(),
        )
        regions.append(len(done.regions))
        warned += JUMPED in done.replaced.warnings
    assert regions == [1] * 10
    assert warned == sum(abs(b - a) > 1000 for a, b in itertools.pairwise(stamps_ms))


def test_other_settings_make_another_recipe_over_the_same_networks(solid, tmp_path):
    with pytest.raises(ModelError, match='none.onnx'):
        with_settings(
            solid,
            face__method='generate',
            generator__model_path=str(tmp_path / 'none.onnx'),
        )
    with pytest.raises(SettingsError, match='zone'):
        with_settings(solid, mask_zones=['nonsense'])
    msg = message('bgr8', np.random.default_rng(0))
    other = with_settings(solid, obscure__solid_bgr=[9, 9, 9])
    assert set(run(solid, msg, [(0, 0, 96, 72)]).data) == {0}
    assert set(run(other, msg, [(0, 0, 96, 72)]).data) == {9}


def test_an_array_in_an_array_out(solid):
    image = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), np.uint8)
    masked = with_settings(solid, mask_zones=['* 10 10 20 20'])
    before = image.copy()
    after = masked.anonymize_array(image)
    assert np.array_equal(image, before)
    assert (after[10:20, 10:20] == 0).all()
    after[10:20, 10:20] = image[10:20, 10:20]
    assert np.array_equal(after, image)
    for wrong in (image[:, :, 0], image.astype(np.float32), image[:0], 'picture'):
        with pytest.raises(ImageError, match=r'expected uint8 \(H, W, 3\), BGR'):
            masked.anonymize_array(wrong)


def test_the_same_input_gives_the_same_output(generating):
    msg = message('bgr8', np.random.default_rng(0))
    boxes = LAYOUTS['overlapping']
    assert bytes(run(generating, msg, boxes).data) == bytes(run(generating, msg, boxes[::-1]).data)


def test_a_generator_that_fails_can_leave_its_faces_to_the_fallback(make, tmp_path):
    path = save_failing_generator(tmp_path / 'g.onnx', size_px=48)
    changes = {'face__fallback': 'solid', 'generator__on_error': 'fallback'}
    recipe = make(face__method='generate', generator__model_path=str(path), **changes)
    result = run(recipe, message('bgr8', np.random.default_rng(0)), [(30, 20, 60, 60)])
    out = np.frombuffer(result.data, np.uint8).reshape(HEIGHT, WIDTH, 3)
    assert (out[20:60, 30:60] == 0).all()
    assert result.replaced.counts == {'solid': 1}
    assert 'ONNX Runtime failed' in result.replaced.warnings[0]


def test_what_exceeds_the_budget_is_counted_and_covered(make, tmp_path):
    path = save_generator(tmp_path / 'g.onnx', size_px=48)
    recipe = make(
        face__method='generate',
        face__fallback='solid',
        generator__model_path=str(path),
        budget_ms=1e-6,
    )
    boxes = [(10, 10, 40, 40), (50, 10, 90, 60)]
    msg = message('bgr8', np.random.default_rng(0))
    result = run(recipe, msg, boxes)
    assert result.replaced.counts == {'solid': 2}
    assert (
        np.frombuffer(result.data, np.uint8).reshape(HEIGHT, WIDTH, 3)[10:40, 10:40] == 0
    ).all()
    patient = with_settings(recipe, budget_ms=10000.0)
    assert run(patient, msg, boxes).replaced.counts == {'generate': 2}


def test_small_faces_take_the_small_generator_when_time_is_short(make, tmp_path):
    large = save_generator(tmp_path / 'large.onnx', size_px=48)
    small = save_generator(tmp_path / 'small.onnx', size_px=32)
    recipe = make(
        face__method='generate',
        generator__model_path=str(large),
        generator__small_model_path=str(small),
        budget_ms=100.0,
    )
    for generator, face_ms in zip(recipe._generators, (60.0, 1.0), strict=True):
        generator.cost = Cost(0.0, face_ms)
    boxes = [(10, 10, 40, 40), (50, 10, 90, 60)]
    result = run(recipe, message('bgr8', np.random.default_rng(0)), boxes)
    assert result.replaced.counts == {'generate': 1, 'generate (small)': 1}


def counted(recipe):
    """Count the calls of the generator's network from now on."""
    calls = []
    model = recipe._generators[0].model
    infer = model.infer
    model.infer = lambda feeds: (calls.append(len(feeds['mask'])), infer(feeds))[1]
    return calls


def test_frames_of_several_streams_take_one_call_of_the_generator(make, tmp_path):
    path = save_generator(tmp_path / 'generator.onnx')
    recipe = make(face__method='generate', generator__model_path=str(path))
    messages = [message('bgr8', np.random.default_rng(i)) for i in range(3)]
    boxes = [[(10, 10, 40, 40)], [], [(50, 10, 90, 60), (0, 0, 20, 20)]]

    def requests():
        return [
            Request(decode_image(msg), detections=faces(*found))
            for msg, found in zip(messages, boxes, strict=True)
        ]

    alone = [recipe.anonymize_together([request])[0][0] for request in requests()]
    calls = counted(recipe)
    together = [result for result, _ in recipe.anonymize_together(requests())]
    assert calls == [3]
    for one, other in zip(alone, together, strict=True):
        difference = np.frombuffer(one.data, np.uint8).astype(int) - np.frombuffer(
            other.data, np.uint8
        )
        assert np.abs(difference).max() <= 1
        assert one.replaced.counts == other.replaced.counts
    assert all('paint' in frame.timings_ms for frame in together)
    assert not recipe.gains_by_joining


@pytest.mark.parametrize('on_error', ['stop', 'fallback'])
def test_a_frame_that_fails_takes_no_other_with_it(make, tmp_path, on_error):
    path = save_generator(tmp_path / 'generator.onnx')
    recipe = make(
        face__method='generate',
        generator__model_path=str(path),
        generator__on_error=on_error,
    )
    model = recipe._generators[0].model
    infer = model.infer

    def fragile(feeds):
        if (feeds['condition'] > 0.1).any():
            raise ModelError('too bright')
        return infer(feeds)

    model.infer = fragile
    dark, bright = (message('bgr8', np.random.default_rng(0)) for _ in range(2))
    dark.data = bytes(len(dark.data))
    box = faces((10, 10, 40, 40))
    broken = decode_image(dark)
    broken.encode = lambda _: 1 / 0
    answers = recipe.anonymize_together(
        [
            Request(decode_image(dark), detections=box),
            Request(decode_image(bright), detections=box),
            Request(broken, detections=box),
            Request(decode_image(dark), detections=box),
        ]
    )
    results = [result for result, _ in answers]
    assert [type(result) for result in results[2:]] == [AnonymizerError, Anonymized]
    assert results[0].replaced.counts == results[3].replaced.counts == {'generate': 1}
    if on_error == 'stop':
        assert type(results[1]) is ModelError
        assert str(results[1]) == 'too bright'
    else:
        assert results[1].replaced.counts == {'blur': 1}
        assert '1 faces use the fallback: too bright' in results[1].replaced.warnings[0]
    assert recipe.anonymize_together([]) == []


@pytest.fixture(scope='module')
def coded(make, tmp_path_factory):
    """Return what makes recipes whose generator takes latent and points."""
    path = save_coded_generator(tmp_path_factory.mktemp('coded') / 'g.onnx')
    return partial(
        make,
        face__method='generate',
        generator__model_path=str(path),
        generator__min_region_px=1,
        tracker__max_gap_ms=400.0,
    )


def drawn(recipe, stream, stamp_ms, boxes, points=None):
    """Return the colour of the first face, and the stream after it."""
    image = np.full((HEIGHT, WIDTH, 3), 100, np.uint8)
    found = Detections.of(boxes, np.ones(len(boxes)), FACE, points)
    frame = ArrayFrame(image)
    _, after = recipe.anonymize(frame, stream, stamp_ns=int(stamp_ms * 1e6), detections=found)
    x0, y0, x1, y1 = boxes[0]
    return frame.image_bgr[(y0 + y1) // 2, (x0 + x1) // 2].tolist(), after


def test_a_track_keeps_its_face_and_others_have_others(coded):
    recipe, box = coded(), (30, 20, 60, 55)
    first, stream = drawn(recipe, Stream(('front',)), 0, [box])
    second, _ = drawn(recipe, stream, 33, [box])
    assert first == second
    again, _ = drawn(coded(), Stream(('front',)), 0, [box])
    assert again == first
    other, _ = drawn(recipe, Stream(('rear',)), 0, [box])
    assert other != first
    seeded, _ = drawn(coded(generator__seed=1), Stream(('front',)), 0, [box])
    assert seeded != first


def test_points_pass_only_where_pose_allows_them(coded):
    box = (30, 20, 60, 55)
    here, there = (np.full((1, 5, 2), v, np.float32) for v in (25.0, 55.0))
    without = [drawn(coded(), Stream(), 0, [box], points)[0] for points in (here, there, None)]
    assert without[0] == without[1] == without[2]
    allowed = coded(generator__pose=True)
    posed = [drawn(allowed, Stream(), 0, [box], points)[0] for points in (here, there, None)]
    assert posed[0] != posed[1]
    assert posed[2] == without[0]


def test_only_what_is_surely_a_face_is_drawn(coded):
    recipe, box = coded(), (30, 20, 60, 55)
    frame = ArrayFrame(np.full((HEIGHT, WIDTH, 3), 100, np.uint8))
    stream = Stream(('front',))
    for stamp_ms, score, expected in (
        (0, 0.3, 'blur'),  # found, but hardly a face
        (33, 0.6, 'generate'),
        (66, 0.3, 'generate'),  # it was one before
        (99, None, 'blur'),  # predicted: where the face is now is not sure
    ):
        boxes = [] if score is None else [box]
        found = Detections.of(boxes, np.full(len(boxes), score or 0), FACE)
        result, stream = recipe.anonymize(
            frame, stream, stamp_ns=int(stamp_ms * 1e6), detections=found
        )
        assert result.replaced.counts == {expected: 1}, stamp_ms
    everything = coded(face__generate_threshold=0.01)
    found = Detections.of([box], np.full(1, 0.3), FACE)
    assert everything.anonymize(frame, Stream(), detections=found)[0].replaced.counts == {
        'generate': 1
    }


def test_a_blurred_face_is_no_face_to_a_detector(make, face_bgr):
    recipe = make(face__method='blur', face__region_scale=1.45)
    assert len(recipe.detect(ArrayFrame(face_bgr))) == 1
    blurred = ArrayFrame(recipe.anonymize_array(face_bgr))
    assert len(recipe.detect(blurred)) == 0


def test_the_fade_of_a_blur_holds_none_of_its_sharp_surroundings(make):
    recipe = make(face__method='blur', feather=0.25)
    image = np.random.default_rng(0).integers(0, 256, (240, 240, 3), np.uint8)
    frame = ArrayFrame(image)
    recipe.anonymize(frame, Stream(), detections=faces((80, 80, 160, 160)))
    band = frame.image_bgr[100:140, 50:78].astype(float)
    assert image[100:140, 50:78].std() > 60
    assert band.std() < 15
    assert np.array_equal(frame.image_bgr[:40], image[:40])


def test_more_zones_than_a_frame_can_bear_are_refused(make):
    zones = [f'* {i} 0 {i + 1} 1' for i in range(MOST_ZONES + 1)]
    with pytest.raises(SettingsError, match='mask_zones: got 1001 zones, expected at most 1000'):
        make(face__method='solid', mask_zones=zones)
