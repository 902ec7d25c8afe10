"""Test the bag tool on real bags, read back with other programs' readers."""

from functools import partial
import json
import subprocess
import sys
import time

import cv2
from ffs_anonymizer.frames.containers import parse
from ffs_anonymizer.frames.jpeg import dressed
from ffs_anonymizer.frames.metadata import orientation_tiff
from ffs_anonymizer.frames.upright import Turn
from ffs_anonymizer.jobs.output import record_of
from ffs_anonymizer.jobs.record import described, differences, read_record
from ffs_anonymizer.regions import boxes
from ffs_anonymizer.rosbag2 import cdr
from ffs_anonymizer.settings.runtime import Settings
from mcap.reader import make_reader
import numpy as np
import pytest
from support.bags import (
    command,
    COMPRESSED,
    compressed_cdr,
    digest,
    drive,
    IMAGE,
    image_cdr,
    image_of,
    images,
    jpeg,
    leftovers,
    long_bag,
    others,
    pixels_of,
    raw_cdr,
    read_bag,
    Record,
    ROOT,
    run,
    SPECS,
    stamps,
    STEP,
    T0,
    TYPES,
    write_bag,
    write_mcap,
)
from support.onnx_models import (
    save_failing_generator,
    save_generator,
    save_wrongly_shaped_generator,
)


@pytest.mark.parametrize('mode', ['', 'MESSAGE', 'FILE'])
def test_all_but_the_images_is_byte_for_byte_the_same(tmp_path, face_bgr, mode):
    records = drive(face_bgr)
    source = write_bag(tmp_path / 'in', records, mode=mode, custom={'driver': 'me'})
    before = digest(source)

    assert run(source, tmp_path / 'out', '--write-detections', tmp_path / 'found.jsonl') == 0

    assert digest(source) == before
    assert leftovers(tmp_path) == ['found.jsonl', 'out', 'out.privacy.json']
    result = read_bag(tmp_path / 'out')
    assert stamps(result.records) == stamps(records)
    assert others(result.records) == others(records)
    for spec in SPECS:
        assert result.topics[spec.name] == (
            spec.type_name,
            'ros2msg',
            spec.definition,
            'cdr',
            spec.qos,
            spec.type_hash,
        )
    lines = [json.loads(line) for line in (tmp_path / 'found.jsonl').read_text().splitlines()]
    assert len(lines) == 1 + 8 + 1
    for record, original in zip(images(result.records), images(records), strict=True):
        (line,) = (found for found in lines if found.get('log_ns') == record.log_ns)
        (region,) = line['regions']
        scale = Settings().face.region_scale
        box = boxes.grow(np.array([region['xyxy_px']], np.float32), scale)
        (box,) = boxes.clip(box, tuple(line['size_wh']))
        assert_only_changed_inside(record, original, box)


def assert_only_changed_inside(record, original, box):
    """Check an Image, its fields and padding included, against where a face was found."""
    assert len(record.data) == len(original.data)
    ours, theirs = image_of(record), image_of(original)
    for name in ('header', 'height', 'width', 'encoding', 'is_bigendian', 'step'):
        assert getattr(ours, name) == getattr(theirs, name)
    low, high = np.array(box[:2]), np.array(box[2:])
    black = (pixels_of(record) == 0).all(axis=2)
    x0, y0, x1, y1 = np.append(np.floor(low + 0.05), np.ceil(high - 0.05)).astype(int)
    assert black[y0:y1, x0:x1].all()
    outside = np.ones((ours.height, ours.width), bool)
    x0, y0, x1, y1 = np.append(np.floor(low - 0.05), np.ceil(high + 0.05)).astype(int)
    outside[y0:y1, x0:x1] = False
    assert (pixels_of(record) == pixels_of(original))[outside].all()
    padding = slice(ours.width * 3, None)
    assert not ours.data.reshape(ours.height, -1)[:, padding].any()
    head = len(record.data) - ours.step * ours.height
    assert record.data[:head] == original.data[:head]


def test_frames_without_faces_are_the_same_bytes(tmp_path, face_bgr):
    wall = np.full_like(face_bgr, 90)
    records = [
        Record('/cam/image', T0, T0, 1, raw_cdr(wall)),
        Record('/cam/image/compressed', T0, T0, 1, compressed_cdr(jpeg(wall))),
    ]
    source = write_bag(tmp_path / 'in', records, splits=1, mode='MESSAGE')

    assert run(source, tmp_path / 'out') == 0

    assert read_bag(tmp_path / 'out').raw == read_bag(source).raw


