"""
Write tensorrt_names.json: what the Python bindings of each TensorRT, and of pycuda, are called.

    pip download --no-deps tensorrt-bindings==8.6.1 tensorrt-cu12-bindings==10.3.0 ...
    python test/support/tensorrt_names.py *.whl

The bindings want TensorRT's own libraries, which are large and of no use without a GPU; empty ones
with the same symbols do for reading names. pycuda is read where it is installed.
"""

import json
from pathlib import Path
import re
import subprocess
import sys
import tempfile
import zipfile

TARGET = Path(__file__).with_suffix('.json')
CLASSES = """Builder BuilderFlag DataType IBuilderConfig ICudaEngine IExecutionContext ILogger
    ILogger.Severity INetworkDefinition IOptimizationProfile IProgressMonitor ITensor ITimingCache
    MemoryPoolType NetworkDefinitionCreationFlag OnnxParser ParserError Runtime TensorIOMode
    init_libnvinfer_plugins"""
PYCUDA_CLASSES = """Context Device DeviceAllocation Function Module PagelockedHostAllocation Stream
    device_attribute host_alloc_flags"""
DUMP = """
import functools, importlib, json, sys
module = importlib.import_module(sys.argv[1])
found = {}
for path in ['', *sys.argv[2].split()]:
    try:
        thing = functools.reduce(getattr, filter(None, path.split('.')), module)
    except AttributeError:
        continue
    names = [n for n in dir(thing) if n[0] != '_']
    if path == 'INetworkDefinition':
        names = [n for n in names if not n.startswith('add_')]
    if not path and 'tensorrt' in sys.argv[1]:
        names = [n for n in names if n in sys.argv[2].split()]
    found[path] = names
version = getattr(module, '__version__', '')
print(json.dumps([version, found]))
"""


def make_empty_libraries(binding: Path, folder: Path) -> None:
    tables = subprocess.check_output(['readelf', '-d', binding], text=True)
    libraries = re.findall(r'NEEDED.*\[(libnv.*?)\]', tables)
    symbols = subprocess.check_output(['nm', '-D', '--undefined-only', binding], text=True).split()
    wanted = r'create\w+|get\w+|initLib\w+|_ZN\d+nv\w+'
    source = ''.join(
        f'asm(".globl {s}\\n{s}: xor %eax,%eax\\nret\\n");\n'
        for s in set(symbols)
        if re.fullmatch(wanted, s) and not (s.startswith('get') and s.islower())
    )
    (folder / 'empty.c').write_text(source)
    for i, name in enumerate(libraries):
        content = folder / 'empty.c' if i == 0 else '/dev/null'
        command = ['gcc', '-shared', '-fPIC', f'-Wl,-soname,{name}', '-x', 'c', content]
        subprocess.run([*command, '-o', folder / name], check=True)


def names_of(module: str, classes: str, path: str = '', libraries: str = '') -> list:
    environment = {'PYTHONPATH': path, 'LD_LIBRARY_PATH': libraries} if path else None
    command = [sys.executable, '-c', DUMP, module, classes]
    return json.loads(subprocess.check_output(command, env=environment, text=True))


def main(wheels: list[str]) -> None:
    names = {}
    for wheel in wheels:
        with tempfile.TemporaryDirectory() as folder:
            zipfile.ZipFile(wheel).extractall(folder)
            make_empty_libraries(next(Path(folder).rglob('tensorrt.so')), Path(folder))
            version, found = names_of('tensorrt_bindings', CLASSES, folder, folder)
            names[f'tensorrt {version}'] = found
    try:
        version, found = names_of('pycuda.driver', PYCUDA_CLASSES)
        names['pycuda'] = found
    except subprocess.CalledProcessError:
        print('pycuda: not here, so its names stay as they are', file=sys.stderr)
        names['pycuda'] = json.loads(TARGET.read_text())['pycuda']
    lines = [
        f'  {json.dumps(library)}: {{\n'
        + ',\n'.join(f'    {json.dumps(k)}: {json.dumps(v)}' for k, v in found.items())
        + '\n  }'
        for library, found in names.items()
    ]
    TARGET.write_text('{\n' + ',\n'.join(lines) + '\n}\n')


if __name__ == '__main__':
    main(sys.argv[1:])
