from dataclasses import replace
import json
from pathlib import Path

import cv2
from ffs_anonymizer.backend import open_model
from ffs_anonymizer.cli.program import main
from ffs_anonymizer.datasets.pictures import Annotated, IGNORED
from ffs_anonymizer.errors import MediaError
from ffs_anonymizer.evaluation.detector import (
    COLUMNS,
    FALSE_BGR,
    figures,
    judge,
    JudgedDetections,
    MISSED_BGR,
    TILE_PX,
    to_markdown,
    write_sheet,
)
from ffs_anonymizer.regions.detections import PLATE
from ffs_anonymizer.regions.detector import Network
import numpy as np
import pytest
from support.onnx_models import save_answering


def judged(
    scores: list[float], heights: list[float], false: list[float], frames: int
) -> JudgedDetections:
    n = len(scores)
    return JudgedDetections(
        np.zeros((n, 4), np.float32),
        np.array(heights),
        np.array(scores),
        np.zeros(n, np.int64),
        np.array(false),
        np.zeros((len(false), 4), np.float32),
        np.zeros(len(false), np.int64),
        frames,
    )


def test_the_threshold_is_the_lowest_that_allows_the_false_finds() -> None:
    one = judged([0.9], [20.0], [0.8, 0.6, 0.4, 0.2], 10)
    assert one.threshold_at(0.1) == pytest.approx(0.6, abs=1e-5)
    assert one.threshold_at(0.3) == pytest.approx(0.2, abs=1e-5)
    assert one.false_a_frame(one.threshold_at(0.3)) == pytest.approx(0.3)
    assert one.threshold_at(1.0) < 0.2


def test_recall_is_counted_by_height() -> None:
    one = judged([0.9, 0.1, 0.7], [10.0, 14.0, 30.0], [], 2)
    assert one.recall(0.5) == pytest.approx(2 / 3)
    assert one.recall(0.5, 12.0) == pytest.approx(1 / 2)
    assert one.recall(0.5, 40.0) is None
    table = to_markdown(figures(one, [0.8]))
    assert '| 0.00 | 0.800 | 0.0% | - | 100.0% | 0.0% | 0.0% | - | - |' in table
    assert '| plates of 2 frames | | | 0 | 1 | 1 | 1 | 0 | 0 |' in table


@pytest.fixture
def network(tmp_path: Path) -> Path:
    """Find one box at (8, 16)-(40, 32), scored 0.8, and one at (48, 48)-(64, 64), scored 0.3."""
    values = {}
    for stride in (8, 16, 32):
        side = 64 // stride
        values[f'score_{stride}'] = np.zeros((1, 1, side, side))
        values[f'box_{stride}'] = np.zeros((1, 4, side, side))
    values['score_16'][0, 0, 1, 1], values['score_16'][0, 0, 3, 3] = 0.8, 0.3
    values['box_16'][0, 2, 1, 1] = np.log(2)
    return save_answering(tmp_path / 'net.onnx', values)


Box = tuple[int, int, int, int]


def photo(folder: Path, *boxes: Box, ignored: tuple[Box, ...] = ()) -> Annotated:
    path = folder / 'a.png'
    cv2.imwrite(str(path), np.full((64, 64, 3), 60, np.uint8))
    classes = np.repeat([PLATE, IGNORED], [len(boxes), len(ignored)]).astype(np.int8)
    return Annotated(path, 'a', np.array([*boxes, *ignored], np.float32).reshape(-1, 4), classes)


def test_found_missed_and_false(network: Path, tmp_path: Path) -> None:
    photos = [photo(tmp_path, (8, 16, 40, 32), (0, 50, 30, 60), (44, 2, 60, 5))]
    got = judge(photos, Network(open_model(network, device='cpu'), PLATE))
    assert got.heights_px.tolist() == [16, 10]  # 3 px is not asked for
    np.testing.assert_allclose(got.best_scores, [0.8, 0.0], atol=1e-6)
    np.testing.assert_allclose(got.false_scores, [0.3], atol=1e-6)
    np.testing.assert_allclose(got.false_xyxy_px, [[48, 48, 64, 64]], atol=1e-4)
    assert got.false_owners.tolist() == [0]


def test_what_is_to_be_ignored_is_neither_asked_for_nor_false(
    network: Path, tmp_path: Path
) -> None:
    photos = [photo(tmp_path, (8, 16, 40, 32), ignored=((46, 46, 62, 62), (0, 50, 30, 60)))]
    got = judge(photos, Network(open_model(network, device='cpu'), PLATE))
    assert got.heights_px.tolist() == [16]
    assert got.false_scores.tolist() == []


