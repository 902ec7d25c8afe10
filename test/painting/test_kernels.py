import shutil

import cv2
from ffs_anonymizer.backend import open_model
from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.painting import composite, crops
from ffs_anonymizer.painting.compiler import compile_kernels, find_nvcc, FOLDER, source_sha256
from ffs_anonymizer.painting.job import Job, pack
from ffs_anonymizer.painting.sharpness import sharpened
import numpy as np
import pytest
from support.host_kernels import compiled_for_the_host, cut, GXX, paste, sharpen
from support.onnx_models import save_generator

NVCC = find_nvcc()
pytestmark = pytest.mark.skipif(GXX is None, reason='needs g++')


@pytest.fixture(scope='module')
def kernels(tmp_path_factory):
    return compiled_for_the_host(tmp_path_factory.mktemp('kernels'))


def rects(*boxes):
    return np.array(boxes, np.int32).reshape(-1, 4)


def job_of(boxes, holes=(), *, crop_scale=1.7, feather=0.1, strength=0.0, size_wh=(200, 150)):
    """All boxes generated, in the recipe's order."""
    boxes = rects(*boxes)
    squares = crops.enclosing_squares(boxes, crop_scale)
    order = composite.far_to_near(boxes)
    outers = []
    for i in order:
        outer = composite.with_feather(boxes[i], feather, size_wh=size_wh)
        low, side = np.tile(squares[i, :2], 2), squares[i, 2]
        outers.append(np.clip(outer, low, low + side))
    return Job(
        squares,
        np.zeros(len(squares), np.int8),
        np.zeros(len(squares), np.uint64),
        (None,) * len(squares),
        np.zeros((len(squares), 5, 2), np.float32),
        np.full(len(squares), strength, np.float32),
        np.concatenate([boxes, rects(*holes)]),
        np.array(outers, np.int32).reshape(-1, 4),
        boxes[order],
        order.astype(np.int32),
    )


def applied(image, job, parts):
    result = image.copy()
    for (x0, y0, x1, y1), part in zip(job.outer_xyxy_px.tolist(), parts, strict=True):
        result[y0:y1, x0:x1] = part
    return result


def reference(image, faces, job):
    """Do what the recipe does on the CPU, with the faces of a network."""
    levels = np.rint((np.clip(faces, -1, 1) + 1) * 127.5).astype(np.uint8)
    result, own = image.copy(), iter(job.pixels)
    patches = zip(job.outer_xyxy_px, job.rect_xyxy_px, job.crop_index, strict=True)
    for outer, rect, index in patches:
        if index < 0:
            patch = next(own)
        else:
            x, y, side = job.squares_xys_px[index].tolist()
            face = np.ascontiguousarray(levels[index].transpose(1, 2, 0)[..., ::-1])
            face = sharpened(face, job.strengths[index])
            shrink = side < face.shape[0]
            method = cv2.INTER_AREA if shrink else cv2.INTER_CUBIC
            x0, y0, x1, y1 = outer.tolist()
            whole = cv2.resize(face, (side, side), interpolation=method)
            patch = whole[y0 - y : y1 - y, x0 - x : x1 - x]
        composite.paste(result, composite.Patch(patch, outer, rect))
    return result


def picture(seed=0, size_wh=(200, 150)):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (size_wh[1], size_wh[0], 3), np.uint8)


BOXES = [
    [(60, 50, 90, 95)],
    [(20, 20, 40, 50), (35, 30, 60, 55), (33, 25, 36, 28)],
    [(0, 0, 15, 15), (170, 0, 200, 20), (0, 110, 9, 150), (161, 127, 200, 150)],
    [(0, 0, 200, 150)],
]


