import argparse
import ast
import ctypes
import importlib
import importlib.util
import json
from pathlib import Path
import re
import time

from ffs_anonymizer import backend as backend_package
from ffs_anonymizer.backend import Backend, cuda, open_model
from ffs_anonymizer.backend.cuda import missing_gpu
from ffs_anonymizer.backend.tensorrt import runner as trt
from ffs_anonymizer.backend.tensorrt.engine_cache import EngineCache
from ffs_anonymizer.backend.tensorrt.runner import (
    build_engine,
    choose_typing,
    read_traits,
    Traits,
    version_of,
)
from ffs_anonymizer.cli import build
from ffs_anonymizer.cli.options import add_settings_options
from ffs_anonymizer.errors import ModelError, SettingsError
from ffs_anonymizer.models.manifest import DEFAULT_PLATES, shipped
from ffs_anonymizer.models.model_file import read_model
from ffs_anonymizer.models.roster import default_detector
from ffs_anonymizer.painting import gpu_painter
from ffs_anonymizer.quantization.explicit import to_portable
from ffs_anonymizer.quantization.graph import convs, prepare
from ffs_anonymizer.quantization.quantization import to_file_b
from ffs_anonymizer.quantization.ranges import measure_ranges
from ffs_anonymizer.regions.detector import Network
import numpy as np
import onnx
from onnx import helper, numpy_helper, TensorProto
from onnx.reference import ReferenceEvaluator
import pytest
from support.onnx_models import save_failing_generator, save_generator

NAMES = json.loads((Path(__file__).parents[1] / 'support' / 'tensorrt_names.json').read_text())
VERSIONS = [name for name in NAMES if name.startswith('tensorrt')]

# ---- names ----

# What each expression of the source is, so that its attributes can be looked up.
TENSORRT = {
    'trt': '',
    'builder': 'Builder',
    'creation': 'NetworkDefinitionCreationFlag',
    'network': 'INetworkDefinition',
    'parser': 'OnnxParser',
    'parser.get_error(i)': 'ParserError',
    'config': 'IBuilderConfig',
    'tensor': 'ITensor',
    'profile': 'IOptimizationProfile',
    'learned': 'ITimingCache',
    'runtime': 'Runtime',
    'engine': 'ICudaEngine',
    'self._engine': 'ICudaEngine',
    'context': 'IExecutionContext',
    'self._context': 'IExecutionContext',
}
PYCUDA = {
    'cuda': '',
    'self.cuda': '',
    'gpu.cuda': '',
    'self._gpu.cuda': '',
    'cuda.Context': 'Context',
    'self._context': 'Context',
    'device': 'Device',
    'cuda.device_attribute': 'device_attribute',
    'cuda.host_alloc_flags': 'host_alloc_flags',
    'self.stream': 'Stream',
    'gpu.stream': 'Stream',
    'self._gpu.stream': 'Stream',
    'self._base': 'PagelockedHostAllocation',
    'self._device': 'DeviceAllocation',
    'memory': 'DeviceAllocation',
    'self._module': 'Module',
    'self._cut': 'Function',
    'self._paste': 'Function',
}
# Named only behind hasattr().
OPTIONAL = {
    ('BuilderFlag', 'INT8'): {'11'},
    ('BuilderFlag', 'FP16'): {'11'},
    ('NetworkDefinitionCreationFlag', 'EXPLICIT_BATCH'): {'11'},
    ('NetworkDefinitionCreationFlag', 'STRONGLY_TYPED'): {'8'},
    ('', 'IProgressMonitor'): {'8'},
    ('', 'init_libnvinfer_plugins'): set(),
    ('IBuilderConfig', 'progress_monitor'): {'8'},
}


