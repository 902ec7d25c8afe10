import io
import json
from pathlib import Path

from ffs_anonymizer import __version__
from ffs_anonymizer.errors import DetectionsError
from ffs_anonymizer.regions.detections import FACE, PLATE, Regions, ZONE
from ffs_anonymizer.regions.detections_file import DetectionsReader, DetectionsWriter
from ffs_anonymizer.settings.runtime import Settings
import numpy as np
import pytest
from support.program import ROOT

SIZE_WH = (640, 480)


def regions(count: int = 4, seed: int = 0) -> Regions:
    """Return regions of every kind, with numbers that have many digits."""
    rng = np.random.default_rng(seed)
    boxes = rng.uniform(-50, 600, (count, 4)).astype(np.float32)
    boxes[:, 2:] = boxes[:, :2] + np.abs(boxes[:, 2:]) + 1
    points = rng.uniform(0, 600, (count, 5, 2)).astype(np.float32)
    points[1::2] = np.nan
    return Regions(
        boxes,
        np.array([FACE, PLATE, FACE, ZONE], np.int8)[np.arange(count) % 4],
        rng.uniform(0, 1, count).astype(np.float32),
        rng.uniform(0, 1, count).astype(np.float32),
        np.arange(count) * 10**12,
        np.arange(count) % 3 != 0,
        points,
        boxes,
    )


def write(path: Path, *frames: tuple[str, int | None, Regions], **more: object) -> Path:
    with path.open('w', encoding='utf-8') as file:
        writer = DetectionsWriter(file, source='drive_01', settings=Settings())
        for stream, stamp_ns, found in frames:
            writer.add(stream, stamp_ns=stamp_ns, size_wh=SIZE_WH, regions=found, **more)
        writer.finish()
    return path


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def assert_same(found: Regions, expected: Regions) -> None:
    expected = expected.take(expected.classes != ZONE)
    for name in Regions.COLUMNS:
        mine, theirs = getattr(found, name), getattr(expected, name)
        assert mine.dtype == theirs.dtype, name
        assert np.array_equal(mine, theirs, equal_nan=mine.dtype == np.float32), name


def test_what_is_written_is_read_to_the_bit(tmp_path: Path) -> None:
    for seed in range(200):
        expected = regions(seed % 9, seed)
        path = write(tmp_path / 'a.jsonl', ('/cam', 5, expected))
        with DetectionsReader(path) as reader:
            found = reader.find('/cam', stamp_ns=5)
        assert found.size_wh == SIZE_WH
        assert_same(found.regions, expected)


def test_the_lines(tmp_path: Path) -> None:
    path = write(tmp_path / 'a.jsonl', ('Gesicht\udcff.jpg', None, regions(2)), log_ns=7)
    head, frame, end = lines(path)
    assert head == {
        'format': 'ffs_anonymizer detections',
        'version': 1,
        'tool': f'ffs_anonymizer {__version__}',
        'settings_sha256': Settings().sha256,
        'source': 'drive_01',
    }
    assert len(head['settings_sha256']) == 64
    assert head['settings_sha256'] != Settings().updated({'feather': 0.5}).sha256
    found = frame.pop('regions')
    assert frame == {
        'stream': 'Gesicht\udcff.jpg',
        'stamp_ns': None,
        'log_ns': 7,
        'size_wh': [640, 480],
    }
    assert end == {'end': True, 'frames': 1}
    assert [set(row) for row in found] == [
        {'class', 'xyxy_px', 'score', 'best_score', 'track_id', 'detected', 'points_px'},
        {'class', 'xyxy_px', 'score', 'best_score', 'track_id', 'detected'},
    ]
    assert [row['class'] for row in found] == ['face', 'plate']
    # Short numbers, for people.
    assert max(len(str(number)) for row in found for number in row['xyxy_px']) <= 10


