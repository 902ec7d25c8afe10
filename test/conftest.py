"""What tests share: a photo with a face, and the program as users run it."""

from collections.abc import Callable
from pathlib import Path
import subprocess
import sys

import cv2
import numpy as np
from numpy.typing import NDArray
import pytest

ROOT = Path(__file__).parent.parent
Program = Callable[..., 'subprocess.CompletedProcess[str]']


@pytest.fixture(scope='session')
def face_bgr() -> NDArray[np.uint8]:
    """Return the head of NASA's portrait of Eileen Collins, 192 pixels wide and 144 high."""
    data = pytest.importorskip('skimage.data')
    return np.ascontiguousarray(
        cv2.resize(data.astronaut()[:216, 80:368, ::-1], (192, 144), interpolation=cv2.INTER_AREA)
    )


@pytest.fixture(scope='session')
def program() -> Program:
    """Return a function that runs `ffs_anonymizer` in a process of its own."""

    def run(*words: object, **options: object) -> 'subprocess.CompletedProcess[str]':
        command = [sys.executable, '-m', 'ffs_anonymizer', *map(str, words)]
        return subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=ROOT, timeout=120, **options
        )

    return run
