import os
from pathlib import Path
import re
import shlex
import subprocess
import sys

from ffs_anonymizer import __version__
from ffs_anonymizer.cli.options import settings_from
from ffs_anonymizer.cli.program import main, make_parser
from ffs_anonymizer.settings.parameter_file import load, to_markdown, to_yaml
from ffs_anonymizer.settings.runtime import Settings
import pytest
from support.program import ROOT, run_program

PLATES = ('--set', 'detector.plate_model_path=p.onnx')
NO_PLATES = ('--set', 'detector.plate_model_path=none')
FINDS_PLATES = {'detector.plate_model_path': 'p.onnx'}


def commands() -> list[str]:
    return [name for action in make_parser()._subparsers._group_actions for name in action.choices]


def test_there_is_every_command() -> None:
    assert {'bag', 'media', 'params', 'train', 'export', 'evaluate'} <= set(commands())


@pytest.mark.parametrize('words', [[], *([name] for name in commands())])
def test_help_says_what_it_does_with_an_example(
    words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*words, '--help'])
    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert said.startswith(' '.join(['usage: ffs_anonymizer', *words]))
    if words and words[0] not in ('data', 'models'):
        assert 'example' in said
        assert f'  ffs_anonymizer {words[0]} ' in said
    # What it shows can be given.
    shown = re.findall(r'^  ffs_anonymizer (.+)$', said.replace('\\\n', ' '), re.MULTILINE)
    for example in shown:
        parts = shlex.split(example.partition(' > ')[0], comments=True)
        args = make_parser().parse_args(parts)
        assert words != ['export'] or args.task == 'detector' or args.gallery


def test_version_and_module_run() -> None:
    done = run_program('--version')
    assert (done.returncode, done.stdout) == (0, f'ffs_anonymizer {__version__}\n')


