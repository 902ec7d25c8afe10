from pathlib import Path

from ffs_anonymizer.errors import OutputError
from ffs_anonymizer.jobs import output
from ffs_anonymizer.jobs.output import new_file, new_folder, partial_of, refuse, refuse_no_place
import pytest


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / 'new' / 'a.txt'
    with new_file(path) as partial:
        assert (partial, partial.read_bytes()) == (partial_of(path), b'')
        partial.write_text('whole')
        assert not path.exists()
    assert (names(path.parent), path.read_text()) == (['a.txt'], 'whole')


def test_a_folder_gets_its_name_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / 'new' / 'bag'
    with new_folder(path) as partial:
        (partial / 'a.txt').write_text('whole')
        assert not path.exists()
    assert (names(path.parent), names(path)) == (['bag'], ['a.txt'])


@pytest.mark.parametrize('make', [new_file, new_folder])
def test_whatever_goes_wrong_nothing_is_left(make, tmp_path: Path) -> None:
    for error in (ValueError, KeyboardInterrupt, SystemExit):
        with pytest.raises(error), make(tmp_path / 'a'):
            raise error
        assert names(tmp_path) == []


@pytest.mark.parametrize('make', [new_file, new_folder])
def test_what_is_being_written_is_left_alone(make, tmp_path: Path) -> None:
    path, other = tmp_path / 'a', tmp_path / 'other'
    other.write_text('mine')
    for make_partial in (
        lambda partial: partial.write_text('mine'),
        lambda partial: partial.symlink_to(other),
        lambda partial: partial.symlink_to(tmp_path / 'nowhere'),
    ):
        make_partial(partial_of(path))
        with pytest.raises(OutputError, match=r'a\.partial is there: another run'), make(path):
            raise AssertionError
        assert names(tmp_path) == ['a.partial', 'other']
        assert other.read_text() == 'mine'
        partial_of(path).unlink()
    with make(path), pytest.raises(OutputError, match='is there'), make(path):
        raise AssertionError
    assert names(tmp_path) == ['a', 'other']


@pytest.mark.parametrize('make', [new_file, new_folder])
def test_what_comes_up_meanwhile_is_not_overwritten(make, tmp_path: Path) -> None:
    path = tmp_path / 'a'
    with pytest.raises(OutputError, match='a: exists already, has come up'), make(path):
        path.write_text('mine')
    assert (names(tmp_path), path.read_text()) == (['a'], 'mine')


def test_a_file_that_somebody_exchanged_is_not_named(tmp_path: Path) -> None:
    path, other = tmp_path / 'a', tmp_path / 'b'
    other.write_text('mine')
    with pytest.raises(OutputError, match='is another file than'), new_file(path) as partial:
        other.rename(partial)
    assert (names(tmp_path), partial_of(path).read_text()) == (['a.partial'], 'mine')


def test_where_there_are_no_links_a_file_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_links(*_: object) -> None:
        raise PermissionError

    monkeypatch.setattr(output.os, 'link', no_links)
    with new_file(tmp_path / 'a') as partial:
        partial.write_text('whole')
    assert (names(tmp_path), (tmp_path / 'a').read_text()) == (['a'], 'whole')
    with pytest.raises(OutputError, match='has come up meanwhile'), new_file(tmp_path / 'b'):
        (tmp_path / 'b').write_text('mine')
    assert (tmp_path / 'b').read_text() == 'mine'


def test_what_has_no_place_is_refused_before_the_work(tmp_path: Path) -> None:
    (tmp_path / 'file').touch()
    for name, is_folder, text in (
        ('', False, 'got a folder, expected a file or nothing there'),
        ('file', True, 'got a file, expected a folder or nothing there'),
        ('file/new', False, 'cannot write .*/file/new: .*/file is no folder that may be written'),
        ('file/new/new', True, 'cannot write .*/new: .*/file is no folder that may be written to'),
    ):
        with pytest.raises(OutputError, match=text):
            refuse_no_place(tmp_path / name, is_folder=is_folder)
    for name, is_folder in (('file', False), ('new/new', False), ('', True), ('new', True)):
        refuse_no_place(tmp_path / name, is_folder=is_folder)
    assert [path.name for path in tmp_path.iterdir()] == ['file']


def test_what_is_refused_before_the_work(tmp_path: Path) -> None:
    source = tmp_path / 'in'
    source.mkdir()
    (tmp_path / 'out').mkdir()
    (tmp_path / 'out' / 'rear').symlink_to(source)
    (tmp_path / 'taken').symlink_to(tmp_path / 'nowhere')
    (tmp_path / 'busy.partial').touch()
    for paths, text in (
        (['taken'], 'taken: exists already; nothing is overwritten'),
        (['new', 'taken', 'out'], 'taken: exists already, as do 1 other outputs; nothing'),
        (['busy'], r'busy\.partial is there: another run is writing it'),
        (['new', 'out/../new'], 'got two outputs of this name'),
        (['in/new'], 'in/new: lies inside the input'),
        (['out/rear/new'], 'out/rear/new: lies inside the input'),
    ):
        with pytest.raises(OutputError, match=text):
            refuse([tmp_path / path for path in paths], source=source)
    refuse([tmp_path / 'new', tmp_path / 'out' / 'new'], source=source)
    # Beside a single file, there may be others.
    (source / 'a.jpg').touch()
    refuse([source / 'b.jpg'], source=source / 'a.jpg')
