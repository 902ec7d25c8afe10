"""Test what is told before any work is done."""

from ffs_anonymizer.bag import preflight as trial
import numpy as np
import pytest
from support.bags import (
    COMPRESSED,
    compressed_cdr,
    damaged_chunk,
    drive,
    IMAGE,
    image_cdr,
    leftovers,
    read_bag,
    Record,
    run,
    Spec,
    SPECS,
    STEP,
    T0,
    write_bag,
)


@pytest.mark.parametrize('on_error', ['stop', 'black'])
@pytest.mark.parametrize(
    ('name', 'type_name', 'data'),
    [
        ('/depth', IMAGE, image_cdr(np.zeros(8, np.uint8), 2, 2, '16UC1', 4)),
        ('/depth', COMPRESSED, compressed_cdr(b'\x89PNG', text='16UC1; compressedDepth png')),
        ('/depth/compressedDepth', COMPRESSED, b''),
    ],
    ids=['raw', 'compressed', 'by name'],
)
def test_depth_is_no_picture(tmp_path, face_bgr, capsys, name, type_name, data, on_error):
    records = [*drive(face_bgr, 1), Record(name, T0, T0, 1, data)]
    source = write_bag(tmp_path / 'in', records, specs=[*SPECS, Spec(name, type_name)])

    assert run(source, tmp_path / 'out', '--on-error', on_error) == 1

    printed = capsys.readouterr()
    error = printed.err
    # With --on-error black, only the run itself looks.
    assert ('sha256:' in printed.out) == (on_error == 'black' and 'compressedDepth' not in name)
    assert f'got depth images in {name}, expected pictures; leave them out with --drop' in error
    assert leftovers(tmp_path) == []
    assert run(source, tmp_path / 'out', '--exclude-topics', name) == 0
    assert read_bag(tmp_path / 'out').records[-1] == records[-1]


@pytest.mark.parametrize('storage', ['mcap', 'sqlite3'])
@pytest.mark.parametrize('mode', ['', 'MESSAGE'])
def test_the_first_image_of_each_topic_is_looked_at_early(
    tmp_path, face_bgr, capsys, storage, mode
):
    specs = [
        *SPECS,
        *(Spec(name, IMAGE) for name in ('/raw12', '/never', '/late')),
        *(Spec(f'/{name}', COMPRESSED) for name in ('video', 'begins_without')),
    ]
    nonsense = image_cdr(np.zeros(16, np.uint8), 4, 4, 'bayer_rggb12', 4)
    records = [
        Record('/begins_without', T0 + 1, T0 + 1, 1, compressed_cdr(b'')),
        Record('/video', T0 + 2, T0 + 2, 1, compressed_cdr(b'\0\0\0\1gA', text='h264')),
        *drive(face_bgr, 1),
        Record('/raw12', T0 + 3, T0 + 3, 1, nonsense),
        Record('/late', T0 + 3 + STEP, T0, 1, nonsense),
    ]
    source = write_bag(tmp_path / 'in', records, specs=specs, storage=storage, mode=mode)
    words = ['--dry-run', '--end-time-ns', T0 + STEP]

    for some in (words, words[1:]):
        assert run(source, tmp_path / 'out', *some) == 1

        printed = capsys.readouterr()
        assert 'sha256:' not in printed.out
        error = printed.err.splitlines()[-1]
        assert error.startswith(
            f'error: these topics cannot be anonymized: /video, message recorded at {T0 + 2} ns: '
            "got data of the format 'h264' that begins with 00 00 00 01 67 41, expected a JPEG, "
            f'PNG, WebP, TIFF or BMP file; /raw12, message recorded at {T0 + 3} ns: got encoding '
            "'bayer_rggb12', expected one of bgr8, rgb8"
        )
        assert error.endswith(
            '; leave them out with --drop-topics, or, if they show no persons, copy them as they '
            'are with --exclude-topics'
        )
        assert leftovers(tmp_path) == []

    assert run(source, tmp_path / 'out', *words, '--on-error', 'black') == 0
    assert run(source, tmp_path / 'out', *words, '--drop-topics', '/video', '/raw12') == 0


def test_looking_early_ends_early(tmp_path, face_bgr, monkeypatch):
    source = write_bag(tmp_path / 'in', drive(face_bgr), specs=[*SPECS, Spec('/never', IMAGE)])
    text = (source / 'metadata.yaml').read_text()
    damaged_chunk(source)
    assert run(source, tmp_path / 'out', '--dry-run') == 0
    # A topic that is said to have messages, and has none, is looked for to the end or the limit.
    head, tail = text.split('/never')
    before, _, after = head.rpartition('- message_count: 0')
    (source / 'metadata.yaml').write_text(f'{before}- message_count: 1{after}/never{tail}')
    assert run(source, tmp_path / 'out', '--dry-run') == 1
    monkeypatch.setattr(trial, 'MOST_BYTES', 1000)
    assert run(source, tmp_path / 'out', '--dry-run') == 0


def test_areas_that_lie_in_no_image(tmp_path, face_bgr, capsys):
    source = write_bag(tmp_path / 'in', drive(face_bgr, 1))
    area = '/cam/front 0 0 9 9'

    words = ['--dry-run', '--set', f'mask_zones=["/cam/* 0 0 9 9", "{area}"]']
    assert run(source, tmp_path / 'out', *words) == 2
    assert capsys.readouterr().err == (
        f"error: mask_zones: got '{area}', which fits no topic that is anonymized, so that the "
        'area would stay visible; expected the name or a glob of: /cam/image, '
        '/cam/image/compressed\n'
    )
    words[-1] = 'mask_zones=["/cam/image 0 0 9 9"]'
    assert run(source, tmp_path / 'out', *words) == 0
    assert run(source, tmp_path / 'out', *words, '--exclude-topics', '/cam/image') == 2
    assert run(source, tmp_path / 'out', *words, '--drop-topics', '/cam/image') == 0
    capsys.readouterr()

    words[-1] = f'ignore_zones=["/cam/* 0 0 9 9", "{area}"]'
    assert run(source, tmp_path / 'out', *words) == 0
    assert capsys.readouterr().err == (
        f"warning: ignore_zones: '{area}' fits no topic that is anonymized, so it has no effect\n"
    )
    assert leftovers(tmp_path) == []
