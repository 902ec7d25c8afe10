"""What the review page asks for: frames before and after, boxes, another run, other settings."""

from __future__ import annotations

from collections.abc import Callable
import contextlib
from functools import lru_cache
from pathlib import Path
import subprocess
import sys
import tempfile
import threading
from typing import Any

import cv2
from ffs_anonymizer.errors import AnonymizerError, SettingsError
from ffs_anonymizer.jobs.output import replaced_file
from ffs_anonymizer.review.corrections import BOX_CLASSES, Corrections
from ffs_anonymizer.review.recording import Recording
from ffs_anonymizer.review.server import Answer, Query, Routes
from ffs_anonymizer.settings.declaration import Parameter
from ffs_anonymizer.settings.parameter_file import to_yaml
from ffs_anonymizer.settings.runtime import PARAMETERS, Settings
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]
# A frame in its settings' new looks, and the number of its regions.
Preview = Callable[[Settings, str, int], 'tuple[Image, int]']
# From the list to use, the new output, the list that the last output was made from, and that.
Rerun = Callable[[Path, Path, Path, Path], 'list[str]']

_CACHED_FRAMES = 16
_SHOWN_SIDE_PX = 1600
_QUALITY = 85
# What changes the look of a single frame, and needs no model loaded anew.
TUNED = (
    'face.method',
    'face.threshold',
    'face.region_scale',
    'face.fallback',
    'plate.method',
    'plate.threshold',
    'plate.region_scale',
    'detector.scale',
    'feather',
    'obscure.cells',
    'generator.min_region_px',
)


class ReviewSession:
    """
    Answer the page's requests; several threads may.

    :param original: the recording as it was.
    :param anonymized: opens the output, None where there is none yet.
    :param corrections: what was found.
    :param saved_to: where the corrected list goes.
    :param rerun: the words of the command that makes the output anew; None: it cannot be made.
    :param settings: of the run.
    :param preview: makes a frame with other settings.
    :param scratch: private folder for the lists that outputs are made from.
    :param yaml_to: where tuned settings go.
    """

    def __init__(
        self,
        original: Recording,
        anonymized: Path | None,
        corrections: Corrections,
        *,
        saved_to: Path,
        open_output: Callable[[Path], Recording],
        rerun: Rerun | None,
        scratch: Path,
        settings: Settings,
        preview: Preview,
        yaml_to: Path,
    ) -> None:
        self._original = original
        self._output = anonymized
        self._open_output = open_output
        self._anonymized = None if anonymized is None else open_output(anonymized)
        self._corrections = corrections
        self._saved_to = saved_to
        self._rerun = rerun
        self._scratch = scratch
        # The list that the output was made from, which saving does not change.
        self._used = corrections.path
        self._settings = settings
        self._preview = preview
        self._yaml_to = yaml_to
        self._lock = threading.Lock()
        self._run: _Run | None = None
        self._frame = lru_cache(_CACHED_FRAMES)(self._decoded)

    @property
    def routes(self) -> Routes:
        """Return what is answered, by method and path."""
        return {
            ('GET', 'recording'): self._tell_recording,
            ('GET', 'detections'): self._tell_detections,
            ('PUT', 'detections'): self._save_detections,
            ('GET', 'frame'): self._show_frame,
            ('POST', 'preview'): self._show_preview,
            ('PUT', 'settings'): self._save_settings,
            ('POST', 'run'): self._start_run,
            ('GET', 'run'): self._tell_run,
        }

    def close(self) -> None:
        """End a run that is going on, and close the recordings."""
        if self._run is not None:
            self._run.stop()
        self._original.close()
        if self._anonymized is not None:
            self._anonymized.close()

    def _tell_recording(self, query: Query, body: Any) -> Answer:
        times = self._original.streams
        return Answer.of(
            {
                'name': self._original.path.name,
                'streams': [
                    {
                        'name': name,
                        'frames': len(times[name]),
                        'stamps_s': [(t - times[name][0]) / 1e9 for t in times[name]],
                    }
                    for name in self._corrections.streams
                ],
                'classes': BOX_CLASSES,
                'unlisted': self._original.unlisted(self._corrections.streams),
                'has_output': self._anonymized is not None,
                'can_run': self._rerun is not None,
                'settings': [_described(p, self._settings) for p in PARAMETERS if p.name in TUNED],
            }
        )

    def _tell_detections(self, query: Query, body: Any) -> Answer:
        return Answer.of(self._corrections.boxes(query['stream']))

    def _save_detections(self, query: Query, body: Any) -> Answer:
        with self._lock:
            count = self._corrections.change(body)
            self._corrections.save(self._saved_to)
        return Answer.of({'message': f'{count} frames changed, saved to {self._saved_to}'})

    def _show_frame(self, query: Query, body: Any) -> Answer:
        image_bgr = self._frame(query['side'], query['stream'], int(query['number']))
        return _picture(image_bgr)

    def _decoded(self, side: str, stream: str, number: int) -> Image:
        recording = self._original if side == 'before' else self._anonymized
        if recording is None:
            raise AnonymizerError('there is no output yet')
        with self._lock:
            return recording.frame(stream, number).decode().image_bgr

    def _show_preview(self, query: Query, body: Any) -> Answer:
        settings = self._tuned(body['settings'])
        with self._lock:
            image_bgr, regions = self._preview(settings, body['stream'], int(body['number']))
        return _picture(image_bgr, ('X-Regions', str(regions)))

    def _save_settings(self, query: Query, body: Any) -> Answer:
        text = to_yaml(self._tuned(body))
        with replaced_file(self._yaml_to) as partial:
            partial.write_text(text, encoding='utf-8')
        return Answer.of({'message': f'written to {self._yaml_to}'})

    def _tuned(self, changes: dict[str, Any]) -> Settings:
        other = [name for name in changes if name not in TUNED]
        if other:
            raise SettingsError(f'got {other[0]!r}, expected one of: {", ".join(TUNED)}')
        return self._settings.updated(changes)

    def _start_run(self, query: Query, body: Any) -> Answer:
        if self._rerun is None or self._output is None:
            raise AnonymizerError('got no output to make anew, expected one; name it with -o')
        with self._lock:
            if self._run is not None and self._run.state == 'running':
                raise AnonymizerError('a run is going on already')
            self._corrections.save(self._saved_to)
            target = _free(self._output)
            used = self._scratch / f'{target.name}.jsonl'
            self._corrections.save(used)
            words = self._rerun(used, target, self._used, self._output)
            self._run = _Run(words, target, used)
        return self._tell_run(query, body)

    def _tell_run(self, query: Query, body: Any) -> Answer:
        run = self._run
        if run is None:
            return Answer.of({'state': 'none', 'message': 'nothing was run'})
        with self._lock:
            if run.state == 'done' and self._output != run.target:
                if self._anonymized is not None:
                    self._anonymized.close()
                self._anonymized = self._open_output(run.target)
                self._output, self._used = run.target, run.used
                self._frame.cache_clear()
        return Answer.of({'state': run.state, 'message': run.message})