def attributes_of(path, owners, module=''):
    """Yield (class, attribute) for each attribute that the source names."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Attribute) and not node.attr.startswith('__'):
            owner = ast.unparse(node.value)
            if owner in owners:
                yield owners[owner], node.attr
            elif module and owner.startswith(f'{module}.'):
                yield owner.removeprefix(f'{module}.'), node.attr


TRT_NAMES = sorted({*attributes_of(Path(trt.__file__), TENSORRT, 'trt'), *OPTIONAL})


def test_the_source_is_read_as_meant():
    assert {
        ('IExecutionContext', 'execute_async_v3'),
        ('IExecutionContext', 'set_optimization_profile_async'),
        ('Builder', 'build_serialized_network'),
        ('ILogger.Severity', 'INTERNAL_ERROR'),
        ('ICudaEngine', 'get_tensor_profile_shape'),
        ('ParserError', 'desc'),
        ('TensorIOMode', 'INPUT'),
    } <= set(TRT_NAMES)
    assert len(TRT_NAMES) > 50


@pytest.mark.parametrize('version', VERSIONS)
def test_every_name_exists_in_the_bindings(version):
    known, major = NAMES[version], version.split()[1].split('.')[0]
    missing = {(owner, name) for owner, name in TRT_NAMES if name not in known.get(owner, ())}
    assert missing == {key for key, majors in OPTIONAL.items() if major in majors}


def test_the_versions_are_those_of_the_jetpacks():
    majors = [version_of(version.split()[1])[:2] for version in VERSIONS]
    assert majors == [(8, 6), (10, 3), (10, 16), (11, 4)]


@pytest.mark.parametrize('file', [cuda.__file__, gpu_painter.__file__])
def test_every_name_exists_in_pycuda(file):
    known = NAMES['pycuda']
    named = set(attributes_of(Path(file), PYCUDA))
    assert len(named) > 7
    assert not [(owner, name) for owner, name in named if name not in known[owner]]


@pytest.mark.parametrize('module', ['tensorrt', 'tensorrt_bindings', 'tensorrt_rtx_bindings'])
def test_every_name_exists_in_the_installed_bindings(module):
    bindings = importorskip(module)
    missing = set()
    for owner, name in TRT_NAMES:
        thing = bindings
        for part in filter(None, owner.split('.')):
            thing = getattr(thing, part, None)
        if not hasattr(thing, name):
            missing.add((owner, name))
    assert missing <= set(OPTIONAL)


def importorskip(module):
    """Skip also where only the libraries beneath the package are missing."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        pytest.skip(f'needs {module}: {error}')


# ---- which precision ----


@pytest.mark.parametrize(
    ('quantized', 'half', 'weak', 'strong', 'exact', 'expected'),
    [
        # 8.5 to 8.6: flags only
        (False, False, True, False, False, (False, ('FP16',), 'fp16')),
        (True, False, True, False, False, (False, ('INT8', 'FP16'), 'int8+fp16')),
        (True, False, True, False, True, (False, ('INT8',), 'int8')),
        (False, False, True, False, True, (False, (), 'fp32')),
        # 10: either
        (True, False, True, True, False, (False, ('INT8', 'FP16'), 'int8+fp16')),
        (True, True, True, True, False, (True, (), 'int8+fp16')),
        (False, True, True, True, False, (True, (), 'fp16')),
        (False, True, True, True, True, (True, (), 'fp16')),
        # 11: the network's own types only
        (False, False, False, True, False, (True, (), 'fp32')),
        (True, False, False, True, False, (True, (), 'int8+fp32')),
        (True, True, False, True, False, (True, (), 'int8+fp16')),
    ],
)
def test_typing(quantized, half, weak, strong, exact, expected):
    typing = choose_typing(Traits(quantized, half), weak=weak, strong=strong, exact=exact)
    assert (typing.strong, typing.flags, typing.precision) == expected


def test_an_fp16_file_is_refused_by_old_versions():
    with pytest.raises(ModelError, match='expected the FP32 file of the same model'):
        choose_typing(Traits(True, True), weak=True, strong=False)


@pytest.mark.parametrize(
    ('text', 'expected'),
    [
        ('8.6.1', (8, 6, 1)),
        ('10.0.1', (10, 0, 1)),
        ('10.3.0.post1', (10, 3, 0)),
        ('11.4.0.106', (11, 4, 0, 106)),
        ('dev', ()),
    ],
)
def test_versions_compare_as_numbers(text, expected):
    assert version_of(text) == expected
    assert (version_of(text) >= (8, 6)) == (text != 'dev')


