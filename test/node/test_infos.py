from __future__ import annotations

import struct

from ffs_anonymizer.node.infos import HELD_INFOS, Infos, stamp_ns, UNPAIRED_INFOS
import pytest

SECOND = 1_000_000_000


def info(stamp: int, order: str = '<') -> bytes:
    """Return the beginning of a serialized camera_info; the stamp is in whole seconds."""
    return bytes([0, order == '<', 0, 0]) + struct.pack(f'{order}iI', stamp, 0) + b'rest'


class Desk:
    """Hold infos, and what came out of them by its second."""

    def __init__(self) -> None:
        self.out: list[int] = []
        self.awaited = True
        self.infos = Infos(
            lambda data: self.out.append(stamp_ns(data) // SECOND),
            is_awaited=lambda: self.awaited,
        )

    def put(self, *stamps: int) -> None:
        for stamp in stamps:
            self.infos.put(info(stamp))

    def image(self, *stamps: int) -> None:
        for stamp in stamps:
            self.infos.image_published(stamp * SECOND)


@pytest.fixture
def desk() -> Desk:
    return Desk()


@pytest.mark.parametrize('order', ['<', '>'])
def test_stamp_is_read_in_either_byte_order(order: str) -> None:
    assert stamp_ns(info(7, order)) == 7 * SECOND


def test_info_waits_for_its_image(desk: Desk) -> None:
    desk.put(1, 2, 3)
    assert desk.out == []
    desk.image(2)
    assert desk.out == [2]
    desk.image(3)
    assert desk.out == [2, 3]


def test_info_that_comes_after_its_image_follows_at_once(desk: Desk) -> None:
    desk.image(5)
    desk.put(5)
    assert desk.out == [5]


def test_info_of_two_images_leaves_once(desk: Desk) -> None:
    desk.put(4)
    desk.image(4, 4)
    assert desk.out == [4]


@pytest.mark.parametrize('why', ['no stamp', 'nobody works'])
def test_info_that_no_image_will_come_for_passes(desk: Desk, why: str) -> None:
    desk.awaited = why != 'nobody works'
    stamp = 0 if why == 'no stamp' else 9
    desk.put(stamp)
    assert desk.out == [stamp]
    desk.awaited = True
    desk.image(stamp)
    assert desk.out == [stamp]


def test_infos_of_other_stamps_pass_after_a_while_until_one_fits(desk: Desk) -> None:
    for at in range(UNPAIRED_INFOS):
        assert not desk.infos.fit_no_image
        desk.put(1000 + at)
        desk.image(5000 + at)
    assert desk.infos.fit_no_image
    assert desk.out == []
    desk.put(2000)
    assert desk.out == [2000]
    desk.put(3000)
    desk.image(3000)
    assert desk.out == [2000, 3000]
    assert not desk.infos.fit_no_image
    desk.put(3001)
    assert desk.out == [2000, 3000]


def test_infos_alone_are_no_reason_to_pass_them(desk: Desk) -> None:
    """The images may be lost, or slow."""
    desk.put(*range(1, 3 * UNPAIRED_INFOS))
    assert not desk.infos.fit_no_image
    assert desk.out == []


def test_memory_is_bounded(desk: Desk) -> None:
    desk.put(*range(1, HELD_INFOS + 2))
    desk.image(1)
    assert desk.out == []
    desk.image(2)
    assert desk.out == [2]
