"""Test what is said of videos that end early."""

from collections.abc import Sequence
import contextlib
from fractions import Fraction
from pathlib import Path

import av
from ffs_anonymizer.frames.video import VideoSource
import numpy as np
from numpy.typing import NDArray
import pytest
from support.media import (
    TIMES_MS,
    write_video,
)

FORMATS = [
    ('.mkv', 'ffv1', 'bgr0'),
    ('.mkv', 'libx264', 'yuv420p'),
    ('.webm', 'libvpx-vp9', 'yuv420p'),
    ('.avi', 'mjpeg', 'yuvj420p'),
    ('.avi', 'libx264', 'yuv420p'),
]


def shortfall(path: Path) -> str:
    with contextlib.closing(VideoSource(path)) as source:
        assert list(source)
        return source.shortfall()


@pytest.mark.parametrize(
    'times_ms', [TIMES_MS, range(0, 1000, 33), (0, 33, 66, 1000), (5000, 5040), (0,)]
)
@pytest.mark.parametrize('sound', [False, True])
@pytest.mark.parametrize(('suffix', 'codec', 'pixels'), FORMATS)
def test_no_whole_video_is_said_to_end_early(
    suffix: str,
    codec: str,
    pixels: str,
    sound: bool,
    times_ms: Sequence[int],
    tmp_path: Path,
    face_bgr: NDArray[np.uint8],
) -> None:
    path = tmp_path / f'a{suffix}'
    sound = sound and suffix != '.webm'
    write_video(path, face_bgr, codec=codec, pixels=pixels, times_ms=times_ms, sound=sound)
    assert shortfall(path) == ''


def test_a_long_last_picture_and_dropped_ones_are_no_early_end(
    tmp_path: Path, face_bgr: NDArray[np.uint8]
) -> None:
    for name in ('a.mkv', 'a.avi'):
        codec, pixels = ('mjpeg', 'yuvj420p')
        with av.open(str(tmp_path / name), 'w') as container:
            video = container.add_stream(codec, rate=30)
            video.height, video.width = face_bgr.shape[:2]
            video.pix_fmt = pixels
            for i in (0, 1, 5, 9):
                frame = av.VideoFrame.from_ndarray(face_bgr, 'bgr24')
                frame.pts, frame.time_base = i, Fraction(1, 30)
                for packet in video.encode(frame):
                    packet.duration = 60 if i == 9 and name == 'a.mkv' else 1
                    container.mux(packet)
            container.mux(video.encode(None))
        assert shortfall(tmp_path / name) == ''


def test_a_guess_of_the_length_is_not_believed(
    tmp_path: Path, face_bgr: NDArray[np.uint8]
) -> None:
    path = tmp_path / 'live.mkv'
    with av.open(str(path), 'w', options={'live': '1'}) as container:
        video = container.add_stream('mjpeg', rate=30)
        video.height, video.width = face_bgr.shape[:2]
        video.pix_fmt = 'yuvj420p'
        audio = container.add_stream('pcm_s16le', rate=48000)
        for i in range(30):
            container.mux(video.encode(av.VideoFrame.from_ndarray(face_bgr, 'bgr24')))
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), 's16', 'mono')
            tone.sample_rate, tone.pts = 48000, 1600 * i
            container.mux(audio.encode(tone))
    with av.open(str(path)) as container:
        assert container.duration > 1_100_000
    assert shortfall(path) == ''


@pytest.mark.parametrize(('suffix', 'codec', 'pixels'), FORMATS)
def test_a_video_that_was_cut_off_is_told(
    suffix: str, codec: str, pixels: str, tmp_path: Path, face_bgr: NDArray[np.uint8]
) -> None:
    path = tmp_path / f'a{suffix}'
    write_video(path, face_bgr, codec=codec, pixels=pixels, times_ms=range(0, 3000, 33))
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    text = 'its header counts' if suffix == '.avi' else 'its header says 3.003 s, what it holds'
    assert shortfall(path).startswith(f'ends early: {text}')