def test_a_second_picture_behind_a_jpeg_is_left_out(tmp_path, face_bgr):
    wall, small = jpeg(np.full_like(face_bgr, 90)), jpeg(face_bgr)
    record = Record('/cam/image/compressed', T0, T0, 1, compressed_cdr(wall + small))
    source = write_bag(tmp_path / 'in', [record], splits=1)

    assert run(source, tmp_path / 'out') == 0

    (result,) = read_bag(tmp_path / 'out').records
    assert result.data == compressed_cdr(wall)


def test_message_compression_leaves_unchanged_messages_as_they_are(tmp_path, face_bgr):
    records = drive(face_bgr, 1)
    source = write_bag(tmp_path / 'in', records, mode='MESSAGE')

    assert run(source, tmp_path / 'out') == 0

    assert others(read_bag(tmp_path / 'out').raw) == others(read_bag(source).raw)


def test_attachments_and_metadata_records(tmp_path, face_bgr, capsys):
    path = tmp_path / 'in.mcap'
    write_mcap(
        path,
        SPECS,
        drive(face_bgr, 1),
        attachments=[
            (1, 2, 'calibration.yaml', 'text/yaml', b'fx: 1'),
            (1, 2, 'driver.jpg', '', jpeg(face_bgr)),
            (1, 2, 'blob', 'application/octet-stream', jpeg(face_bgr)),
        ],
        notes=[('vehicle', {'plate': 'none'})],
    )

    assert run(path, tmp_path / 'out') == 1

    with (tmp_path / 'out' / 'out_0.mcap').open('rb') as stream:
        reader = make_reader(stream)
        (attachment,) = reader.iter_attachments()
        notes = {note.name: note.metadata for note in reader.iter_metadata()}
    assert (attachment.name, attachment.data) == ('calibration.yaml', b'fx: 1')
    assert (attachment.create_time, attachment.log_time) == (1, 2)
    assert notes['vehicle'] == {'plate': 'none'}
    errors = capsys.readouterr().err
    assert "attachment 'driver.jpg' () is a picture: left out" in errors
    assert "attachment 'blob' (application/octet-stream) is a picture: left out" in errors


@pytest.mark.parametrize(
    'words',
    [
        ('--max-bag-size', 100_000),
        ('--max-bag-size', 100_000, '--storage', 'sqlite3'),
        ('--compression-mode', 'file', '--compression-format', 'zstd'),
    ],
    ids=['split', 'sqlite3', 'file'],
)
def test_the_record_has_the_hashes_of_all_files(tmp_path, face_bgr, words):
    source = write_bag(tmp_path / 'in', drive(face_bgr, 3))
    target = tmp_path / 'out'
    assert run(source, target, *words) == 0
    record = read_record(record_of(target))
    assert differences(record, target) == []
    assert (len(record['output']['files']) > 3) == (words[0] == '--max-bag-size')


def test_time_window_keeps_both_ends(tmp_path, face_bgr):
    records = drive(face_bgr, 4)
    source = write_bag(tmp_path / 'in', records, splits=2)
    start, end = T0 + STEP, T0 + 2 * STEP + 1

    assert run(source, tmp_path / 'out', '--start-time-ns', start, '--end-time-ns', end) == 0

    expected = [record for record in records if start <= record.log_ns <= end]
    result = read_bag(tmp_path / 'out')
    assert stamps(result.records) == stamps(expected)
    assert set(result.topics) == {spec.name for spec in SPECS}


CUT_JPEG = b'\xff\xd8\xff\xe0' + bytes(40)
BAD_IMAGES = {
    'truncated JPEG': (COMPRESSED, compressed_cdr(CUT_JPEG)),
    'zero size': (IMAGE, image_cdr(np.zeros(0, np.uint8), 0, 0, 'bgr8', 0)),
    'data shorter than step * height': (
        IMAGE,
        image_cdr(np.zeros(20, np.uint8), 4, 4, 'bgr8', 12),
    ),
    'unknown encoding': (IMAGE, image_cdr(np.zeros(16, np.uint8), 4, 4, 'nonsense', 4)),
    'cut off CDR': (IMAGE, image_cdr(np.zeros(48, np.uint8), 4, 4, 'bgr8', 12)[:-9]),
    'no CDR at all': (IMAGE, b'\x28\xb5\x2f\xfd' + bytes(90)),
    'nothing': (IMAGE, b''),
}


@pytest.mark.parametrize('what', BAD_IMAGES)
def test_an_image_that_cannot_be_anonymized_stops_all(tmp_path, face_bgr, capsys, what):
    type_name, data = BAD_IMAGES[what]
    name = '/cam/image' if type_name == IMAGE else '/cam/image/compressed'
    records = drive(face_bgr, 2)
    records.insert(4, Record(name, T0 + 9, T0, 1, data))
    source = write_bag(tmp_path / 'in', records)
    before = digest(source)

    assert run(source, tmp_path / 'out') == 1

    error = capsys.readouterr().err
    assert f'error: {name}, message recorded at {T0 + 9} ns: ' in error
    assert 'with --on-error black' in error
    assert leftovers(tmp_path) == []
    assert digest(source) == before


