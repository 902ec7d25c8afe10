from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
import math
from pathlib import Path
import threading
import time
from types import SimpleNamespace
from typing import Any

from ffs_anonymizer.anonymizer import Anonymized, Recipe, Request
from ffs_anonymizer.clouds.scene import Link
from ffs_anonymizer.errors import ModelError, SettingsError
from ffs_anonymizer.frames.video_packets import is_keyframe, PacketDecoder
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.node import decoder, pictures, worker
from ffs_anonymizer.node.camera import Camera
from ffs_anonymizer.node.worker import DEAD_AFTER_FRAMES, Worker
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
import pytest
from support.video_packets import moving, stream

# One frame at a time; SIDE_BY_SIDE: one of each camera.
SETTINGS = Settings().updated(
    {
        'mask_zones': ['* 0 0 8 8'],
        'face.threshold': 1.0,
        'detector.plate_model_path': 'none',
        'threads': 1,
    }
)
SIDE_BY_SIDE = SETTINGS.updated({'threads': 2})


def picture(name: str, **changes: Any) -> SimpleNamespace:
    fields = {
        'name': name,
        'header': SimpleNamespace(stamp=SimpleNamespace(sec=1, nanosec=0)),
        'height': 32,
        'width': 32,
        'encoding': 'mono8',
        'is_bigendian': 0,
        'step': 32,
        'data': np.full(32 * 32, 200, np.uint8).tobytes(),
    }
    return SimpleNamespace(**{**fields, **changes})


class Desk:
    """Takes what the worker hands out; the first delivery waits until the gate opens."""

    def __init__(
        self,
        settings: Settings = SETTINGS,
        *,
        drop_old: bool = False,
        networks: Networks | None = None,
        topics: Sequence[str] = ('/a', '/b'),
    ) -> None:
        self.gate = threading.Event()
        # What waits at the gate, and what need not.
        self.waiting: list[str] = []
        self.free: set[str] = set()
        self.delivered: list[tuple[str, str, Anonymized]] = []
        self.reported: list[tuple[str, str]] = []
        self.error: Exception | None = None
        # Whether the next frame of each camera is decoded before one is handed out.
        self.keeps_pace = False
        self.cameras = [Camera(topic, drop_old=drop_old) for topic in topics]
        self.worker = Worker(
            settings,
            self.cameras,
            deliver=self._take,
            report=self._note,
            networks=networks,
        )

    def put(self, camera: int, message: Any) -> None:
        self.worker.put(self.cameras[camera], message)

    def finish(self) -> None:
        """Let the worker do all that waits, and end it."""
        self.gate.set()
        done = threading.Event()
        for _ in range(400):
            if not any(camera.account().waiting for camera in self.cameras):
                break
            done.wait(0.025)
        self.worker.close()

    def _take(self, camera: Camera, message: Any, anonymized: Anonymized) -> None:
        self.waiting.append(message.name)
        assert message.name in self.free or self.gate.wait(10)
        if self.keeps_pace:
            decoders = self.worker._decoders.values()
            until(lambda: all(d.has_frame or d.camera.first() is None for d in decoders))
        if self.error is not None:
            raise self.error
        self.delivered.append((camera.topic, message.name, anonymized))

    def _note(self, camera: Camera, reason: str) -> None:
        self.reported.append((camera.topic, reason))


@pytest.fixture(params=[SETTINGS, SIDE_BY_SIDE], ids=['one', 'side by side'])
def desk(request: pytest.FixtureRequest) -> Iterator[Desk]:
    desk = Desk(request.param)
    yield desk
    desk.gate.set()
    desk.worker.close()


def test_what_takes_the_regions_of_a_picture_searches_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    opened = []

    def noting(settings: Settings, *, concurrency: int, searches: int) -> Networks:
        opened.append((concurrency, searches))
        return Networks(settings, concurrency=concurrency, searches=searches)

    monkeypatch.setattr(worker, 'Networks', noting)
    links = [Link.parse('/cloud /image')]
    for topic, kind, of in (('/cloud', 'registered', links), ('/cloud', 'cloud', [])):
        cameras = [Camera('/image', drop_old=True)]
        cameras += [Camera(topic, drop_old=True, kind=kind, links=of)]
        Worker(SIDE_BY_SIDE, cameras, deliver=print, report=print).close()
    assert opened == [(2, 1), (2, 2)]


