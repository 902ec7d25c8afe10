from __future__ import annotations

from ffs_anonymizer.node.camera import Account, Camera, QUEUE_FRAMES

SECOND = 1_000_000_000


def counts(account: Account) -> tuple[int, int, int, int, int]:
    return (
        account.received,
        account.published,
        account.dropped,
        account.failed,
        account.waiting,
    )


def test_new_camera_has_nothing() -> None:
    camera = Camera('/cam', drop_old=True)
    assert camera.take() is None
    assert camera.account() == Account()


def test_newest_frame_wins_and_the_others_are_counted() -> None:
    camera = Camera('/cam', drop_old=True)
    for message in 'abc':
        camera.put(message)
    assert counts(camera.account()) == (3, 0, 2, 0, 1)
    waiting = camera.take()
    assert waiting is not None
    assert waiting.message == 'c'
    assert camera.take() is None
    camera.count_published(waiting, regions=2, timings_ms={'detect': 4.5})
    assert counts(camera.account()) == (3, 1, 2, 0, 0)
    assert camera.account().regions == 2
    assert camera.account().timings_ms == {'detect': 4.5}


def test_queue_keeps_the_order_and_counts_what_is_over() -> None:
    camera = Camera('/cam', drop_old=False)
    for message in range(QUEUE_FRAMES + 3):
        camera.put(message)
    assert counts(camera.account()) == (QUEUE_FRAMES + 3, 0, 3, 0, QUEUE_FRAMES)
    taken = [camera.take() for _ in range(QUEUE_FRAMES)]
    assert [waiting.message for waiting in taken if waiting] == list(range(QUEUE_FRAMES))
    assert camera.take() is None


def test_frame_in_work_waits_until_it_has_failed() -> None:
    camera = Camera('/cam', drop_old=True)
    camera.put('a')
    camera.take()
    assert camera.account().waiting == 1
    camera.count_failed('it was torn')
    assert counts(camera.account()) == (1, 0, 0, 1, 0)
    assert camera.account().last_error == 'it was torn'


def test_end_drops_what_waits() -> None:
    camera = Camera('/cam', drop_old=False)
    for message in 'abc':
        camera.put(message)
    camera.drop_waiting()
    assert counts(camera.account()) == (3, 0, 3, 0, 0)


def test_lost_frames_are_no_part_of_the_sum() -> None:
    camera = Camera('/cam', drop_old=True)
    camera.count_lost(4)
    camera.count_lost(1)
    assert camera.account() == Account(lost=5)
