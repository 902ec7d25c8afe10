import argparse
import json
from pathlib import Path
import subprocess
import sys

from ffs_anonymizer.errors import (
    AnonymizerError,
    MediaError,
    ModelError,
    OutputError,
    SettingsError,
)
from ffs_anonymizer.training import commands
import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*words: object) -> int:
    parser = argparse.ArgumentParser()
    commands.add_parsers(parser.add_subparsers(required=True))
    args = parser.parse_args([str(word) for word in words])
    code: int = args.run(args)
    return code


def test_torch_is_not_imported_until_a_command_runs() -> None:
    program = 'import sys, ffs_anonymizer.training.commands; sys.exit("torch" in sys.modules)'
    assert subprocess.run([sys.executable, '-c', program], cwd=ROOT, check=False).returncode == 0


def test_the_chain_from_photos_to_metrics(
    photos: Path, boxes: Path, table: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('torch')
    packed, out, models = tmp_path / 'packed', tmp_path / 'run', tmp_path / 'models'
    tiny = ['network=ffs-tiny', 'size_px=32', 'batch=4', 'critic_channels=8', 'features=random']
    tiny += ['half=false', 'threads=1', 'critic_from=0.0']

    assert run('data', 'build', '-i', photos, '-o', packed, '--boxes', table) == 0
    train = ['train', '--config', ROOT / 'config' / 'training.yaml', '--data', packed]
    train += ['--out', out]
    for setting in tiny:
        train += ['--set', setting]
    assert run(*train, '--set', 'steps=1') == 0
    assert run(*train, '--set', 'steps=2') == 0
    assert 'step 2, 8 images seen' in capsys.readouterr().out
    exporting = 'export', '-i', out / 'last.pt', '-o', models, '--version', '7'
    with pytest.raises(SettingsError, match='--gallery, --above: got both or none'):
        run(*exporting)
    assert run(*exporting, '--gallery', 'person*') == 0
    model = models / 'ffs-tiny.onnx'
    assert json.loads(model.with_suffix('.json').read_text())['version'] == '7'

    evaluate = ['evaluate', '-i', photos, '--boxes', boxes, '--generator-model', model]
    evaluate += ['--method', 'face=generate', '--method', 'face=solid', '--pose']
    evaluate += ['--json', tmp_path / 'metrics.json', '--sheet', tmp_path / 'sheet.png']
    try:
        assert run(*evaluate) == 0
    except ModelError as error:
        if 'no face detector' not in str(error):
            raise
        pytest.skip(str(error))
    metrics = json.loads((tmp_path / 'metrics.json').read_text())
    assert list(metrics) == ['original', 'generate', 'solid']
    keys = {'retention', 'identity', 'linkage_top1', 'linkage_chance', 'landmarks', 'seam'}
    assert keys <= set(metrics['generate'])
    assert metrics['solid']['retention'] == 0.0
    assert 0 <= metrics['solid']['posed'] <= 1
    assert metrics['original']['posed'] is None


def test_a_search_from_the_command_line(
    packed: Path, tiny_settings, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip('torch')
    from ffs_anonymizer.training.generator.train import train

    teacher = train(tiny_settings(packed, tmp_path / 'run', steps=1), quiet=True)
    words = ['search', '--teacher', teacher, '--data', packed, '--out', tmp_path / 'found']
    words += ['--widths', '4,8', '8', '8,16']
    for setting in ('steps=1', 'batch=2', 'threads=1', 'half=false', 'device=cpu'):
        words += ['--set', setting]
    assert run(*words, '--dry-run') == 0
    printed = capsys.readouterr().out
    assert 'learns: sharing\n' in printed
    assert 'widths: 4,8 8 8,16\n' in printed
    assert '4 networks of ' in printed
    assert not (tmp_path / 'found').exists()
    with pytest.raises(SettingsError, match='none of 4 networks meets'):
        run(*words, '--gmac', '0.000001')
    assert run(*words, '--no-plot') == 0
    assert 'last.pt: channels=' in capsys.readouterr().out
    names = {path.name for path in (tmp_path / 'found').iterdir()}
    assert names == {'shared', 'candidates.csv', 'faces.png', 'last.pt'}


def test_dry_run_prints_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    assert run('train', '--set', 'batch=3', '--dry-run') == 0
    printed = capsys.readouterr().out
    assert 'batch: 3\n' in printed
    assert 'network: ffs-128-small\n' in printed


def test_photos_that_were_left_out_are_named(
    photos: Path, boxes: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / 'photos'
    folder.mkdir()
    first = sorted(photos.iterdir())[0]
    (folder / first.name).write_bytes(first.read_bytes())
    (folder / 'broken_1.png').write_bytes(b'no photo')
    (boxes / 'broken_1.txt').write_text('1 2 30 40')
    try:
        code = run('data', 'build', '-i', folder, '-o', tmp_path / 'out', '--boxes', boxes)
    finally:
        (boxes / 'broken_1.txt').unlink()
    assert code == 1
    assert 'broken_1.png: cannot be read as a photo' in capsys.readouterr().err


@pytest.mark.parametrize(
    ('words', 'error', 'text'),
    [
        (['data', 'build', '-i', 'none', '-o', 'x'], AnonymizerError, 'none'),
        (
            ['data', 'build', '-i', '.', '-o', 'x', '--photo-px', '3'],
            SettingsError,
            'got --photo-px 3',
        ),
        (
            ['data', 'build', '-i', '.', '-o', 'x', '--boxes', 'b', '--detector-model', 'x.onnx'],
            SettingsError,
            '--detector-model: got it with --boxes, which say where the faces are',
        ),
        (['train', '--set', 'colour=red'], SettingsError, 'unknown settings colour'),
        (['train', '--config', 'none.yaml'], SettingsError, 'none.yaml: cannot be read'),
        (['evaluate', '-i', '.', '--json', '.'], OutputError, 'got a folder, expected a file'),
        (['evaluate', '-i', '.', '--sheet', 'a.doc'], MediaError, "a.doc: got '.doc' as the kind"),
        (['evaluate', '-i', '.', '--method', 'blur'], SettingsError, "--method: got 'blur'"),
        (
            ['evaluate', '-i', '.', '--recognizer', 'some.param'],
            SettingsError,
            '--recognizer: got some.param without --landmarks-model, expected both',
        ),
        (
            ['evaluate', '-i', '.', '--landmarks-model', 'none.onnx'],
            ModelError,
            'none.onnx: got no such file, expected a YuNet model',
        ),
    ],
)
def test_wrong_words_are_refused(words: list[str], error: type[Exception], text: str) -> None:
    with pytest.raises(error, match=text):
        run(*words)


@pytest.mark.parametrize(
    ('words', 'option', 'task'),
    [
        (['data', 'build', '-o', 'x', '--faces', 'packed'], '--faces', 'detector'),
        (['data', 'build', '-o', 'x', '--drawn', '4000'], '--drawn', 'detector'),
        (
            ['data', 'build', '--task', 'detector', '-o', 'x', '--photo-px', '160'],
            '--photo-px',
            'generator',
        ),
        (['export', '-o', 'x', '--gallery', 'a', '--score-shift=-1'], '--score-shift', 'detector'),
        (['export', '--task', 'detector', '-o', 'x', '--gallery', 'a'], '--gallery', 'generator'),
        (['evaluate', '--held-out'], '--held-out', 'detector'),
        (['evaluate', '--detector-model', 'x.onnx'], '--detector-model', 'detector'),
        (['evaluate', '--threshold', '0.3'], '--threshold', 'detector'),
        (['evaluate', '--pose', '--task', 'detector'], '--pose', 'generator'),
        (['evaluate', '--task', 'detector', '--compare', 'a=b'], '--compare', 'generator'),
    ],
)
def test_options_of_the_other_task_are_refused(words: list[str], option: str, task: str) -> None:
    other = 'generator' if task == 'detector' else 'detector'
    says = f'^{option}: got it with --task {other}, expected it with --task {task} alone$'
    with pytest.raises(SettingsError, match=says):
        run(*words, '-i', 'none')


def test_the_table_of_networks(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip('torch')
    assert run('models') == 0
    assert '| deep-privacy2-fdf128 | 128 px | 42.31 M | 61.541 |' in capsys.readouterr().out
