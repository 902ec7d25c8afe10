"""Frames that nobody corrected are taken over from an earlier output."""

import json

import cv2
from ffs_anonymizer.cli.program import main
from ffs_anonymizer.jobs.report import KEPT
import pytest
from support.bags import drive, images, others, read_bag, run, STEP, T0, write_bag
from support.media import media, write_jpeg, write_video

RAW, SMALL = '/cam/image', '/cam/image/compressed'


def edited(source, target, edit):
    """Write a list of detections whose frames went through `edit(number, line)`."""
    lines = [json.loads(line) for line in source.read_text().splitlines()]
    for number, line in enumerate(lines[1:-1]):
        edit(number, line)
    target.write_text(''.join(json.dumps(line) + '\n' for line in lines))
    return target


def moved(line):
    for region in line['regions']:
        region['xyxy_px'] = [value + 9 for value in region['xyxy_px']]


@pytest.fixture(params=['', 'MESSAGE'])
def bag(tmp_path, face_bgr, request):
    """Return a bag, its output and the list of what was found."""
    source = write_bag(tmp_path / 'in', drive(face_bgr), mode=request.param)
    found = tmp_path / 'a.jsonl'
    assert run(source, tmp_path / 'a', '--write-detections', found) == 0
    return source, tmp_path / 'a', found


def test_only_the_corrected_frames_of_a_bag_are_made_anew(tmp_path, bag, capsys):
    source, output, found = bag

    def edit(number, line):
        if line['stream'] == RAW and line['log_ns'] == T0 + STEP:
            moved(line)

    corrected = edited(found, tmp_path / 'b.jsonl', edit)
    assert run(source, tmp_path / 'whole', '--detections', corrected) == 0
    reuse = ('--reuse', output, '--reuse-detections', found)
    capsys.readouterr()
    assert run(source, tmp_path / 'b', '--detections', corrected, *reuse) == 0

    table = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert f'3 {KEPT}' in table[RAW]
    assert f'4 {KEPT}' in table[SMALL]
    before, after, whole = (read_bag(tmp_path / name).records for name in ('a', 'b', 'whole'))
    assert after == whole
    assert others(after) == others(before)
    assert images(after, SMALL) == images(before, SMALL)
    changed = [
        one.log_ns
        for one, other in zip(images(before), images(after), strict=True)
        if one.data != other.data
    ]
    assert changed == [T0 + STEP]
    assert main(['verify', str(tmp_path / 'b')]) == 0


def test_the_list_that_is_written_is_that_of_all_frames(tmp_path, bag):
    source, output, found = bag
    words = ('--detections', found, '--reuse', output, '--reuse-detections', found)
    assert run(source, tmp_path / 'b', *words, '--write-detections', tmp_path / 'b.jsonl') == 0
    assert (tmp_path / 'b.jsonl').read_text() == found.read_text()


def test_only_corrected_pictures_and_videos_are_made_anew(tmp_path, face_bgr, capsys):
    source = tmp_path / 'in'
    for name in ('a.jpg', 'b.jpg'):
        write_jpeg(source / name, face_bgr)
    for name in ('c.mkv', 'd.mkv'):
        write_video(source / name, face_bgr)
    found = tmp_path / 'a.jsonl'
    base = ('-i', source, '--method', 'solid')
    assert media(*base, '-o', tmp_path / 'a', '--write-detections', found) == 0
    done = set()

    def edit(number, line):
        # One picture, and one frame of one film.
        if line['stream'] in {'b.jpg', 'd.mkv'} - done:
            done.add(line['stream'])
            moved(line)

    corrected = edited(found, tmp_path / 'b.jsonl', edit)
    words = ('--detections', corrected, '--reuse', tmp_path / 'a', '--reuse-detections', found)
    assert media(*base, '-o', tmp_path / 'b', *words) == 0
    same = {
        name: (tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' / name).read_bytes()
        for name in ('a.jpg', 'b.jpg', 'c.mkv', 'd.mkv')
    }
    assert same == {'a.jpg': True, 'b.jpg': False, 'c.mkv': True, 'd.mkv': False}
    assert main(['verify', str(tmp_path / 'b')]) == 0


def test_what_does_not_fit_is_refused(tmp_path, face_bgr, capsys):
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1))
    found = tmp_path / 'a.jsonl'
    output = tmp_path / 'a'
    assert run(source, output, '--write-detections', found) == 0

    def told(*words):
        capsys.readouterr()
        assert run(source, tmp_path / 'b', *words) in (1, 2)
        assert not (tmp_path / 'b').exists()
        return capsys.readouterr().err

    reuse = ('--reuse', output, '--reuse-detections', found)
    assert 'got one of them, expected both' in told('--detections', found, '--reuse', output)
    assert 'got no --detections, expected the corrected list' in told(*reuse)
    other = ('--set', 'obscure.cells=5')
    assert 'was made with other settings' in told('--detections', found, *reuse, *other)
    record = tmp_path / 'a.privacy.json'
    kept = record.read_text()
    record.unlink()
    assert 'expected the record that the tools write' in told('--detections', found, *reuse)
    record.write_text(kept)
    (output / 'anonymizer.param.yaml').write_text('changed')
    assert 'is not what its record says' in told('--detections', found, *reuse)


def test_where_faces_are_drawn_a_stream_is_made_anew_as_a_whole(tmp_path, face_bgr, capsys):
    source, found = write_bag(tmp_path / 'in', drive(face_bgr)), tmp_path / 'a.jsonl'
    drawn = ('--method', 'generate')
    assert run(source, tmp_path / 'a', '--write-detections', found, *drawn) == 0

    def edit(number, line):
        if line['stream'] == RAW and line['log_ns'] == T0 + STEP:
            moved(line)

    corrected = edited(found, tmp_path / 'b.jsonl', edit)
    reuse = ('--reuse', tmp_path / 'a', '--reuse-detections', found)
    assert run(source, tmp_path / 'whole', '--detections', corrected, *drawn) == 0
    capsys.readouterr()
    assert run(source, tmp_path / 'b', '--detections', corrected, *drawn, *reuse) == 0
    table = {line.split()[0]: line for line in capsys.readouterr().out.splitlines() if line}
    assert KEPT not in table[RAW]
    assert f'4 {KEPT}' in table[SMALL]
    assert read_bag(tmp_path / 'b').records == read_bag(tmp_path / 'whole').records


def test_pictures_beside_a_drawn_film_stand_for_themselves(tmp_path, face_bgr):
    source, found = tmp_path / 'in', tmp_path / 'a.jsonl'
    source.mkdir()
    for name in ('0001.png', '0002.png', 'alone.png'):
        cv2.imwrite(str(source / name), face_bgr)
    base = ('-i', source, '--image-sequence', '--method', 'generate')
    assert media(*base, '-o', tmp_path / 'a', '--write-detections', found) == 0
    reuse = ('--reuse', tmp_path / 'a', '--reuse-detections', found)
    assert media(*base, '-o', tmp_path / 'b', '--detections', found, *reuse) == 0
    streams = json.loads((tmp_path / 'b.privacy.json').read_text())['streams']
    kept = {name: stream['methods'].get(KEPT, 0) for name, stream in streams.items()}
    assert kept == {'0001.png': 0, '0002.png': 0, 'alone.png': 1}
    for name in streams:
        assert (tmp_path / 'a' / name).read_bytes() == (tmp_path / 'b' / name).read_bytes()
