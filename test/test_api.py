"""The Python API as docs/api.md shows it."""

import re

import cv2
import numpy as np
import pytest
from support.program import loaded_by, ROOT

BLOCKS = re.findall(r'```python\n(.*?)```', (ROOT / 'docs' / 'api.md').read_text('utf-8'), re.S)


def test_the_five_lines_anonymize_an_array(tmp_path, monkeypatch, face_bgr):
    monkeypatch.chdir(tmp_path)
    cv2.imwrite('photo.png', face_bgr)
    exec(BLOCKS[0], {})
    after = cv2.imread('photo_anonymized.png')
    assert after.shape == face_bgr.shape
    assert 0.05 < (after != face_bgr).any(axis=2).mean() < 0.9


def test_the_readme_leads_to_it():
    assert '(docs/api.md)' in (ROOT / 'README.md').read_text('utf-8')


def test_frames_of_a_camera_remember(face_bgr):
    shown = []
    names = {
        'images': [face_bgr, np.zeros_like(face_bgr)],
        'show': lambda *what: shown.append(what),
    }
    exec(BLOCKS[0].split('settings =')[0] + BLOCKS[1], names)
    assert [counts for _, _, counts in shown] == [{'blur': 1}] * 2
    assert [regions.detected.tolist() for _, regions, _ in shown] == [[True], [False]]


def test_the_names_of_the_api_are_imported_by_their_first_use():
    assert (
        loaded_by('import ffs_anonymizer; ffs_anonymizer.__version__', {'cv2', 'numpy'}) == set()
    )
    with pytest.raises(ImportError, match='Anonymiser'):
        from ffs_anonymizer import Anonymiser  # noqa: F401
