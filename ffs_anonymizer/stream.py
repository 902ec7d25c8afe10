"""What is remembered of one stream from frame to frame: state in, state out."""

from __future__ import annotations

from collections.abc import Mapping
import dataclasses
from dataclasses import dataclass, field

from ffs_anonymizer.painting.chooser import Faces
from ffs_anonymizer.painting.places import Places
from ffs_anonymizer.painting.sharpness import Strengths
from ffs_anonymizer.painting.tones import Tones
from ffs_anonymizer.regions.tracker import Tracks

JUMPED = 'the stamps jumped, so time was taken to go on as before: what was found stays covered'
# A stamp that is further from the one before is no next frame but a jump of the clock.
JUMP_NS = 1_000_000_000
# How often its usual distance a stream that is slow by nature may take.
_SLOW_TIMES = 4
_FIRST_STEP_NS = 33_000_000


@dataclass(frozen=True)
class Seen:
    """
    Hold what was found so far, on a clock of its own that never jumps.

    :param tracks: their times are `now_ns`.
    :param now_ns: time of the newest frame, counted from the first one.
    :param stamp_ns: the stamp that the next one is compared with; None before the first frame.
    :param arrival_ns: when that frame came; None where nobody knows.
    :param step_ns: usual distance of two frames.
    :param jumps: how often the stamps jumped.
    :param jumped: JUMPED where that happened at the newest frame, else empty.
    """

    tracks: Tracks = field(default_factory=Tracks.empty)
    now_ns: int = 0
    stamp_ns: int | None = None
    arrival_ns: int | None = None
    step_ns: int = _FIRST_STEP_NS
    jumps: int = 0
    jumped: str = ''

    def at(self, stamp_ns: int, arrival_ns: int | None = None) -> Seen:
        """
        Return the same past, at the time of the next frame.

        The one rule for time. A stamp up to a second after the last one is believed. A late frame
        counts as simultaneous with the newest. Everything else is a jump: a clock that was set, a
        second publisher, a recording that starts again, a pause; then one usual step has passed,
        so that what was found stays covered. No stamp can end a track.

        :param stamp_ns: the frame's own time; where it has none, that of its arrival.
        :param arrival_ns: when it came, on a clock that the stamps do not follow.
        """
        if self.stamp_ns is None:
            return dataclasses.replace(self, stamp_ns=stamp_ns, arrival_ns=arrival_ns)
        passed = stamp_ns - self.stamp_ns
        waited = -1
        if arrival_ns is not None and self.arrival_ns is not None:
            waited = arrival_ns - self.arrival_ns
        if -JUMP_NS < passed < 0:
            return dataclasses.replace(self, jumped='')
        step_ns, usual_ns, jumped = self.step_ns, self.step_ns, ''
        if passed == 0:
            # Stamps that stand still must not stop time where another clock goes on.
            step_ns = max(min(waited, step_ns), 0)
        elif 0 < passed <= max(JUMP_NS, _SLOW_TIMES * usual_ns):
            step_ns, usual_ns = passed, min(passed, 2 * usual_ns)
        elif passed > 0 and 2 * waited >= passed:
            # A pause, or a stream that is slower than was known.
            usual_ns = min(passed, 2 * usual_ns)
        else:
            jumped = JUMPED
        return dataclasses.replace(
            self,
            now_ns=self.now_ns + step_ns,
            stamp_ns=stamp_ns,
            arrival_ns=arrival_ns,
            step_ns=usual_ns,
            jumps=self.jumps + bool(jumped),
            jumped=jumped,
        )


@dataclass(frozen=True)
class Drawn:
    """
    Hold what was drawn into the frames so far.

    :param levels: by track id, the generator that the budget gave it in the newest frame.
    :param faces: the latents that tracks wear.
    :param places: where tracks were drawn in the newest frame.
    :param strengths: how much tracks were sharpened in the newest frame.
    :param tones: how light tracks were drawn when they were drawn last.
    """

    levels: Mapping[int, int] = field(default_factory=dict)
    faces: Faces = field(default_factory=dict)
    places: Places = field(default_factory=dict)
    strengths: Strengths = field(default_factory=dict)
    tones: Tones = field(default_factory=dict)


@dataclass(frozen=True)
class Stream:
    """
    Hold all that is known of a stream.

    :param names: its own first, then others that zones may call it by.
    """

    names: tuple[str, ...] = ('',)
    seen: Seen = field(default_factory=Seen)
    drawn: Drawn = field(default_factory=Drawn)