def test_missing_model_is_raised_by_the_constructor(tmp_path: Path) -> None:
    settings = Settings().updated({'detector.model_path': str(tmp_path / 'none.onnx')})
    with pytest.raises(ModelError, match=r'none\.onnx'):
        Desk(settings)


def test_cameras_take_turns() -> None:
    desk = Desk()
    desk.keeps_pace = True
    for name in 'abc':
        desk.put(0, picture(name))
    for name in 'xyz':
        desk.put(1, picture(name))
    desk.finish()
    names = [name for _, name, _ in desk.delivered]
    assert [set(names[at : at + 2]) for at in (0, 2, 4)] == [set('ax'), set('by'), set('cz')]


@pytest.mark.parametrize('gains', [True, False])
def test_waiting_frames_go_together_where_that_gains(
    gains: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = []
    together = Recipe.anonymize_together

    def counted(self: Recipe, requests: Sequence[Request]) -> Any:
        sizes.append(len(requests))
        return together(self, requests)

    monkeypatch.setattr(Recipe, 'gains_by_joining', gains)
    monkeypatch.setattr(Recipe, 'anonymize_together', counted)
    desk = Desk()
    desk.keeps_pace = True
    desk.put(0, picture('first'))
    while not sizes:
        time.sleep(0.01)
    for name in 'ab':
        desk.put(0, picture(name))
    desk.put(1, picture('corrupt', data=b'short'))
    desk.put(1, picture('y'))
    desk.finish()
    assert sorted(name for _, name, _ in desk.delivered) == ['a', 'b', 'first', 'y']
    assert [topic for topic, _ in desk.reported] == ['/b']
    assert sizes[0] == 1
    assert max(sizes) == (2 if gains else 1)


def test_frames_of_two_cameras_go_side_by_side() -> None:
    desk = Desk(SIDE_BY_SIDE)
    for name in 'ab':
        desk.put(0, picture(name))
    desk.put(1, picture('x'))
    until(lambda: len(desk.waiting) == 2)
    assert set(desk.waiting) == {'a', 'x'}
    # One frame of each camera at a time: the order of a camera's frames is kept.
    assert desk.cameras[0].account().waiting == 2
    desk.finish()
    assert [name for _, name, _ in desk.delivered if name in 'ab'] == ['a', 'b']
    assert len(desk.delivered) == 3


def test_newest_frame_wins_exactly_where_frames_go_side_by_side() -> None:
    desk = Desk(SIDE_BY_SIDE, drop_old=True)
    desk.put(0, picture('first'))
    desk.put(1, picture('other'))
    until(lambda: len(desk.waiting) == 2)
    for name in 'abc':
        desk.put(0, picture(name))
        time.sleep(0.02)
    desk.finish()
    assert [name for topic, name, _ in desk.delivered if topic == '/a'] == ['first', 'c']
    assert desk.cameras[0].account().dropped == 2


def test_two_frames_of_a_lone_camera_are_searched_at_once_and_leave_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker, 'HANGS_AFTER_S', 0.2)
    searched: list[Request] = []
    gate = threading.Event()
    looked = Recipe.looked

    def slow_at_first(self: Recipe, request: Request) -> Request:
        searched.append(request)
        assert searched[0] is not request or gate.wait(10)
        return looked(self, request)

    monkeypatch.setattr(Recipe, 'looked', slow_at_first)
    desk = Desk(SIDE_BY_SIDE, topics=['/a'])
    desk.gate.set()
    for name in 'abc':
        desk.put(0, picture(name))
    until(lambda: 'hangs' in desk.worker.dead_reason)
    # The second one waits for the first, which alone hangs.
    until(lambda: math.inf in [piece.since_s for piece in desk.worker._in_work.values()])
    assert len(searched) == 2
    assert not desk.delivered
    gate.set()
    until(lambda: len(desk.delivered) == 3)
    assert not desk.worker.dead_reason
    desk.finish()
    assert [name for _, name, _ in desk.delivered] == ['a', 'b', 'c']