def quantized_generator(path, scale_type=np.float32, size_px=32):
    """One conv between Q/DQ nodes, as the quantizer places them; FP16 inside where asked."""
    half = scale_type == np.float16
    kind = TensorProto.FLOAT16 if half else TensorProto.FLOAT
    nodes = [helper.make_node('Concat', ['condition', 'mask'], ['both'], axis=1)]
    source = 'both'
    if half:
        nodes.append(helper.make_node('Cast', ['both'], ['cast'], to=kind))
        source = 'cast'
    nodes += [
        helper.make_node('QuantizeLinear', [source, 'scale', 'zero'], ['q']),
        helper.make_node('DequantizeLinear', ['q', 'scale', 'zero'], ['dq']),
        helper.make_node('DequantizeLinear', ['w', 'w_scale', 'w_zero'], ['w_dq'], axis=0),
        helper.make_node('Conv', ['dq', 'w_dq'], ['conv'], pads=[1, 1, 1, 1]),
        helper.make_node('Cast', ['conv'], ['inpainted'], to=TensorProto.FLOAT),
    ]
    rng = np.random.default_rng(0)
    weights = {
        'scale': np.array(1 / 127, scale_type),
        'zero': np.array(0, np.int8),
        'w': rng.integers(-127, 128, (3, 4, 3, 3)).astype(np.int8),
        'w_scale': np.full(3, 0.002, scale_type),
        'w_zero': np.zeros(3, np.int8),
    }
    graph = helper.make_graph(
        nodes,
        'quantized',
        [
            helper.make_tensor_value_info(
                name, TensorProto.FLOAT, ['N', channels, size_px, size_px]
            )
            for name, channels in (('condition', 3), ('mask', 1))
        ],
        [
            helper.make_tensor_value_info(
                'inpainted', TensorProto.FLOAT, ['N', 3, size_px, size_px]
            )
        ],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    opset = helper.make_opsetid('', 19 if half else 17)
    model = helper.make_model(graph, opset_imports=[opset], ir_version=9 if half else 8)
    onnx.checker.check_model(model)
    onnx.save(model, path)
    return path


def test_traits_are_read_from_the_file(tmp_path):
    plain = save_generator(tmp_path / 'plain.onnx').read_bytes()
    assert read_traits(plain) == Traits(quantized=False, half=False)
    a = quantized_generator(tmp_path / 'a.onnx').read_bytes()
    assert read_traits(a) == Traits(quantized=True, half=False)
    b = quantized_generator(tmp_path / 'b.onnx', np.float16).read_bytes()
    assert read_traits(b) == Traits(quantized=True, half=True)


# ---- parse and build, without a GPU, by TensorRT-RTX ----


@pytest.fixture
def rtx():
    return importorskip('tensorrt_rtx_bindings')


def generator_variants(*batches, size_px=32):
    return [
        {'condition': (n, 3, size_px, size_px), 'mask': (n, 1, size_px, size_px)} for n in batches
    ]


@pytest.mark.parametrize(
    ('make', 'precision'),
    [
        (save_generator, 'fp32'),
        (quantized_generator, 'int8+fp32'),
        (lambda path: quantized_generator(path, np.float16), 'int8+fp16'),
    ],
)
def test_rtx_parses_and_builds(rtx, tmp_path, make, precision):
    model = make(tmp_path / 'model.onnx').read_bytes()
    phases = []
    built = build_engine(rtx, model, generator_variants(1, 4), on_phase=phases.append)
    assert built.precision == precision
    assert built.inputs == {'condition': (-1, 3, 32, 32), 'mask': (-1, 1, 32, 32)}
    assert built.outputs == {'inpainted': (-1, 3, 32, 32)}
    assert len(built.data) > 1000
    assert phases
    again = build_engine(rtx, model, generator_variants(1, 4), timing=built.timing)
    assert again.inputs == built.inputs


def test_rtx_builds_the_default_detector(rtx):
    model = build._model_bytes(default_detector())
    built = build_engine(rtx, model, build.plan(default_detector(), (1,), ((320, 200),), 1.0))
    assert built.inputs == {'input.1': (-1, 3, -1, -1)}
    assert built.outputs['537'] == (-1, 1, -1, -1)


@pytest.mark.parametrize(
    ('file', 'precision', 'floats'),
    [('', 'fp32', 'Float'), ('A', 'int8+fp32', 'Float'), ('B', 'int8+fp16', 'Half')],
)
def test_rtx_builds_the_plate_detector(rtx, file, precision, floats):
    """Both looks at a frame, and in 8 bits what the file says and nothing else."""
    path = shipped(DEFAULT_PLATES)
    variants = build.plan(path, (1,), ((1280, 720),), 1.0)
    assert [v['image'] for v in variants] == [(1, 3, 736, 1280), (1, 3, 192, 320)]
    prepared = prepare(path)
    kept = names = [node.name for node in convs(prepared)]
    model = build._model_bytes(path)
    if file:
        picture = np.random.default_rng(0).uniform(0, 255, (1, 3, 64, 96)).astype(np.float32)
        ranges = measure_ranges(prepared, [{'image': picture}], 1, 'minmax')
        kept = names[5:7]
        make = {'A': to_portable, 'B': to_file_b}[file]
        model = make(prepared, ranges, kept).SerializeToString()
    built = build_engine(rtx, model, variants)
    assert built.precision == precision
    assert built.inputs == {'image': (-1, 3, -1, -1)}
    assert built.outputs['box_32'] == (-1, 4, -1, -1)
    assert len(built.data) > 1_000_000
    assert types_of_convs(rtx, model, variants) == {
        name: {floats if name in kept else 'Int8'} for name in names
    }


def types_of_convs(rtx, model, variants):
    """Return the types of what each convolution of an engine gets: pictures and weights."""

    class Logger(rtx.ILogger):
        def __init__(self):
            rtx.ILogger.__init__(self)
            self.lines = []

        def log(self, severity, message):
            self.lines += message.splitlines()

    logger = Logger()
    builder = rtx.Builder(logger)
    network = builder.create_network(1 << int(rtx.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    assert rtx.OnnxParser(network, logger).parse(model)
    config = builder.create_builder_config()
    config.profiling_verbosity = rtx.ProfilingVerbosity.DETAILED
    for shapes in variants:
        profile = builder.create_optimization_profile()
        for name, shape in shapes.items():
            profile.set_shape(name, shape, shape, shape)
        config.add_optimization_profile(profile)
    assert builder.build_serialized_network(network, config) is not None
    found = {}
    for line in logger.lines:
        match = re.match(
            r'Name: (\S+?)(?: \[profile \d+\])?_myl\d+_\d+, LayerType: correlation, '
            r'Inputs: \[.*?Datatype: (\w+).*?Constants: \[.*?Datatype: (\w+)',
            line,
        )
        if match is not None:
            found.setdefault(match[1], set()).update(match.groups()[1:])
    return found


def test_rtx_says_why_it_cannot(rtx, tmp_path):
    node = helper.make_node('Riddle', ['condition', 'mask'], ['inpainted'], domain='nowhere')
    shapes = {'condition': [1, 3, 8, 8], 'mask': [1, 1, 8, 8], 'inpainted': [1, 3, 8, 8]}
    condition, mask, inpainted = (
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
        for name, shape in shapes.items()
    )
    graph = helper.make_graph([node], 'riddle', [condition, mask], [inpainted])
    opsets = [helper.make_opsetid('', 17), helper.make_opsetid('nowhere', 1)]
    riddle = helper.make_model(graph, opset_imports=opsets, ir_version=8).SerializeToString()
    with pytest.raises(ModelError, match=r'TensorRT cannot parse it: \S'):
        build_engine(rtx, riddle, generator_variants(1, size_px=8))
    model = save_generator(tmp_path / 'model.onnx').read_bytes()
    with pytest.raises(ModelError, match=r"'condition': got the shape \(1, 3, 16, 16\) to build"):
        build_engine(rtx, model, generator_variants(1, size_px=16))
    with pytest.raises(ModelError, match=r"input 'mask': got the shape \(\)"):
        build_engine(rtx, model, [{'condition': (1, 3, 32, 32)}])


# ---- no GPU, no TensorRT ----


@pytest.mark.skipif(not missing_gpu(), reason='this machine has a GPU')
def test_a_named_back_end_that_is_missing_is_an_error(tmp_path, monkeypatch):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path))
    path = save_generator(tmp_path / 'generator.onnx')
    message = (
        'cannot import tensorrt|got no NVIDIA driver, expected|got the NVIDIA driver finds no'
    )
    with pytest.raises(ModelError, match=message):
        trt.load(read_model(path), device='tensorrt', threads=0, concurrency=1)
    with pytest.raises(ModelError, match=message):
        open_model(path, device='tensorrt')
    assert 'NVIDIA driver' in trt.load_if_built(read_model(path))
    assert open_model(path, device='auto').name == 'onnxruntime'


def test_tensorrt_that_is_missing_says_what_to_install():
    if importlib.util.find_spec('tensorrt') is not None:
        pytest.skip('this machine has TensorRT')
    with pytest.raises(ModelError, match=r'JetPack .*python3-libnvinfer.* `pip install tensorrt`'):
        trt.import_tensorrt()


@pytest.mark.skipif(not missing_gpu(), reason='this machine has a GPU')
def test_build_needs_the_gpu(tmp_path):
    path = save_generator(tmp_path / 'generator.onnx')
    message = 'cannot import tensorrt|device tensorrt: got .*, expected an NVIDIA GPU'
    with pytest.raises(ModelError, match=message):
        build.run(arguments('--model', str(path)))


def test_the_graph_calls_exist_in_the_driver():
    try:
        library = ctypes.CDLL('libcuda.so.1')
    except OSError:
        pytest.skip('needs an NVIDIA driver')
    called = {
        node.value
        for node in ast.walk(ast.parse(Path(cuda.__file__).read_text()))
        if isinstance(node, ast.Constant) and str(node.value).startswith('cu')
    }
    assert called
    assert [name for name in called if not hasattr(library, name)] == []


# ---- the command ----


def arguments(*words):
    parser = argparse.ArgumentParser()
    build.add_parser(parser.add_subparsers())
    return parser.parse_args(['build', *words])


def test_options_do_not_clash_with_the_shared_ones():
    args = arguments('--batch', '2', '--device', 'tensorrt', '--dry-run')
    assert (args.batch, args.device, args.dry_run, args.force_engine_update) == (
        '2',
        'tensorrt',
        True,
        False,
    )
    shared = argparse.ArgumentParser()
    add_settings_options(shared)
    assert {'config', 'set'} <= set(vars(args)) & set(vars(shared.parse_args([])))


@pytest.mark.parametrize(
    ('text', 'expected'),
    [('1', (1,)), ('16,4,1,4', (1, 4, 16)), (' 2 , 256', (2, 256))],
)
def test_batches(text, expected):
    assert build.parse_batches(text) == expected


@pytest.mark.parametrize('text', ['', '0', '1,', '-1', '1.5', '257', 'x'])
def test_batches_that_are_none(text):
    with pytest.raises(SettingsError, match=r'--batch: got .*, expected numbers from 1 to 256'):
        build.parse_batches(text)


def test_sizes():
    assert build.parse_sizes('1920x1080, 64x48,1920x1080') == ((1920, 1080), (64, 48))
    for text in ('', '1920', '0x5', '1920x', '1920x1080x3', '-1x4'):
        with pytest.raises(SettingsError, match=r'--size: got .*, expected WIDTHxHEIGHT'):
            build.parse_sizes(text)


class Seen(Backend):
    """A detector that notes the shapes it is fed."""

    name, device, path = 'seen', 'nowhere', Path('seen.onnx')

    def __init__(self, like):
        self.inputs, self.outputs, self.shapes = like.inputs, like.outputs, []

    def infer_impl(self, feeds):
        self.shapes += [feed.shape for feed in feeds.values()]
        h, w = self.shapes[-1][2] // 4, self.shapes[-1][3] // 4
        return {s.name: np.zeros((1, s.shape[1], h, w), np.float32) for s in self.outputs}


@pytest.mark.parametrize('size_wh', [(1920, 1080), (640, 480), (33, 31), (1, 1)])
@pytest.mark.parametrize('scale', [1.0, 0.5, 1.37])
def test_the_plan_of_a_detector_is_what_it_is_fed(size_wh, scale):
    variants = build.plan(default_detector(), (4,), (size_wh,), scale)
    seen = Seen(open_model(default_detector(), device='cpu', threads=1))
    image = np.zeros((*size_wh[::-1], 3), np.uint8)
    Network(seen, 0).detect(image, threshold=0.5, nms_iou=0.3, scale=scale)
    # A large picture is seen in tiles of one shape.
    shapes = list(dict.fromkeys(seen.shapes))
    assert shapes == [shape for variant in variants for shape in variant.values()]


def test_the_plan_of_a_generator_is_a_variant_a_batch(tmp_path):
    path = save_generator(tmp_path / 'generator.onnx', size_px=16)
    assert build.plan(path, (1, 4), ((64, 64),), 1.0) == generator_variants(1, 4, size_px=16)


def test_only_generators_are_computed_in_fp16_unless_asked(tmp_path):
    path = save_generator(tmp_path / 'generator.onnx')
    assert build.is_generator(build.plan(path, (1,), ((64, 64),), 1.0))
    assert not build.is_generator(build.plan(default_detector(), (1,), ((64, 64),), 1.0))
    assert arguments().fp16 == 'generators'


def test_sizes_that_amount_to_the_same_are_built_once():
    sizes_wh = ((1920, 1080), (1919, 1088), (640, 480))
    # Each is seen once more, small: both of the same shape of frame at the same size.
    assert len(build.plan(default_detector(), (1,), sizes_wh, 1.0)) == 4


def test_a_file_that_plays_two_roles_is_built_once(capsys):
    both = f'detector.plate_model_path={default_detector()}'
    assert build.run(arguments('--set', both, '--method', 'face=blur', '--dry-run')) == 0
    assert capsys.readouterr().out.count('shapes to build for') == 1


def test_what_is_no_model_of_ours_is_refused(tmp_path):
    with pytest.raises(ModelError, match='got nothing there'):
        build.plan(tmp_path / 'none.onnx', (1,), ((64, 64),), 1.0)
    (tmp_path / 'text.onnx').write_text('no model')
    with pytest.raises(ModelError, match='no valid ONNX model'):
        build.plan(tmp_path / 'text.onnx', (1,), ((64, 64),), 1.0)
    graph = helper.make_graph(
        [helper.make_node('Mul', ['a', 'b'], ['c'])],
        'product',
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, [3]) for name in 'ab'],
        [helper.make_tensor_value_info('c', TensorProto.FLOAT, [3])],
    )
    onnx.save(helper.make_model(graph), tmp_path / 'product.onnx')
    with pytest.raises(ModelError, match='expected those of a generator'):
        build.plan(tmp_path / 'product.onnx', (1,), ((64, 64),), 1.0)