def test_black_frames_stand_for_what_cannot_be_anonymized(tmp_path, face_bgr, capsys):
    records = drive(face_bgr, 2)
    cut = jpeg(face_bgr)[:-2000]
    noise = np.random.default_rng(0).integers(0, 255, 100, np.uint8)
    records[2:2] = [
        Record('/cam/image', T0 + 5, T0, 1, image_cdr(noise, 8, 8, 'bgr8', 24)),
        Record('/cam/image/compressed', T0 + 6, T0, 1, compressed_cdr(cut)),
        Record('/cam/image', T0 + 7, T0, 1, image_cdr(noise[:0], 0, 0, 'bgr8', 0)),
    ]
    source = write_bag(tmp_path / 'in', records, splits=1)

    words = ['--on-error', 'black', '--write-detections', tmp_path / 'found']
    code = run(source, tmp_path / 'out', *words)

    printed = capsys.readouterr()
    assert code == 1
    assert printed.err.count('it is black now') == 3
    assert f'/cam/image, message recorded at {T0 + 5} ns' in printed.err
    result = read_bag(tmp_path / 'out').records
    assert stamps(result) == stamps(records)
    assert others(result) == others(records)
    by_time = {record.log_ns: record for record in result}
    small = TYPES.deserialize_cdr(by_time[T0 + 6].data, COMPRESSED)
    decoded = cv2.imdecode(small.data, cv2.IMREAD_COLOR)
    assert decoded.shape == face_bgr.shape
    assert decoded.max() == 0
    assert small.format == 'bgr8; jpeg compressed bgr8'
    black = image_of(by_time[T0 + 5])
    assert (black.height, black.width, black.encoding, black.step) == (8, 8, 'bgr8', 24)
    assert not black.data.any()
    lines = (tmp_path / 'found').read_text().splitlines()
    errors = [json.loads(line).get('error') for line in lines]
    assert sum(error is not None for error in errors) == 3


def test_a_window_without_messages(tmp_path, face_bgr, capsys):
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1))
    assert run(source, tmp_path / 'out', '--start-time-ns', T0 * 2) == 1
    assert 'has no messages in the given time' in capsys.readouterr().err
    assert leftovers(tmp_path) == []


def test_a_missing_model(tmp_path, face_bgr, capsys):
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1))
    assert run(source, tmp_path / 'out', '--detector-model', tmp_path / 'none.onnx') == 1
    assert 'none.onnx' in capsys.readouterr().err
    assert leftovers(tmp_path) == []


@pytest.mark.parametrize(
    ('save', 'text'),
    [
        (partial(save_generator, scale=np.nan), 'not finite'),
        (save_wrongly_shaped_generator, 'faces of shape'),
        (save_failing_generator, 'failing.onnx'),
    ],
)
def test_a_generator_that_fails(tmp_path, face_bgr, capsys, save, text):
    model = save(tmp_path / 'failing.onnx')
    source = write_bag(tmp_path / 'in', drive(face_bgr, 2))
    generate = ['--method', 'face=generate', '--generator-model', model]

    assert run(source, tmp_path / 'out', *generate) == 1

    error = capsys.readouterr().err
    assert 'error: /cam/image, message recorded at' in error
    assert text in error
    assert leftovers(tmp_path) == ['failing.onnx']

    assert run(source, tmp_path / 'out', *generate, '--on-error', 'black') == 1

    assert 'it is black now' in capsys.readouterr().err
    assert not any(pixels_of(r).any() for r in images(read_bag(tmp_path / 'out').records))


def test_memory_does_not_grow_with_the_bag(tmp_path, face_bgr):
    peaks_mb = []
    for count in (100, 500):
        source = long_bag(tmp_path / f'in_{count}', face_bgr, count)
        script = (
            'import resource, sys; from ffs_anonymizer.cli.program import main;'
            'code = main(sys.argv[1:]);'
            'print("peak", resource.getrusage(resource.RUSAGE_SELF).ru_maxrss); sys.exit(code)'
        )
        words = command(source, tmp_path / f'out_{count}', '--set', 'detector.scale=0.1')[3:]
        result = subprocess.run(
            [sys.executable, '-c', script, *words],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
        )
        peaks_mb.append(int(result.stdout.split()[-1]) / 1024)
    # 400 more frames are 92 MB more of input.
    assert peaks_mb[1] - peaks_mb[0] < 30