class _Run:
    """Another process that makes the output anew."""

    def __init__(self, command: list[str], target: Path, used: Path) -> None:
        self.target, self.used = target, used
        # A file, for nobody reads along.
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, '-m', 'ffs_anonymizer', *command],
            stdin=subprocess.DEVNULL,
            stdout=self._said,
            stderr=subprocess.STDOUT,
        )

    @property
    def state(self) -> str:
        """Return running, done or failed."""
        code = self._process.poll()
        if code is None:
            return 'running'
        return 'done' if self.target.exists() else 'failed'

    @property
    def message(self) -> str:
        """Return what is to be told."""
        if self.state == 'running':
            return f'writing {self.target} ...'
        self._said.seek(0)
        lines = self._said.read().decode('utf-8', 'replace').strip().splitlines() or ['']
        if self.state == 'done':
            return f'written: {self.target}; {lines[-1]}'
        return next((line for line in lines if line.startswith('error')), lines[-1])

    def stop(self) -> None:
        """End it, as Ctrl-C would."""
        if self._process.poll() is None:
            self._process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                self._process.wait(10)


def _free(output: Path) -> Path:
    """Return the next name of an output that nothing has: drive, drive_2, drive_3."""
    stem, suffix = (output.stem, output.suffix) if output.is_file() else (output.name, '')
    base, _, number = stem.rpartition('_')
    if base and number.isdecimal():
        stem, count = base, int(number)
    else:
        count = 1
    while True:
        count += 1
        path = output.with_name(f'{stem}_{count}{suffix}')
        if not path.exists():
            return path


def _described(parameter: Parameter, settings: Settings) -> dict[str, Any]:
    return {
        'name': parameter.name,
        'value': settings.flat()[parameter.name],
        'meaning': parameter.meaning,
        'choices': list(parameter.choices) or None,
        'bounds': list(parameter.bounds or (0, 0)),
        'is_whole': parameter.type_name == 'integer',
    }


def _picture(image_bgr: Image, *headers: tuple[str, str]) -> Answer:
    height, width = image_bgr.shape[:2]
    scale = min(1.0, _SHOWN_SIDE_PX / max(width, height))
    if scale < 1:
        image_bgr = cv2.resize(
            image_bgr, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA
        ).astype(np.uint8)
    done, encoded = cv2.imencode('.jpg', image_bgr, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])
    if not done:
        raise AnonymizerError('OpenCV cannot encode the frame')
    return Answer(bytes(encoded), 'image/jpeg', (('X-Frame-Size', f'{width}x{height}'), *headers))