@pytest.mark.parametrize('size_px', [16, 32, 47, 128])
@pytest.mark.parametrize('boxes', BOXES)
@pytest.mark.parametrize('crop_scale', [1.0, 1.7, 2.0])
def test_crops_are_those_of_the_reference(kernels, boxes, size_px, crop_scale):
    image = picture()
    holes = [(100, 70, 104, 72), (50, 90, 70, 91)]
    job = job_of(boxes, holes, crop_scale=crop_scale)
    condition, mask = cut(kernels, image, job, size_px=size_px)
    want = crops.cut(
        image,
        rects(*boxes),
        holes_xyxy_px=rects(*holes),
        size_px=size_px,
        crop_scale=crop_scale,
    )
    assert np.array_equal(job.squares_xys_px, want.squares_xys_px)
    assert np.array_equal(mask, want.mask)
    assert np.abs(condition - want.condition).max() <= 1 / 127.5 + 1e-6


@pytest.mark.parametrize('size_px', range(8, 131))
def test_every_scale_agrees(kernels, size_px):
    image, boxes = picture(size_px), [(70, 40, 110, 90)]
    job = job_of(boxes)
    condition, mask = cut(kernels, image, job, size_px=size_px)
    want = crops.cut(image, rects(*boxes), holes_xyxy_px=rects(), size_px=size_px, crop_scale=1.7)
    assert np.array_equal(mask, want.mask)
    assert np.abs(condition - want.condition).max() <= 1 / 127.5 + 1e-6


@pytest.mark.parametrize('size_px', [16, 40, 100, 128])
@pytest.mark.parametrize('boxes', BOXES)
def test_nothing_inside_any_hole_reaches_any_crop(kernels, boxes, size_px):
    image, holes = picture(), [(110, 70, 140, 72), (50, 90, 70, 91)]
    noisy, rng = image.copy(), np.random.default_rng(1)
    for x0, y0, x1, y1 in [*boxes, *holes]:
        noisy[y0:y1, x0:x1] = rng.integers(0, 256, (y1 - y0, x1 - x0, 3), np.uint8)
    job = job_of(boxes, holes)
    first, second = (cut(kernels, each, job, size_px=size_px) for each in (image, noisy))
    assert not np.array_equal(image, noisy)
    assert first[0].tobytes() == second[0].tobytes()
    assert first[1].tobytes() == second[1].tobytes()


def test_the_rest_of_the_picture_does_reach_the_crop(kernels):
    image, job = picture(), job_of(BOXES[0])
    changed = image.copy()
    changed[49, 59] ^= 255
    first, second = (cut(kernels, each, job, size_px=128)[0] for each in (image, changed))
    assert first.tobytes() != second.tobytes()


def test_a_batch_is_padded_and_split(kernels):
    image, job = picture(), job_of(BOXES[1])
    whole = cut(kernels, image, job, size_px=32)
    padded = cut(kernels, image, job, size_px=32, batch=2, first=2)
    for got, want, filling in zip(padded, whole, (0, 1), strict=True):
        assert np.array_equal(got[0], want[2])
        assert (got[1] == filling).all()


@pytest.mark.parametrize('size_px', [16, 32, 47, 128])
@pytest.mark.parametrize('feather', [0.0, 0.1, 0.35])
@pytest.mark.parametrize('strength', [0.0, 0.6])
@pytest.mark.parametrize('boxes', BOXES)
def test_pasting_is_that_of_the_reference(kernels, boxes, strength, feather, size_px):
    image, rng = picture(), np.random.default_rng(2)
    job = job_of(boxes, feather=feather, strength=strength)
    faces = rng.uniform(-1.2, 1.2, (len(boxes), 3, size_px, size_px)).astype(np.float32)
    parts, good = paste(kernels, image, faces, job)
    got, want = applied(image, job, parts), reference(image, faces, job)
    assert good
    # One level from resizing; a feather over a neighbour rounds once more for each layer.
    layers = 1 if len(boxes) == 1 else 2
    assert np.abs(got.astype(int) - want).max() <= layers


