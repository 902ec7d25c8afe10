"""What a message of any image type says, whatever its fields are called; no ROS is imported."""

from __future__ import annotations

from functools import partial
from types import SimpleNamespace
from typing import Any

from ffs_anonymizer.errors import SettingsError
from ffs_anonymizer.frames.frame import Frame
from ffs_anonymizer.frames.message import decode, MOST_LIVE_PIXELS, rotation_of
from ffs_anonymizer.settings.runtime import Settings, VideoSettings

_PACKETS = ('CompressedVideo', 'FFMPEGPacket')
_NS_PER_S = 1_000_000_000


def is_packet(message: Any) -> bool:
    """Tell whether a message is a packet of a video, which needs those before it."""
    return type(message).__name__ in _PACKETS


def codec_name(message: Any) -> str:
    """Return what a packet calls its codec."""
    name: str = message.encoding if hasattr(message, 'encoding') else message.format
    return name


def stamp_of(message: Any) -> int:
    """Return the stamp of a message in ns; foxglove's have no header."""
    stamp = message.header.stamp if hasattr(message, 'header') else message.timestamp
    return int(stamp.sec * _NS_PER_S + stamp.nanosec)


def decode_live(message: Any, topic: str, settings: Settings) -> Frame:
    """
    Decode a camera's image as the settings say; packets of a video are none.

    The message belongs to the frame from then on.

    :raises ImageError: it holds no picture, or one that is damaged or too large.
    """
    if hasattr(message, 'step') and not hasattr(message, 'is_bigendian'):
        names = ('height', 'width', 'encoding', 'step', 'data')
        fields = {name: getattr(message, name) for name in names}
        message = SimpleNamespace(**fields, is_bigendian=0)
    return decode(
        message,
        topic=topic,
        rotation=rotation_of(settings.rotation, topic),
        most_pixels=settings.limits.max_pixels or MOST_LIVE_PIXELS,
        in_place=True,
    )


def check_video(settings: Settings) -> list[str]:
    """
    Look whether the encoder and the decoder work that the settings name; return what does not.

    :raises SettingsError: neither H.264 nor H.265 works, or PyAV is missing.
    """
    if settings.video == VideoSettings():
        return []
    try:
        from ffs_anonymizer.frames.video_packets import check_codecs
    except ImportError as error:
        raise SettingsError(f'video.encoder, video.decoder: {error}') from error
    return check_codecs(settings.video.encoder, settings.video.decoder)


class Pictures:
    """
    Decode the messages of one topic, in their order.

    :param settings: limits, rotation and video, which do not change while the node runs.
    """

    def __init__(self, topic: str, settings: Settings) -> None:
        self._decode = partial(decode_live, topic=topic, settings=settings)
        self._most_pixels = settings.limits.max_pixels or MOST_LIVE_PIXELS
        self._video = settings.video
        self._transcoder: Any = None

    def decode(self, message: Any, *, after_gap: bool = False) -> Frame:
        """
        Return the picture of a message.

        :param after_gap: whether messages between this one and the one before are missing.
        :raises ImageError: it has none, or none yet.
        """
        if not is_packet(message):
            return self._decode(message)
        if self._transcoder is None:
            # PyAV is needed for videos alone.
            from ffs_anonymizer.frames.video_packets import Transcoder

            self._transcoder = Transcoder(
                limit_pixels=self._most_pixels,
                encoder=self._video.encoder,
                decoder=self._video.decoder,
            )
        if after_gap:
            self._transcoder.restart()
        frame: Frame = self._transcoder.decode(message.data, codec_name(message), self._decode)
        return frame
