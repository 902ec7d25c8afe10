"""A head in three dimensions, through the whole recipe: as an image, a depth image and a cloud."""

from pathlib import Path
from types import SimpleNamespace

from ffs_anonymizer.anonymizer import Recipe
from ffs_anonymizer.clouds.cloud import Cloud, decode_cloud
from ffs_anonymizer.clouds.scene import Link, Scene
from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.frames.message import decode
from ffs_anonymizer.networks import Networks
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
import pytest
from support.clouds import cloud_message, FACE_XYXY_PX, head_scene, points_from, portrait
from support.messages import with_data
from support.recipes import Memory

MODELS = Path(__file__).resolve().parents[3] / 'shared' / 'data' / 'models'
# The head of `head_scene` in its picture of 640x480 pixels.
FACE = (slice(95, 230), slice(230, 330))


@pytest.fixture(scope='module')
def anonymizer():
    try:
        faces_alone = Settings().updated(
            {'detector.plate_model_path': 'none', 'face.region_scale': 1.45}
        )
        networks = Networks(faces_alone)
    except ModelError as error:
        pytest.skip(str(error))
    with networks:
        yield Memory(Recipe(networks, faces_alone))


@pytest.fixture(scope='module')
def head():
    pytest.importorskip('skimage', reason='the portrait comes with scikit-image')
    return head_scene(portrait(), FACE_XYXY_PX)


@pytest.fixture(scope='module')
def cloud(anonymizer, head):
    """Return the cloud that comes out."""
    image, depth = head
    msg = cloud_message(points_from(depth), image)
    done = anonymizer.anonymize(decode_cloud(msg, 'flatten'), stream='/points', stamp_ns=None)
    assert len(done.regions) == 1
    return Cloud(with_data(msg, bytes(done.data)))


def relief(depth):
    """Return what is left of a shape without its smooth part, in m."""
    v, u = np.mgrid[: depth.shape[0], : depth.shape[1]].reshape(2, -1) / 100
    terms = np.stack([np.ones_like(u), u, v, u * u, u * v, v * v], axis=1)
    fitted = np.linalg.lstsq(terms, depth.ravel(), rcond=None)[0]
    return (depth.ravel() - terms @ fitted).reshape(depth.shape)


def test_the_nose_is_gone(head, cloud):
    points, known = cloud.positions()
    assert known.all()
    before, after = relief(head[1][FACE]), relief(points[FACE][..., 2])
    alike = np.corrcoef(before.ravel(), after.ravel())[0, 1]
    assert -before.min() > 0.015
    assert abs(alike) < 0.25
    nose = (slice(60, 90), slice(40, 60))
    assert np.abs(np.median(before[nose])) > 0.01
    assert np.abs(np.median(after[nose])) < 0.3 * np.abs(np.median(before[nose]))
    # All of the head, not only the nose: what was near is where its surroundings are.
    assert np.median(points[FACE][..., 2] - head[1][FACE]) > 0.1


def test_outside_the_region_nothing_moved(head, cloud):
    points, _ = cloud.positions()
    far = np.ones(head[1].shape, bool)
    far[:300, 150:420] = False
    assert (points[..., 2][far] == head[1][far].astype(np.float32)).all()
    assert (cloud.colours()[far] == head[0][far]).all()


@pytest.mark.skipif(not MODELS.is_dir(), reason='no shared data here')
def test_the_recognizer_does_not_know_the_colours(head, cloud):
    pytest.importorskip('ncnn')
    from ffs_anonymizer.evaluation.judges import LandmarkFinder, Recognizer, SAME_PERSON

    finder = LandmarkFinder(MODELS / 'face_detection_yunet_2023mar.onnx')
    recognizer = Recognizer(MODELS / 'mobilefacenet.param')
    points = finder.points(head[0], np.array([228, 70, 336, 230], np.float32))
    before = recognizer.embed(head[0], points)
    darker = recognizer.embed((head[0] * 0.8).astype(np.uint8), points)
    after = recognizer.embed(cloud.colours(), points)
    assert before @ darker > SAME_PERSON
    assert before @ after < SAME_PERSON


def test_depth_loses_the_head_by_the_regions_of_the_picture(anonymizer, head):
    image, depth = head
    picture = SimpleNamespace(
        width=640, height=480, encoding='bgr8', step=1920, is_bigendian=0, data=image.tobytes()
    )
    done = anonymizer.anonymize(decode(picture), stream='/image', stamp_ns=None)
    scene = Scene(max_gap_ms=100)
    scene.add_regions('/image', 7, (640, 480), done.regions)
    millimetres = (depth * 1000).round().astype('<u2')
    msg = SimpleNamespace(
        width=640,
        height=480,
        encoding='16UC1',
        step=1280,
        is_bigendian=0,
        data=millimetres.tobytes(),
    )
    data, count = scene.hide_in_depth(msg, [Link.parse('/depth /image')], 'flatten', 7)
    after = np.frombuffer(data, '<u2').reshape(480, 640)
    assert count == 1
    assert np.median(after[FACE].astype(int) - millimetres[FACE]) > 100
    nose = (slice(60, 90), slice(40, 60))
    assert np.abs(np.median(relief(after[FACE] / 1000)[nose])) < 0.005


@pytest.mark.parametrize('encoding', ['mono8', '8UC1'])
def test_faces_are_found_in_infrared(anonymizer, head, encoding):
    """What the infrared cameras of a stereo head publish is a grey picture, darker and noisier."""
    rng = np.random.default_rng(0)
    grey = head[0].mean(axis=2) * 0.5 + rng.normal(0, 4, head[1].shape)
    msg = SimpleNamespace(
        width=640,
        height=480,
        encoding=encoding,
        step=640,
        is_bigendian=0,
        data=grey.clip(0, 255).astype(np.uint8).tobytes(),
    )
    done = anonymizer.anonymize(decode(msg), stream='/infra1', stamp_ns=None)
    assert len(done.regions) == 1
    after = np.frombuffer(done.data, np.uint8).reshape(480, 640)
    assert (after[FACE] != np.frombuffer(msg.data, np.uint8).reshape(480, 640)[FACE]).mean() > 0.8