@pytest.mark.parametrize(('threshold', 'counts'), [(0.5, (1, 0)), (0.2, (1, 1)), (0.9, (2, 0))])
def test_the_picture_shows_misses_and_below_them_false_finds(
    threshold: float, counts: tuple[int, int], network: Path, tmp_path: Path
) -> None:
    photos = [photo(tmp_path, (8, 16, 40, 32), (0, 50, 30, 60))]
    got = judge(photos, Network(open_model(network, device='cpu'), PLATE))
    path = tmp_path / 'mistakes.png'
    assert write_sheet(path, photos, got, threshold) == counts
    sheet = cv2.imread(str(path))
    rows = sum(count > 0 for count in counts)
    assert sheet.shape == (rows * TILE_PX, COLUMNS * TILE_PX, 3)
    for row, (colour, count) in enumerate(zip((MISSED_BGR, FALSE_BGR), counts, strict=True)):
        marked = (sheet == colour).all(2)
        tiles = np.split(marked[row * TILE_PX : (row + 1) * TILE_PX], COLUMNS, axis=1)
        assert [bool(tile.any()) for tile in tiles] == [n < count for n in range(COLUMNS)]


@pytest.mark.parametrize(
    ('boxes', 'error'),
    [((), 'got no plate in 1 photos'), (((70, 1, 90, 9),), r'a\.png: got a box 70 1 90 9')],
)
def test_what_cannot_be_judged_is_refused(
    boxes: tuple[Box, ...], error: str, network: Path, tmp_path: Path
) -> None:
    with pytest.raises(MediaError, match=error):
        judge([photo(tmp_path, *boxes)], Network(open_model(network, device='cpu'), PLATE))


def test_a_photo_that_cannot_be_read_is_named(network: Path, tmp_path: Path) -> None:
    (tmp_path / 'b.png').write_bytes(b'no picture')
    broken = replace(photo(tmp_path, (1, 1, 9, 9)), path=tmp_path / 'b.png')
    with pytest.raises(MediaError, match=r'b\.png: got no image'):
        judge([broken], Network(open_model(network, device='cpu'), PLATE))


def test_the_command_writes_table_picture_and_figures(
    network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo(tmp_path)
    (tmp_path / 'boxes.csv').write_text('path,x0,y0,x1,y1\na.png,8,16,40,32\n')
    command = ['evaluate', '--task', 'detector', '-i', str(tmp_path)]
    known = ['--boxes', str(tmp_path / 'boxes.csv')]
    wanted = ['--json', str(tmp_path / 'a.json'), '--sheet', str(tmp_path / 'm.png')]
    assert main([*command, *known, '--detector-model', str(network), *wanted]) == 0
    assert '| 100.0% |' in capsys.readouterr().out
    assert json.loads((tmp_path / 'a.json').read_text())['plates']['12-20'] == 1
    assert (tmp_path / 'm.png').is_file()
    capsys.readouterr()
    (tmp_path / 'more.csv').write_text('path,class,x0,y0,x1,y1\na.png,ignore,46,46,64,64\n')
    known += ['--boxes', str(tmp_path / 'more.csv')]
    assert main([*command, *known, '--detector-model', str(network)]) == 0
    assert '| 0.00 | 0.020 | 100.0% |' in capsys.readouterr().out
    assert main([*command, *known]) == 2
    assert 'got no --detector-model' in capsys.readouterr().err


def test_one_class_is_judged_where_it_was_looked_for(
    network: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ('a', 'b'):
        cv2.imwrite(str(tmp_path / f'{name}.png'), np.full((64, 64, 3), 60, np.uint8))
    known = tmp_path / 'boxes.csv'
    known.write_text(
        'path,x0,y0,x1,y1,class,labelled\na.png,8,16,40,32,face,\n'
        'a.png,44,44,64,64,ignore,\na.png,0,50,30,60,plate,\nb.png,,,,,,plate\n'
    )
    command = ['evaluate', '--task', 'detector', '-i', str(tmp_path), '--boxes', str(known)]
    command += ['--detector-model', str(network), '--json', str(tmp_path / 'a.json')]
    assert main([*command, '--class', 'face']) == 0
    values = json.loads((tmp_path / 'a.json').read_text())
    assert (values['frames'], values['faces']['12-20']) == (1, 1)
    assert values['rows'][0]['recall_12_px'] == 1.0
    assert values['rows'][0]['false_a_frame'] == 0
    assert '| faces of 1 frames |' in capsys.readouterr().out
    known.write_text('path,x0,y0,x1,y1\na.png,8,16,40,32\n')
    assert main([*command, '--class', 'face']) == 1
    assert 'got no photo in which a face was looked for' in capsys.readouterr().err
