"""Test the order, the look-ahead, the errors and the end of a pipeline over the real recipe."""

from contextlib import closing
import threading
import time

import cv2
from ffs_anonymizer.anonymizer import Recipe
from ffs_anonymizer.errors import AnonymizerError, BagError, ImageError
from ffs_anonymizer.frames.frame import Frame
from ffs_anonymizer.frames.message import decode
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.pipeline import anonymize_all, BATCH_ITEMS, concurrency, Task
from ffs_anonymizer.regions.detections import Detections, FACE
from ffs_anonymizer.settings.runtime import Settings
from ffs_anonymizer.stream import JUMPED, Stream
import numpy as np
import pytest
from support.messages import raw_message
from support.onnx_models import save_generator
from support.recipes import opened, with_settings

BOX = (20, 10, 44, 40)
FOUND = Detections.of([BOX], [0.9], FACE)
NOTHING = Detections.empty()
MS = 1_000_000


@pytest.fixture(scope='module')
def models():
    with Networks(Settings()) as networks:
        yield networks


@pytest.fixture
def recipe(models):
    """Return a recipe that puts solid boxes exactly where it is told to."""
    exact = {'face.method': 'solid', 'face.region_scale': 1.0, 'tracker.max_gap_ms': 0.0}
    return Recipe(models, Settings().updated(exact))


def grey(width=64, height=48):
    return raw_message('bgr8', width, height, data=bytes([90]) * (width * height * 3))


def image_task(item, stamp_ms, detections=NOTHING, *, stream='a', clock_ms=None, msg=None):
    msg = grey() if msg is None else msg
    return Task(
        item,
        lambda: decode(msg),
        stream=stream,
        stamp_ns=None if stamp_ms is None else stamp_ms * MS,
        clock_ns=((stamp_ms or 0) if clock_ms is None else clock_ms) * MS,
        size_bytes=len(msg.data),
        detections=detections,
    )


def run(tasks, recipe, **options):
    with closing(anonymize_all(tasks, recipe, **options)) as outcomes:
        return list(outcomes)


def is_black(outcome):
    """Return whether the box is black; all else must be as it was."""
    pixels = np.frombuffer(outcome.data, np.uint8).reshape(48, 64, 3)
    x0, y0, x1, y1 = BOX
    inside = pixels[y0:y1, x0:x1]
    return bool((inside == 0).all())


def covered(outcomes):
    return [outcome.item for outcome in outcomes if len(outcome.regions)]


def threads():
    """Return the names of the pipeline's threads that are alive."""
    names = [thread.name for thread in threading.enumerate()]
    return [name for name in names if name.startswith(('feed', 'track', 'network', 'codec'))]


def test_nothing(recipe):
    assert run([], recipe) == []


@pytest.mark.parametrize('workers', [1, 4])
def test_order_is_kept_and_others_pass_untouched(recipe, workers):
    tasks = []
    for i in range(60):
        tasks += [image_task(('image', i), 33 * i, FOUND if i % 3 == 0 else NOTHING)]
        tasks += [Task(('other', i, k), clock_ns=33 * i * MS) for k in range(i % 7)]
    tasks += [Task(('last', k)) for k in range(3 * BATCH_ITEMS)]

    outcomes = run(iter(tasks), recipe, workers=workers)

    assert [outcome.item for outcome in outcomes] == [task.item for task in tasks]
    for task, outcome in zip(tasks, outcomes, strict=True):
        assert outcome.error is None
        if task.decode is None:
            assert outcome.data is None
            assert len(outcome.regions) == 0
        else:
            assert outcome.size_wh == (64, 48)
            assert is_black(outcome) == (len(outcome.regions) > 0)
    assert {item[1] for item in covered(outcomes)} >= set(range(0, 60, 3))
    assert threads() == []


def test_frames_without_regions_keep_their_bytes(recipe):
    msg = grey()
    (outcome,) = run([image_task(0, 0, msg=msg)], recipe)
    assert bytes(outcome.data) == msg.data
    assert len(outcome.regions) == 0


