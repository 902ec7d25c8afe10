from types import SimpleNamespace

from ffs_anonymizer.anonymizer import Anonymized, Anonymizer, Request, Zone
from ffs_anonymizer.errors import AnonymizerError, ModelError, SettingsError
from ffs_anonymizer.frames.message import decode_image, ENCODINGS
from ffs_anonymizer.painting.budget import Cost
from ffs_anonymizer.regions.detections import Detections, FACE, PLATE
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
import pytest
from support.onnx_models import save_failing_generator, save_generator

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
BYTES = {'bgra8': 4, 'rgba8': 4, '8UC4': 4, 'mono8': 1, '8UC1': 1, 'mono16': 2}


def sample_mask(encoding, keep):
    """Return, for each byte of an image's rows, whether it belongs to kept pixels alone."""
    pairs = keep.reshape(HEIGHT, WIDTH // 2, 2).all(axis=2)
    blocks = pairs.reshape(HEIGHT // 2, 2, WIDTH // 2).all(axis=1)
    if encoding.startswith('bayer'):
        return keep
    if encoding in LUMA_FIRST:
        samples = [keep, np.repeat(pairs, 2, axis=1)]
        samples = samples if LUMA_FIRST[encoding] else samples[::-1]
        return np.stack(samples, axis=2).reshape(HEIGHT, -1)
    if encoding in ('nv12', 'nv21'):
        return np.concatenate([keep, np.repeat(blocks, 2, axis=1)])
    if encoding == 'nv24':
        return np.concatenate([keep, np.repeat(keep, 2, axis=1).reshape(-1, WIDTH)])
    return np.repeat(keep, BYTES.get(encoding, 3), axis=1)


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


def run(anonymizer, msg, boxes, stream='/camera'):
    frame = decode_image(msg)
    return anonymizer.anonymize(frame, stream=stream, stamp_ns=None, detections=faces(*boxes))


@pytest.fixture(scope='module')
def generating(tmp_path_factory):
    path = save_generator(tmp_path_factory.mktemp('models') / 'g.onnx', size_px=48)
    return Anonymizer(
        settings(
            face__method='generate', generator__model_path=str(path), generator__min_region_px=1
        )
    )


@pytest.fixture(scope='module')
def solid():
    return Anonymizer(settings(face__method='solid'))


@pytest.mark.parametrize('layout', LAYOUTS)
@pytest.mark.parametrize('encoding', ENCODINGS)
@pytest.mark.parametrize('method', ['generating', 'solid'])
def test_no_output_pixel_depends_on_a_pixel_inside_a_region(request, method, encoding, layout):
    anonymizer = request.getfixturevalue(method)
    boxes = LAYOUTS[layout]
    rng = np.random.default_rng(7)
    original = message(encoding, rng)
    noisy = message(encoding, rng, like=original, inside=boxes)
    assert original.data != noisy.data
    assert bytes(run(anonymizer, original, boxes).data) == bytes(
        run(anonymizer, noisy, boxes).data
    )


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


@pytest.mark.parametrize('method', ['generate', 'blur', 'mosaic', 'solid'])
def test_outside_regions_and_feathers_nothing_changes(tmp_path, method):
    path = save_generator(tmp_path / 'g.onnx', size_px=48)
    anonymizer = Anonymizer(settings(face__method=method, generator__model_path=str(path)))
    msg = message('bgr8', np.random.default_rng(0))
    result = run(anonymizer, msg, [(30, 20, 60, 60)])
    before = np.frombuffer(msg.data, np.uint8).reshape(HEIGHT, WIDTH, 3)
    after = np.frombuffer(result.data, np.uint8).reshape(HEIGHT, WIDTH, 3)
    feather = 4 if method in ('generate', 'blur') else 0
    outside = np.ones((HEIGHT, WIDTH), np.bool_)
    outside[20 - feather : 60 + feather, 30 - feather : 60 + feather] = False
    assert np.array_equal(before[outside], after[outside])
    changed = (before[20:60, 30:60] != after[20:60, 30:60]).any(axis=2)
    assert changed.mean() > 0.95


@pytest.mark.parametrize('encoding', ENCODINGS)
def test_a_frame_without_regions_is_the_very_same_bytes(solid, encoding):
    msg = message(encoding, np.random.default_rng(0))
    result = run(solid, msg, [])
    assert bytes(result.data) == msg.data
    assert len(result.regions) == 0


def test_small_regions_use_the_fallback(tmp_path):
    path = save_generator(tmp_path / 'g.onnx', size_px=48)
    changes = {'generator__model_path': str(path), 'generator__min_region_px': 20}
    boxes = [(10, 10, 25, 29), (50, 10, 70, 30)]
    msg = message('bgr8', np.random.default_rng(0))
    mixed, generated, mosaic = (
        np.frombuffer(
            run(
                Anonymizer(settings(face__method=method, face__fallback='mosaic', **changes)),
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


def test_each_class_has_its_method():
    anonymizer = Anonymizer(
        settings(face__method='solid', plate__method='mosaic', plate__region_scale=1.0)
    )
    found = Detections.of([(10, 10, 30, 30), (50, 10, 80, 30)], [1, 1], [FACE, PLATE])
    msg = message('bgr8', np.random.default_rng(0))
    result = anonymizer.anonymize(
        decode_image(msg), stream='/camera', stamp_ns=None, detections=found
    )
    out = np.frombuffer(result.data, np.uint8).reshape(HEIGHT, WIDTH, 3)
    assert (out[10:30, 10:30] == 0).all()
    assert len(np.unique(out[10:30, 50:80].reshape(-1, 3), axis=0)) == 6 * 4


@pytest.mark.parametrize(
    ('stream', 'zone', 'masked'),
    [
        ('/front/image', '/front/image 10 10 20 20', True),
        ('/front/image', '/front/* 10 10 20 20', True),
        ('/front/image', '* 10 10 20 20', True),
        ('/rear/image', '/front/* 10 10 20 20', False),
    ],
)
def test_mask_zones_are_always_covered(stream, zone, masked):
    anonymizer = Anonymizer(settings(mask_zones=[zone], obscure__solid_bgr=[1, 2, 3]))
    result = run(anonymizer, message('bgr8', np.random.default_rng(0)), [], stream=stream)
    out = np.frombuffer(result.data, np.uint8).reshape(HEIGHT, WIDTH, 3)
    assert (out[10:20, 10:20] == (1, 2, 3)).all() == masked
    assert len(result.regions) == int(masked)


def test_mask_zones_end_at_the_frame():
    anonymizer = Anonymizer(settings(mask_zones=['* 90 60 500 500', '* 200 200 300 300']))
    result = run(anonymizer, message('bgr8', np.random.default_rng(0)), [])
    assert result.regions.xyxy_px.tolist() == [[90, 60, 96, 72]]


def test_ignore_zones_count_by_the_centre():
    anonymizer = Anonymizer(settings(ignore_zones=['/camera 0 0 40 72']))
    msg = message('bgr8', np.random.default_rng(0))
    result = run(anonymizer, msg, [(10, 10, 60, 40), (20, 10, 62, 40)])
    assert result.regions.xyxy_px.tolist() == [[20, 10, 62, 40]]


@pytest.mark.parametrize(
    'text', ['', '* 1 2 3', '* 1 2 3 4 5', '1 2 3 4', '* 3 2 1 4', '* a b c d', '* 0 0 nan 4']
)
def test_a_zone_that_cannot_be_read_is_refused(text):
    with pytest.raises(SettingsError, match='zone: got .*expected `<topic or glob> x0 y0 x1 y1`'):
        Zone.parse(text)


def test_a_missed_frame_stays_covered(solid):
    solid.forget('/gap')
    frames = []
    for stamp_ms, boxes in ((0, [(10, 10, 30, 30)]), (50, []), (5000, [])):
        msg = message('bgr8', np.random.default_rng(stamp_ms))
        frames.append(
            solid.anonymize(
                decode_image(msg),
                stream='/gap',
                stamp_ns=stamp_ms * 1_000_000,
                detections=faces(*boxes),
            )
        )
    assert [len(f.regions) for f in frames] == [1, 1, 0]
    out = np.frombuffer(frames[1].data, np.uint8).reshape(HEIGHT, WIDTH, 3)
    assert (out[10:30, 10:30] == 0).all()


def test_streams_and_stills_do_not_share_their_past(solid):
    for stream in ('/a', '/b'):
        solid.forget(stream)
    msg = message('bgr8', np.random.default_rng(0))
    kwargs = {'stamp_ns': 0, 'detections': faces((10, 10, 30, 30))}
    assert len(solid.anonymize(decode_image(msg), stream='/a', **kwargs).regions) == 1
    kwargs['detections'] = faces()
    assert len(solid.anonymize(decode_image(msg), stream='/b', **kwargs).regions) == 0
    assert len(solid.anonymize(decode_image(msg), stream='/a', **kwargs).regions) == 1
    kwargs['stamp_ns'] = None
    assert len(solid.anonymize(decode_image(msg), stream='/a', **kwargs).regions) == 0


@pytest.mark.parametrize(
    ('save', 'scale', 'message_'),
    [
        (save_failing_generator, None, 'ONNX Runtime failed'),
        (save_generator, np.nan, 'not finite'),
    ],
)
def test_a_generator_that_fails_leaves_no_image(tmp_path, save, scale, message_):
    kwargs = {} if scale is None else {'scale': scale}
    path = save(tmp_path / 'g.onnx', size_px=48, **kwargs)
    anonymizer = Anonymizer(settings(face__method='generate', generator__model_path=str(path)))
    with pytest.raises(AnonymizerError, match=message_):
        run(anonymizer, message('bgr8', np.random.default_rng(0)), [(30, 20, 60, 60)])


def test_an_unforeseen_error_is_the_one_that_edges_know(solid):
    frame = decode_image(message('bgr8', np.random.default_rng(0)))
    frame.image_bgr = frame.image_bgr[0]
    with pytest.raises(AnonymizerError, match=r'paste: got ValueError.*the frame has no image'):
        solid.anonymize(frame, stream='/camera', stamp_ns=None, detections=faces((1, 1, 5, 5)))


def test_update_keeps_the_old_settings_where_the_new_ones_cannot_be_had(tmp_path):
    anonymizer = Anonymizer(settings(face__method='solid'))
    missing = str(tmp_path / 'none.onnx')
    with pytest.raises(ModelError, match='none.onnx'):
        anonymizer.update(settings(face__method='generate', generator__model_path=missing))
    with pytest.raises(SettingsError, match='zone'):
        anonymizer.update(settings(face__method='blur', mask_zones=['nonsense']))
    assert anonymizer.settings.face.method == 'solid'
    out = run(anonymizer, message('bgr8', np.random.default_rng(0)), [(0, 0, 96, 72)]).data
    assert set(out) == {0}
    anonymizer.update(settings(face__method='solid', obscure__solid_bgr=[9, 9, 9]))
    out = run(anonymizer, message('bgr8', np.random.default_rng(0)), [(0, 0, 96, 72)]).data
    assert set(out) == {9}


def test_missing_detector_is_an_error_at_once(tmp_path):
    with pytest.raises(ModelError, match='none.onnx: got nothing there'):
        Anonymizer(settings(detector__model_path=str(tmp_path / 'none.onnx')))


def test_describe_names_models_devices_and_hashes(generating):
    about = generating.describe()
    assert about['face detector'].startswith('centerface.onnx sha256:')
    assert ' in onnxruntime on cpu' in about['generator']


def test_the_same_input_gives_the_same_output(generating):
    msg = message('bgr8', np.random.default_rng(0))
    boxes = LAYOUTS['overlapping']
    assert bytes(run(generating, msg, boxes).data) == bytes(run(generating, msg, boxes[::-1]).data)


def test_a_generator_that_fails_can_leave_its_faces_to_the_fallback(tmp_path):
    path = save_failing_generator(tmp_path / 'g.onnx', size_px=48)
    changes = {'face__fallback': 'solid', 'generator__on_error': 'fallback'}
    anonymizer = Anonymizer(
        settings(face__method='generate', generator__model_path=str(path), **changes)
    )
    result = run(anonymizer, message('bgr8', np.random.default_rng(0)), [(30, 20, 60, 60)])
    out = np.frombuffer(result.data, np.uint8).reshape(HEIGHT, WIDTH, 3)
    assert (out[20:60, 30:60] == 0).all()
    assert result.replaced.counts == {'solid': 1}
    assert 'ONNX Runtime failed' in result.replaced.warnings[0]


def test_what_exceeds_the_budget_is_counted_and_covered(tmp_path):
    path = save_generator(tmp_path / 'g.onnx', size_px=48)
    anonymizer = Anonymizer(
        settings(
            face__method='generate',
            face__fallback='solid',
            generator__model_path=str(path),
            budget_ms=1e-6,
        )
    )
    boxes = [(10, 10, 40, 40), (50, 10, 90, 60)]
    msg = message('bgr8', np.random.default_rng(0))
    result = run(anonymizer, msg, boxes)
    assert result.replaced.counts == {'solid': 2}
    assert (
        np.frombuffer(result.data, np.uint8).reshape(HEIGHT, WIDTH, 3)[10:40, 10:40] == 0
    ).all()
    anonymizer.update(anonymizer.settings.updated({'budget_ms': 10000.0}))
    assert run(anonymizer, msg, boxes).replaced.counts == {'generate': 2}


def test_small_faces_take_the_small_generator_when_time_is_short(tmp_path):
    large = save_generator(tmp_path / 'large.onnx', size_px=48)
    small = save_generator(tmp_path / 'small.onnx', size_px=32)
    anonymizer = Anonymizer(
        settings(
            face__method='generate',
            generator__model_path=str(large),
            generator__small_model_path=str(small),
            budget_ms=100.0,
        )
    )
    for generator, face_ms in zip(anonymizer._generators.values(), (60.0, 1.0), strict=True):
        generator.cost = Cost(0.0, face_ms)
    boxes = [(10, 10, 40, 40), (50, 10, 90, 60)]
    result = run(anonymizer, message('bgr8', np.random.default_rng(0)), boxes)
    assert result.replaced.counts == {'generate': 1, 'generate (small)': 1}


def counted(anonymizer):
    """Count the calls of the generator's network from now on."""
    calls = []
    model = anonymizer._generators['generate'].model
    infer = model.infer
    model.infer = lambda feeds: (calls.append(len(feeds['mask'])), infer(feeds))[1]
    return calls


def test_frames_of_several_streams_take_one_call_of_the_generator(tmp_path):
    path = save_generator(tmp_path / 'generator.onnx')
    anonymizer = Anonymizer(settings(face__method='generate', generator__model_path=str(path)))
    messages = [message('bgr8', np.random.default_rng(i)) for i in range(3)]
    boxes = [[(10, 10, 40, 40)], [], [(50, 10, 90, 60), (0, 0, 20, 20)]]

    def requests():
        return [
            Request(decode_image(msg), f'/{i}', None, faces(*found))
            for i, (msg, found) in enumerate(zip(messages, boxes, strict=True))
        ]

    alone = [anonymizer.anonymize_together([request])[0] for request in requests()]
    calls = counted(anonymizer)
    together = anonymizer.anonymize_together(requests())
    assert calls == [3]
    for one, other in zip(alone, together, strict=True):
        difference = np.frombuffer(one.data, np.uint8).astype(int) - np.frombuffer(
            other.data, np.uint8
        )
        assert np.abs(difference).max() <= 1
        assert one.replaced.counts == other.replaced.counts
    assert [('generate' in frame.timings_ms) for frame in together] == [True, False, True]
    assert not anonymizer.gains_by_joining


@pytest.mark.parametrize('on_error', ['stop', 'fallback'])
def test_a_frame_that_fails_takes_no_other_with_it(tmp_path, on_error):
    path = save_generator(tmp_path / 'generator.onnx')
    anonymizer = Anonymizer(
        settings(
            face__method='generate',
            generator__model_path=str(path),
            generator__on_error=on_error,
        )
    )
    model = anonymizer._generators['generate'].model
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
    results = anonymizer.anonymize_together(
        [
            Request(decode_image(dark), '/a', None, box),
            Request(decode_image(bright), '/b', None, box),
            Request(broken, '/c', None, box),
            Request(decode_image(dark), '/d', None, box),
        ]
    )
    assert [type(result) for result in results[2:]] == [AnonymizerError, Anonymized]
    assert results[0].replaced.counts == results[3].replaced.counts == {'generate': 1}
    if on_error == 'stop':
        assert type(results[1]) is ModelError
        assert str(results[1]) == 'too bright'
    else:
        assert results[1].replaced.counts == {'blur': 1}
        assert '1 faces use the fallback: too bright' in results[1].replaced.warnings[0]
    assert anonymizer.anonymize_together([]) == []
