"""A list of what was found in recordings, to look at, to edit and to feed back: JSON lines."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
import json
import math
from pathlib import Path
from typing import Any, BinaryIO, NoReturn, TextIO

from ffs_anonymizer import __version__
from ffs_anonymizer.errors import DetectionsError
from ffs_anonymizer.regions.detections import CLASSES, POINTS, Regions, ZONE
from ffs_anonymizer.settings.runtime import Settings
import numpy as np

FORMAT = 'ffs_anonymizer detections'
VERSION = 1
MOST_LINE_BYTES = 16 << 20
MOST_SIDE_PX = 1 << 20
_MOST_PX = 1e9


@dataclass(frozen=True)
class Found:
    """
    Hold what was found in one frame.

    :param size_wh: width and height of the upright frame in pixels.
    :param regions: not yet grown: `ungrown_xyxy_px` says all; zones are left out.
    :param error: why there is no image; then nothing is known of it.
    """

    size_wh: tuple[int, int]
    regions: Regions
    error: str = ''

    def check(self, size_wh: tuple[int, int]) -> None:
        """
        Refuse a frame of another size than the one that was looked at, and one that had no image.

        :param size_wh: width and height of the frame in pixels.
        :raises DetectionsError: what was found does not fit it.
        """
        if self.error:
            raise DetectionsError(
                f'nothing is known of this frame, which had no image: {self.error}'
            )
        if size_wh != self.size_wh:
            got, expected = (f'{width}x{height}' for width, height in (self.size_wh, size_wh))
            raise DetectionsError(
                f'got detections in a frame of {got} pixels, expected one of {expected}: they are '
                'of another recording'
            )


class DetectionsWriter:
    """
    Write what is found, frame by frame.

    :param file: empty; it stays open.
    :param source: name of the recording.
    :param settings: that it is searched with.
    """

    def __init__(self, file: TextIO, *, source: str, settings: Settings) -> None:
        self._file = file
        self._frames = 0
        self._write(
            {
                'format': FORMAT,
                'version': VERSION,
                'tool': f'ffs_anonymizer {__version__}',
                'settings_sha256': settings.sha256,
                'source': source,
            }
        )

    def add(
        self,
        stream: str,
        *,
        stamp_ns: int | None,
        size_wh: tuple[int, int],
        regions: Regions,
        log_ns: int | None = None,
        error: str = '',
    ) -> None:
        """
        Append a frame.

        :param stream: the topic, or the file's name.
        :param stamp_ns: the frame's time, of the camera where it has one; None: a still picture.
        :param log_ns: when it was recorded, where that is known.
        :param error: why there is no image of it.
        """
        line: dict[str, object] = {'stream': stream, 'stamp_ns': stamp_ns}
        if log_ns is not None:
            line['log_ns'] = log_ns
        line['size_wh'] = list(size_wh)
        line['regions'] = records(regions)
        if error:
            line['error'] = error
        self._write(line)
        self._frames += 1

    def finish(self) -> None:
        """Write the last line, without which the list counts as truncated."""
        self._write({'end': True, 'frames': self._frames})
        self._file.flush()

    def _write(self, line: Mapping[str, object]) -> None:
        # Names of files may be no UTF-8; escapes stand for what is none.
        self._file.write(json.dumps(line) + '\n')


class DetectionsReader:
    """
    Read a list of detections; all of it is checked when it is opened.

    Frames are looked up in any order; of several that share stamp and recording time, the first
    that is left comes first.

    :raises DetectionsError: it cannot be read, is of another version, truncated or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._places: dict[tuple[str, int | None], list[tuple[int | None, int]]] = {}
        try:
            self._file: BinaryIO = path.open('rb')
        except OSError as error:
            raise DetectionsError(
                f'cannot read the detections {path}: {error.strerror}'
            ) from error
        try:
            self._head = self._read_all()
        except BaseException:
            self._file.close()
            raise

    @property
    def source(self) -> str:
        """Return the name of the recording that was searched."""
        return str(self._head['source'])

    @property
    def streams(self) -> list[str]:
        """Return the names of topics or files that were searched."""
        return sorted({stream for stream, _ in self._places})

    @property
    def log_ns(self) -> dict[str, list[int]]:
        """Return when the frames of each stream were recorded, of those that say it."""
        times: dict[str, list[int]] = {}
        for (stream, _), places in self._places.items():
            times.setdefault(stream, []).extend(t for t, _ in places if t is not None)
        return times

    def find(self, stream: str, *, stamp_ns: int | None, log_ns: int | None = None) -> Found:
        """
        Return what was found in a frame; each is handed out once.

        :param stamp_ns: as it was when the list was written.
        :param log_ns: tells frames of one stamp apart.
        :raises DetectionsError: the list does not have this frame, or not one alone.
        """
        places = self._places.get((stream, stamp_ns), [])
        fitting = places
        if len(places) > 1:
            fitting = [place for place in places if place[0] == log_ns]
        if not fitting:
            when = '' if stamp_ns is None else f' at {stamp_ns} ns'
            raise DetectionsError(
                f'{self.path} has no frame {stream}{when}; it lists what was found in '
                f'{self.source!r}: expected the list of this recording'
            )
        place = fitting[0]
        places.remove(place)
        self._file.seek(place[1])
        return _found(json.loads(self._file.readline()), self.path)

    def all_of(self, stream: str) -> list[tuple[int | None, Found]]:
        """Return stamp_ns and what was found of the frames that are not handed out yet."""
        places = [
            (place, stamp_ns)
            for (name, stamp_ns), listed in self._places.items()
            if name == stream
            for _, place in listed
        ]
        frames = []
        for place, stamp_ns in sorted(places):
            self._file.seek(place)
            frames.append((stamp_ns, _found(json.loads(self._file.readline()), self.path)))
        return frames

    @property
    def frames(self) -> int:
        """Return the number of frames that are not handed out yet."""
        return sum(map(len, self._places.values()))

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def __enter__(self) -> DetectionsReader:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the file."""
        self.close()

    def _read_all(self) -> dict[str, Any]:
        lines = self._lines()
        _, _, head = next(lines, (0, 0, {}))
        _check_head(head, self.path)
        frames = 0
        for number, place, line in lines:
            if line.get('end') is True:
                if line.get('frames') != frames:
                    raise DetectionsError(
                        f'{self.path}: got {frames} frames, expected {line.get("frames")} as its '
                        'last line says: lines are missing, or were added'
                    )
                if next(lines, None) is not None:
                    raise DetectionsError(f'{self.path}: got more after its end, line {number}')
                return head
            where = f'{self.path}, line {number}'
            stream, stamp_ns, log_ns = (line.get(key) for key in ('stream', 'stamp_ns', 'log_ns'))
            if (
                not isinstance(stream, str)
                or not _is_whole(stamp_ns, may_miss=True)
                or not _is_whole(log_ns, may_miss=True)
            ):
                raise DetectionsError(f'{where}: got no stream and stamp_ns of a frame')
            _found(line, where)
            self._places.setdefault((stream, stamp_ns), []).append((log_ns, place))
            frames += 1
        raise DetectionsError(
            f'{self.path} ends after {frames} frames without its last line: truncated, or still '
            'being written'
        )

    def _lines(self) -> Iterator[tuple[int, int, dict[str, Any]]]:
        number, place = 0, 0
        try:
            while text := self._file.readline(MOST_LINE_BYTES):
                number += 1
                line = json.loads(text, parse_constant=_no_number)
                if not isinstance(line, dict):
                    raise ValueError('no object')
                yield number, place, line
                place += len(text)
        except (ValueError, RecursionError) as error:
            raise DetectionsError(
                f'{self.path}, line {number}: got no line of JSON, or a truncated one: {error}'
            ) from error
        except OSError as error:
            raise _unread(self.path, error) from error


def records(regions: Regions) -> list[dict[str, object]]:
    """Return each region but zones by names, in plain numbers that say float32 exactly."""
    return [
        {
            'class': CLASSES[regions.classes[i]],
            'xyxy_px': _numbers(regions.ungrown_xyxy_px[i]),
            'score': _number(regions.scores[i]),
            'best_score': _number(regions.best_scores[i]),
            'track_id': int(regions.track_ids[i]),
            'detected': bool(regions.detected[i]),
            **(
                {'points_px': [_numbers(point) for point in regions.points_px[i]]}
                if np.isfinite(regions.points_px[i]).all()
                else {}
            ),
        }
        for i in range(len(regions))
        if regions.classes[i] != ZONE
    ]


def _number(value: np.float32) -> float:
    # The shortest that is read as the same again.
    return float(str(value))


def _numbers(values: Iterable[np.float32]) -> list[float]:
    return [_number(value) for value in values]


def _unread(path: Path, error: OSError) -> DetectionsError:
    return DetectionsError(f'cannot read the detections {path}: {error.strerror}')


def _check_head(head: Mapping[str, Any], path: Path) -> None:
    if head.get('format') != FORMAT:
        raise DetectionsError(
            f'{path}: got a first line without "format": "{FORMAT}", expected a list that '
            '--write-detections of this version wrote; older ones hold grown boxes'
        )
    if head.get('version') != VERSION:
        raise DetectionsError(
            f'{path}: got version {head.get("version")!r} of the format, expected {VERSION}; '
            'write the list anew'
        )
    if not isinstance(head.get('source'), str):
        raise DetectionsError(f'{path}: got no name of a source in the first line')


def _found(line: Mapping[str, Any], where: object) -> Found:
    """Return what a line says."""
    try:
        width, height = line['size_wh']
        rows = line['regions']
        if not all(_is_whole(side) and 0 <= side <= MOST_SIDE_PX for side in (width, height)):
            raise ValueError(f'got the size {line["size_wh"]!r}')
        no_points = [[math.nan, math.nan]] * len(POINTS)
        exact = np.array([row['xyxy_px'] for row in rows], np.float64).reshape(-1, 4)
        # Predictions may lie far outside.
        if not np.all(np.abs(exact) <= _MOST_PX):
            raise ValueError('got a box that is none, expected finite numbers')
        boxes = exact.astype(np.float32)
        points = np.array([row.get('points_px', no_points) for row in rows], np.float32)
        regions = Regions(
            boxes,
            np.array([CLASSES.index(row['class']) for row in rows], np.int8),
            np.array([row['score'] for row in rows], np.float32),
            np.array([row.get('best_score', row['score']) for row in rows], np.float32),
            np.array([row['track_id'] for row in rows], np.int64),
            np.array([row['detected'] for row in rows], np.bool_),
            points.reshape(-1, len(POINTS), 2),
            boxes,
        )
        scores = np.concatenate([regions.scores, regions.best_scores])
        if not np.all(boxes[:, 2:] > boxes[:, :2]):
            raise ValueError('got a box that is none, expected x0 < x1 and y0 < y1')
        if not np.all((scores >= 0) & (scores <= 1)) or (regions.classes == ZONE).any():
            raise ValueError('got a score beyond 0 to 1, or a zone')
        if not all(
            isinstance(row['detected'], bool) and _is_whole(row['track_id']) for row in rows
        ):
            raise ValueError('got no "track_id" and "detected" of a region')
        return Found((width, height), regions, str(line.get('error', '')))
    except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
        reason = f'{error} is missing' if isinstance(error, KeyError) else error
        raise DetectionsError(f'{where}: no frame of a list of detections: {reason}') from error


def _is_whole(value: object, *, may_miss: bool = False) -> bool:
    if value is None:
        return may_miss
    return isinstance(value, int) and not isinstance(value, bool)


def _no_number(text: str) -> NoReturn:
    raise ValueError(f'{text} is no number')
