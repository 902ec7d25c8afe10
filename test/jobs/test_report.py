from types import SimpleNamespace

from ffs_anonymizer.errors import ImageError
from ffs_anonymizer.jobs.report import counted, Report
import numpy as np
import pytest


def outcome(classes=(), counts=None, warnings=(), error=None):
    replaced = SimpleNamespace(counts=counts or {}, warnings=warnings)
    regions = SimpleNamespace(classes=np.array(classes, np.int8))
    return SimpleNamespace(regions=regions, replaced=replaced, error=error)


def test_frames_are_counted_by_stream() -> None:
    report = Report()
    report.stream('/imu', 'copy').items += 3
    report.count('/front', outcome([0, 0, 1], {'blur': 3}, ['slow']))
    report.count('/front', outcome([0], {'solid': 1}))
    report.count('/rear', outcome(error=ImageError('cut')))
    assert (report.frames, report.regions) == (3, {'face': 3, 'plate': 1})
    front, rear = report.streams['/front'], report.streams['/rear']
    assert (front.items, front.failed, counted(front.methods)) == (2, 0, '3 blur, 1 solid')
    assert (rear.items, rear.failed, counted(rear.methods)) == (1, 1, '')
    assert report.streams['/imu'].action == 'copy'
    assert report.warnings == {'slow': 1}


@pytest.mark.parametrize('count', [0, 2, 201])
def test_what_is_undone_is_told_and_gives_the_exit_code(
    count: int, capsys: pytest.CaptureFixture[str]
) -> None:
    report = Report(undone=[f'{i}.jpg: cut' for i in range(count)])
    report.warnings['slow'] = 2
    report.tell()
    said = capsys.readouterr().err.splitlines()
    assert said.pop(0) == 'warning: 2 frames: slow'
    assert report.exit_code == (1 if count else 0)
    expected = ['error: not everything could be done:', *(f'  {i}.jpg: cut' for i in range(count))]
    if count > 200:
        expected[201:] = ['  and 1 more']
    assert said == (expected if count else [])
