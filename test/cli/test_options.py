"""Test that what a job was asked for can be asked for again, from its privacy record."""

import argparse
import json

from ffs_anonymizer.bag import command as bag
from ffs_anonymizer.cli.program import make_parser
from ffs_anonymizer.media import command as media
import pytest

# Every option that decides what an output is, with a value that is not its default.
BAG = {
    '--topics': ['/a', '/b'],
    '--regex': ['/x.*'],
    '--exclude-topics': ['/c'],
    '--exclude-regex': ['/d.*'],
    '--drop-topics': ['/e', '/f'],
    '--keep-attachments': ['calibration*'],
    '--start-time-ns': ['1700000000000000001'],
    '--end-time-ns': ['1700000000000000002'],
    '--storage': ['sqlite3'],
    '--compression-mode': ['file'],
    '--max-bag-size': ['5000000'],
    '--max-bag-duration': ['7'],
    '--on-error': ['black'],
}
MEDIA = {
    '--image-sequence': [],
    '--framerate': ['12.5'],
    '--keep-audio': [],
    '--crf': ['30'],
    '--preview': [],
    '--on-error': ['black'],
}
# Places, lists and settings, which whoever asks again names anew, and what leaves no trace.
APART = {
    *('--help', '--input', '--output', '--write-detections', '--detections', '--reuse', '--boxes'),
    *(
        '--reuse-detections',
        '--skip-existing',
        '--disable-progress-output',
        '--workers',
        '--address',
    ),
    *('--config', '--set', '--method', '--face-threshold', '--plate-threshold', '--mask-scale'),
    *('--detector-model', '--generator-model', '--device', '--threads', '--dry-run'),
    # There is one.
    '--compression-format',
}


def parsed(command, *words):
    return make_parser().parse_args([command, '-i', 'in', '-o', 'out', *words])


def asked_again(module, source, job):
    options = json.loads(json.dumps(job.options))
    return module.bag_words(options) if module is bag else module.media_words(source, options)[2:]


@pytest.mark.parametrize(('module', 'options'), [(bag, BAG), (media, MEDIA)])
def test_what_was_asked_for_can_be_asked_for_again(module, options, tmp_path):
    command = module.__name__.split('.')[-2]
    words = [word for item in options.items() for word in (item[0], *item[1])]
    job = module.job_from(parsed(command, *words))
    again = module.job_from(parsed(command, *asked_again(module, tmp_path, job)))
    assert again == job
    plain = module.job_from(parsed(command))
    assert asked_again(module, tmp_path, plain) == []
    differing = {name for name, value in job.options.items() if value != plain.options.get(name)}
    assert differing == {*job.options} - {'into_folder', 'pattern'}


@pytest.mark.parametrize(('module', 'options'), [(bag, BAG), (media, MEDIA)])
def test_no_option_is_forgotten(module, options):
    parser = argparse.ArgumentParser()
    module.add_parser(parser.add_subparsers())
    (commands,) = (action for action in parser._actions if action.choices)
    (command,) = commands.choices.values()
    assert {action.option_strings[-1] for action in command._actions} - APART == {*options}


def test_a_pattern_is_part_of_the_input(tmp_path):
    job = media.job_from(
        make_parser().parse_args(
            ['media', '-i', str(tmp_path / 'img_%04d.png'), '-o', 'out', '--image-sequence']
        )
    )
    words = media.media_words(job.source, job.options)
    assert words == ['-i', str(tmp_path / 'img_%04d.png'), '--image-sequence', '--framerate=25.0']
