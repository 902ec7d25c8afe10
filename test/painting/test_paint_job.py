from ffs_anonymizer.painting.job import job_of
from ffs_anonymizer.painting.methods import BLUR
from ffs_anonymizer.regions.detections import Regions
from ffs_anonymizer.settings.runtime import Settings
import numpy as np

RECTS = np.array([[20, 30, 60, 80], [50, 60, 80, 78]], np.int32)


def veils(image_bgr):
    """Return where each blurred region fades, where it covers, and what it fades into."""
    job = job_of(
        image_bgr,
        Regions.of_zones(RECTS.astype(np.float32)),
        RECTS,
        np.full(len(RECTS), BLUR, np.int8),
        Settings().updated({'feather': 0.3}),
        latents=[None, None],
        strengths=np.zeros(len(RECTS), np.float32),
        painters=np.full(len(RECTS), -1, np.int8),
        crop_scales=[],
        stream='',
    )
    n = len(RECTS)
    return list(zip(job.outer_xyxy_px[:n], job.rect_xyxy_px[n:], job.pixels[:n], strict=True))


def test_a_blur_fades_into_the_mean_of_what_is_known_around_each_pixel():
    image = np.random.default_rng(0).integers(0, 256, (90, 100, 3), np.uint8)
    known = np.ones((90, 100, 1))
    for x0, y0, x1, y1 in RECTS.tolist():
        known[y0:y1, x0:x1] = 0
    for outer, rect, veil in veils(image):
        x0, y0, x1, y1 = outer.tolist()
        reach = int(np.abs(outer - rect).max()) // 6 + 1
        border = ((reach, reach), (reach, reach), (0, 0))
        shares = np.pad(known[y0:y1, x0:x1], border, mode='edge')
        samples = np.pad(image[y0:y1, x0:x1], border, mode='edge') * shares
        some = 0
        for row, column in np.ndindex(veil.shape[:2]):
            near = np.s_[row : row + 2 * reach + 1, column : column + 2 * reach + 1]
            count = shares[near].sum()
            mean = samples[near].sum((0, 1)) / max(count, 1)
            assert np.abs(veil[row, column] - mean).max() <= 0.5 + 1e-4
            some += count == 0
        assert some


def test_a_blur_fades_into_nothing_of_any_region():
    image = np.random.default_rng(0).integers(0, 256, (90, 100, 3), np.uint8)
    other = image.copy()
    for x0, y0, x1, y1 in RECTS.tolist():
        other[y0:y1, x0:x1] = 255 - other[y0:y1, x0:x1]
    for (_, _, one), (_, _, two) in zip(veils(image), veils(other), strict=True):
        np.testing.assert_array_equal(one, two)
