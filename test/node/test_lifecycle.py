from __future__ import annotations

import os
import threading
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus
from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.models.roster import default_detector
from ffs_anonymizer.node.lifecycle import AnonymizerLifecycleNode
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
import pytest
from rclpy.qos import QoSProfile
from sensor_msgs.msg import Image
from support.live import BLIND, image, Live
from support.memory import used_bytes

pytestmark = pytest.mark.usefixtures('isolated')
CYCLE = ('configure', 'activate', 'deactivate', 'cleanup')


def start(live: Live, **values: Any) -> Any:
    settings = {**BLIND, 'face.method': 'blur', **values}
    return live.start(kind=AnonymizerLifecycleNode, image_topics=['/cam/image_raw'], **settings)


def change(live: Live, *names: str) -> list[bool]:
    done = []
    for name in names:
        transition = Transition(id=getattr(Transition, f'TRANSITION_{name.upper()}'))
        request = ChangeState.Request(transition=transition)
        done.append(live.call(ChangeState, '/anonymizer/change_state', request).success)
    return done


def state(live: Live) -> int:
    found = live.call(GetState, '/anonymizer/get_state', GetState.Request())
    number: int = found.current_state.id
    return number


def outputs_offered(live: Live) -> int:
    return len(live.tester.get_publishers_info_by_topic('/anonymized/cam/image_raw'))


def test_frames_pass_while_it_is_active_and_at_no_other_time(live: Live) -> None:
    node = start(live, lazy=False)
    publisher = live.publisher(Image, '/cam/image_raw')
    outputs = live.received(Image, '/anonymized/cam/image_raw')
    backend = live.statuses('back end')
    live.until('it speaks', lambda: backend)
    assert backend[-1].message == 'not loaded'
    assert change(live, 'configure') == [True]
    live.until('it is loaded', lambda: backend[-1].message == 'loaded')
    assert publisher.get_subscription_count() == outputs_offered(live) == 0
    assert change(live, 'activate') == [True]
    live.matched(publisher)
    live.pass_one(publisher, image(stamp=1), outputs)
    assert change(live, 'deactivate') == [True]
    live.until('it has left', lambda: not publisher.get_subscription_count())
    assert outputs_offered(live) == 0
    publisher.publish(image(stamp=2))
    live.spin(0.2)
    assert change(live, 'activate') == [True]
    live.matched(publisher)
    live.pass_one(publisher, image(stamp=3), outputs)
    assert [message.header.stamp.sec for message in outputs] == [1, 3]
    assert node.accounts()['/cam/image_raw'].published == 2
    assert change(live, 'deactivate', 'cleanup') == [True, True]
    assert state(live) == State.PRIMARY_STATE_UNCONFIGURED


def test_transitions_leave_nothing_behind(live: Live) -> None:
    node = start(live)
    live.publisher(Image, '/cam/image_raw')

    def held() -> tuple[int, ...]:
        return (
            threading.active_count(),
            len(os.listdir('/proc/self/fd')),
            len(list(node.publishers)),
            len(list(node.subscriptions)),
            len(list(node.timers)),
        )

    assert change(live, *CYCLE) == [True] * 4
    before = held()
    for _ in range(3):
        assert change(live, 'configure', 'activate', 'deactivate') == [True] * 3
        assert change(live, 'activate', 'deactivate', 'cleanup') == [True] * 3
    # Less is what earlier tests had left to the garbage collector.
    assert all(now <= then for now, then in zip(held(), before, strict=True))
    assert outputs_offered(live) == 0


def test_rounds_leave_no_memory_behind(live: Live) -> None:
    start(live, lazy=False, **{'detector.scale': 0.25})
    publisher = live.publisher(Image, '/cam/image_raw', QoSProfile(depth=1))
    outputs = live.received(Image, '/anonymized/cam/image_raw')

    def used_after(rounds: int) -> int:
        for _ in range(rounds):
            assert change(live, 'configure', 'activate') == [True] * 2
            live.matched(publisher)
            live.pass_one(publisher, image(width=640, height=480), outputs)
            outputs.clear()
            assert change(live, 'deactivate', 'cleanup') == [True] * 2
        return used_bytes()

    before = used_after(3)
    # A frame has 900 KiB, the networks have megabytes; rclpy keeps a little of each entity.
    assert used_after(6) - before < 6 * 100 * 1024


def test_counts_begin_anew_with_each_round(live: Live) -> None:
    start(live, lazy=False)
    publisher = live.publisher(Image, '/cam/image_raw')
    outputs = live.received(Image, '/anonymized/cam/image_raw')
    statuses = live.statuses('/cam/image_raw')
    for frames in (3, 1):
        assert change(live, 'configure', 'activate') == [True] * 2
        live.matched(publisher)
        for _ in range(frames):
            live.pass_one(publisher, image(), outputs)
        seen = len(statuses)
        live.until('it speaks', lambda seen=seen: len(statuses) > seen)
        values = {item.key: item.value for item in statuses[-1].values}
        assert values['frames in'] == str(frames)
        assert change(live, 'deactivate', 'cleanup') == [True] * 2
    assert not any('were lost' in status.message for status in statuses)


def test_failed_transition_goes_to_error_processing_and_back(live: Live) -> None:
    start(live, **{'detector.model_path': '/no/such.onnx'})
    assert change(live, 'configure') == [False]
    assert state(live) == State.PRIMARY_STATE_UNCONFIGURED


def test_network_that_is_there_at_last_is_loaded(live: Live, tmp_path: Any) -> None:
    path = tmp_path / 'later.onnx'
    start(live, **{'detector.model_path': str(path)})
    assert change(live, 'configure') == [False]
    path.symlink_to(default_detector())
    assert change(live, 'configure', 'activate') == [True, True]


def test_parameters_change_in_every_state(live: Live) -> None:
    node = start(live)
    for count, name in enumerate(('configure', 'activate', 'deactivate', 'cleanup')):
        value = 0.3 + count / 10
        assert live.set_parameter('face.threshold', value) == (True, '')
        assert node.settings.face.threshold == value
        assert not live.set_parameter('mask_zones', ['nonsense'])[0]
        assert change(live, name) == [True]


def test_shutdown_gives_everything_back(live: Live) -> None:
    start(live)
    threads = threading.active_count()
    assert change(live, 'configure', 'activate', 'active_shutdown') == [True] * 3
    assert state(live) == State.PRIMARY_STATE_FINALIZED
    assert threading.active_count() == threads
    assert outputs_offered(live) == 0


def test_wrong_parameters_refuse_to_start(live: Live) -> None:
    with pytest.raises(SettingsError, match='did you mean face.threshold'):
        start(live, **{'face.treshold': 0.5})


def test_not_being_active_is_no_fault(live: Live) -> None:
    start(live)
    backend = live.statuses('back end')
    live.until('it speaks', lambda: backend)
    assert backend[-1].level == DiagnosticStatus.OK
