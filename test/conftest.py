"""What tests of several modules share."""

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
import pytest
from support.collection import Executed, uncollectable
from support.drawn_faces import boxes, packed, photos, table, tiny_settings  # noqa: F401
from support.drawn_plates import streets, streets_with_heads  # noqa: F401
import tqdm

# Its thread would outlive the progress bars, and some tests count threads.
tqdm.tqdm.monitor_interval = 0
_LEFT_OUT = uncollectable(Path(__file__).parent)
collect_ignore_glob = list(_LEFT_OUT)


def pytest_configure(config: pytest.Config) -> None:
    """Watch that something is executed."""
    config.pluginmanager.register(Executed())


def pytest_report_header() -> list[str]:
    """Tell what is left out, which no result would show."""
    return [f'left out: {name} needs {library}' for name, library in _LEFT_OUT.items()]


@pytest.fixture(scope='session')
def face_bgr() -> NDArray[np.uint8]:
    """Return the head of NASA's portrait of Eileen Collins, 192 pixels wide and 144 high."""
    data = pytest.importorskip('skimage.data')
    return np.ascontiguousarray(
        cv2.resize(data.astronaut()[:216, 80:368, ::-1], (192, 144), interpolation=cv2.INTER_AREA)
    )
