from pathlib import Path

from ffs_anonymizer.datasets import plates
from ffs_anonymizer.datasets.plates import (
    draw_distractor,
    draw_plate,
    fill_pattern,
    FORMATS,
    HEIGHT_PX,
    missing_fonts,
    refuse_missing_fonts,
    script_of,
)
from ffs_anonymizer.errors import MediaError
import numpy as np
import pytest

needs_fonts = pytest.mark.skipif(bool(missing_fonts()), reason='the fonts are not installed')


@needs_fonts
@pytest.mark.parametrize('kind', FORMATS, ids=lambda kind: kind.name)
def test_every_format_is_drawn_in_its_aspect_with_a_number_on_it(kind: plates.PlateFormat) -> None:
    plate = draw_plate(np.random.default_rng(1), kind)
    assert plate.shape[0] == HEIGHT_PX
    assert plate.shape[1] / HEIGHT_PX == pytest.approx(kind.aspect, rel=0.08)
    assert (plate[HEIGHT_PX // 2, plate.shape[1] // 2, 3]) == 255
    assert plate[20:-20, 20:-20, :3].std() > 15


@needs_fonts
def test_the_same_chance_draws_the_same(tmp_path: Path) -> None:
    for draw in (draw_plate, draw_distractor):
        ours, again, other = (draw(np.random.default_rng(seed)) for seed in (3, 3, 4))
        np.testing.assert_array_equal(ours, again)
        assert ours.shape != other.shape or (ours != other).any()


def test_missing_fonts_are_named_with_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    pytest.importorskip('PIL')
    monkeypatch.setattr(plates, 'FOLDER', tmp_path)
    with pytest.raises(MediaError, match=r'apt-get install .*fonts-hosny-amiri .*fonts-opendin'):
        refuse_missing_fonts()


def test_patterns_are_filled_from_their_alphabets() -> None:
    text = fill_pattern('ll-dd X', np.random.default_rng(0))
    assert text[:2].isalpha()
    assert text[3:5].isdigit()
    assert (text[2], text[5:]) == ('-', ' X')


@pytest.mark.parametrize(
    ('text', 'fonts'),
    [('AB 12', 'plate'), ('京A', 'cjk'), ('12가', 'hangul'), ('กข', 'thai'), ('٤ س', 'arabic')],
)
def test_each_script_has_its_fonts(text: str, fonts: str) -> None:
    assert script_of(text, 'plate') == fonts
