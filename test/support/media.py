"""Images and videos made on the spot, and what is in them."""

from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import av
import cv2
from ffs_anonymizer.cli.program import main
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
from numpy.typing import NDArray
import pytest
from support.recipes import Detector

# Not what a recorder would write: a gap, and an uneven start.
TIMES_MS = (100, 133, 167, 200, 400, 433, 467, 500)
# Where a test asks whether a face is left: a generated one is a face, too.
BLUR = ('--method', 'blur')


@pytest.fixture(scope='session')
def detector() -> Detector:
    return Detector(Settings())


def faces(detector: Detector, image_bgr: NDArray[np.uint8]) -> int:
    return int((detector.detect(image_bgr).scores > 0.5).sum())


def write_jpeg(path: Path, image_bgr: NDArray[np.uint8]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes(cv2.imencode('.jpg', image_bgr, [cv2.IMWRITE_JPEG_QUALITY, 95])[1]))
    return path


def write_video(
    path: Path,
    image_bgr: NDArray[np.uint8],
    *,
    times_ms: Sequence[int] = TIMES_MS,
    codec: str = 'libx264',
    pixels: str = 'yuv420p',
    streams: int = 1,
    rotation: int = 0,
    sound: bool = False,
    options: dict[str, str] | None = None,
) -> Path:
    """Write a video of one picture that moves, with metadata that must not get out."""
    with av.open(str(path), 'w') as container:
        container.metadata['title'] = 'Elm Street 13'
        videos = [container.add_stream(codec, rate=30, options=options) for _ in range(streams)]
        audio = container.add_stream('aac', rate=48000) if sound else None
        for video in videos:
            video.height, video.width = image_bgr.shape[:2]
            video.pix_fmt = pixels
            video.codec_context.time_base = Fraction(1, 30 if path.suffix == '.avi' else 1000)
            if rotation:
                video.set_display_rotation(rotation)
        for i, time_ms in enumerate(times_ms):
            shifted = np.roll(image_bgr, 2 * i, axis=1)
            for video in videos:
                frame = av.VideoFrame.from_ndarray(shifted, 'bgr24')
                frame.time_base = video.codec_context.time_base
                frame.pts = i if path.suffix == '.avi' else time_ms
                container.mux(video.encode(frame))
        if audio is not None:
            tone = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), 'fltp', 'mono')
            tone.sample_rate, tone.pts = 48000, 0
            container.mux(audio.encode(tone))
            container.mux(audio.encode(None))
        for video in videos:
            container.mux(video.encode(None))
    return path


def pictures(path: Path) -> list[tuple[Fraction, NDArray[np.uint8], int]]:
    with av.open(str(path)) as container:
        return [
            (frame.pts * frame.time_base, frame.to_ndarray(format='bgr24'), frame.rotation)
            for frame in container.decode(video=0)
        ]


def files(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob('*') if p.is_file())


def media(*words: object) -> int:
    return main(['media', *map(str, words)])


@pytest.fixture
def photo(tmp_path: Path, face_bgr: NDArray[np.uint8]) -> Path:
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'one.txt').touch()
    write_jpeg(tmp_path / 'taken' / 'a.jpg', face_bgr)
    return write_jpeg(tmp_path / 'in' / 'a.jpg', face_bgr)


@pytest.fixture(params=[('.avi', 'mjpeg', 'yuvj420p'), ('.mkv', 'libx264', 'yuv420p')])
def damaged(request: pytest.FixtureRequest, tmp_path: Path, face_bgr: NDArray[np.uint8]) -> Path:
    """Return a video whose fourth picture is noise."""
    suffix, codec, pixels = request.param
    path = tmp_path / f'damaged{suffix}'
    write_video(path, face_bgr, codec=codec, pixels=pixels, options={'bf': '0'})
    damage(path, 3)
    return path


def damage(path: Path, number: int) -> None:
    with av.open(str(path)) as container:
        packet = [bytes(p) for p in container.demux(video=0) if p.size][number][20:]
    data = path.read_bytes()
    at = data.index(packet)
    noise = np.random.default_rng(1).integers(0, 255, len(packet), np.uint8).tobytes()
    path.write_bytes(data[:at] + noise + data[at + len(packet) :])
