from pathlib import Path

from ffs_anonymizer.datasets.faces import is_held_out, load_packed, PackedFaces
from ffs_anonymizer.errors import MediaError
import numpy as np
import pytest


def test_split_keeps_each_person_on_one_side() -> None:
    names = tuple(f'person {i // 2}' for i in range(2000))
    faces = PackedFaces(
        np.zeros((2000, 1, 1, 3), np.uint8),
        np.zeros((2000, 4), np.float32),
        np.zeros((2000, 4), np.int32),
        np.zeros((2000, 5, 2), np.float32),
        np.zeros((2000, 3), np.float32),
        names,
    )
    train, held = faces.split()
    assert 0.07 < len(held) / 2000 < 0.13
    assert not {names[i] for i in train} & {names[i] for i in held}
    assert sorted([*train, *held]) == list(range(2000))


def test_held_out_depends_on_the_name_alone() -> None:
    assert [is_held_out(name) for name in ('a', 'b', 'c')] == [
        is_held_out(name) for name in ('a', 'b', 'c')
    ]


def test_what_was_not_built_is_refused(tmp_path: Path, packed: Path) -> None:
    with pytest.raises(MediaError, match='not a packed data set'):
        load_packed(tmp_path)
    (tmp_path / 'photos.npy').write_bytes((packed / 'photos.npy').read_bytes())
    index = (packed / 'index.csv').read_text().splitlines()
    (tmp_path / 'index.csv').write_text('\n'.join(index[:-1]))
    with pytest.raises(MediaError, match='expected one row for each photo'):
        load_packed(tmp_path)