def test_dry_run_shows_the_plan_and_builds_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))
    path = save_generator(tmp_path / 'generator.onnx')
    sizes = ('--size', '640x480', '--batch', '2')
    words = ('--dry-run', *sizes, '--method', 'face=generate', '--generator-model', str(path))
    assert build.run(arguments(*words)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == ['  input.1 1x3x480x640', '  input.1 1x3x224x256']
    assert '  condition 2x3x32x32, mask 2x1x32x32' in lines
    assert not (tmp_path / 'cache').exists()


def test_a_good_engine_is_found_and_a_changed_one_raises(tmp_path):
    cache = EngineCache(tmp_path / 'engines')
    facts = {'onnx_sha256': 'ab', 'variants': [{'mask': [1, 1]}]}
    assert not build._is_good(cache, 'x.engine', facts)
    cache.save('x.engine', b'engine', facts)
    assert build._is_good(cache, 'x.engine', facts)
    assert not build._is_good(cache, 'x.engine', {**facts, 'variants': []})
    (cache.folder / 'x.engine').write_bytes(b'another')
    with pytest.raises(ModelError, match='it was changed or cut off'):
        build._is_good(cache, 'x.engine', facts)


def test_long_work_is_watched_and_its_errors_come_through(capsys):
    assert build._watched(lambda: time.sleep(0.25) or 7, 'work', lambda: 'a phase') == 7
    assert 'a phase' in capsys.readouterr().err

    def fail():
        raise ModelError('TensorRT cannot build it')

    with pytest.raises(ModelError, match='TensorRT cannot build it'):
        build._watched(fail, 'work', lambda: '')


# ---- every back end that is here ----


@pytest.fixture(params=sorted(backend_package.BACKENDS))
def opened(request, tmp_path, monkeypatch):
    """Open a file in one back end; an engine is built for it first where that one needs one."""
    monkeypatch.setenv('XDG_CACHE_HOME', str(tmp_path / 'cache'))

    def open_one(path):
        if request.param == 'tensorrt':
            words = ('--model', str(path), '--batch', '1,4', '--size', '96x64', '--fp16', 'none')
            build.run(arguments(*words))
        return open_model(path, device=request.param, threads=1)

    try:
        open_one(save_generator(tmp_path / 'probe.onnx', size_px=8)).close()
    except ModelError as error:
        pytest.skip(str(error).splitlines()[0])
    return open_one


def feeds(n=2, size_px=32):
    rng = np.random.default_rng(0)
    return {
        'condition': rng.uniform(-1, 1, (n, 3, size_px, size_px)).astype(np.float32),
        'mask': np.ones((n, 1, size_px, size_px), np.float32),
    }


def test_every_back_end_runs_the_network(opened, tmp_path):
    path = save_generator(tmp_path / 'generator.onnx')
    model = opened(path)
    within = 1e-4 if model.name == 'onnxruntime' else 0.05  # others may compute in bf16 or TF32
    for n in (1, 2, 5, 2):
        got = model.infer(feeds(n))['inpainted']
        reference = ReferenceEvaluator(str(path)).run(None, feeds(n))[0]
        assert got.shape == reference.shape
        assert np.abs(got - reference).max() <= within
    assert model.name
    assert model.device
    model.close()


@pytest.mark.parametrize(('joined', 'good'), [(True, False), (False, True)])
def test_openvino_is_compared_where_the_network_is_quantized(tmp_path, joined, good):
    pytest.importorskip('openvino')
    model = onnx.load(quantized_generator(tmp_path / 'quantized.onnx'))
    if not joined:  # the mask by a channel of the condition, so that nothing is concatenated
        model.graph.node[0].CopyFrom(helper.make_node('Mul', ['condition', 'mask'], ['both']))
        weights = next(value for value in model.graph.initializer if value.name == 'w')
        values = numpy_helper.to_array(weights)[:, :3]
        weights.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(values), 'w'))
    path = tmp_path / 'changed.onnx'
    onnx.save(model, path)
    if good:
        got = open_model(path, device='openvino').infer(feeds())['inpainted']
        want = open_model(path, device='cpu').infer(feeds())['inpainted']
        assert np.abs(got - want).max() <= 0.02 * np.abs(want).max()
    else:
        with pytest.raises(
            ModelError, match=r"'inpainted' from OpenVINO .* differs by [\d.]+% from"
        ):
            open_model(path, device='openvino')


