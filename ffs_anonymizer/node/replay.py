"""What a replay needs: topics that the recording has, and a player that waits for the node."""

from __future__ import annotations

from collections.abc import Callable, Sequence
import difflib
from pathlib import Path

from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.node.messages import IMAGE_TYPES
from ffs_anonymizer.rosbag2.reader import BagReader
from ffs_anonymizer.settings.parameter_file import load


def check_recording(bag: Path, image_topics: Sequence[str], params_file: Path) -> None:
    """
    Refuse a replay that would record nothing, or leave a named topic out.

    :param image_topics: of the command line; empty: those of the parameter file.
    :raises AnonymizerError: a topic is not in the recording or holds no images, or none is named.
    """
    settings = load(params_file)
    images = list(image_topics) or list(settings.image_topics)
    if not images:
        raise SettingsError(
            f'image_topics: got none, neither on the command line nor in {params_file}; '
            'there is nothing to replay'
        )
    types = {topic.name: topic.type_name for topic in BagReader(bag).topics()}
    suitable = sorted(name for name, kind in types.items() if kind in IMAGE_TYPES)
    for name in images:
        full_name = '/' + name.lstrip('/')
        if full_name not in types:
            raise SettingsError(f'{full_name}: not in {bag}; {_suggestion(full_name, suitable)}')
        if full_name not in suitable:
            raise SettingsError(
                f'{full_name}: got {types[full_name]} in {bag}, '
                f'expected {" or ".join(IMAGE_TYPES)}'
            )


def _suggestion(name: str, suitable: Sequence[str]) -> str:
    close = difflib.get_close_matches(name, suitable, n=1)
    if close:
        return f'did you mean {close[0]}?'
    return f'its image topics are {", ".join(suitable)}' if suitable else 'it has no image topic'


class Pacer:
    """
    Pause the player of a recording while the node has enough to do, so that nothing is dropped.

    :param waiting: returns the number of frames of the camera that has the most.
    :param room: how many frames a camera may hold.
    """

    def __init__(
        self,
        *,
        waiting: Callable[[], int],
        pause: Callable[[], object],
        resume: Callable[[], object],
        room: int,
    ) -> None:
        self._waiting = waiting
        self._pause = pause
        self._resume = resume
        # The frames that are on their way while the player hears of it need the other half.
        self._high, self._low = max(2, room // 4), 1
        self.paused = False

    def step(self) -> None:
        """Look, and pause or resume where that is due."""
        waiting = self._waiting()
        if not self.paused and waiting >= self._high:
            self.paused = True
            self._pause()
        elif self.paused and waiting <= self._low:
            self.paused = False
            self._resume()
