"""Packets of H.264 and H.265 as a vehicle's camera sends them, made by PyAV."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
from numpy.typing import NDArray

_ENCODERS = {'h264': 'libx264', 'hevc': 'libx265'}
_QUIET = {'hevc': {'x265-params': 'log-level=none:bframes=0'}}


def stream(
    pictures: list[NDArray[np.uint8]], codec: str = 'h264', *, gop: int = 5, **options: str
) -> list[bytes]:
    """Return a packet a picture, (H, W, 3) BGR, the first of each `gop` a keyframe."""
    context = av.CodecContext.create(_ENCODERS[codec], 'w')
    context.height, context.width = pictures[0].shape[:2]
    context.pix_fmt = 'yuv420p'
    context.time_base = Fraction(1, 30)
    context.framerate = Fraction(30)
    context.gop_size = gop
    chosen = {'preset': 'ultrafast', 'tune': 'zerolatency', 'crf': '12', **_QUIET.get(codec, {})}
    context.options = {**chosen, **options}
    packets = []
    for at, picture in enumerate(pictures):
        frame = av.VideoFrame.from_ndarray(picture, format='bgr24').reformat(format='yuv420p')
        frame.pts = at
        packets += context.encode(frame)
    packets += context.encode(None)
    return [bytes(packet) for packet in packets]


def moving(count: int, width: int = 96, height: int = 64) -> list[NDArray[np.uint8]]:
    """Return pictures of a bright square that moves over a slope."""
    y, x = np.mgrid[:height, :width]
    ground = np.dstack([x * 2, y * 3, 255 - x - y]).clip(20, 235).astype(np.uint8)
    pictures = []
    for at in range(count):
        picture = ground.copy()
        left = 8 + 4 * at % (width - 24)
        picture[16:32, left : left + 16] = (240, 240, 240)
        pictures.append(picture)
    return pictures
