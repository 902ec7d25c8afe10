"""The audit of clouds and depth images, through the command line, on bags made on the spot."""

import json
import subprocess
import sys
import time
import urllib.request

from ffs_anonymizer.cli.program import main
from ffs_anonymizer.jobs.output import record_of
import numpy as np
import pytest
from support.bags import QUICK, raw_cdr, run, T0
from support.clouds import camera_info, cloud_message, points_from, transform
from support.program import ROOT
from support.sensor_bags import (
    CLOUD,
    cloud_cdr,
    depth_cdr,
    INFO,
    info_cdr,
    sensor_bag,
    TF,
    tf_cdr,
    TYPES_OF,
)

LINKS = (
    *('--set', 'depth.cameras=["/depth/* /cam/image"]'),
    *('--set', 'cloud.cameras=["/lidar /cam/image"]'),
)


def scene(face_bgr):
    """Return the depth of a noisy wall with a head, as round as heads are, before it."""
    height, width = face_bgr.shape[:2]
    v, u = np.mgrid[:height, :width]
    depth = 2.0 + 0.002 * np.random.default_rng(0).standard_normal((height, width))
    radius2 = ((u - 95) / 30) ** 2 + ((v - 60) / 40) ** 2
    head = radius2 < 1
    depth[head] -= 0.9 + 0.12 * np.sqrt(1 - radius2[head])
    return depth


def rows(face_bgr):
    height, width = face_bgr.shape[:2]
    points = points_from(scene(face_bgr), 200)
    flat = cloud_message(points.reshape(1, -1, 3) - [0.1, 0, 0], face_bgr.reshape(1, -1, 3))
    info = camera_info((width, height), focal=200)
    return [
        ('/tf_static', T0 - 9, tf_cdr(transform('camera', 'lidar', (0.1, 0, 0)))),
        ('/cam/camera_info', T0 - 8, info_cdr(info, T0 - 8)),
        ('/depth/image', T0 + 1, depth_cdr(scene(face_bgr), T0)),
        ('/lidar', T0 + 2, cloud_cdr(flat, T0, 'lidar')),
        ('/points', T0 + 3, cloud_cdr(cloud_message(points, face_bgr), T0)),
        ('/cam/image', T0 + 4, raw_cdr(face_bgr, stamp_ns=T0)),
    ]


@pytest.fixture
def source(tmp_path, face_bgr):
    return sensor_bag(tmp_path / 'in', rows(face_bgr), TYPES_OF)


def audit(tmp_path, *words, output='out'):
    report = tmp_path / 'audit.html'
    report.unlink(missing_ok=True)
    paths = ('-i', tmp_path / 'in', '-o', tmp_path / output, '--report', report)
    return main(['audit', *map(str, paths), *QUICK, '--thorough', *words])


def audited(tmp_path):
    return json.loads(record_of(tmp_path / 'out').read_text())['audit']


def test_nothing_is_left(tmp_path, source, capsys):
    assert run(source, tmp_path / 'out', *LINKS) == 0

    # The settings are those of the record.
    assert audit(tmp_path) == 0

    counts = {'/depth/image': 1, '/lidar': 1, '/points': 1}
    assert audited(tmp_path)['measured'] == counts
    assert (audited(tmp_path)['missed_measured'], audited(tmp_path)['unseen']) == (
        0,
        {'/tf_static': TF, '/cam/camera_info': INFO},
    )
    assert '3 clouds and depth images, 0 with a shape uncovered' in capsys.readouterr().out


@pytest.mark.parametrize('geometry', ['flatten', 'drop'])
def test_what_a_run_left_is_found(tmp_path, source, capsys, geometry):
    copied = ('--exclude-topics', '/depth/image', '/lidar')
    assert run(source, tmp_path / 'out', *copied, '--set', 'cloud.geometry=keep') == 0

    asked = ('--set', f'cloud.geometry={geometry}')
    assert audit(tmp_path, *LINKS, *asked) == 3

    told = capsys.readouterr().out
    for topic in ('/depth/image', '/points'):
        assert f'{topic}, frame 0: face' in told
    assert '100% of its points and 100% of their colours left, 1 frame(s)' in told
    assert audited(tmp_path)['missed_measured'] == 3
    assert audited(tmp_path)['findings'] == 3
    assert (tmp_path / 'audit.html').read_text().count('of its shape left') == 2