def test_streams_and_stills_mix(recipe):
    tasks = [
        image_task('a0', 0, FOUND),
        image_task('b0', 0, stream='b'),
        image_task('still', None, FOUND),
        image_task('a1', 33),
        image_task('b1', 33, FOUND, stream='b'),
        image_task('still too', None, NOTHING),
    ]
    outcomes = run(tasks, recipe)
    assert [outcome.item for outcome in outcomes] == [task.item for task in tasks]
    assert covered(outcomes) == ['a0', 'b0', 'still', 'b1']
    assert [outcome.replaced.counts for outcome in outcomes if len(outcome.regions)] == [
        {'solid': 1}
    ] * 4


def test_own_boxes_none_means_the_detector_looks(recipe, face_bgr):
    height, width = face_bgr.shape[:2]
    msg = raw_message('bgr8', width, height, data=face_bgr.tobytes())
    (outcome,) = run([image_task(0, 0, None, msg=msg)], recipe)
    assert len(outcome.regions) == 1


def test_frames_are_looked_at_side_by_side(recipe, monkeypatch):
    both = threading.Barrier(2, timeout=20)

    def detect(*_):
        both.wait()
        return FOUND

    monkeypatch.setattr(recipe.networks, 'concurrency', 2)
    monkeypatch.setattr(Recipe, 'detect', detect)
    outcomes = run([image_task(i, 33 * i, None) for i in range(8)], recipe)
    assert [outcome.error for outcome in outcomes] == [None] * 8
    assert covered(outcomes) == list(range(8))


@pytest.mark.parametrize('threads', [1, 2, 64])
def test_as_many_frames_at_once_as_the_threads_allow(threads):
    assert concurrency(Settings().updated({'threads': threads})) == min(threads, 4)


def test_the_pictures_do_not_depend_on_how_many_are_looked_at_at_once(tmp_path, face_bgr):
    """The same frames, faces generated, one after the other and side by side."""
    path = save_generator(tmp_path / 'generator.onnx', size_px=64)
    settings = Settings().updated(
        {
            'face.method': 'generate',
            'generator.model_path': str(path),
            'detector.plate_model_path': 'none',
            'threads': 1,
        }
    )
    height, width = face_bgr.shape[:2]
    frames = [np.roll(face_bgr, 2 * i, axis=1) for i in range(12)]
    messages = [raw_message('bgr8', width, height, data=frame.tobytes()) for frame in frames]
    pictures = []
    for n in (1, 3):
        with opened(settings, concurrency=n) as recipe:
            tasks = [image_task(i, 33 * i, None, msg=msg) for i, msg in enumerate(messages)]
            outcomes = run(tasks, recipe)
        assert all(outcome.replaced.counts == {'generate': 1} for outcome in outcomes)
        pictures.append([bytes(outcome.data) for outcome in outcomes])
    assert pictures[0] == pictures[1]


def test_faces_stay_as_light_as_they_were_however_many_are_painted_at_once(tmp_path):
    path = save_generator(tmp_path / 'generator.onnx', size_px=64, scale=0.1)
    changes = {
        'face.method': 'generate',
        'generator.model_path': str(path),
        'detector.plate_model_path': 'none',
        'threads': 1,
    }
    rng = np.random.default_rng(0)
    messages = [
        raw_message('bgr8', 96, 72, data=bytes([int(level)]) * (96 * 72 * 3))
        for level in rng.integers(86, 95, 12)
    ]
    found = Detections.of([(30, 20, 60, 56)], [0.9], FACE)

    def middles(pictures):
        return [
            np.frombuffer(p, np.uint8).reshape(72, 96, 3)[30:46, 38:52].mean((0, 1))
            for p in pictures
        ]

    shown = []
    for n in (1, 3):
        with opened(Settings().updated(changes), concurrency=n) as recipe:
            tasks = [image_task(i, 33 * i, found, msg=msg) for i, msg in enumerate(messages)]
            shown.append([bytes(outcome.data) for outcome in run(tasks, recipe)])
            stream, in_turn, alone = Stream(('a',)), [], []
            for i, msg in enumerate(messages):
                done, stream = recipe.anonymize(
                    decode(msg), stream, stamp_ns=33 * i * MS, detections=found
                )
                in_turn.append(bytes(done.data))
                first = Stream(('a',))
                done, _ = recipe.anonymize(decode(msg), first, stamp_ns=0, detections=found)
                alone.append(bytes(done.data))
            shown.append(in_turn)
    assert all(pictures == shown[0] for pictures in shown)
    held, trembling = (np.ptp(middles(p), axis=0).max() for p in (shown[0], alone))
    assert held < 0.5 * trembling


