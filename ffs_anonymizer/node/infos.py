"""The camera_info of an image that is in work: it waits, so that the pair leaves together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
import struct
import threading

_NS_PER_S = 1_000_000_000
HELD_INFOS = 512
# Images and infos in a row that do not pair before the infos are taken for unstamped ones.
UNPAIRED_INFOS = 64


class Infos:
    """
    Hold each camera_info until an image of its stamp is published, and publish it then.

    An info whose image is dropped is never published. One without a stamp, or while nobody works
    on the images, is passed on at once; so are all where no stamp has fitted for a while. Any
    thread may call any method.

    :param publish: takes a serialized camera_info.
    :param is_awaited: tells whether images are being worked on.
    """

    def __init__(
        self, publish: Callable[[bytes], None], *, is_awaited: Callable[[], bool]
    ) -> None:
        self._publish = publish
        self._is_awaited = is_awaited
        self._lock = threading.Lock()
        # By stamp; empty where the info has left already.
        self._held: OrderedDict[int, bytes] = OrderedDict()
        self._published_ns: OrderedDict[int, None] = OrderedDict()
        self._unpaired_infos = 0
        self._unpaired_images = 0

    @property
    def fit_no_image(self) -> bool:
        """Tell whether the infos have other stamps than the images."""
        return min(self._unpaired_infos, self._unpaired_images) >= UNPAIRED_INFOS

    def put(self, info: bytes) -> None:
        """Take an info."""
        stamp = stamp_ns(info)
        with self._lock:
            pairs = stamp in self._published_ns
            now = pairs or not stamp or not self._is_awaited() or self.fit_no_image
            if pairs:
                del self._published_ns[stamp]
                self._paired()
            else:
                self._unpaired_infos += 1
                self._held[stamp] = b'' if now else info
                _shorten(self._held)
        if now:
            self._publish(info)

    def image_published(self, stamp: int) -> None:
        """
        Let the info of an image follow it.

        :param stamp: the image's, in ns.
        """
        with self._lock:
            info = self._held.pop(stamp, None)
            if info is None:
                self._unpaired_images += 1
                self._published_ns[stamp] = None
                _shorten(self._published_ns)
            else:
                self._paired()
        if info:
            self._publish(info)

    def _paired(self) -> None:
        self._unpaired_infos = self._unpaired_images = 0


def stamp_ns(data: bytes) -> int:
    """Return the stamp of a serialized message that begins with a header."""
    order = '<' if data[1] & 1 else '>'
    seconds, nanoseconds = struct.unpack_from(f'{order}iI', data, 4)
    return int(seconds * _NS_PER_S + nanoseconds)


def _shorten(kept: OrderedDict[int, bytes] | OrderedDict[int, None]) -> None:
    while len(kept) > HELD_INFOS:
        kept.popitem(last=False)
