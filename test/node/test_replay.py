from __future__ import annotations

from pathlib import Path

from ffs_anonymizer.errors import BagError, SettingsError
from ffs_anonymizer.node.replay import check_recording, Pacer
import pytest

EMPTY = '/**:\n  ros__parameters: {image_topics: []}\n'


def test_replay_of_nothing_is_refused(tmp_path: Path) -> None:
    path = tmp_path / 'params.yaml'
    path.write_text(EMPTY)
    with pytest.raises(SettingsError, match='image_topics: got none'):
        check_recording(tmp_path, [], path)
    with pytest.raises(BagError):
        check_recording(tmp_path / 'none', ['/cam'], path)


def test_player_waits_for_the_node_so_that_nothing_is_dropped() -> None:
    """A frame comes at each tick unless the player rests, which it does two ticks too late."""
    room, waiting, dropped, done = 16, 0, 0, 0
    orders: list[bool] = []
    pacer = Pacer(
        waiting=lambda: waiting,
        pause=lambda: orders.append(True),
        resume=lambda: orders.append(False),
        room=room,
    )
    resting: list[bool] = [False] * 3
    for tick in range(400):
        if not resting[-3]:
            dropped += waiting == room
            waiting = min(waiting + 1, room)
        if tick % 3 == 0 and waiting:
            waiting, done = waiting - 1, done + 1
        pacer.step()
        resting.append(pacer.paused)
    assert dropped == 0
    assert done > 120
    assert orders[:4] == [True, False, True, False]


def test_player_of_a_fast_node_is_left_alone() -> None:
    pacer = Pacer(waiting=lambda: 1, pause=pytest.fail, resume=pytest.fail, room=16)
    pacer.step()
    assert not pacer.paused