def turned(image_bgr, orientation):
    """Return a JPEG that is stored turned and says so."""
    stored = Turn.of(orientation).undo(image_bgr)
    return dressed(jpeg(stored), profile=b'', exif=orientation_tiff(orientation))


@pytest.mark.parametrize('orientation', [1, 3, 6, 8])
def test_a_turned_picture_is_searched_upright_and_stays_turned(tmp_path, face_bgr, orientation):
    data = turned(face_bgr, orientation)
    record = Record('/cam/image/compressed', T0, T0, 1, compressed_cdr(data))
    source = write_bag(tmp_path / 'in', [record], splits=1)
    assert run(source, tmp_path / 'out', '--write-detections', tmp_path / 'found') == 0
    found = [json.loads(line) for line in (tmp_path / 'found').read_text('utf-8').splitlines()]
    height, width = face_bgr.shape[:2]
    assert [line['size_wh'] for line in found if 'size_wh' in line] == [[width, height]]
    (after,) = images(read_bag(tmp_path / 'out').records, '/cam/image/compressed')
    written = parse(compressed_of(after))
    assert (written.orientation, written.size_wh) == (orientation, parse(data).size_wh)


def compressed_of(record):
    return bytes(cdr.parse_compressed_image(record.data).data)


@pytest.mark.parametrize('rotation', [90, 180, 270])
def test_a_camera_that_hangs_turned_is_searched_upright(tmp_path, face_bgr, rotation):
    stored = Turn.of(1, rotation).undo(face_bgr)
    records = [Record('/cam/image', T0, T0, 1, raw_cdr(np.ascontiguousarray(stored)))]
    source = write_bag(tmp_path / 'in', records, splits=1)
    words = [
        '--set',
        f'rotation=["/cam/im* {rotation}"]',
        '--write-detections',
        tmp_path / 'found',
    ]
    assert run(source, tmp_path / 'out', *words) == 0
    found = [json.loads(line) for line in (tmp_path / 'found').read_text('utf-8').splitlines()]
    height, width = face_bgr.shape[:2]
    assert [line['size_wh'] for line in found if 'size_wh' in line] == [[width, height]]
    (after,) = images(read_bag(tmp_path / 'out').records)
    changed = (pixels_of(after) != stored).any(axis=2)
    upright = Turn.of(1, rotation).apply(changed.astype(np.uint8)[..., None].repeat(3, 2))
    y, x = np.nonzero(upright[..., 0])
    # Where the face of the upright picture is.
    assert abs(x.mean() - 97) < 12
    assert abs(y.mean() - 82) < 15


def test_a_rotation_of_nothing_is_told(tmp_path, face_bgr, capsys):
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1))
    assert run(source, tmp_path / 'out', '--dry-run', '--set', 'rotation=["/other 90"]') == 0
    told = "rotation: '/other 90' fits no topic that is anonymized, so it has no effect"
    assert told in capsys.readouterr().err
    assert run(source, tmp_path / 'out', '--set', 'rotation=["/cam/image"]') == 2
    assert "rotation: got '/cam/image', expected `<topic or glob>" in capsys.readouterr().err


def test_padding_of_a_frame_without_faces_does_not_pass(tmp_path):
    empty = np.full((144, 192, 3), 90, np.uint8)
    record = Record('/cam/image', T0, T0, 1, raw_cdr(empty, padding=6))
    assert b'\xab' * 6 in record.data
    source = write_bag(tmp_path / 'in', [record], splits=1)
    assert run(source, tmp_path / 'out') == 0
    (after,) = images(read_bag(tmp_path / 'out').records)
    assert len(after.data) == len(record.data)
    assert (pixels_of(after) == 90).all()
    assert b'\xab' * 6 not in after.data


@pytest.mark.parametrize('mode', ['', 'FILE'])
def test_nothing_comes_or_goes_while_the_new_bag_is_described(
    tmp_path, face_bgr, mode, monkeypatch
):
    """Its files are listed and hashed in a thread while they are read back."""
    source = write_bag(tmp_path / 'in', drive(face_bgr), mode=mode)
    target = tmp_path / 'out'
    listed = []

    def slowly(path, **words):
        if path != source:
            before = sorted(path.rglob('*'))
            time.sleep(0.3)
            listed.append((before, sorted(path.rglob('*'))))
        return described(path, **words)

    monkeypatch.setattr('ffs_anonymizer.jobs.record.described', slowly)
    assert run(source, target) == 0
    ((before, after),) = listed
    assert before == after
    assert {path.name for path in before} == {path.name for path in target.iterdir()}