def test_results_of_a_call_outlive_the_next(opened, tmp_path):
    model = opened(save_generator(tmp_path / 'generator.onnx'))
    first = model.infer(feeds(2))['inpainted']
    kept = first.copy()
    model.infer({name: -feed for name, feed in feeds(2).items()})
    assert np.array_equal(first, kept)
    model.close()


def test_every_back_end_knows_the_contract(opened, tmp_path):
    model = opened(save_generator(tmp_path / 'generator.onnx'))
    assert {spec.name: spec.shape for spec in model.inputs} == {
        'condition': (-1, 3, 32, 32),
        'mask': (-1, 1, 32, 32),
    }
    assert [spec.name for spec in model.outputs] == ['inpainted']
    model.close()


def test_every_back_end_runs_the_default_detector(opened):
    image = np.random.default_rng(0).uniform(0, 255, (1, 3, 64, 96)).astype(np.float32)
    model = opened(default_detector())
    outputs = model.infer({'input.1': image})
    assert outputs['537'].shape == (1, 1, 16, 24)
    plain = open_model(default_detector(), device='cpu', threads=1).infer({'input.1': image})
    for name in ('537', '538', '539'):
        assert np.abs(outputs[name] - plain[name]).max() <= 0.01
    model.close()


def test_every_back_end_fails_as_one_error(opened, tmp_path):
    path = tmp_path / 'damaged.onnx'
    path.write_bytes(save_generator(tmp_path / 'whole.onnx').read_bytes()[:-50])
    with pytest.raises(ModelError, match=r'damaged.onnx'):
        opened(path)
    model = opened(save_generator(tmp_path / 'generator.onnx'))
    with pytest.raises(ModelError, match=r"got the inputs \['condition'\]"):
        model.infer({'condition': feeds()['condition']})
    model.close()
    if model.name != 'onnxruntime':
        return  # what lies outside of a tensor is zeros or undefined there, no failure
    with pytest.raises(ModelError):
        opened(save_failing_generator(tmp_path / 'failing.onnx')).infer(feeds())