def test_frame_of_a_lone_camera_that_cannot_be_searched_holds_up_none(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looked = Recipe.looked

    def fails_once(self: Recipe, request: Request) -> Request:
        if not request.frame.image_bgr.any():
            raise ModelError('no')
        return looked(self, request)

    monkeypatch.setattr(Recipe, 'looked', fails_once)
    desk = Desk(SIDE_BY_SIDE, topics=['/a'])
    desk.put(0, picture('a'))
    desk.put(0, picture('dark', data=bytes(32 * 32)))
    desk.put(0, picture('c'))
    desk.finish()
    assert [name for _, name, _ in desk.delivered] == ['a', 'c']
    assert desk.reported == [('/a', 'no')]
    account = desk.cameras[0].account()
    assert (account.published, account.failed, account.waiting) == (2, 1, 0)


def test_update_waits_for_all_frames_in_work() -> None:
    desk = Desk(SIDE_BY_SIDE)
    desk.put(0, picture('a'))
    desk.put(1, picture('x'))
    until(lambda: len(desk.waiting) == 2)
    done = threading.Event()

    def change() -> None:
        desk.worker.update(SETTINGS.updated({'mask_zones': []}), timeout_s=10)
        done.set()

    threading.Thread(target=change).start()
    desk.put(0, picture('b'))
    assert not done.wait(0.2)
    desk.finish()
    assert done.wait(10)
    first_pixels = {name: result.data[0] for _, name, result in desk.delivered}
    assert first_pixels == {'a': 0, 'x': 0, 'b': 200}


def test_network_that_hangs_stops_no_other_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(worker, 'HANGS_AFTER_S', 0.2)
    desk = Desk(SIDE_BY_SIDE)
    desk.put(0, picture('stuck'))
    until(lambda: desk.waiting)
    desk.free.add('x')
    desk.free.add('y')
    for name in 'xy':
        desk.put(1, picture(name))
    until(lambda: len(desk.delivered) == 2)
    until(lambda: 'a network hangs' in desk.worker.dead_reason)
    assert not desk.worker.close(0.1)
    desk.gate.set()


def test_zone_is_covered(desk: Desk) -> None:
    desk.put(0, picture('a'))
    desk.finish()
    pixels = np.frombuffer(desk.delivered[0][2].data, np.uint8).reshape(32, 32)
    expected = np.full((32, 32), 200, np.uint8)
    expected[:8, :8] = 0
    np.testing.assert_array_equal(pixels, expected)


def test_failure_is_counted_and_the_next_frame_passes(desk: Desk) -> None:
    desk.put(0, picture('short', data=b'1234'))
    desk.put(0, picture('good'))
    desk.finish()
    assert [name for _, name, _ in desk.delivered] == ['good']
    account = desk.cameras[0].account()
    assert (account.received, account.published, account.failed) == (2, 1, 1)
    assert [topic for topic, _ in desk.reported] == ['/a']
    assert account.last_error == desk.reported[0][1] != ''


def test_fault_of_any_kind_is_counted_and_the_worker_goes_on(desk: Desk) -> None:
    desk.put(0, SimpleNamespace(name='no image at all'))
    desk.put(0, picture('good'))
    desk.finish()
    assert [name for _, name, _ in desk.delivered] == ['good']
    assert 'AttributeError' in desk.reported[0][1]


def test_back_end_is_called_dead_and_alive_again(desk: Desk) -> None:
    desk.gate.set()
    desk.error = RuntimeError('device lost')
    for _ in range(DEAD_AFTER_FRAMES):
        assert desk.worker.dead_reason == ''
        desk.put(0, picture('a'))
        while desk.cameras[0].account().waiting:
            threading.Event().wait(0.005)
    assert desk.worker.dead_reason == (
        f'the last {DEAD_AFTER_FRAMES} frames failed, most recently: RuntimeError: device lost'
    )
    desk.error = None
    desk.put(0, picture('a'))
    desk.finish()
    assert desk.worker.dead_reason == ''


def test_corrupt_frames_do_not_kill_the_back_end(desk: Desk) -> None:
    for _ in range(DEAD_AFTER_FRAMES + 1):
        desk.put(0, picture('short', data=b''))
    desk.finish()
    assert desk.cameras[0].account().failed == DEAD_AFTER_FRAMES + 1
    assert desk.worker.dead_reason == ''


def test_update_holds_from_the_next_frame_on(desk: Desk) -> None:
    desk.gate.set()
    desk.worker.update(SETTINGS.updated({'mask_zones': []}))
    desk.put(0, picture('a'))
    desk.finish()
    assert bytes(desk.delivered[0][2].data) == picture('a').data


def test_refused_update_changes_nothing(desk: Desk) -> None:
    desk.gate.set()
    with pytest.raises(SettingsError, match='zone'):
        desk.worker.update(SETTINGS.updated({'mask_zones': ['nonsense']}))
    desk.put(0, picture('a'))
    desk.finish()
    assert desk.delivered[0][2].data[0] == 0


def test_close_drops_what_waits_and_takes_no_more() -> None:
    desk = Desk()
    for name in 'abc':
        desk.put(0, picture(name))
    threading.Timer(0.2, desk.gate.set).start()
    desk.worker.close()
    account = desk.cameras[0].account()
    assert (account.received, account.waiting) == (3, 0)
    assert account.published + account.dropped == 3
    assert account.published == len(desk.delivered) <= 1
    desk.put(0, picture('d'))
    assert desk.cameras[0].account() == account


@pytest.fixture
def slow(monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Let the decoding of a picture whose name begins with `bomb` wait for an event."""
    gate = threading.Event()
    decode = pictures.decode

    def wait_for_gate(message: Any, **options: Any) -> Any:
        if message.name.startswith('bomb'):
            assert gate.wait(20)
        return decode(message, **options)

    monkeypatch.setattr(pictures, 'decode', wait_for_gate)
    yield gate
    gate.set()


def until(holds: Callable[[], object]) -> None:
    end_s = time.monotonic() + 10
    while not holds():
        assert time.monotonic() < end_s
        time.sleep(0.005)


def test_frame_that_takes_long_to_decode_stops_no_other_camera(
    desk: Desk, slow: threading.Event
) -> None:
    desk.gate.set()
    desk.put(0, picture('bomb'))
    for name in 'xyz':
        desk.put(1, picture(name))
    until(lambda: len(desk.delivered) == 3)
    assert desk.cameras[0].account().waiting == 1
    slow.set()
    desk.finish()
    assert [name for _, name, _ in desk.delivered] == ['x', 'y', 'z', 'bomb']


def test_frame_over_the_time_budget_fails_once_and_never_comes(
    desk: Desk, slow: threading.Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decoder, 'BUDGET_S', 0.05)
    desk.gate.set()
    desk.put(0, picture('bomb'))
    camera = desk.cameras[0]

    def given_up() -> bool:
        desk.worker.give_up_late()
        return camera.account().failed == 1

    until(given_up)
    assert camera.account().last_error == 'not decoded within 0.05 s'
    assert desk.worker.stuck_reason('/a').startswith('decoding has taken')
    assert desk.worker.stuck_reason('/b') == ''
    slow.set()
    desk.put(0, picture('next'))
    desk.finish()
    assert [name for _, name, _ in desk.delivered] == ['next']
    account = camera.account()
    assert (account.received, account.published, account.failed) == (2, 1, 1)


def test_end_does_not_wait_for_what_is_being_decoded(desk: Desk, slow: threading.Event) -> None:
    desk.gate.set()
    desk.put(0, picture('bomb'))
    until(lambda: desk.worker._decoders['/a']._since_s is not None)
    began_s = time.monotonic()
    assert not desk.worker.close()
    assert time.monotonic() - began_s < 2


def test_priorities_are_shares_of_the_turns() -> None:
    desk = Desk(SETTINGS.updated({'priorities': ['/b 3']}))
    desk.keeps_pace = True
    desk.put(0, picture('first'))
    until(lambda: desk.cameras[0].account().waiting and not desk.worker._decoders['/a'].has_frame)
    for n in range(8):
        desk.put(0, picture(f'a{n}'))
        desk.put(1, picture(f'b{n}'))
    until(lambda: all(d.has_frame for d in desk.worker._decoders.values()))
    desk.finish()
    names = [name for _, name, _ in desk.delivered][1:9]
    assert sum(name.startswith('b') for name in names) in (6, 7)


def test_wrong_priorities_are_refused() -> None:
    with pytest.raises(SettingsError, match='priorities: got'):
        Desk(SETTINGS.updated({'priorities': ['/b often']}))


def test_networks_may_be_shared_and_stay_open() -> None:
    with Networks(SETTINGS) as networks:
        for _ in range(2):
            desk = Desk(networks=networks)
            desk.put(0, picture('a'))
            desk.finish()
            assert [name for _, name, _ in desk.delivered] == ['a']


class CompressedVideo(SimpleNamespace):
    """Hold the fields of foxglove_msgs/CompressedVideo, which is not on PyPI."""


def packet(at: int, data: bytes) -> CompressedVideo:
    stamp = SimpleNamespace(sec=1, nanosec=at * 33_000_000)
    return CompressedVideo(
        name=f'p{at}', timestamp=stamp, frame_id='front', data=data, format='h264'
    )


@pytest.mark.parametrize('drop_old', [False, True])
def test_video_packets_go_round_in_their_order(drop_old: bool) -> None:
    desk = Desk(drop_old=drop_old)
    desk.gate.set()
    packets = stream(moving(12), gop=4)
    for at, data in enumerate(packets[1:], start=1):
        desk.put(0, packet(at, data))
        if not drop_old:
            until(lambda: not desk.cameras[0].account().waiting)
    desk.finish()
    account = desk.cameras[0].account()
    assert account.failed == 3
    assert 'no keyframe has come yet' in account.last_error
    assert account.published + account.dropped == 8
    names = [name for _, name, _ in desk.delivered]
    assert names == sorted(names, key=lambda name: int(name[1:]))
    assert names[-1] == 'p11'
    if not drop_old:
        assert account.dropped == 0
    viewer = PacketDecoder('h264')
    made = [bytes(result.data) for _, _, result in desk.delivered]
    assert is_keyframe(made[0], 'h264')
    for data in made:
        shown = viewer.decode(data).samples.decode().image_bgr
        assert shown[1:6, 1:6].max() < 24
        assert shown[20:].max() > 100


def test_missing_packets_are_waited_out() -> None:
    desk = Desk()
    desk.gate.set()
    packets = stream(moving(12), gop=4)
    for at, data in enumerate(packets):
        if at == 5:
            desk.cameras[0].count_lost(1)
            continue
        desk.put(0, packet(at, data))
        until(lambda: not desk.cameras[0].account().waiting)
    desk.finish()
    names = [name for _, name, _ in desk.delivered]
    assert names == [f'p{at}' for at in (0, 1, 2, 3, 4, 8, 9, 10, 11)]


class RawImage(SimpleNamespace):
    """Hold the fields of foxglove_msgs/RawImage."""


def test_foxglove_raw_image(desk: Desk) -> None:
    plain = vars(picture('raw'))
    del plain['header'], plain['is_bigendian']
    desk.put(0, RawImage(**plain, timestamp=SimpleNamespace(sec=1, nanosec=0), frame_id='front'))
    desk.finish()
    assert [name for _, name, _ in desk.delivered] == ['raw']
    assert desk.delivered[0][2].data[0] == 0
