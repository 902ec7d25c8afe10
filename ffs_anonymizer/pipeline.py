"""Many frames through the recipe: decoding, inference and encoding overlap, the order stays."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
import contextlib
import dataclasses
from dataclasses import dataclass
import logging
import queue
import threading
from typing import Generic, TYPE_CHECKING, TypeVar, Union

from ffs_anonymizer.cores import cores
from ffs_anonymizer.errors import AnonymizerError
from ffs_anonymizer.painting.methods import GENERATE_SMALL
from ffs_anonymizer.regions.detections import Detections, Regions
from ffs_anonymizer.regions.tracker import backfill, region_scales
from ffs_anonymizer.stream import Drawn, Seen

if TYPE_CHECKING:
    from ffs_anonymizer.anonymizer import Choice, Data, Recipe, Replaced
    from ffs_anonymizer.frames.message import Frame
    from ffs_anonymizer.settings.runtime import Settings

    _Done = tuple[Replaced, Future[Data]]

_Item = TypeVar('_Item')
_LOG = logging.getLogger(__name__)
_NOTHING = Regions.empty()

# Frames that are looked at side by side: it scales better than one network's layers over many
# cores, and each takes memory for all of its layers.
SIDE_BY_SIDE = 4
DECODED_AHEAD = 2
WAITING = 4
BATCH_ITEMS = 256
BATCH_BYTES = 4 << 20
# What the look-ahead of many large cameras may hold before frames leave with less of it.
HELD_BYTES = 1 << 30
# Time this far behind the newest item is a clock that was set, not a late item.
JUMP_NS = 1_000_000_000


@dataclass(frozen=True)
class Task(Generic[_Item]):
    """
    Hold one thing to pass through in its place, an image or not.

    :param item: handed through.
    :param decode: makes the frame, in some thread; None: no image, passes as it is.
    :param stream: the camera.
    :param aliases: what else zones may call it.
    :param stamp_ns: the frame's time, for tracking; None: a still picture, which has no past.
    :param clock_ns: the time at which the item came, on a clock that all streams share; 0: not
        known.
    :param size_bytes: roughly what the item occupies, its frame apart.
    :param detections: own boxes instead of the detector's.
    :param found: what was found and tracked before; then nothing is found or tracked anew.
    """

    item: _Item
    decode: Callable[[], Frame] | None = None
    stream: str = ''
    aliases: tuple[str, ...] = ()
    stamp_ns: int | None = None
    clock_ns: int = 0
    size_bytes: int = 0
    detections: Detections | None = None
    found: Regions | None = None


@dataclass(frozen=True)
class Outcome(Generic[_Item]):
    """
    Hold what became of a task.

    :param data: the image in its source's encoding, its very bytes where nothing was replaced;
        None for an error, and for what is no image, alone.
    :param regions: what was replaced.
    :param size_wh: of the frame.
    :param replaced: by which methods, and what did not go as configured.
    :param error: why there is no image.
    """

    item: _Item
    data: Data | None = None
    regions: Regions = _NOTHING
    size_wh: tuple[int, int] = (0, 0)
    replaced: Replaced | None = None
    error: AnonymizerError | None = None


@dataclass(eq=False)
class _Image(Generic[_Item]):
    task: Task[_Item]
    found: Future[tuple[Frame, Detections]] | None
    frame: Frame | None = None
    size_wh: tuple[int, int] = (0, 0)
    now_ns: int = 0
    regions: Regions = _NOTHING
    warnings: tuple[str, ...] = ()
    replaced: Future[_Done] | None = None
    frame_bytes: int = 0
    error: AnonymizerError | None = None
    final: bool = False


@dataclass(frozen=True)
class _Others(Generic[_Item]):
    tasks: list[Task[_Item]]


@dataclass(frozen=True)
class _End:
    error: BaseException | None = None


_Slot = Union[_Image[_Item], _Others[_Item]]


class _StoppedError(Exception):
    """The consumer has gone."""


def concurrency(settings: Settings) -> int:
    """Return how many frames the Networks for `anonymize_all` are to be opened for."""
    return min(settings.threads or cores(), SIDE_BY_SIDE)


def anonymize_all(
    tasks: Iterable[Task[_Item]], recipe: Recipe, *, workers: int = 0
) -> Generator[Outcome[_Item], None, None]:
    """
    Anonymize a sequence of images and let what is none pass, everything in its order.

    Frames are decoded and encoded in one pool of threads, detected in and replaced in another;
    only tracking goes from one frame to the next. A frame waits for `tracker.look_ahead_ms` of its
    stream, so that a face found later is covered in it already. Memory is bounded; closing the
    iterator stops the threads.

    :param tasks: is drawn from in a thread of its own; what it raises, the iterator raises.
    :param recipe: its networks say how many frames are worked on at once.
    :param workers: threads that decode and encode; 0: one a core.
    :returns: an outcome for each task; a frame that cannot be anonymized has an error and no data.
    """
    run: _Run[_Item] = _Run(unhurried(recipe), workers or cores())
    try:
        run.start(tasks)
        yield from run.outcomes()
    finally:
        run.stop()


def unhurried(recipe: Recipe) -> Recipe:
    """Return a recipe in which no face gets less than its method: a recording has time."""
    return dataclasses.replace(recipe, settings=recipe.settings.updated({'budget_ms': 0.0}))


class _Run(Generic[_Item]):
    """Hold the threads and queues of one call."""

    def __init__(self, recipe: Recipe, workers: int) -> None:
        self._recipe = recipe
        self._drawn: dict[str, Drawn] = {}
        self._painted: dict[str, Future[_Done]] = {}
        side_by_side = recipe.networks.concurrency
        self._codecs = ThreadPoolExecutor(workers, thread_name_prefix='codec')
        self._networks = ThreadPoolExecutor(side_by_side, thread_name_prefix='network')
        self._stopped = threading.Event()
        # How many of the threads may still touch what the caller closes.
        self._at_work = 0
        self._counted = threading.Condition()
        self._decoded_ahead = threading.Semaphore(side_by_side + DECODED_AHEAD)
        self._inbox: queue.Queue[_Slot[_Item] | _End] = queue.Queue(WAITING)
        self._outbox: queue.Queue[_Slot[_Item] | _End] = queue.Queue(WAITING)
        self._threads: list[threading.Thread] = []

    def start(self, tasks: Iterable[Task[_Item]]) -> None:
        look = _LookAhead[_Item](self._recipe)
        works: list[tuple[str, Callable[[], None], queue.Queue[_Slot[_Item] | _End]]] = [
            ('feed', lambda: self._feed(tasks), self._inbox),
            ('track', lambda: self._track(look), self._outbox),
        ]
        for name, work, target in works:
            thread = threading.Thread(
                target=self._guarded, args=(work, target), name=name, daemon=True
            )
            self._threads.append(thread)
            thread.start()

    def outcomes(self) -> Iterator[Outcome[_Item]]:
        while True:
            slot = self._outbox.get()
            if isinstance(slot, _End):
                if slot.error is not None:
                    raise slot.error
                return
            if isinstance(slot, _Others):
                for task in slot.tasks:
                    yield Outcome(task.item)
            else:
                yield _outcome(slot)

    def stop(self) -> None:
        # A signal may have come while a thread was started, which then is none to be joined.
        with self._counted:
            self._stopped.set()
            self._counted.wait_for(lambda: not self._at_work)
        for thread in self._threads:
            if thread.is_alive():
                thread.join()
        # The networks wait for frames to be decoded, and hand on what is to be encoded.
        self._networks.shutdown(wait=True, cancel_futures=True)
        self._codecs.shutdown(wait=True, cancel_futures=True)

    def _guarded(self, work: Callable[[], None], target: queue.Queue[_Slot[_Item] | _End]) -> None:
        with self._counted:
            if self._stopped.is_set():
                return
            self._at_work += 1
        end = _End()
        try:
            work()
        except _StoppedError:
            return
        except BaseException as error:
            end = _End(error)
        finally:
            with self._counted:
                self._at_work -= 1
                self._counted.notify_all()
        with contextlib.suppress(_StoppedError):
            self._put(target, end)

    def _put(self, target: queue.Queue[_Slot[_Item] | _End], slot: _Slot[_Item] | _End) -> None:
        while not self._stopped.is_set():
            with contextlib.suppress(queue.Full):
                target.put(slot, timeout=0.1)
                return
        raise _StoppedError

    def _feed(self, tasks: Iterable[Task[_Item]]) -> None:
        try:
            self._feed_all(tasks)
        finally:
            # A generator is closed in the thread that it ran in.
            if isinstance(tasks, Generator):
                tasks.close()

    def _feed_all(self, tasks: Iterable[Task[_Item]]) -> None:
        others: list[Task[_Item]] = []
        size = 0
        for task in tasks:
            if task.decode is None:
                others.append(task)
                size += task.size_bytes
                if len(others) < BATCH_ITEMS and size < BATCH_BYTES:
                    continue
            if others:
                self._put(self._inbox, _Others(others))
                others, size = [], 0
            if task.decode is not None:
                while not self._decoded_ahead.acquire(timeout=0.1):
                    if self._stopped.is_set():
                        raise _StoppedError
                decoded = self._codecs.submit(task.decode)
                own = task.detections if task.found is None else Detections.empty()
                found = self._networks.submit(self._detect, decoded, own)
                self._put(self._inbox, _Image(task, found))
        if others:
            self._put(self._inbox, _Others(others))

    def _detect(self, decoded: Future[Frame], own: Detections | None) -> tuple[Frame, Detections]:
        frame = decoded.result()
        return frame, self._recipe.detect(frame) if own is None else own

    def _track(self, look: _LookAhead[_Item]) -> None:
        while True:
            try:
                slot = self._inbox.get(timeout=0.1)
            except queue.Empty:
                if self._stopped.is_set():
                    raise _StoppedError from None
                continue
            if isinstance(slot, _End):
                for released in look.rest():
                    self._release(released)
                if slot.error is not None:
                    raise slot.error
                return
            if isinstance(slot, _Image):
                look.find(slot)
                self._decoded_ahead.release()
            for released in look.add(slot):
                self._release(released)

    def _release(self, slot: _Slot[_Item]) -> None:
        """Have a frame replaced and encoded, now that its regions are final."""
        if isinstance(slot, _Image) and slot.frame is not None and slot.error is None:
            with _carried_by(slot):
                frame, slot.frame = slot.frame, None
                stream = slot.task.stream
                drawn = self._drawn.get(stream, Drawn())
                choice, drawn = self._recipe.choose(frame, slot.regions, drawn, stream=stream)
                if slot.task.stamp_ns is not None:
                    self._drawn[stream] = drawn
                choice = dataclasses.replace(choice, warnings=slot.warnings)
                # Faces go on as light as the frame before left them, so they wait for it. It was
                # handed in before, so it is in work or done.
                draws = bool((choice.methods <= GENERATE_SMALL).any())
                draws = draws and slot.task.stamp_ns is not None
                waits_for = self._painted.get(stream) if draws else None
                slot.replaced = self._networks.submit(self._replace, choice, waits_for)
                if draws:
                    self._painted[stream] = slot.replaced
        self._put(self._outbox, slot)

    def _replace(self, choice: Choice, waits_for: Future[_Done] | None) -> _Done:
        if waits_for is not None:
            with contextlib.suppress(Exception):  # told where its own frame is handed out
                choice = dataclasses.replace(choice, tones=waits_for.result()[0].tones)
        (replaced,) = self._recipe.replace([choice])
        if isinstance(replaced, AnonymizerError):
            raise replaced
        return replaced, self._codecs.submit(choice.frame.encode, replaced.touched_xyxy_px)


class _LookAhead(Generic[_Item]):
    """Hold slots back until what comes after them can no longer add regions to their frames."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._settings = recipe.settings.tracker
        self._scales = region_scales(recipe.settings)
        self._ahead_ns = int(self._settings.look_ahead_ms * 1e6)
        self._held: deque[_Slot[_Item]] = deque()
        self._held_bytes = 0
        self._pending: dict[str, deque[_Image[_Item]]] = {}
        self._seen: dict[str, Seen] = {}
        self._clock_ns = 0
        self._warned = False

    def find(self, image: _Image[_Item]) -> None:
        """Find the regions of a frame, and add what is new in it to those that wait."""
        with _carried_by(image):
            assert image.found is not None
            found, image.found = image.found, None
            image.frame, detections = found.result()
            height, width = image.frame.image_bgr.shape[:2]
            image.size_wh = (width, height)
            image.frame_bytes = image.frame.image_bgr.nbytes
            task = image.task
            names = (task.stream, *task.aliases)
            if task.found is not None:
                image.regions = self._recipe.cover(task.found, names=names, size_wh=image.size_wh)
                image.final = True
                return
            image.regions, seen = self._recipe.find(
                detections,
                self._seen.get(task.stream, Seen()),
                names=names,
                size_wh=image.size_wh,
                stamp_ns=task.stamp_ns,
                arrival_ns=task.clock_ns or None,
            )
            if task.stamp_ns is None:
                image.final = True
                return
            self._seen[task.stream] = seen
            image.now_ns = seen.now_ns
            image.warnings = (seen.jumped,) if seen.jumped else ()
            pending = self._pending.setdefault(image.task.stream, deque())
            fitting = [other for other in pending if other.size_wh == image.size_wh]
            filled = backfill(
                [(other.now_ns, other.regions) for other in fitting],
                (image.now_ns, image.regions),
                self._settings,
                scales=self._scales,
                size_wh=image.size_wh,
            )
            for other, regions in zip(fitting, filled, strict=True):
                other.regions = regions
            pending.append(image)

    def add(self, slot: _Slot[_Item]) -> Iterator[_Slot[_Item]]:
        """Take the next slot; yield those that are final, in order."""
        self._held.append(slot)
        self._held_bytes += _size(slot)
        last = slot.task if isinstance(slot, _Image) else slot.tasks[-1]
        if last.clock_ns:
            jumped = self._clock_ns - last.clock_ns > JUMP_NS
            self._clock_ns = last.clock_ns if jumped else max(self._clock_ns, last.clock_ns)
        while self._held and (self._is_final(self._held[0]) or self._is_full()):
            yield self._pop()

    def rest(self) -> Iterator[_Slot[_Item]]:
        """Yield what is left at the end."""
        while self._held:
            yield self._pop()

    def _pop(self) -> _Slot[_Item]:
        slot = self._held.popleft()
        self._held_bytes -= _size(slot)
        if isinstance(slot, _Image):
            pending = self._pending.get(slot.task.stream)
            if pending and pending[0] is slot:
                pending.popleft()
        return slot

    def _is_full(self) -> bool:
        if self._held_bytes <= HELD_BYTES:
            return False
        if not self._warned:
            _LOG.warning(
                'the frames of %g ms exceed %d MiB: some leave with less look-ahead',
                self._settings.look_ahead_ms,
                HELD_BYTES >> 20,
            )
            self._warned = True
        return True

    def _is_final(self, slot: _Slot[_Item]) -> bool:
        if isinstance(slot, _Others) or slot.error is not None or slot.final:
            return True
        if self._seen[slot.task.stream].now_ns - slot.now_ns >= self._ahead_ns:
            return True
        # A stream that pauses or ends must not hold up the others.
        return self._clock_ns - slot.task.clock_ns >= 2 * self._ahead_ns


def _size(slot: _Slot[_Item]) -> int:
    if isinstance(slot, _Image):
        return slot.task.size_bytes + slot.frame_bytes
    return sum(task.size_bytes for task in slot.tasks)


@contextlib.contextmanager
def _carried_by(image: _Image[_Item]) -> Iterator[None]:
    """Keep what goes wrong with an image as its error; it then has no pixels either."""
    try:
        yield
    except Exception as error:
        image.error = image.error or AnonymizerError.of(error)
        image.frame = None


def _outcome(image: _Image[_Item]) -> Outcome[_Item]:
    data, replaced = None, None
    with _carried_by(image):
        if image.replaced is not None:
            replaced, encoded = image.replaced.result()
            data = encoded.result()
        if data is None and image.error is None:
            raise AnonymizerError('the frame did not pass all stages')
    if image.error is not None:
        return Outcome(image.task.item, error=image.error)
    return Outcome(image.task.item, data, image.regions, image.size_wh, replaced)
