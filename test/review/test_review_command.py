"""The commands as users run them: what does not belong together is told in a line."""

import json
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request

import cv2
from ffs_anonymizer.cli.program import main
import numpy as np
import pytest
from support.bags import drive, read_bag, write_bag
from support.bags import run as run_bag
from support.program import ROOT
from support.video_bags import video_bag
from support.video_packets import stream

FAST = ('--set', 'detector.plate_model_path=none', '--method', 'solid')


@pytest.fixture
def done(tmp_path, face_bgr):
    """Return a folder with photos, their output and the list of what was found."""
    (tmp_path / 'in').mkdir()
    for name in ('a.png', 'b.png'):
        cv2.imwrite(str(tmp_path / 'in' / name), face_bgr)
    words = ('-i', tmp_path / 'in', '-o', tmp_path / 'out', *FAST)
    assert run('media', *words, '--write-detections', tmp_path / 'found.jsonl') == 0
    return tmp_path


def run(*words):
    return main([*map(str, words)])


def audit(folder, *words, output='out'):
    files = ('-i', folder / 'in', '-o', folder / output, '--report', folder / 'audit.html')
    return run('audit', *files, *words)


def test_what_is_covered_passes_and_is_recorded(done, capsys):
    assert audit(done, '--detections', done / 'found.jsonl') == 0
    page = (done / 'audit.html').read_text('utf-8')
    assert 'the second look found nothing uncovered' in page
    assert '<tr><th>solid</th><td>2</td></tr>' in page
    assert '<tr><th>detected</th><td>2</td></tr>' in page
    assert json.loads((done / 'out.privacy.json').read_text())['audit']['frames'] == 2
    capsys.readouterr()
    assert run('verify', done / 'out') == 0
    assert 'audited on' in capsys.readouterr().out


def test_names_need_not_be_utf_8(tmp_path, face_bgr, capsys):
    (tmp_path / 'in').mkdir()
    name = os.fsdecode(b'caf\xe9.png')
    (tmp_path / 'in' / name).write_bytes(cv2.imencode('.png', face_bgr)[1])
    assert run('media', '-i', tmp_path / 'in', '-o', tmp_path / 'out', *FAST) == 0
    assert audit(tmp_path) == 0
    assert 'caf\\udce9.png' in (tmp_path / 'audit.html').read_text('utf-8')
    assert run('verify', tmp_path / 'out') == 0
    assert 'audited on' in capsys.readouterr().out
    # Of a single file, too
    assert run('media', '-i', tmp_path / 'in' / name, '-o', tmp_path / name, *FAST) == 0
    assert run('verify', tmp_path / name) == 0


def test_pixels_alone_tell_it_too(done):
    assert audit(done, '--thorough') == 0


def test_the_original_does_not_pass_as_its_own_output(done):
    assert audit(done, output='in') == 3


def test_a_report_is_not_overwritten(done, capsys):
    (done / 'audit.html').write_text('mine')
    assert audit(done) == 1
    said = capsys.readouterr().err
    assert said.endswith('exists already; nothing is overwritten: choose another output\n')
    assert (done / 'audit.html').read_text() == 'mine'


def test_an_output_that_is_not_as_recorded(done, face_bgr, capsys):
    cv2.imwrite(str(done / 'out' / 'a.png'), face_bgr)
    assert audit(done) == 1
    assert 'is not what its privacy record says: a.png' in capsys.readouterr().err
    assert run('verify', done / 'out') == 1
    assert 'a.png: got SHA-256' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda lines: lines[:-1], 'truncated, or still being written'),
        (
            lambda lines: [lines[0].replace('"version": 1', '"version": 9'), *lines[1:]],
            'version 9',
        ),
        (lambda lines: [line.replace('a.png', 'c.png') for line in lines], 'has no frame a.png'),
        (lambda lines: [line.replace('192, 144', '10, 10') for line in lines], '10x10 pixels'),
    ],
)
def test_lists_of_something_else(done, capsys, change, message):
    path = done / 'found.jsonl'
    path.write_text('\n'.join(change(path.read_text().splitlines())) + '\n')
    assert audit(done, '--detections', path) == 1
    assert message in capsys.readouterr().err
    assert not (done / 'audit.html').exists()


def test_a_review_of_another_recording(done, face_bgr, capsys):
    (done / 'other').mkdir()
    cv2.imwrite(str(done / 'other' / 'z.png'), face_bgr)
    words = ('-i', done / 'other', '--detections', done / 'found.jsonl', '--no-browser')
    assert run('review', *words) == 1
    assert 'the list is of another recording' in capsys.readouterr().err
    assert run('review', *words, '--save', done / 'found.jsonl') == 2


def test_what_was_never_recorded(tmp_path, capsys):
    (tmp_path / 'x').mkdir()
    assert run('verify', tmp_path / 'x') == 1
    assert 'expected the record that the tools write' in capsys.readouterr().err


def test_a_video_of_a_bag_is_looked_at_once_more(tmp_path, face_bgr, capsys):
    pictures = [np.ascontiguousarray(np.roll(face_bgr, at, axis=1)) for at in range(6)]
    # It begins between two keyframes.
    video_bag(tmp_path / 'in', stream(pictures, gop=4)[1:])
    found = tmp_path / 'found.jsonl'
    words = ('-i', tmp_path / 'in', '-o', tmp_path / 'out', *FAST)
    assert run('bag', *words, '--write-detections', found) == 1
    assert audit(tmp_path, '--detections', found) == 0
    assert '2 frames, 0 with something uncovered' in capsys.readouterr().out
    (tmp_path / 'audit.html').unlink()
    assert audit(tmp_path, output='in') == 3
    assert '2 frames, 2 with something uncovered' in capsys.readouterr().out


def test_running_again_leaves_out_what_was_left_out(tmp_path, face_bgr):
    write_bag(tmp_path / 'in', drive(face_bgr, 2))
    found = tmp_path / 'found.jsonl'
    options = ('--drop-topics', '/odd', '--exclude-topics', '/cam/image', '-s', 'sqlite3')
    words = (tmp_path / 'in', tmp_path / 'out', *options, '--write-detections', found)
    assert run_bag(*words) == 0
    assert run_again(tmp_path, found)['state'] == 'done'
    before, again = (read_bag(tmp_path / name) for name in ('out', 'out_2'))
    assert again.topics == before.topics
    assert '/odd' not in {record.topic for record in again.records}
    assert again.records == before.records


def test_what_nobody_knows_the_options_of_is_not_made_anew(done, capsys):
    record = done / 'out.privacy.json'
    record.write_text(json.dumps({**json.loads(record.read_text()), 'options': None}))
    with pytest.raises(urllib.error.HTTPError, match='400'):
        run_again(done, done / 'found.jsonl')


def run_again(folder, found):
    """Return what the page is told of a run that it asks for."""
    words = ('-i', folder / 'in', '-o', folder / 'out', '--detections', found, '--no-browser')
    program = [sys.executable, '-m', 'ffs_anonymizer', 'review', *map(str, words)]
    with subprocess.Popen(program, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        try:
            run_url = process.stdout.readline().removeprefix('review: ').strip() + 'api/run'
            with urllib.request.urlopen(urllib.request.Request(run_url, b'', method='POST')):
                pass
            while True:
                with urllib.request.urlopen(run_url) as answer:
                    told = json.load(answer)
                if told['state'] != 'running':
                    return told
                time.sleep(0.1)
        finally:
            process.terminate()
            process.wait(20)
