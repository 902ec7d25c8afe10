from pathlib import Path

import av
from ffs_anonymizer.cli.program import main
from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.evaluation.faces import Judges
from ffs_anonymizer.evaluation.films import (
    change,
    evaluate,
    Film,
    follow,
    load_film,
    steadiness,
    to_markdown,
)
from ffs_anonymizer.evaluation.judges import ALIGNED_POINTS_PX, FaceDetector
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
import pytest

BOX = np.array([[10, 10, 30, 30]], np.float32)


class Points:
    """Find every face where faces usually are."""

    name = 'usual'

    def points(self, image_bgr, box):
        return ALIGNED_POINTS_PX


class Colours:
    """Take the colour of a face for the person."""

    name = 'colours'

    def embed(self, image_bgr, points_px):
        vector = image_bgr[20, 20].astype(float)
        return vector / np.linalg.norm(vector)


class Both:
    """Judge by colours."""

    landmarks = Points()
    recognizer = Colours()


def film(frames) -> Film:
    count = len(frames)
    return Film(Path(), tuple(frames), (BOX,) * count, (np.zeros(1, np.int64),) * count)


def grey(level: int) -> np.ndarray:
    return np.full((40, 40, 3), level, np.uint8)


def test_boxes_are_followed_by_overlap():
    near = BOX + 2
    far = BOX + 100
    tracks = follow([BOX, np.concatenate([far, near]), np.empty((0, 4), np.float32), near])
    assert [t.tolist() for t in tracks] == [[0], [1, 0], [], [2]]
    assert follow([]) == []


def test_two_faces_never_become_one():
    two = np.concatenate([BOX, BOX + 4])
    tracks = follow([two, two[::-1]])
    assert [t.tolist() for t in tracks] == [[0, 1], [1, 0]]


def test_change_is_counted_in_the_region_alone():
    frames = [grey(10), grey(14), grey(10)]
    still = film(frames)
    assert change(still, frames, 1.0) == pytest.approx(4.0)
    outside = [grey(10) for _ in range(3)]
    outside[1][:5] = 200
    assert change(still, outside, 1.0) == 0.0
    assert change(still, outside, 2.0) > 10.0
    assert change(film(frames[:1]), frames[:1], 1.0) == 0.0


def test_steadiness_is_one_for_one_face_and_less_for_many():
    colours = np.eye(3, dtype=np.uint8) * 200
    same = [np.full((40, 40, 3), colours[0], np.uint8) for _ in range(6)]
    other = [np.full((40, 40, 3), colours[i % 3], np.uint8) for i in range(6)]
    assert steadiness(film(same), same, Both()) == pytest.approx(1.0)
    assert steadiness(film(same), other, Both()) == pytest.approx(3**-0.5)
    assert steadiness(film(same[:4]), same[:4], Both()) is None


def write_film(path, image_bgr):
    with av.open(str(path), 'w') as out:
        stream = out.add_stream('ffv1', rate=30)
        stream.height, stream.width = image_bgr.shape[:2]
        stream.pix_fmt = 'bgr0'
        for _ in range(6):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image_bgr), format='bgr24')
            for packet in stream.encode(frame.reformat(format='bgr0')):
                out.mux(packet)
        for packet in stream.encode():
            out.mux(packet)


@pytest.fixture
def judges():
    try:
        return Judges(FaceDetector())
    except ModelError as error:
        pytest.skip(str(error))


def test_a_blurred_film_is_as_still_as_the_original(face_bgr, tmp_path, judges):
    path = tmp_path / 'film.mkv'
    write_film(path, face_bgr)
    one = load_film(path, judges)
    assert len(one.frames_bgr) == 6
    assert [len(boxes) for boxes in one.boxes_xyxy_px] == [1] * 6
    blur = Settings().updated({'face.method': 'blur'})
    results = evaluate([one], {'blur': blur}, judges)
    assert results['original']['flicker'] == results['blur']['flicker'] == 0.0
    assert '| blur | 6 | 6 | 0 | 0 | - |' in to_markdown(results)


@pytest.mark.usefixtures('judges')
def test_one_film_without_a_face_ends_nothing(face_bgr, tmp_path, capsys):
    folder = tmp_path / 'films'
    folder.mkdir()
    write_film(folder / 'a.mkv', np.zeros_like(face_bgr))
    words = ['evaluate', '-i', str(folder), '--video', '--method', 'face=solid']
    assert main(words) == 1
    assert 'got no film that can be judged' in capsys.readouterr().err
    write_film(folder / 'b.mkv', face_bgr)
    assert main(words) == 1
    said = capsys.readouterr()
    assert 'warning: left out: ' in said.err
    assert 'a.mkv: got no face that is seen twice in 6 frames' in said.err
    assert '| solid | 6 | 6 | ' in said.out
    (folder / 'a.mkv').unlink()
    assert main(words) == 0
