"""The one thread of the live node that owns the models and works on the frames of all cameras."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from concurrent.futures import TimeoutError as FutureTimeoutError
import contextlib
import threading
import time
from typing import Any

from ffs_anonymizer.anonymizer import Anonymized, Recipe, Request
from ffs_anonymizer.errors import AnonymizerError, ImageError
from ffs_anonymizer.frames.message import decode, Frame, MOST_LIVE_PIXELS, rotation_of
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.node.camera import Camera, Waiting
from ffs_anonymizer.node.measured import Measured, stamp_ns
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


class StoppedError(AnonymizerError):
    """The process is to end before the networks are loaded."""


class Worker:
    """
    Load the models in a thread of its own and anonymize there what the cameras hold.

    The constructor returns when the models are loaded. Cameras take turns. A frame that fails is
    counted and never handed out, whatever the reason.

    :param deliver: hands out one result; called in the worker's thread.
    :param report: told of each failure: the camera and the reason; called in the worker's thread.
    :param stopped: tells whether the loading is to end.
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
        self._turn = 0
        self._streams = {camera.topic: Stream((camera.topic,)) for camera in self._cameras}
        self._failures_in_a_row = 0
        self._dead_reason = ''
        self._busy_since_s: float | None = None
        loaded: Future[dict[str, str]] = Future()
        self._thread = threading.Thread(
            target=self._run, args=(settings, loaded), name='anonymizer', daemon=True
        )
        self._thread.start()
        while not loaded.done():
            wait([loaded], timeout=_LOOK_S)
            if stopped():
                self._stop = True
                raise StoppedError('the process ends')
        self.description = loaded.result()

    def put(self, camera: Camera, message: Any) -> None:
        """Queue a frame; any thread may call this."""
        with self._wake:
            if self._stop:
                return
            camera.put(message)
            self._wake.notify()

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
            self._wake.notify()
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
        since_s = self._busy_since_s
        return 0.0 if since_s is None else time.monotonic() - since_s

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
            self._wake.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self, settings: Settings, loaded: Future[dict[str, str]]) -> None:
        try:
            networks = Networks(settings)
        except BaseException as error:  # handed to the constructor, which raises it
            loaded.set_exception(error)
            return
        with networks:
            try:
                recipe = Recipe(networks, settings)
                loaded.set_result(networks.words())
            except BaseException as error:  # handed to the constructor, which raises it
                loaded.set_exception(error)
                return
            try:
                while (after := self._step(recipe)) is not None:
                    recipe = after
            finally:
                for camera in self._cameras:
                    camera.drop_waiting()

    def _step(self, recipe: Recipe) -> Recipe | None:
        """Do the next piece of work; return the recipe for the one after, None for the end."""
        taken: list[tuple[Camera, Waiting]] = []
        with self._wake:
            while not self._stop and not self._updates and not taken:
                taken = self._next(len(self._cameras) if recipe.gains_by_joining else 1)
                if not taken:
                    # What waits for a picture is looked at again, should none come.
                    self._wake.wait(_LOOK_S if self._waits_for_pictures else None)
            updates = list(self._updates)
            self._updates.clear()
            stop = self._stop
        self._busy_since_s = time.monotonic()
        for settings, done in updates:
            if done.set_running_or_notify_cancel():
                recipe = self._updated(recipe, settings, done)
        self._process(recipe, taken)
        self._busy_since_s = None
        return None if stop else recipe

    def _updated(self, recipe: Recipe, settings: Settings, done: Future[None]) -> Recipe:
        try:
            updated = Recipe(recipe.networks, settings)
            self.description = recipe.networks.words()
        except Exception as error:  # handed to update(), which raises it
            done.set_exception(error)
            return recipe
        done.set_result(None)
        return updated

    def _next(self, most: int) -> list[tuple[Camera, Waiting]]:
        """Return a frame each of the cameras that have waited longest for their turn."""
        taken: list[tuple[Camera, Waiting]] = []
        first = self._turn
        for index in range(first, first + len(self._cameras)):
            if len(taken) == most:
                break
            camera = self._cameras[index % len(self._cameras)]
            waiting = camera.take() if self.measured.is_due(camera) else None
            if waiting is not None:
                self._turn = (index + 1) % len(self._cameras)
                taken.append((camera, waiting))
        return taken

    def _process(self, recipe: Recipe, taken: Sequence[tuple[Camera, Waiting]]) -> None:
        begun, requests = [], []
        for camera, waiting in taken:
            with self._answering_for(camera):
                if camera.links:
                    self._finish(camera, waiting, self.measured.hide(recipe, camera, waiting))
                    continue
                requests.append(self._request(recipe, camera, waiting))
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

    def _finish(self, camera: Camera, waiting: Waiting, result: Anonymized) -> None:
        self._deliver(camera, waiting.message, result)
        self._failures_in_a_row = 0
        self._dead_reason = ''
        count = len(result.regions) or result.replaced.counts.get('hidden', 0)
        camera.count_published(waiting, regions=count, timings_ms=result.timings_ms)

    def _request(self, recipe: Recipe, camera: Camera, waiting: Waiting) -> Request:
        is_cloud = camera.kind == 'cloud'
        message = waiting.message
        frame = (
            self.measured.decode(camera, message)
            if is_cloud
            else decode_live(message, camera.topic, recipe.settings)
        )
        arrival_ns = int(waiting.received_s * 1e9)
        return Request(frame, self._streams[camera.topic], stamp_ns(waiting), arrival_ns)

    @contextlib.contextmanager
    def _answering_for(self, camera: Camera) -> Iterator[None]:
        """Count what goes wrong with one of a camera's frames."""
        try:
            yield
        except ImageError as error:
            self._failed(camera, str(error))
        except AnonymizerError as error:
            self._failed(camera, str(error), backend=True)
        except Exception as error:  # our own fault must neither end the node nor pass a frame
            self._failed(camera, f'{type(error).__name__}: {error}', backend=True)

    def _failed(self, camera: Camera, reason: str, *, backend: bool = False) -> None:
        camera.count_failed(reason)
        if backend:
            self._failures_in_a_row += 1
            if self._failures_in_a_row >= DEAD_AFTER_FRAMES:
                self._dead_reason = (
                    f'the last {self._failures_in_a_row} frames failed, most recently: {reason}'
                )
        self._report(camera, reason)


def decode_live(message: Any, topic: str, settings: Settings) -> Frame:
    """
    Decode a camera's image as the settings say.

    :raises ImageError: it holds no picture, or one that is damaged or too large.
    """
    return decode(
        message,
        topic=topic,
        rotation=rotation_of(settings.rotation, topic),
        most_pixels=settings.limits.max_pixels or MOST_LIVE_PIXELS,
    )
