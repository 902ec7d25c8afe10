import hashlib
import json
import os
import stat

from ffs_anonymizer.backend.tensorrt.engine_cache import (
    default_folder,
    EngineCache,
    MissingError,
    name_of,
)
from ffs_anonymizer.errors import ModelError
import pytest

DATA = bytes(range(256)) * 9
FACTS = {'onnx_sha256': 'ab' * 32, 'tensorrt': '10.3.0', 'gpu': 'Orin', 'compute': '8.7'}
NAME = name_of(FACTS, '.engine')


@pytest.fixture
def cache(tmp_path):
    cache = EngineCache(tmp_path / 'a' / 'engines')
    cache.save(NAME, DATA, {**FACTS, 'precision': 'fp16', 'variants': [{'mask': [4, 1, 8, 8]}]})
    return cache


def test_what_was_saved_is_loaded(cache):
    data, facts = cache.load(NAME, FACTS)
    assert data == DATA
    assert facts['sha256'] == hashlib.sha256(DATA).hexdigest()
    assert facts['variants'] == [{'mask': [4, 1, 8, 8]}]


def test_folder_and_files_are_private_and_nothing_else_is_left(cache):
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700
    files = sorted(path.name for path in cache.folder.iterdir())
    assert files == [NAME, f'{NAME}.json']
    assert {stat.S_IMODE((cache.folder / name).stat().st_mode) for name in files} == {0o600}


def test_files_are_private_whatever_the_umask(tmp_path):
    before = os.umask(0)
    try:
        cache = EngineCache(tmp_path / 'engines')
        path = cache.save(NAME, DATA, FACTS)
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(cache.folder.stat().st_mode) == 0o700


def test_saving_again_replaces(cache):
    cache.save(NAME, b'new', FACTS)
    assert cache.load(NAME, FACTS)[0] == b'new'


@pytest.mark.parametrize('key', list(FACTS))
def test_every_fact_is_in_the_name(key):
    assert name_of({**FACTS, key: 'other'}, '.engine') != NAME


def test_names_of_one_source_begin_alike(cache):
    other = {**FACTS, 'gpu': 'Xavier'}
    cache.save(name_of(other, '.engine'), b'x', other)
    assert [f['gpu'] for f in cache.facts_of_all('ab' * 8)] in (
        ['Orin', 'Xavier'],
        ['Xavier', 'Orin'],
    )
    assert cache.facts_of_all('cd') == []
    assert EngineCache(cache.folder / 'none').facts_of_all('ab') == []


@pytest.mark.parametrize(
    ('key', 'message'),
    [
        ('tensorrt', r"was made for tensorrt '10.3.0', expected 'x'; run `ffs_anonymizer build`"),
        ('gpu', r"was made for gpu 'Orin', expected 'x'"),
        ('compute', r"was made for compute '8.7', expected 'x'"),
        ('onnx_sha256', r"was made for onnx_sha256 'abab"),
        ('new', r"was made for new None, expected 'x'"),
    ],
)
def test_an_engine_of_another_machine_is_refused(cache, key, message):
    with pytest.raises(ModelError, match=message):
        cache.load(NAME, {**FACTS, key: 'x'})


def test_nothing_there_is_an_error_of_its_own(cache, tmp_path):
    with pytest.raises(MissingError, match=r'got no such file; run `ffs_anonymizer build`'):
        cache.load('other.engine', FACTS)
    with pytest.raises(MissingError, match='got no such folder'):
        EngineCache(tmp_path / 'none').load(NAME, FACTS)
    (cache.folder / NAME).unlink()
    with pytest.raises(MissingError, match='got no such file'):
        cache.load(NAME, FACTS)


def flip_bit(path):
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def cut_off(path):
    path.write_bytes(path.read_bytes()[:-1])


@pytest.mark.parametrize('damage', [flip_bit, cut_off])
def test_a_changed_engine_is_refused(cache, damage):
    damage(cache.folder / NAME)
    with pytest.raises(ModelError, match='got sha256 .* it was changed or cut off'):
        cache.load(NAME, FACTS)


