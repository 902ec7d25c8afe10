"""What the tests of the node share: each has a ROS of its own."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def isolated(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv('ROS_AUTOMATIC_DISCOVERY_RANGE', 'OFF')
    monkeypatch.setenv('ROS_LOG_DIR', str(tmp_path / 'log'))


@pytest.fixture
def live(isolated: None) -> Iterator[Any]:
    from support.live import Live

    live = Live()
    yield live
    live.close()
