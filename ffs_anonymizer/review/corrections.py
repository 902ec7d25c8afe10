"""A list of detections by stream and number of the frame, corrected by hand and saved anew."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
import json
import math
from pathlib import Path
from typing import Any

from ffs_anonymizer.errors import DetectionsError
from ffs_anonymizer.jobs.output import replaced_file
from ffs_anonymizer.regions.detections import CLASSES, ZONE
from ffs_anonymizer.regions.detections_file import DetectionsReader

Box = dict[str, Any]
Edits = Mapping[str, Mapping[str, Sequence[Box]]]
# What a box may be called; a zone is a matter of the settings.
BOX_CLASSES = tuple(name for i, name in enumerate(CLASSES) if i != ZONE)


class Corrections:
    """
    Hold what was found, frame by frame, with what a person made of it.

    :param path: the list; it stays as it is.
    :param streams: times of the frames of each stream of the recording, in nanoseconds.
    :raises DetectionsError: the list cannot be read, or is of another recording.
    """

    def __init__(self, path: Path, streams: Mapping[str, Sequence[int]]) -> None:
        self.path = path
        with DetectionsReader(path):
            # All of it is checked by now.
            text = path.read_text(encoding='utf-8')
        self._head, *self._lines, self._end = map(json.loads, text.splitlines())
        self._numbered: dict[str, list[int]] = {}
        for index, line in enumerate(self._lines):
            self._numbered.setdefault(line['stream'], []).append(index)
        for stream, indices in self._numbered.items():
            indices.sort(key=lambda i: _time_ns(self._lines[i]))
            expected = len(streams.get(stream, ()))
            if len(indices) != expected:
                raise DetectionsError(
                    f'{path}: got {len(indices)} frames of {stream}, expected {expected} as the '
                    'recording has: the list is of another recording, or of a part of this one'
                )

    @property
    def streams(self) -> list[str]:
        """Return the streams that were searched."""
        return list(self._numbered)

    def boxes(self, stream: str) -> dict[int, list[Box]]:
        """
        Return the boxes of each frame that has any, by its number.

        Each has `track`, `class`, `score`, `xyxy` in pixels of the upright frame, `kind` (detected
        or coasted) and in `rest` what else the list says of it.

        :raises DetectionsError: the stream was not searched.
        """
        lines = [self._lines[index] for index in self._indices(stream)]
        return {
            n: [*map(_box, line['regions'])] for n, line in enumerate(lines) if line['regions']
        }

    def change(self, edits: Edits) -> int:
        """
        Take over the boxes of some frames, in place of those they had.

        :param edits: boxes by number of the frame, by stream.
        :returns: the number of frames.
        :raises DetectionsError: a box is none, or there is no such frame; nothing is changed.
        """
        changed = {}
        for stream, frames in edits.items():
            indices = self._indices(stream)
            for number, boxes in frames.items():
                if not str(number).isdecimal() or int(number) >= len(indices):
                    raise DetectionsError(
                        f'{stream}: got frame {number!r}, expected 0 to {len(indices) - 1}'
                    )
                changed[indices[int(number)]] = [*map(_record, boxes)]
        for index, records in changed.items():
            self._lines[index]['regions'] = records
        return len(changed)

    def save(self, path: Path) -> None:
        """
        Write the list; an earlier one of this name is replaced.

        :raises AnonymizerError: it cannot be written.
        """
        head = {**self._head, 'corrected': True}
        with replaced_file(path) as partial, partial.open('w', encoding='utf-8') as file:
            for line in (head, *self._lines, self._end):
                file.write(json.dumps(line) + '\n')

    def _indices(self, stream: str) -> list[int]:
        if stream not in self._numbered:
            raise DetectionsError(
                f'{self.path}: got stream {stream!r}, expected one of: {", ".join(self._numbered)}'
            )
        return self._numbered[stream]


def _time_ns(line: Mapping[str, Any]) -> int:
    times = (line.get('log_ns'), line.get('stamp_ns'), 0)
    return next(int(time) for time in times if time is not None)


def _box(record: Mapping[str, Any]) -> Box:
    named = ('track_id', 'class', 'score', 'xyxy_px', 'detected')
    return {
        'track': record['track_id'],
        'class': record['class'],
        'score': record['score'],
        'xyxy': record['xyxy_px'],
        'kind': 'detected' if record['detected'] else 'coasted',
        'rest': {name: value for name, value in record.items() if name not in named},
    }


def _record(box: Mapping[str, Any]) -> Box:
    """Return a box as the list has it."""
    try:
        xyxy_px = [float(value) for value in box['xyxy']]
        x0, y0, x1, y1 = xyxy_px
        fits = x0 < x1 and y0 < y1 and all(map(math.isfinite, xyxy_px))
        score, track = float(box['score']), box['track']
        fits = fits and 0 <= score <= 1 and isinstance(track, int) and box['class'] in BOX_CLASSES
        untouched = box['kind'] in ('detected', 'coasted')
        rest = dict(box.get('rest') or {}) if untouched else {}
    except (KeyError, TypeError, ValueError) as error:
        raise DetectionsError(f'got a box that is none: {box!r}') from error
    if not fits:
        raise DetectionsError(
            f'got a box that is none: {box!r}; expected x0 < x1, y0 < y1, a score from 0 to 1 and '
            f'a class of: {", ".join(BOX_CLASSES)}'
        )
    return {
        'class': box['class'],
        'xyxy_px': xyxy_px,
        'score': score,
        'track_id': track,
        'detected': box['kind'] != 'coasted',
        # A person who draws a box is sure of it.
        **(rest if untouched else {'best_score': 1.0}),
    }
