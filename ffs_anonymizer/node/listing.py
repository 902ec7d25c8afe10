"""What the node found, into the same list as the tools write."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
import threading

from ffs_anonymizer.errors import AnonymizerError, SettingsError
from ffs_anonymizer.jobs.output import new_file
from ffs_anonymizer.regions.detections import Regions
from ffs_anonymizer.regions.detections_file import DetectionsWriter
from ffs_anonymizer.settings.runtime import Settings


class Listing:
    """
    Write a list of detections while cameras run; it gets its name when the node has ended well.

    :param path: a new file.
    :param source: what was searched: the node's name.
    :raises SettingsError: it cannot be written.
    """

    def __init__(self, path: Path, *, source: str, settings: Settings) -> None:
        self._lock = threading.Lock()
        self._stack = contextlib.ExitStack()
        self._problem = ''
        if os.path.lexists(path):
            raise SettingsError(
                f'write_detections: {path} exists already and is not overwritten; name another one'
            )
        try:
            partial = self._stack.enter_context(new_file(path))
            file = self._stack.enter_context(partial.open('w', encoding='utf-8'))
        except (AnonymizerError, OSError) as error:
            self._stack.close()
            raise SettingsError(f'write_detections: {error}') from error
        self._writer = DetectionsWriter(file, source=source, settings=settings)

    def add(
        self, topic: str, *, stamp_ns: int, size_wh: tuple[int, int], regions: Regions
    ) -> None:
        """
        Append a frame.

        :raises AnonymizerError: the disk is full or gone; told once, then nothing is written.
        """
        with self._lock:
            if self._problem:
                return
            try:
                self._writer.add(topic, stamp_ns=stamp_ns, size_wh=size_wh, regions=regions)
            except (OSError, ValueError) as error:
                self._problem = str(error)
                raise AnonymizerError(
                    f'write_detections: {error}; nothing more is listed'
                ) from error

    def close(self) -> None:
        """
        Give the list its name.

        :raises AnonymizerError: it cannot be ended; nothing of it is left.
        """
        with self._lock, self._stack:
            if self._problem:
                raise AnonymizerError(f'write_detections: there is no list: {self._problem}')
            self._writer.finish()
