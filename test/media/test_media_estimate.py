"""Test what images and videos are said to amount to before they are done."""

from pathlib import Path

from ffs_anonymizer.media.conversion import run
from ffs_anonymizer.media.estimate import estimate
from ffs_anonymizer.media.files import MediaJob, MediaPlan
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
from numpy.typing import NDArray
import pytest
from support.media import files, media, write_jpeg, write_video

SETTINGS = {'face.method': 'solid', 'detector.scale': 1.0, 'detector.plate_model_path': 'none'}
OWN = Settings().updated(SETTINGS)


def test_frames_time_and_size(tmp_path: Path, face_bgr: NDArray[np.uint8]) -> None:
    source = tmp_path / 'in'
    for i in range(3):
        write_jpeg(source / f'{i}.jpg', face_bgr)
    images = MediaJob(source=source, target=tmp_path / 'images', settings=OWN)
    found = estimate(images, MediaPlan.of(images))
    assert (found.frames, found.sampled) == (3, 3)
    assert found.seconds > 0
    run(images)
    size = sum(path.stat().st_size for path in images.target.iterdir())
    assert size == pytest.approx(found.size_bytes, rel=0.01)

    write_video(source / 'a.mp4', face_bgr, times_ms=range(0, 1000, 40))
    job = MediaJob(source=source, target=tmp_path / 'out', settings=OWN)
    plan = MediaPlan.of(job)
    found = estimate(job, plan)
    assert found.frames == 28
    # The second half of the video.
    assert 4 <= found.sampled <= 16
    run(job)
    size = sum(path.stat().st_size for path in job.target.iterdir())
    assert 0.5 * size < found.size_bytes < 2 * size


def test_a_dry_run_says_it_or_why_not(
    tmp_path: Path, face_bgr: NDArray[np.uint8], capsys: pytest.CaptureFixture[str]
) -> None:
    write_jpeg(tmp_path / 'a.jpg', face_bgr)
    words = ('--dry-run', '--set', 'detector.plate_model_path=none')
    assert media('-i', tmp_path / 'a.jpg', '-o', tmp_path / 'b.jpg', *words) == 0
    assert 'estimate: 1 images, about 0.0 minutes on this machine' in capsys.readouterr().out
    (tmp_path / 'a.mp4').write_bytes(b'no video')
    assert media('-i', tmp_path / 'a.mp4', '-o', tmp_path / 'b.mp4', *words) == 0
    assert f'no estimate: {tmp_path / "a.mp4"}: ' in capsys.readouterr().out
    assert files(tmp_path) == ['a.jpg', 'a.mp4']
