"""A camera of the live node: its frames that wait, and an account of what became of each."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
import math
import threading
import time
from typing import Any

from ffs_anonymizer.clouds.scene import Link
from ffs_anonymizer.node.pictures import is_packet
import numpy as np

QUEUE_FRAMES = 16
# Packets of a video, of which none is dropped as long as there is room.
QUEUE_PACKETS = 128
_LATENCIES_KEPT = 512


@dataclass(frozen=True)
class Waiting:
    """
    Hold a message that was received, and when (monotonic clock).

    :param after_gap: whether messages before it are missing.
    """

    message: Any
    received_s: float
    after_gap: bool = False


@dataclass(frozen=True)
class Account:
    """
    Hold what became of a camera's frames since the start.

    :param waiting: in the queue or in work; `received` is the sum of this, `published`, `dropped`
        and `failed`.
    :param timings_ms: of the last frame, by stage.
    :param lost: frames that the middleware says never reached us; they are not in `received`.
    """

    received: int = 0
    published: int = 0
    dropped: int = 0
    failed: int = 0
    waiting: int = 0
    lost: int = 0
    regions: int = 0
    latency_p50_ms: float = 0.0
    latency_p95_ms: float = 0.0
    last_error: str = ''
    timings_ms: dict[str, float] = field(default_factory=dict)


@dataclass
class _Counters:
    received: int = 0
    published: int = 0
    dropped: int = 0
    failed: int = 0
    lost: int = 0
    regions: int = 0
    last_error: str = ''
    timings_ms: dict[str, float] = field(default_factory=dict)
    latencies_ms: deque[float] = field(default_factory=lambda: deque(maxlen=_LATENCIES_KEPT))

    @property
    def done(self) -> int:
        return self.published + self.dropped + self.failed


class Camera:
    """
    Hold the waiting frames of one topic; any thread may call any method.

    :param topic: the resolved name of the topic; it names the stream in the recipe.
    :param drop_old: keep only the newest frame, or, of what waits for a picture, the newest that
        need wait no longer; else up to `QUEUE_FRAMES` in their order.
    :param kind: image, cloud, registered (a cloud that takes the regions of a picture) or depth.
    :param links: the cameras whose regions count instead of its own; without them, a cloud is
        looked at as an image.
    """

    def __init__(
        self, topic: str, *, drop_old: bool, kind: str = 'image', links: Sequence[Link] = ()
    ) -> None:
        self.topic = topic
        self.kind = kind
        self.links = tuple(links)
        self._drop_old = drop_old
        self._waiting: deque[Waiting] = deque()
        self._counters = _Counters()
        self._lock = threading.Lock()
        self._gap = False
        self._taken_s = math.inf

    @property
    def is_cloud(self) -> bool:
        """Return whether the messages are clouds."""
        return self.kind in ('cloud', 'registered')

    @property
    def drops_old(self) -> bool:
        """Return whether the newest frame replaces one that still waits."""
        # What waits for a picture would for ever be replaced by what comes meanwhile.
        return self._drop_old and not self.links

    @property
    def at_work_s(self) -> float:
        """Return when the frame was received that is in work, or is next; infinity: none is."""
        with self._lock:
            if self._counters.received - self._counters.done > len(self._waiting):
                return self._taken_s
            return self._waiting[0].received_s if self._waiting else math.inf

    def put(self, message: Any) -> None:
        """Add a frame; one frame is dropped where there is no room for both."""
        with self._lock:
            self._counters.received += 1
            packet = is_packet(message)
            if self.drops_old and not packet:
                self._counters.dropped += len(self._waiting)
                self._waiting.clear()
            elif len(self._waiting) >= (QUEUE_PACKETS if packet else QUEUE_FRAMES):
                self._counters.dropped += 1
                self._gap = True
                return
            self._waiting.append(Waiting(message, time.monotonic(), self._gap))
            self._gap = False

    def take(self) -> Waiting | None:
        """Remove and return the frame that is next; None if there is none."""
        with self._lock:
            if not self._waiting:
                return None
            taken = self._waiting.popleft()
            self._taken_s = taken.received_s
            return taken

    def first(self) -> Waiting | None:
        """Return the frame that is next, and leave it there."""
        with self._lock:
            return self._waiting[0] if self._waiting else None

    def drop_older(self, is_ready: Callable[[Waiting], bool]) -> None:
        """Drop frames that wait before one that need wait no longer, where that is asked for."""
        with self._lock:
            while self._drop_old and len(self._waiting) > 1 and is_ready(self._waiting[1]):
                self._waiting.popleft()
                self._counters.dropped += 1

    def drop_waiting(self) -> None:
        """Drop all frames that wait."""
        with self._lock:
            self._counters.dropped += len(self._waiting)
            self._waiting.clear()

    def count_dropped(self) -> None:
        """Count a frame that was taken, and dropped for a newer one or at the end."""
        with self._lock:
            self._counters.dropped += 1

    def count_published(
        self, waiting: Waiting, *, regions: int, timings_ms: dict[str, float]
    ) -> None:
        """Count a frame that was handed out."""
        latency_ms = (time.monotonic() - waiting.received_s) * 1e3
        with self._lock:
            self._counters.published += 1
            self._counters.regions += regions
            self._counters.timings_ms = timings_ms
            self._counters.latencies_ms.append(latency_ms)

    def count_failed(self, reason: str) -> None:
        """Count a frame of which nothing was handed out."""
        with self._lock:
            self._counters.failed += 1
            self._counters.last_error = reason

    def count_lost(self, frames: int) -> None:
        """Count frames that the middleware lost on their way here."""
        with self._lock:
            self._counters.lost += frames
            self._gap = True

    def account(self) -> Account:
        """Return the counts; their sum is right at any moment."""
        with self._lock:
            counters = self._counters
            p50, p95 = (
                np.percentile(counters.latencies_ms, (50, 95))
                if counters.latencies_ms
                else (0.0, 0.0)
            )
            return Account(
                received=counters.received,
                published=counters.published,
                dropped=counters.dropped,
                failed=counters.failed,
                waiting=counters.received - counters.done,
                lost=counters.lost,
                regions=counters.regions,
                latency_p50_ms=float(p50),
                latency_p95_ms=float(p95),
                last_error=counters.last_error,
                timings_ms=counters.timings_ms,
            )