# A face that is found in the last of ten frames, 33 ms apart.


@pytest.mark.parametrize(
    ('look_ahead_ms', 'expected'),
    [(0.0, [9]), (33.0, [8, 9]), (100.0, [6, 7, 8, 9]), (2000.0, list(range(10)))],
)
def test_look_ahead_covers_a_face_before_it_is_found(recipe, look_ahead_ms, expected):
    recipe = with_settings(recipe, tracker__look_ahead_ms=look_ahead_ms)
    tasks = [image_task(i, 33 * i, FOUND if i == 9 else NOTHING) for i in range(10)]
    outcomes = run(tasks, recipe)
    assert covered(outcomes) == expected
    assert [outcome.item for outcome in outcomes if is_black(outcome)] == expected


def test_look_ahead_reaches_across_other_streams_and_frames_that_fail(recipe):
    tasks = []
    for i in range(6):
        tasks.append(image_task(('a', i), 33 * i, FOUND if i == 5 else NOTHING))
        tasks.append(image_task(('b', i), 33 * i, stream='b', msg=grey(32, 32)))
        tasks.append(image_task(('bad', i), 33 * i, msg=raw_message('bgr8', 8, 8, data=b'')))
    outcomes = run(tasks, recipe)
    assert covered(outcomes) == [('a', i) for i in range(6)]
    assert [outcome.item for outcome in outcomes if outcome.error] == [
        ('bad', i) for i in range(6)
    ]


def test_a_stream_that_stops_does_not_hold_up_the_others(recipe):
    waited = threading.Event()

    def tasks():
        yield image_task('a', 0)
        for i in range(1, 100):
            yield image_task(i, 33 * i, stream='b')
            if i == 60:
                # Long after the last frame of the first stream, and long before the end.
                assert waited.wait(20)

    with closing(anonymize_all(tasks(), recipe)) as outcomes:
        for outcome in outcomes:
            if outcome.item == 30:
                waited.set()
    assert waited.is_set()


def test_the_look_ahead_reaches_back_across_a_jump_of_the_clock(recipe):
    tasks = [image_task(i, 100_000 + 33 * i) for i in range(3)]
    tasks += [image_task(3 + i, 1000 + 33 * i, FOUND if i else NOTHING) for i in range(2)]
    outcomes = run(tasks, recipe)
    assert covered(outcomes) == [0, 1, 2, 3, 4]
    assert [outcome.replaced.warnings for outcome in outcomes] == [(), (), (), (JUMPED,), ()]


def test_stamps_that_are_a_little_late_count_as_the_last_one(recipe):
    recipe = with_settings(recipe, tracker__max_gap_ms=100.0, tracker__look_ahead_ms=0.0)
    tasks = [image_task(0, 100, FOUND), image_task(1, 67), image_task(2, 133)]
    outcomes = run(tasks, recipe)
    assert covered(outcomes) == [0, 1, 2]
    assert len({int(outcome.regions.track_ids[0]) for outcome in outcomes}) == 1