def test_frames_are_found_in_any_order_and_once(tmp_path: Path) -> None:
    frames = [(name, stamp, regions(3, i)) for i, (name, stamp) in enumerate(
        [('/a', 1), ('/b', 1), ('/a', 2), ('c.jpg', None)]
    )]  # fmt: skip
    with DetectionsReader(write(tmp_path / 'a.jsonl', *frames)) as reader:
        assert (reader.source, reader.streams) == ('drive_01', ['/a', '/b', 'c.jpg'])
        for stream, stamp_ns, expected in reversed(frames):
            assert_same(reader.find(stream, stamp_ns=stamp_ns).regions, expected)
            with pytest.raises(DetectionsError, match=f'has no frame {stream}'):
                reader.find(stream, stamp_ns=stamp_ns)
        with pytest.raises(DetectionsError, match=r"/a at 3 ns; .* in 'drive_01': expected the l"):
            reader.find('/a', stamp_ns=3)


def test_frames_of_one_stamp_are_told_apart_by_their_recording(tmp_path: Path) -> None:
    path = tmp_path / 'a.jsonl'
    with path.open('w') as file:
        writer = DetectionsWriter(file, source='drive_01', settings=Settings())
        for i, log_ns in enumerate((10, 20, 20)):
            writer.add(
                '/a', stamp_ns=1, log_ns=log_ns, size_wh=SIZE_WH, regions=regions(3, seed=i)
            )
        writer.finish()
    with DetectionsReader(path) as reader:
        assert_same(reader.find('/a', stamp_ns=1, log_ns=20).regions, regions(3, 1))
        with pytest.raises(DetectionsError, match='has no frame /a at 1 ns'):
            reader.find('/a', stamp_ns=1)
        assert_same(reader.find('/a', stamp_ns=1, log_ns=20).regions, regions(3, 2))
        # One that is left alone needs no recording time.
        assert_same(reader.find('/a', stamp_ns=1).regions, regions(3, 0))


def test_what_does_not_fit_a_frame_is_refused(tmp_path: Path) -> None:
    path = write(tmp_path / 'a.jsonl', ('/a', 1, regions()))
    with DetectionsReader(path) as reader:
        found = reader.find('/a', stamp_ns=1)
    found.check(SIZE_WH)
    text = 'got detections in a frame of 640x480 pixels, expected one of 480x640'
    with pytest.raises(DetectionsError, match=text):
        found.check((480, 640))
    path = write(tmp_path / 'b.jsonl', ('/a', 1, Regions.empty()), error='truncated')
    with (
        DetectionsReader(path) as reader,
        pytest.raises(DetectionsError, match='image: truncated'),
    ):
        reader.find('/a', stamp_ns=1).check(SIZE_WH)


FRAME = {'stream': '/a', 'stamp_ns': 1, 'size_wh': [640, 480]}
ROW = {'class': 'face', 'xyxy_px': [1, 2, 3, 4], 'score': 1, 'track_id': 0, 'detected': True}


def with_row(**changes: object) -> dict:
    row = {name: value for name, value in {**ROW, **changes}.items() if value is not ...}
    return {**FRAME, 'regions': [row]}


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        ({**FRAME}, "'regions' is missing"),
        ({**FRAME, 'stream': 1, 'regions': []}, 'got no stream and stamp_ns'),
        ({**FRAME, 'stamp_ns': 1.5, 'regions': []}, 'got no stream and stamp_ns'),
        ({**FRAME, 'stamp_ns': True, 'regions': []}, 'got no stream and stamp_ns'),
        ({**FRAME, 'size_wh': [640], 'regions': []}, 'line 2: no frame of a list of detections'),
        ({**FRAME, 'size_wh': [640, -1], 'regions': []}, r'got the size \[640, -1\]'),
        ({**FRAME, 'size_wh': [640, 10**99], 'regions': []}, 'got the size'),
        ({**FRAME, 'regions': 5}, 'no frame of a list'),
        ({**FRAME, 'regions': [5]}, 'no frame of a list'),
        (with_row(xyxy_px=[1, 2, 3]), 'no frame of a list'),
        (with_row(xyxy_px=[1, 2, 1, 4]), 'got a box that is none'),
        (with_row(xyxy_px=[1, 2, 1e99, 4]), 'got a box that is none'),
        (with_row(xyxy_px=['a', 2, 3, 4]), 'no frame of a list'),
        (with_row(score=1.5), 'got a score beyond 0 to 1'),
        (with_row(best_score=-1), 'got a score beyond 0 to 1'),
        (with_row(score=...), "'score' is missing"),
        (with_row(**{'class': 'dog'}), 'no frame of a list'),
        (with_row(**{'class': 'zone'}), 'or a zone'),
        (with_row(track_id=2.5), 'got no "track_id"'),
        (with_row(track_id=2**64), 'no frame of a list'),
        (with_row(detected='yes'), 'got no "track_id" and "detected"'),
        (with_row(points_px=[[1, 2]]), 'no frame of a list'),
        ([], 'no object'),
    ],
)
def test_a_frame_that_is_none_is_told_with_its_line(
    change: object, text: str, tmp_path: Path
) -> None:
    head, *_ = lines(write(tmp_path / 'a.jsonl'))
    path = tmp_path / 'b.jsonl'
    end = {'end': True, 'frames': 1}
    path.write_text('\n'.join(map(json.dumps, (head, change, end))) + '\n')
    with pytest.raises(DetectionsError, match=text):
        DetectionsReader(path)
    path.write_text('\n'.join(map(json.dumps, (head, with_row(), end))) + '\n')
    DetectionsReader(path).close()


