"""The decoding of one camera's frames, apart from the networks and within a time budget."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
import math
import threading
import time

from ffs_anonymizer.errors import ImageError
from ffs_anonymizer.frames.frame import Frame
from ffs_anonymizer.node.camera import Camera, Waiting
from ffs_anonymizer.node.pictures import is_packet

# Longer than a picture of 64 megapixels takes; a frame that is not decoded by then is given up.
BUDGET_S = 2.0


@dataclass(frozen=True)
class Decoded:
    """Hold a frame that can go to the networks, if there is any, and the message it came in."""

    waiting: Waiting
    frame: Frame | None


class Decoder:
    """
    Decode a camera's frames in a thread of its own, so that none of them stops another camera.

    A frame is decoded when it is asked for, so that it is the newest; `ahead`: one decoded frame
    waits for the networks always. Of a video every packet is decoded, since the next one needs it,
    and the newest picture waits.

    :param decode: of the message's picture; called in the thread. None: there is nothing to see.
    :param ready: told that a frame is to be taken, or that none comes of what was asked for.
    :param failed: told why a frame has no picture, and whether that is its own fault.
    """

    # Of a decoder that nobody has asked.
    NEVER_S = -math.inf

    def __init__(
        self,
        camera: Camera,
        *,
        decode: Callable[[Waiting], Frame | None],
        ready: Callable[[], None],
        failed: Callable[[Camera, str, bool], None],
        ahead: bool = True,
    ) -> None:
        self.camera = camera
        # When a frame was asked for that has not come, by the monotonic clock.
        self.asked_s = self.NEVER_S
        self._ahead = ahead
        self._decode = decode
        self._ready = ready
        self._failed = failed
        self._wake = threading.Condition()
        self._decoded: Decoded | None = None
        self._since_s: float | None = None
        self._given_up = False
        self._stop = False
        self._thread = threading.Thread(
            target=self._run, name=f'anonymizer decoder of {camera.topic}', daemon=True
        )
        self._thread.start()

    def wake(self) -> None:
        """Look for frames; any thread may call this."""
        with self._wake:
            self._wake.notify()

    @property
    def may_be_asked(self) -> bool:
        """Tell whether there is a frame that nobody has asked for."""
        is_asked = self._ahead or self.asked_s > self.NEVER_S
        return not is_asked and self.camera.first() is not None

    def ask(self) -> None:
        """Have the next frame decoded now; any thread may call this."""
        with self._wake:
            self.asked_s = time.monotonic()
            self._wake.notify()

    def take(self) -> Decoded | None:
        """Remove and return the frame that is next; None if there is none."""
        with self._wake:
            decoded, self._decoded = self._decoded, None
            if decoded is not None:
                self._wake.notify()
            return decoded

    @property
    def stuck_reason(self) -> str:
        """Return why nothing comes of the camera; empty while it does."""
        since_s = self._since_s
        late_s = 0.0 if since_s is None else time.monotonic() - since_s
        return f'decoding has taken {late_s:.0f} s' if late_s > BUDGET_S else ''

    @property
    def has_frame(self) -> bool:
        """Tell whether there is a frame to take."""
        return self._decoded is not None

    def give_up_late(self) -> None:
        """Count a frame as failed that is still not decoded after the budget; once each."""
        with self._wake:
            if self._since_s is None or self._given_up:
                return
            late_s = time.monotonic() - self._since_s
            if late_s < BUDGET_S:
                return
            self._given_up = True
        self._failed(self.camera, f'not decoded within {BUDGET_S:g} s', True)

    def close(self, timeout_s: float) -> bool:
        """
        Drop what waits, and end.

        :returns: False where a frame is still being decoded; its thread is left behind.
        """
        with self._wake:
            self._stop = True
            self._wake.notify()
        self._thread.join(timeout_s)
        if self.take() is not None:
            self.camera.count_dropped()
        self.camera.drop_waiting()
        return not self._thread.is_alive()

    def _run(self) -> None:
        while True:
            with self._wake:
                waiting = None
                while not self._stop and waiting is None:
                    waiting = self.camera.take() if self._may_begin() else None
                    if waiting is None:
                        self._wake.wait()
                if waiting is None:
                    return
                self._since_s, self._given_up = time.monotonic(), False
                if self._stop:
                    self.camera.count_dropped()
                    return
            self._decode_one(waiting)

    def _may_begin(self) -> bool:
        first = self.camera.first()
        if first is None:
            return False
        if self._decoded is None:
            is_asked = self._ahead or self.asked_s > self.NEVER_S
            return is_asked or is_packet(first.message)
        return self.camera.drops_old and is_packet(first.message)

    def _decode_one(self, waiting: Waiting) -> None:
        decoded: Decoded | None = None
        reason, is_own_fault = '', True
        try:
            decoded = Decoded(waiting, self._decode(waiting))
        except ImageError as error:
            reason = str(error)
        except Exception as error:  # our own fault must neither end the node nor pass a frame
            reason, is_own_fault = f'{type(error).__name__}: {error}', False
        with self._wake:
            given_up, self._since_s = self._given_up, None
            self.asked_s = self.NEVER_S
            if not given_up and decoded is not None:
                if self._decoded is not None:
                    self.camera.count_dropped()
                self._decoded = decoded
        if decoded is None and not given_up:
            self._failed(self.camera, reason, is_own_fault)
        self._ready()
