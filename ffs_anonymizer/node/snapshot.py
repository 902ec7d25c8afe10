"""One picture of each camera before and after, into a private folder, for a look at the work."""

from __future__ import annotations

import copy
import os
from pathlib import Path
import threading
from typing import Any

import cv2
from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.frames.message import decode
from ffs_anonymizer.node.pictures import stamp_of


class Snapshots:
    """
    Write pairs of pictures where the user allows it; any thread may call any method.

    The picture before shows the faces, so the folder is the user's own and nobody else's.

    :param folder: is made if it is missing.
    :raises SettingsError: the folder cannot be made, or others can read it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._wanted: set[str] = set()
        self._before: dict[str, Any] = {}
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            mode = folder.stat().st_mode & 0o777
        except OSError as error:
            raise SettingsError(f'snapshot_folder: {error}') from error
        if mode & 0o077:
            raise SettingsError(
                f'snapshot_folder: got {folder} with mode {mode:o}, expected 700, '
                f'since the pictures show faces: chmod 700 {folder}'
            )

    def ask(self, topics: list[str]) -> str:
        """Want the next frame of these topics, and say so."""
        with self._lock:
            self._wanted = set(topics)
            self._before = {}
        return f'the next frame of {", ".join(topics) or "no camera"} goes to {self._folder}'

    def before(self, topic: str, message: Any) -> None:
        """Keep a message as it came, if one is wanted."""
        with self._lock:
            if topic in self._wanted:
                self._wanted.discard(topic)
                self._before[topic] = copy.deepcopy(message)

    def after(self, topic: str, message: Any) -> Path | None:
        """
        Write the pair if this is the message that was kept.

        :returns: the picture before, whose neighbour is the one after.
        :raises AnonymizerError: one of them cannot be decoded.
        :raises OSError: a file cannot be written.
        """
        with self._lock:
            kept = self._before.get(topic)
            if kept is None or stamp_of(kept) != stamp_of(message):
                return None
            del self._before[topic]
        seconds, nanoseconds = divmod(stamp_of(message), 1_000_000_000)
        name = f'{topic.strip("/").replace("/", "_")}_{seconds}.{nanoseconds:09}'
        paths = [self._folder / f'{name}_{side}.png' for side in ('before', 'after')]
        for path, shown in zip(paths, (kept, message), strict=True):
            _write(path, cv2.imencode('.png', decode(shown).image_bgr)[1].tobytes())
        return paths[0]


def _write(path: Path, data: bytes) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    with open(os.open(path, flags, 0o600), 'wb') as file:
        file.write(data)