@pytest.mark.parametrize('seed', range(20))
def test_patches_with_pixels_keep_their_place_in_the_order(kernels, seed):
    image, rng = picture(seed), np.random.default_rng(seed)
    outers, inner, index, pixels = [], [], [], []
    squares = np.array([(10, 10, 60), (-20, 40, 80)], np.int32)
    for _ in range(6):
        crop = int(rng.integers(-1, 2))
        x, y, side = squares[crop].tolist() if crop >= 0 else (0, 0, 150)
        x0, y0 = rng.integers((max(x, 0), max(y, 0)), (x + side - 9, y + side - 9)).tolist()
        x1 = int(rng.integers(x0 + 4, x + side))
        y1 = int(rng.integers(y0 + 4, y + side))
        outers.append((x0, y0, x1, y1))
        inner.append((x0 + 1, y0, x1, y1 - 2))
        index.append(crop)
        if crop < 0:
            pixels.append(rng.integers(0, 256, (y1 - y0, x1 - x0, 3), np.uint8))
    index = np.array(index, np.int32)
    strengths = np.array([0.0, 0.7], np.float32)
    beside = np.zeros(2, np.uint64), (None, None), np.zeros((2, 5, 2), np.float32), strengths
    job = Job(
        squares,
        np.zeros(2, np.int8),
        *beside,
        rects(),
        rects(*outers),
        rects(*inner),
        index,
        tuple(pixels),
    )
    faces = rng.uniform(-1, 1, (2, 3, 32, 32)).astype(np.float32)
    parts, _ = paste(kernels, image, faces, job)
    got = applied(image, job, parts).astype(int)
    assert np.abs(got - reference(image, faces, job)).max() <= 2
    solid = Job(
        squares,
        np.zeros(2, np.int8),
        *beside,
        rects(),
        rects(*outers),
        rects(*outers),
        index,
        tuple(pixels),
    )
    parts, _ = paste(kernels, image, np.zeros_like(faces), solid)
    want = reference(image, np.zeros_like(faces), solid)
    assert np.array_equal(applied(image, solid, parts), want)


@pytest.mark.parametrize('strength', [0.0, 0.1, 1 / 3, 1.0])
@pytest.mark.parametrize('size_px', [4, 16, 128])
def test_sharpening_is_that_of_the_reference_to_the_bit(kernels, size_px, strength):
    job = job_of(BOXES[1], strength=strength)
    faces = np.random.default_rng(4).uniform(-1.2, 1.2, (3, 3, size_px, size_px))
    faces = faces.astype(np.float32)
    got, good = sharpen(kernels, picture(), faces, job)
    levels = np.rint((np.clip(faces, -1, 1) + 1) * 127.5).astype(np.uint8)
    want = [sharpened(face.transpose(1, 2, 0), job.strengths[0]) for face in levels]
    assert good
    assert np.array_equal(got, np.stack(want).transpose(0, 3, 1, 2))
    assert np.array_equal(got, levels) == (strength == 0)


def test_a_batch_may_hold_faces_to_spare(kernels):
    faces = np.full((2, 3, 16, 16), np.nan, np.float32)
    faces[0] = 0
    levels, good = sharpen(kernels, picture(), faces, job_of(BOXES[0], strength=1.0))
    assert good
    assert (levels[0] == 128).all()


def test_what_a_rectangle_covers_does_not_reach_the_output(kernels):
    image, boxes = picture(), BOXES[1]
    noisy, rng = image.copy(), np.random.default_rng(3)
    for x0, y0, x1, y1 in boxes:
        noisy[y0:y1, x0:x1] = rng.integers(0, 256, (y1 - y0, x1 - x0, 3), np.uint8)
    job = job_of(boxes, feather=0.4)
    faces = rng.uniform(-1, 1, (len(boxes), 3, 32, 32)).astype(np.float32)
    first, second = (paste(kernels, each, faces, job)[0] for each in (image, noisy))
    assert [part.tobytes() for part in first] == [part.tobytes() for part in second]


