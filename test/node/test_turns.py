from __future__ import annotations

from collections import Counter
import threading

from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.node.turns import Order, Turns, weights
import pytest


def test_nobody_waits() -> None:
    assert Turns([1, 1]).take([]) is None


def test_equal_cameras_take_turns() -> None:
    turns = Turns([1, 1, 1])
    assert [turns.take([0, 1, 2]) for _ in range(7)] == [0, 1, 2, 0, 1, 2, 0]


def test_weight_is_a_share_of_the_turns() -> None:
    turns = Turns([3, 1])
    assert Counter(turns.take([0, 1]) for _ in range(40)) == {0: 30, 1: 10}


def test_turns_that_were_not_used_are_gone() -> None:
    turns = Turns([1, 1])
    for _ in range(50):
        turns.take([0])
    assert Counter(turns.take([0, 1]) for _ in range(10)) == {0: 5, 1: 5}


def test_what_was_begun_first_has_its_turn_first() -> None:
    order, ended = Order(), []
    frames = first, second, third = [object() for _ in range(3)]
    for frame in frames:
        order.begin(frame)

    def have_turn(frame: object) -> None:
        with order.turn(frame):
            ended.append(frame)

    others = [threading.Thread(target=have_turn, args=[frame]) for frame in (third, second)]
    for thread in others:
        thread.start()
    assert not ended
    with pytest.raises(ValueError, match='of the first'), order.turn(first):
        raise ValueError('of the first')
    for thread in others:
        thread.join(10)
    assert ended == [second, third]


def test_weights_by_topic() -> None:
    texts = ['/front/* 5', '/rear/image 2', '/* 3']
    topics = ['/front/image', '/rear/image', '/left/image']
    assert weights(texts, topics) == [5, 2, 3]
    assert weights([], topics) == [1, 1, 1]


@pytest.mark.parametrize(
    'text', ['', '/cam', '/cam 0', '/cam 101', '/cam high', '/cam 1 2', '/cam -1']
)
def test_other_texts_are_refused(text: str) -> None:
    with pytest.raises(SettingsError, match='priorities: got .* expected `<topic or glob>'):
        weights([text], ['/cam'])