@pytest.mark.parametrize(
    ('text', 'message'),
    [
        ('', 'a JSON beside it that cannot be read'),
        ('{', 'a JSON beside it that cannot be read'),
        ('[]', 'a JSON beside it without the sha256'),
        (json.dumps(FACTS), 'a JSON beside it without the sha256'),
        (json.dumps({**FACTS, 'sha256': 7}), 'a JSON beside it without the sha256'),
    ],
)
def test_damaged_facts_are_refused(cache, text, message):
    (cache.folder / f'{NAME}.json').write_text(text)
    with pytest.raises(ModelError, match=message):
        cache.load(NAME, FACTS)


@pytest.mark.parametrize('mode', [0o620, 0o602, 0o666])
@pytest.mark.parametrize('suffix', ['', '.json'])
def test_files_that_others_can_write_are_refused(cache, suffix, mode):
    (cache.folder / f'{NAME}{suffix}').chmod(mode)
    with pytest.raises(ModelError, match=f'got mode {mode:04o}, which lets others write'):
        cache.load(NAME, FACTS)


@pytest.mark.parametrize('mode', [0o770, 0o707, 0o1777])
def test_a_folder_that_others_can_write_is_refused_for_reading_and_writing(cache, mode):
    cache.folder.chmod(mode)
    with pytest.raises(ModelError, match=f'engines: got mode {mode:04o}'):
        cache.load(NAME, FACTS)
    with pytest.raises(ModelError, match=f'engines: got mode {mode:04o}'):
        cache.save(NAME, DATA, FACTS)


@pytest.mark.parametrize('suffix', ['', '.json'])
def test_links_are_refused(cache, tmp_path, suffix):
    path = cache.folder / f'{NAME}{suffix}'
    target = tmp_path / 'elsewhere'
    path.rename(target)
    path.symlink_to(target)
    with pytest.raises(ModelError, match='cannot be read, or is a link'):
        cache.load(NAME, FACTS)
    path.unlink()
    os.link(target, path)
    with pytest.raises(ModelError, match='no plain file with one name'):
        cache.load(NAME, FACTS)


def test_a_folder_that_is_a_link_is_refused(cache, tmp_path):
    link = tmp_path / 'link'
    link.symlink_to(cache.folder)
    with pytest.raises(ModelError, match='expected a private one and no link'):
        EngineCache(link).load(NAME, FACTS)
    with pytest.raises(ModelError, match='expected a private one and no link'):
        EngineCache(link).save(NAME, DATA, FACTS)


def test_pipes_and_folders_are_refused_without_waiting(cache):
    path = cache.folder / NAME
    path.unlink()
    os.mkfifo(path, 0o600)
    with pytest.raises(ModelError, match='no plain file'):
        cache.load(NAME, FACTS)
    path.unlink()
    path.mkdir(0o700)
    with pytest.raises(ModelError, match=r'no plain file|cannot be read'):
        cache.load(NAME, FACTS)


@pytest.mark.skipif(os.geteuid() != 0, reason='only root can give files away')
@pytest.mark.parametrize('suffix', ['', '.json'])
def test_foreign_files_are_refused(cache, suffix):
    os.chown(cache.folder / f'{NAME}{suffix}', 12345, -1)
    with pytest.raises(ModelError, match='got a file of user 12345, expected one of user 0'):
        cache.load(NAME, FACTS)


def test_a_foreign_folder_is_refused(tmp_path):
    folder = tmp_path / 'engines'
    if os.geteuid() == 0:
        folder.mkdir(0o700)
        os.chown(folder, 12345, -1)
    else:
        folder = type(folder)('/usr')
    with pytest.raises(ModelError, match=r'got a file of user \d+, expected one of user'):
        EngineCache(folder).load(NAME, FACTS)


def test_a_write_that_fails_leaves_the_old_engine(cache):
    (cache.folder / f'{NAME}.json').unlink()
    (cache.folder / f'{NAME}.json').mkdir()
    with pytest.raises(ModelError, match='cannot be written'):
        cache.save(NAME, b'new', FACTS)
    assert not [path for path in cache.folder.iterdir() if 'partial' in path.name]


def test_default_folder_is_the_users(monkeypatch, tmp_path):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    assert default_folder() == tmp_path / 'ffs_anonymizer' / 'engines'
    monkeypatch.delenv('XDG_CACHE_HOME')
    monkeypatch.setenv('HOME', '/home/somebody')
    assert str(default_folder()) == '/home/somebody/.cache/ffs_anonymizer/engines'