def test_shapes_that_may_stay_are_no_findings(tmp_path, source):
    assert run(source, tmp_path / 'out', *LINKS, '--set', 'cloud.geometry=keep') == 0

    assert audit(tmp_path) == 0
    assert audited(tmp_path)['measured'] == {'/depth/image': 1, '/lidar': 1}


def test_the_shape_of_a_cloud_whose_camera_hangs_turned(tmp_path, face_bgr):
    points = points_from(scene(face_bgr), 200)
    turned = cloud_message(points[::-1, ::-1], face_bgr[::-1, ::-1])
    row = ('/points', T0, cloud_cdr(turned, T0))
    source = sensor_bag(tmp_path / 'in', [row], {'/points': CLOUD}, splits=1)
    hangs = ('--set', 'rotation=["/points 180"]')
    assert run(source, tmp_path / 'out', *hangs) == 0
    assert audit(tmp_path) == 0
    assert audited(tmp_path)['measured'] == {'/points': 1}

    assert run(source, tmp_path / 'kept', *hangs, '--set', 'cloud.geometry=keep') == 0
    words = (*hangs, '--set', 'cloud.geometry=flatten')
    assert audit(tmp_path, *words, output='kept') == 3
    assert 'of its shape left' in (tmp_path / 'audit.html').read_text()


def test_what_cannot_be_looked_at_is_named(tmp_path, face_bgr, capsys):
    without = [row for row in rows(face_bgr) if row[0] != '/cam/camera_info']
    source = sensor_bag(tmp_path / 'in', without, TYPES_OF)
    copied = ('--exclude-topics', '/depth/image', '/lidar')
    assert run(source, tmp_path / 'out', *copied) == 0

    assert audit(tmp_path) == 0
    told = capsys.readouterr().out
    assert 'not looked at: /depth/image (1 depth images without a camera in depth.cameras' in told
    assert 'not looked at: /lidar (1 clouds whose points lie in no rows and columns' in told

    assert audit(tmp_path, *LINKS) == 3
    told = capsys.readouterr().out
    assert 'not looked at: /lidar (1 messages: got no camera_info on /cam/camera_info' in told
    assert 'not looked at: /depth/image' not in told
    assert '/lidar' in audited(tmp_path)['unseen']


def test_a_review_names_what_it_does_not_show(tmp_path, source):
    found = tmp_path / 'found.jsonl'
    assert run(source, tmp_path / 'out', *LINKS, '--write-detections', found) == 0
    words = ('-i', source, '-o', tmp_path / 'out', '--detections', found, '--no-browser')
    command = [sys.executable, '-m', 'ffs_anonymizer', 'review', *map(str, words)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        try:
            address = process.stdout.readline().removeprefix('review: ').strip()
            process.stdout.readline()
            told = [process.stdout.readline().strip() for _ in range(2)]
            with urllib.request.urlopen(f'{address}api/recording', timeout=20) as answer:
                recording = json.load(answer)
            run_again = urllib.request.Request(f'{address}api/run', b'{}', method='POST')
            with urllib.request.urlopen(run_again, timeout=20) as answer:
                state = json.load(answer)
            for _ in range(300):
                if state['state'] != 'running':
                    break
                time.sleep(0.2)
                with urllib.request.urlopen(f'{address}api/run', timeout=20) as answer:
                    state = json.load(answer)
        finally:
            process.terminate()
            process.wait(20)

    unlisted = {
        '/depth/image': 'follows the boxes of /cam/image',
        '/lidar': 'follows the boxes of /cam/image',
    }
    # What follows cameras cannot be taken over from the last output.
    assert state['state'] == 'done', state
    assert (tmp_path / 'out_2').is_dir()
    assert told == [f'not shown: {name} ({why})' for name, why in unlisted.items()]
    assert recording['unlisted'] == unlisted
    assert {stream['name'] for stream in recording['streams']} == {'/points', '/cam/image'}


def test_a_topic_that_was_left_out_is_not_missed(tmp_path, source):
    assert run(source, tmp_path / 'out', *LINKS, '--drop-topics', '/lidar') == 0

    assert audit(tmp_path) == 0
    assert audited(tmp_path)['measured'] == {'/depth/image': 1, '/points': 1}
