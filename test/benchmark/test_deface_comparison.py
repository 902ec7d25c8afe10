"""The comparison with deface runs each way more than once, though nothing is written over."""

import importlib.util
import re
import sys

from support.program import ROOT

# Stands for a program that leaves a record beside its output and refuses one that is there.
PROGRAM = """
import pathlib, sys
words = sys.argv
source, _, output = words[words.index('-o') - 1 :]
output = pathlib.Path(output)
output.with_suffix('.json').touch(exist_ok=False)
output.write_bytes(pathlib.Path(source).read_bytes())
"""


def test_no_run_meets_what_another_left(tmp_path, monkeypatch, capsys):
    path = ROOT / 'benchmarks' / 'deface_comparison.py'
    spec = importlib.util.spec_from_file_location('deface_comparison', path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    program = tmp_path / 'program'
    program.write_text(f'#!{sys.executable}\n{PROGRAM}')
    program.chmod(0o755)
    video = tmp_path / 'video.mp4'
    monkeypatch.setattr(module, 'SIZE_WH', (64, 48))
    monkeypatch.setattr(module, 'view', lambda photo, progress: photo[:48, :64])
    module.write_portrait(video, 3)
    monkeypatch.setattr(module.sys, 'executable', str(program))
    words = ['--deface', str(program), '--video', str(video), '--rounds', '2']
    monkeypatch.setattr(
        sys, 'argv', ['deface_comparison.py', *words, '--detector', f'YuNet={video}']
    )
    module.main()
    printed = capsys.readouterr().out
    assert 'video.mp4: 3 frames, 2 rounds' in printed
    # No run is eight times as fast as itself: that is told, and no failure.
    assert re.search(r'^\| ours, YuNet \| .* \| 8 \| ', printed, re.MULTILINE)