@pytest.mark.parametrize('bad', [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize('size_px', [16, 128])
@pytest.mark.parametrize('strength', [0.0, 0.6])
def test_a_face_that_is_no_picture_is_told(kernels, bad, size_px, strength):
    image, job = picture(), job_of(BOXES[0], strength=strength)
    faces = np.zeros((1, 3, size_px, size_px), np.float32)
    assert paste(kernels, image, faces, job)[1]
    faces[0, 1, size_px // 2, size_px // 2] = bad
    assert not paste(kernels, image, faces, job)[1]


def test_nothing_to_paint(kernels):
    image = picture()
    job = job_of([])
    condition, mask = cut(kernels, image, job, size_px=8, batch=1)
    assert (condition == 0).all()
    assert (mask == 1).all()
    assert paste(kernels, image, np.zeros((1, 3, 8, 8), np.float32), job) == ([], True)


def test_crop_generate_and_paste_in_one_go(kernels, tmp_path):
    image, boxes = picture(), BOXES[1]
    model = open_model(save_generator(tmp_path / 'generator.onnx', size_px=32), device='cpu')
    job = job_of(boxes)
    condition, mask = cut(kernels, image, job, size_px=32)
    faces = model.infer({'condition': condition, 'mask': mask})['inpainted']
    want = crops.cut(image, rects(*boxes), holes_xyxy_px=rects(), size_px=32, crop_scale=1.7)
    plain = model.infer({'condition': want.condition, 'mask': want.mask})['inpainted']
    parts, _ = paste(kernels, image, faces, job)
    got, want = applied(image, job, parts), reference(image, plain, job)
    outside = np.ones(image.shape[:2], bool)
    for x0, y0, x1, y1 in job.outer_xyxy_px.tolist():
        outside[y0:y1, x0:x1] = False
    assert np.array_equal(got[outside], image[outside])
    assert np.abs(got.astype(int) - want).mean() < 0.5


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'crop_index': np.array([1], np.int32)}, 'a patch that reaches out of its crop'),
        ({'crop_index': np.array([-1], np.int32)}, r'got pixels of shapes \[\]'),
        ({'rect_xyxy_px': rects((0, 0, 9, 9))}, 'or not over its rect'),
        ({'rect_xyxy_px': rects((70, 60, 70, 80))}, 'or not over its rect'),
        ({'outer_xyxy_px': rects((0, 0, 200, 150))}, 'reaches out of its crop'),
        ({'strengths': np.zeros(2, np.float32)}, 'got shapes'),
        ({'holes_xyxy_px': np.zeros((1, 3), np.int32)}, 'got shapes'),
        ({'pixels': (np.zeros((2, 2, 3), np.uint8),)}, r'pixels of shapes \[\(2, 2, 3\)\]'),
    ],
)
def test_jobs_that_the_kernels_could_not_survive_are_refused(change, message):
    job = job_of(BOXES[0])
    with pytest.raises(ValueError, match=message):
        Job(**{**vars(job), **change})


def test_a_patch_outside_of_the_frame_is_refused():
    with pytest.raises(ValueError, match='a patch outside of the frame'):
        pack(job_of(BOXES[3]), (199, 150))


@pytest.mark.skipif(NVCC is None, reason='needs nvcc')
@pytest.mark.parametrize('compute_capability', ['8.7', '9.0'])
def test_the_kernels_compile_for_the_gpu(compute_capability):
    cubin = compile_kernels(compute_capability, NVCC)
    assert cubin.startswith(b'\x7fELF')
    assert {b'.text.ffs_cut', b'.text.ffs_sharpen', b'.text.ffs_paste'} <= set(cubin.split(b'\0'))


@pytest.mark.skipif(NVCC is None, reason='needs nvcc')
def test_what_the_compiler_says_is_told():
    with pytest.raises(ModelError, match=r'cannot compile the kernels for sm_11: .*nvcc fatal'):
        compile_kernels('1.1', NVCC)


def test_source_hash_covers_both_files(tmp_path, monkeypatch):
    before = source_sha256()
    for name in ('kernels.cu', 'kernels.h'):
        shutil.copy(FOLDER / name, tmp_path / name)
    monkeypatch.setattr('ffs_anonymizer.painting.compiler.FOLDER', tmp_path)
    assert source_sha256() == before
    (tmp_path / 'kernels.h').write_text('')
    assert source_sha256() != before
    (tmp_path / 'kernels.cu').unlink()
    with pytest.raises(ModelError, match='the kernels are missing: .*; install the package again'):
        source_sha256()
