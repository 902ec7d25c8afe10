"""The threads of the live node that own the models and work on the frames of all cameras."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
import contextlib
import dataclasses
from dataclasses import dataclass
from functools import partial
import math
import threading
import time
from typing import Any, Union

from ffs_anonymizer.anonymizer import Anonymized, Recipe, Request
from ffs_anonymizer.errors import AnonymizerError, ImageError
from ffs_anonymizer.frames.frame import Frame
from ffs_anonymizer.frames.message import rotation_of
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.node.camera import Camera, Waiting
from ffs_anonymizer.node.decoder import Decoder
from ffs_anonymizer.node.measured import Measured, stamp_ns
from ffs_anonymizer.node.pictures import Pictures
from ffs_anonymizer.node.turns import Order, Turns, weights
from ffs_anonymizer.pipeline import concurrency
from ffs_anonymizer.settings.runtime import Settings
from ffs_anonymizer.stream import Stream

# Frames in a row, of any camera, that fail for another reason than their own content before the
# back end is called dead.
DEAD_AFTER_FRAMES = 10
# How long one piece of work may take before the back end is called dead, until it ends after all.
HANGS_AFTER_S = 5.0
# How long the end waits for the piece in work.
END_S = 3.0
_LOOK_S = 0.1
# Frames of a camera that is alone, which nothing else can go beside.
_SIDE_BY_SIDE = 2
# How long a caller waits for the picture that it asked for before it asks for another one, too.
_SOON_S = 0.02
# A camera, its message, and its picture where it has one of its own.
_Taken = tuple[Camera, Waiting, Union[Frame, None]]


@dataclass(frozen=True)
class _Piece:
    """Hold a piece of work: frames, or other settings."""

    do: Callable[[], None]
    cameras: frozenset[Camera] = frozenset()
    since_s: float = 0.0


class StoppedError(AnonymizerError):
    """The process is to end before the networks are loaded."""


class Worker:
    """
    Load the models in a thread of its own and anonymize in some threads what the cameras hold.

    The constructor returns when the models are loaded. Cameras take turns, and of each one frame
    is in work at a time. Frames of several go side by side, which scales better over the cores
    than the layers of one network do, unless the device gains by taking them together. Of a camera
    that is alone two frames are looked at side by side; all else is done with one after the other.
    A frame that fails is counted and never handed out, whatever the reason.

    :param deliver: hands out one result; called in any of the threads.
    :param report: told of each failure: the camera and the reason; called in any of the threads.
    :param stopped: tells whether the loading is to end.
    :param networks: open ones that others use as well, and that stay open; None: own ones.
    :raises AnonymizerError: the models cannot be loaded.
    :raises StoppedError: the loading was to end; its thread ends when it can.
    """

    def __init__(
        self,
        settings: Settings,
        cameras: Sequence[Camera],
        *,
        deliver: Callable[[Camera, Any, Anonymized], None],
        report: Callable[[Camera, str], None],
        stopped: Callable[[], bool] = lambda: False,
        networks: Networks | None = None,
    ) -> None:
        self._cameras = tuple(cameras)
        self.measured = Measured(settings, cameras)
        self._waits_for_pictures = any(camera.links for camera in cameras)
        self._deliver = deliver
        self._report = report
        # One that cannot be read is told now, and not with every frame.
        rotation_of(settings.rotation)
        self._wake = threading.Condition()
        self._updates: deque[tuple[Settings, Future[None]]] = deque()
        self._stop = False
        self._turns = Turns(weights(settings.priorities, [c.topic for c in self._cameras]))
        self._streams = {camera.topic: Stream((camera.topic,)) for camera in self._cameras}
        self._orders = {camera.topic: Order() for camera in self._cameras}
        self._of_each = _SIDE_BY_SIDE if len(self._cameras) == 1 else 1
        self._failures_in_a_row = 0
        self._dead_reason = ''
        # By the thread that does it.
        self._in_work: dict[int, _Piece] = {}
        self._idle = 0
        self._is_changing = False
        self._recipe: Recipe
        self._decoders: dict[str, Decoder] = {}
        loaded: Future[dict[str, str]] = Future()
        self._thread = threading.Thread(
            target=self._run,
            args=(settings, loaded, networks),
            name='anonymizer',
            daemon=True,
        )
        self._thread.start()
        while not loaded.done():
            wait([loaded], timeout=_LOOK_S)
            if stopped():
                self._stop = True
                raise StoppedError('the process ends')
        self.description = loaded.result()

    def _decoder(self, camera: Camera, settings: Settings, *, ahead: bool) -> Decoder:
        pictures = Pictures(camera.topic, settings)

        def decode(waiting: Waiting) -> Frame | None:
            if camera.kind == 'cloud':
                return self.measured.decode(camera, waiting.message)
            return pictures.decode(waiting.message, after_gap=waiting.after_gap)

        return Decoder(camera, decode=decode, ready=self._look, failed=self._failed, ahead=ahead)

    def _look(self) -> None:
        with self._wake:
            self._wake.notify_all()

    def put(self, camera: Camera, message: Any) -> None:
        """Queue a frame; any thread may call this."""
        with self._wake:
            if self._stop:
                return
            camera.put(message)
            self._wake.notify_all()
        if camera.topic in self._decoders:
            self._decoders[camera.topic].wake()

    def give_up_late(self) -> None:
        """Count frames as failed that take too long to decode."""
        for decoder in self._decoders.values():
            decoder.give_up_late()

    def stuck_reason(self, topic: str) -> str:
        """Return why nothing comes of a camera; empty while it does."""
        decoder = self._decoders.get(topic)
        return decoder.stuck_reason if decoder else ''

    def update(self, settings: Settings, timeout_s: float = 2.0) -> None:
        """
        Change the live settings between two frames, and wait until that is done.

        :raises AnonymizerError: the recipe refuses them, or has no time; the old ones stay.
        """
        if self._hangs:
            raise AnonymizerError(f'nothing can change now: {self.dead_reason}')
        done: Future[None] = Future()
        with self._wake:
            self._updates.append((settings, done))
            self._wake.notify_all()
        try:
            done.result(timeout_s)
        except FutureTimeoutError as error:
            if done.cancel():
                raise AnonymizerError(
                    f'the worker did not take the new settings within {timeout_s:g} s'
                ) from error
            done.result()

    @property
    def dead_reason(self) -> str:
        """Return why nothing can be expected of the back end any more; empty while it works."""
        if not self._thread.is_alive() and not self._stop:
            return 'the worker thread has ended'
        if self._hangs:
            return f'the frame in work has taken {self._busy_s:.0f} s: a network hangs'
        return self._dead_reason

    @property
    def _busy_s(self) -> float:
        now_s = time.monotonic()
        return max((now_s - piece.since_s for piece in list(self._in_work.values())), default=0.0)

    @property
    def _hangs(self) -> bool:
        return self._busy_s > HANGS_AFTER_S

    def close(self, timeout_s: float = END_S) -> bool:
        """
        Finish what is in work, drop those that wait, and release the models.

        :returns: False where what is in work does not end in time; its thread is left behind.
        """
        with self._wake:
            self._stop = True
            self._wake.notify_all()
        self._thread.join(timeout_s)
        ended = [decoder.close(_LOOK_S) for decoder in self._decoders.values()]
        for camera in self._cameras:
            camera.drop_waiting()
        return all(ended) and not self._thread.is_alive()

    def _run(
        self, settings: Settings, loaded: Future[dict[str, str]], shared: Networks | None
    ) -> None:
        try:
            networks = shared or Networks(
                settings,
                concurrency=self._most_callers(settings),
                searches=sum(not camera.links for camera in self._cameras),
            )
        except BaseException as error:  # handed to the constructor, which raises it
            loaded.set_exception(error)
            return
        with contextlib.nullcontext() if shared else networks:
            try:
                self._recipe = Recipe(networks, settings)
                callers = 1 if self._recipe.gains_by_joining else networks.concurrency
                callers = min(callers, self._most_callers(settings))
                self._decoders = {
                    camera.topic: self._decoder(camera, settings, ahead=callers == 1)
                    for camera in self._cameras
                    if not camera.links
                }
                loaded.set_result(networks.words())
            except BaseException as error:  # handed to the constructor, which raises it
                loaded.set_exception(error)
                return
            others = [
                threading.Thread(target=self._serve, name='anonymizer', daemon=True)
                for _ in range(callers - 1)
            ]
            for thread in others:
                thread.start()
            self._serve()
            for thread in others:
                thread.join()

    def _most_callers(self, settings: Settings) -> int:
        """Return how many frames there can be at once, and cores for them."""
        return max(1, min(len(self._cameras) * self._of_each, concurrency(settings)))

    def _serve(self) -> None:
        """Do piece after piece of work, until the end."""
        me = threading.get_ident()
        while True:
            with self._wake:
                if self._in_work.pop(me, None) is not None:
                    self._wake.notify_all()
                piece = self._next()
                if piece is None:
                    return
                self._in_work[me] = dataclasses.replace(piece, since_s=time.monotonic())
            piece.do()

    def _next(self) -> _Piece | None:
        """Wait for a piece of work that nobody else has; None: the end. The lock is held."""
        self._idle += 1
        try:
            while True:
                if self._updates and not self._in_work:
                    updates = list(self._updates)
                    self._updates.clear()
                    self._is_changing = True
                    return _Piece(partial(self._change, updates))
                if self._stop:
                    return None
                wait_s = _LOOK_S if self._waits_for_pictures else None
                if not self._updates and not self._is_changing:
                    taken = self._take(len(self._cameras) if self._recipe.gains_by_joining else 1)
                    if taken:
                        for camera, waiting, _ in taken:
                            self._orders[camera.topic].begin(waiting)
                        cameras = frozenset(camera for camera, _, _ in taken)
                        return _Piece(partial(self._process, self._recipe, taken), cameras)
                    if self._ask():
                        wait_s = _SOON_S
                # What waits for a picture is looked at again, should none come.
                self._wake.wait(wait_s)
        finally:
            self._idle -= 1

    def _change(self, updates: Sequence[tuple[Settings, Future[None]]]) -> None:
        """Take other settings, while no frame is in work."""
        for settings, done in updates:
            if not done.set_running_or_notify_cancel():
                continue
            try:
                recipe = Recipe(self._recipe.networks, settings)
                self.description = recipe.networks.words()
            except Exception as error:  # handed to update(), which raises it
                done.set_exception(error)
                continue
            self._recipe = recipe
            done.set_result(None)
        self._is_changing = False

    def _take(self, most: int) -> list[_Taken]:
        """Return a frame each of the cameras whose turn it is."""
        taken: list[_Taken] = []
        waiting = {index for index in self._free() if self._has_frame(self._cameras[index])}
        while len(taken) < most:
            index = self._turns.take(waiting)
            if index is None:
                break
            waiting.discard(index)
            camera = self._cameras[index]
            if camera.links:
                first = camera.take()
                if first is not None:
                    taken.append((camera, first, None))
                continue
            decoded = self._decoders[camera.topic].take()
            if decoded is not None:
                taken.append((camera, decoded.waiting, decoded.frame))
        return taken

    def _free(self) -> list[int]:
        """Return the cameras of which one more frame may be in work."""
        busy = Counter(camera for piece in self._in_work.values() for camera in piece.cameras)
        return [i for i, camera in enumerate(self._cameras) if busy[camera] < self._of_each]

    def _ask(self) -> bool:
        """
        Have a frame decoded for each caller that has nothing to do; tell whether one comes.

        It is decoded now, and not ahead: else it would grow old while others have their turns.
        """
        decoders = {
            index: self._decoders[self._cameras[index].topic]
            for index in self._free()
            if not self._cameras[index].links
        }
        waiting = {index for index, decoder in decoders.items() if decoder.may_be_asked}
        soon_s = time.monotonic() - _SOON_S
        coming = sum(decoder.asked_s >= soon_s for decoder in decoders.values())
        while coming < self._idle:
            index = self._turns.first(waiting)
            if index is None:
                break
            waiting.discard(index)
            decoders[index].ask()
            coming += 1
        return bool(coming)

    def _has_frame(self, camera: Camera) -> bool:
        if camera.links:
            return camera.first() is not None and self.measured.is_due(camera)
        return self._decoders[camera.topic].has_frame

    def _process(self, recipe: Recipe, taken: Sequence[_Taken]) -> None:
        requests = [self._looked(recipe, *one) for one in taken]
        self._in_work_since(math.inf)
        with contextlib.ExitStack() as turns:
            for camera, waiting, _ in taken:
                turns.enter_context(self._orders[camera.topic].turn(waiting))
            self._in_work_since(time.monotonic())
            self._hide(recipe, taken, requests)

    def _looked(
        self, recipe: Recipe, camera: Camera, waiting: Waiting, frame: Frame | None
    ) -> Request | None:
        """Find what is in a picture, whatever was in those before; None: nobody can say."""
        request: Request | None = None
        if frame is not None:
            with self._answering_for(camera):
                arrival_ns = int(waiting.received_s * 1e9)
                request = recipe.looked(
                    Request(frame, stamp_ns=stamp_ns(waiting), arrival_ns=arrival_ns)
                )
        return request

    def _hide(
        self, recipe: Recipe, taken: Sequence[_Taken], looked: Sequence[Request | None]
    ) -> None:
        begun, requests = [], []
        for (camera, waiting, frame), request in zip(taken, looked, strict=True):
            if frame is None:
                with self._answering_for(camera):
                    self._finish(camera, waiting, self.measured.hide(recipe, camera, waiting))
            elif request is not None:
                stream = self._streams[camera.topic]
                requests.append(dataclasses.replace(request, stream=stream))
                begun.append((camera, waiting))
        answers = recipe.anonymize_together(requests)
        for (camera, waiting), request, answer in zip(begun, requests, answers, strict=True):
            result, self._streams[camera.topic] = answer
            with self._answering_for(camera):
                if isinstance(result, AnonymizerError):
                    raise result
                height, width = request.frame.image_bgr.shape[:2]
                self.measured.learn(camera, waiting, (width, height), result.regions)
                self._finish(camera, waiting, result)

    def _in_work_since(self, since_s: float) -> None:
        """Say when this thread's piece was begun; infinity: it waits for its turn."""
        me = threading.get_ident()
        self._in_work[me] = dataclasses.replace(self._in_work[me], since_s=since_s)

    def _finish(self, camera: Camera, waiting: Waiting, result: Anonymized) -> None:
        self._deliver(camera, waiting.message, result)
        self._failures_in_a_row = 0
        self._dead_reason = ''
        count = len(result.regions) or result.replaced.counts.get('hidden', 0)
        camera.count_published(waiting, regions=count, timings_ms=result.timings_ms)

    @contextlib.contextmanager
    def _answering_for(self, camera: Camera) -> Iterator[None]:
        """Count what goes wrong with one of a camera's frames."""
        try:
            yield
        except ImageError as error:
            self._failed(camera, str(error))
        except AnonymizerError as error:
            self._failed(camera, str(error), False)
        except Exception as error:  # our own fault must neither end the node nor pass a frame
            self._failed(camera, f'{type(error).__name__}: {error}', False)

    def _failed(self, camera: Camera, reason: str, is_own_fault: bool = True) -> None:
        """Count a frame without an image; any thread may call this."""
        camera.count_failed(reason)
        if not is_own_fault:
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= DEAD_AFTER_FRAMES:
                self._dead_reason = (
                    f'the last {self._failures_in_a_row} frames failed, most recently: {reason}'
                )
        self._report(camera, reason)