@pytest.mark.parametrize(
    ('change', 'text'),
    [
        (lambda t: '', 'got a first line without "format": "ffs_anonymizer detections"'),
        (lambda t: t.split('\n', 1)[1], 'older ones hold grown boxes'),
        (lambda t: t.replace('"version": 1', '"version": 2'), 'got version 2 of the format, exp'),
        (lambda t: t.replace('"source": "drive_01"', '"source": 5'), 'no name of a source'),
        (lambda t: t[:-40], 'line 3: got no line of JSON, or a truncated one'),
        (lambda t: ''.join(t.splitlines(True)[:-1]), 'ends after 2 frames without its last line'),
        (lambda t: t.replace('"/b"', '"/c"').replace('"frames": 2', '"frames": 3'), 'got 2 frame'),
        (
            lambda t: ''.join(t.splitlines(True)[:2] + t.splitlines(True)[3:]),
            'got 1 frames, expec',
        ),
        (lambda t: t + '{}\n', 'got more after its end'),
        (lambda t: t.replace('480', 'NaN', 1), 'NaN is no number'),
        (lambda t: t.replace('480', '[' * 100000, 1), 'line 2: got no line of JSON'),
        (lambda t: '\x00\xff', 'line 1: got no line of JSON'),
    ],
)
def test_lists_that_are_none_are_refused(change, text: str, tmp_path: Path) -> None:
    path = write(tmp_path / 'a.jsonl', ('/a', 1, regions()), ('/b', 1, regions()))
    path.write_text(change(path.read_text()), encoding='latin-1')
    with pytest.raises(DetectionsError, match=text) as raised:
        DetectionsReader(path)
    assert str(path) in str(raised.value)
    assert '\n' not in str(raised.value)


def test_a_list_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / 'none', tmp_path):
        with pytest.raises(DetectionsError, match=f'cannot read the detections {path}'):
            DetectionsReader(path)


def test_a_writer_leaves_its_file_open() -> None:
    file = io.StringIO()
    writer = DetectionsWriter(file, source='', settings=Settings())
    writer.finish()
    assert file.getvalue().endswith('{"end": true, "frames": 0}\n')


def test_the_manual_shows_a_list_and_its_schema(tmp_path: Path) -> None:
    text = (ROOT / 'docs' / 'detections.md').read_text('utf-8')
    example, schema = (block.split('```')[0] for block in text.split('```json\n')[1:])
    path = tmp_path / 'a.jsonl'
    path.write_text(example)
    with DetectionsReader(path) as reader:
        assert (reader.source, reader.streams) == ('drive_01', ['/front/image_raw'])
    kinds = {kind['title']: kind for kind in json.loads(schema)['oneOf']}
    written = lines(write(path, ('/a', 1, regions(1)), log_ns=5, error='cut'))
    rows = kinds['frame']['properties']['regions']['items']
    for kind, line in (
        *zip((kinds['head'], kinds['frame'], kinds['end']), written, strict=True),
        (rows, written[1]['regions'][0]),
    ):
        assert set(kind['properties']) == set(line)
        assert set(kind['required']) <= set(line)