def test_frames_of_another_size_are_not_filled(recipe):
    tasks = [
        image_task(0, 0, msg=grey(16, 16)),
        image_task(1, 33),
        image_task(2, 66, FOUND),
    ]
    assert covered(run(tasks, recipe)) == [1, 2]


class _Fragile(Frame):
    """Fail where it is told to."""

    def __init__(self, where):
        self.image_bgr = np.zeros((48, 64, 3), np.uint8)
        self._where = where
        if where == 'decode':
            raise cv2.error('no such picture')

    def without(self, rects_xyxy_px):
        if self._where == 'replace':
            raise ZeroDivisionError('in the middle')

    def encode(self, touched_xyxy_px):
        if self._where == 'encode':
            raise MemoryError('too large')
        return b'done'


@pytest.mark.parametrize(
    ('where', 'text'),
    [
        ('decode', 'got error: .*no such picture; the frame has no image'),
        ('replace', 'got ZeroDivisionError: in the middle; the frame has no image'),
        ('encode', 'got MemoryError: too large; the frame has no image'),
    ],
)
def test_any_failure_is_carried_by_its_frame_alone(recipe, where, text):
    tasks = [
        image_task(0, 0, FOUND),
        Task(1, lambda: _Fragile(where), stream='a', stamp_ns=33 * MS, detections=FOUND),
        Task(2, lambda: _Fragile(''), stream='a', stamp_ns=66 * MS, detections=FOUND),
    ]
    first, failed, last = run(tasks, recipe)
    assert is_black(first)
    assert isinstance(failed.error, AnonymizerError)
    with pytest.raises(AnonymizerError, match=text):
        raise failed.error
    assert failed.data is None
    assert bytes(last.data) == b'done'


def test_an_error_of_the_package_stays_what_it_is(recipe):
    (outcome,) = run([image_task(0, 0, msg=raw_message('nonsense8', 4, 4, data=b''))], recipe)
    assert type(outcome.error) is ImageError


def test_what_the_tasks_raise_is_raised_after_what_came_before(recipe):
    def tasks():
        yield Task(0)
        yield image_task(1, 0)
        raise BagError('damaged')

    seen = []
    with pytest.raises(BagError, match='^damaged$'):
        seen.extend(outcome.item for outcome in anonymize_all(tasks(), recipe))
    assert seen == [0, 1]
    assert threads() == []


def test_closing_early_ends_the_threads_and_the_tasks(recipe):
    ended = []

    def tasks():
        try:
            for i in range(100_000):
                yield image_task(i, 33 * i)
        finally:
            ended.append(threading.current_thread().name)

    outcomes = anonymize_all(tasks(), recipe)
    for _ in range(5):
        next(outcomes)
    start = time.monotonic()
    outcomes.close()
    assert time.monotonic() - start < 5
    assert ended == ['feed']
    assert threads() == []


def test_memory_is_bounded_while_the_consumer_waits(recipe):
    drawn = []

    def tasks():
        for i in range(1000):
            drawn.append(i)
            yield image_task(i, 33 * i)

    with closing(anonymize_all(tasks(), recipe)) as outcomes:
        next(outcomes)
        time.sleep(1)
        # Two queues, the decoders, and the frames of the look-ahead.
        assert len(drawn) < 40


def test_a_signal_while_a_thread_is_started_waits_for_that_thread(recipe, monkeypatch):
    """What the thread reads from is closed next: a video's decoder would crash the process."""
    begun, ended = threading.Event(), threading.Event()

    def tasks():
        try:
            begun.set()
            time.sleep(0.3)
            yield image_task('first', 0)
        finally:
            ended.set()

    start = threading.Thread.start

    def interrupted(thread):
        start(thread)
        if thread.name == 'feed':
            assert begun.wait(10)
            raise KeyboardInterrupt

    monkeypatch.setattr(threading.Thread, 'start', interrupted)
    monkeypatch.setattr(threading.Thread, 'is_alive', lambda thread: False)
    with pytest.raises(KeyboardInterrupt):
        run(tasks(), recipe)
    assert ended.is_set()