@pytest.mark.parametrize(
    ('words', 'text'),
    [
        ([], 'the following arguments are required: COMMAND'),
        (['blur'], "invalid choice: 'blur'"),
        (['params', '--threads', 'many'], "argument --threads: invalid int value: 'many'"),
        (['media', '-i', 'a.jpg'], 'the following arguments are required: -o/--output'),
        (
            ['media', '-i', 'a.jpg', '-o', 'b.jpg', '--crf', '52'],
            "argument --crf: got '52', expected a whole number, 0 to 51",
        ),
        (
            ['media', '-i', 'a.jpg', '-o', 'b.jpg', '--crf', 'abc'],
            "argument --crf: got 'abc', expected a whole number, 0 to 51",
        ),
    ],
)
def test_wrong_usage_exits_2(
    words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    assert ended.value.code == 2
    assert text in capsys.readouterr().err


@pytest.mark.parametrize(
    ('words', 'text'),
    [
        (['--set', 'tracker.max_gap=5'], 'did you mean tracker.max_gap_ms?'),
        (['--set', 'lazy'], "--set: got 'lazy', expected NAME=VALUE"),
        (['--set', 'threads=much'], "threads: got 'much', expected integer"),
        (['--set', 'image_topics=[a'], "--set image_topics: got '[a', which is not YAML"),
        (['--face-threshold', '7'], 'face.threshold: got 7.0, expected double from 0.01 to 1'),
        (['--mask-scale', '0.5'], 'face.region_scale: got 0.5, expected double from 1 to 3'),
        (
            ['--method', 'face=erase'],
            "face.method: got 'erase', expected string, one of: gen",
        ),
        (['--method', 'hand=blur'], "--method: got class 'hand', expected one of: face, plate"),
        (['--method', 'generate,blur'], "got 'generate,blur', which names face twice"),
        (['--method', 'face=blur,face=solid'], 'names face twice, expected each class once'),
        (['--method', 'blur,plate=solid'], 'names plate twice'),
        (
            [*NO_PLATES, '--method', 'face=blur,plate=solid'],
            '--method plate=...: got detector.plate_model_path none, so that no plate is looked',
        ),
        (
            [*NO_PLATES, '--plate-threshold', '0.5'],
            '--plate-threshold: got detector.plate_model_path none',
        ),
        (['--config', 'missing.yaml'], 'cannot read the settings file missing.yaml'),
    ],
)
def test_wrong_settings_exit_2(
    words: list[str], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['params', *words]) == 2
    said = capsys.readouterr()
    assert said.err.startswith('error: ')
    assert text in said.err
    assert said.out == ''


@pytest.mark.parametrize(
    ('words', 'changes'),
    [
        ([], {}),
        (['--method', 'solid'], {'face.method': 'solid', 'plate.method': 'solid'}),
        (['--method', 'generate'], {'face.method': 'generate'}),
        (['--method', 'plate=generate'], {'plate.method': 'generate'}),
        (
            [*PLATES, '--method', 'face=mosaic, plate=solid'],
            {**FINDS_PLATES, 'face.method': 'mosaic', 'plate.method': 'solid'},
        ),
        (
            [*PLATES, '--method', 'generate,plate=mosaic'],
            {**FINDS_PLATES, 'face.method': 'generate', 'plate.method': 'mosaic'},
        ),
        (['--mask-scale', '2'], {'face.region_scale': 2.0, 'plate.region_scale': 2.0}),
        (
            [*PLATES, '--face-threshold', '0.5', '--plate-threshold', '0.25'],
            {**FINDS_PLATES, 'face.threshold': 0.5, 'plate.threshold': 0.25},
        ),
        (
            ['--detector-model', 'd.onnx', '--generator-model', 'g.onnx'],
            {'detector.model_path': 'd.onnx', 'generator.model_path': 'g.onnx'},
        ),
        (['--device', 'cpu', '--threads', '3'], {'device': 'cpu', 'threads': 3}),
        (['--set', 'image_topics=[/a, /b]'], {'image_topics': ('/a', '/b')}),
        (['--set', 'output_prefix=1'], {'output_prefix': '1'}),
        (
            ['--threads', '3', '--set', 'threads=4', '--set', 'lazy=false'],
            {'threads': 4, 'lazy': False},
        ),
    ],
)
def test_options_become_settings(words: list[str], changes: dict[str, object]) -> None:
    args = make_parser().parse_args(['params', *words])
    assert settings_from(args) == Settings().updated(changes)


def test_options_win_over_the_config_file(tmp_path: Path) -> None:
    config = tmp_path / 'own.yaml'
    config.write_text('threads: 2\nfeather: 0.2\n', encoding='utf-8')
    args = make_parser().parse_args(['params', '--config', str(config), '--threads', '3'])
    assert settings_from(args) == Settings().updated({'threads': 3, 'feather': 0.2})


def test_params_prints_what_params_reads(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(['params', '--method', 'face=solid']) == 0
    file = tmp_path / 'anonymizer.param.yaml'
    file.write_text(capsys.readouterr().out, encoding='utf-8')
    assert load(file) == Settings().updated({'face.method': 'solid'})
    assert file.read_text('utf-8') == to_yaml(load(file))
    assert main(['params', '--markdown']) == 0
    assert capsys.readouterr().out == to_markdown()


def test_a_reader_that_goes_away_is_no_error() -> None:
    done = subprocess.run(
        f'{sys.executable} -m ffs_anonymizer params --markdown | head -c 1',
        shell=True,
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )
    assert (done.stdout, done.stderr) == ('|', '')


@pytest.mark.parametrize(
    ('module', 'words', 'text'),
    [
        ('cv2', ['media', '-i', 'a', '-o', 'b'], 'error: no cv2; install what is missing'),
        ('zstandard', ['bag', '-i', '.', '-o', 'b'], 'no zstandard'),
    ],
)
def test_a_missing_library_breaks_its_command_only(
    module: str, words: list[str], text: str, tmp_path: Path
) -> None:
    (tmp_path / f'{module}.py').write_text(f"raise ImportError('no {module}')\n", encoding='utf-8')
    env = {**os.environ, 'PYTHONPATH': str(tmp_path)}
    failed = run_program(*words, env=env)
    assert failed.returncode == 1
    assert text in failed.stderr
    assert 'Traceback' not in failed.stderr
    assert run_program('params', env=env).returncode == 0
