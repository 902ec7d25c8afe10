"""What the README says must be so: its commands parse, its files exist, its table is complete."""

import re
import shlex

from ffs_anonymizer.cli.options import settings_from
from ffs_anonymizer.cli.program import make_parser
from ffs_anonymizer.settings.parameter_file import load, to_markdown
from ffs_anonymizer.settings.runtime import Settings
import pytest
from support.program import ROOT

README = (ROOT / 'README.md').read_text('utf-8')
DOCUMENTS = {path.name: path.read_text('utf-8') for path in sorted(ROOT.glob('docs/*.md'))}


def blocks(text: str, *languages: str) -> list[str]:
    found = re.findall(r'^```(\w*)\n(.*?)^```', text, re.DOTALL | re.MULTILINE)
    return [block for language, block in found if language in languages]


def commands(program: str) -> list[str]:
    texts = [README, *DOCUMENTS.values()]
    lines = [
        line.strip()
        for text in texts
        for block in blocks(text, 'sh', '')
        for line in block.replace('\\\n', ' ').splitlines()
    ]
    return sorted({line for line in lines if line.startswith(f'{program} ')})


def words(command: str) -> list[str]:
    return shlex.split(command.partition('>')[0], comments=True)[1:]


@pytest.mark.parametrize('command', commands('ffs_anonymizer'))
def test_commands_parse(command: str) -> None:
    args = make_parser().parse_args(words(command))
    assert callable(args.run)
    # Training reads --config and --set as its own settings.
    if words(command)[0] in ('bag', 'media', 'params') and args.config is None:
        assert isinstance(settings_from(args), Settings)


@pytest.mark.parametrize('command', commands('make'))
def test_make_targets_exist(command: str) -> None:
    makefile = (ROOT / 'Makefile').read_text('utf-8')
    for target in words(command):
        assert re.search(rf'^{target}:', makefile, re.MULTILINE), target


@pytest.mark.parametrize('command', commands('ros2'))
def test_launch_files_and_their_arguments_exist(command: str) -> None:
    verb, *rest = words(command)
    if verb == 'launch':
        package, name, *arguments = rest
        text = (ROOT / 'launch' / name).read_text('utf-8')
        assert package == 'ffs_anonymizer'
        for argument in arguments:
            assert f"'{argument.partition(':=')[0]}'" in text


def test_there_are_commands_of_every_kind() -> None:
    assert len(commands('ffs_anonymizer')) >= 10
    assert len(commands('ros2')) >= 3
    assert {'make demo', 'make test'} <= {c.partition('#')[0].strip() for c in commands('make')}


def test_files_that_are_linked_to_exist() -> None:
    pages = {ROOT / 'README.md': README, **{ROOT / 'docs' / n: t for n, t in DOCUMENTS.items()}}
    for page, text in pages.items():
        targets = re.findall(r'\]\(([^)#]+)(?:#[^)]*)?\)', text)
        local = [target for target in targets if '://' not in target]
        missing = [target for target in local if not (page.parent / target).is_file()]
        assert missing == [], page.name
    for name in ('before_after', 'faces', 'film'):
        assert f'](docs/{name}.jpg)' in README
        assert (ROOT / 'docs' / f'{name}.jpg').stat().st_size < 300_000


def test_headings_that_are_linked_to_exist() -> None:
    def anchors(text: str) -> set[str]:
        headings = re.findall(r'^#+ (.*)$', text, re.MULTILINE)
        return {re.sub(r'[^\w -]', '', h).lower().replace(' ', '-') for h in headings}

    for name, text in {'': README, **DOCUMENTS}.items():
        assert set(re.findall(r'\]\(#([^)]+)\)', text)) <= anchors(text), name
        for page, anchor in re.findall(r'\]\((?:docs/)?(\w+\.md)#([^)]+)\)', text):
            assert anchor in anchors(DOCUMENTS[page]), f'{name}: {page}#{anchor}'


def test_every_page_is_in_the_index() -> None:
    linked = set(re.findall(r'\]\((\w+\.md)\)', DOCUMENTS['index.md']))
    assert linked == DOCUMENTS.keys() - {'index.md'}


def test_the_configuration_loads(tmp_path) -> None:
    texts = [README, *DOCUMENTS.values()]
    for i, block in enumerate(block for text in texts for block in blocks(text, 'yaml')):
        file = tmp_path / f'{i}.yaml'
        file.write_text(block, encoding='utf-8')
        assert load(file) != Settings()


def test_the_table_of_parameters_is_the_program_s_own() -> None:
    table = re.search(
        r'<!-- made by .*? -->\n(.*?)<!-- end -->', DOCUMENTS['parameters.md'], re.DOTALL
    )
    assert table is not None
    assert table.group(1) == to_markdown()


def test_tests_that_the_documents_name_exist() -> None:
    named = {
        (name, path, test)
        for name, text in DOCUMENTS.items()
        for path, test in re.findall(r'`([\w/]*test_\w+\.py)(?:::(\w+))?`', text)
    }
    assert len(named) > 40
    for name, path, test in named:
        file = ROOT / 'test' / path.removeprefix('test/')
        assert file.is_file(), f'{name}: {path}'
        assert not test or f'def {test}(' in file.read_text('utf-8'), f'{name}: {path}::{test}'
