from concurrent.futures import ThreadPoolExecutor
import dataclasses
import hashlib
from pathlib import Path
import shutil
import time

from ffs_anonymizer.backend import (
    Backend,
    gains_by_bytes,
    multiplies_bytes,
    open_model,
    TensorSpec,
)
from ffs_anonymizer.backend.device import Device
from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.models.manifest import default_generator, load_manifest, save_manifest
from ffs_anonymizer.models.roster import default_detector
from ffs_anonymizer.regions.detections import FACE
from ffs_anonymizer.regions.detector import Network
import numpy as np
import onnx
from onnx import external_data_helper, helper, TensorProto
from onnx.reference import ReferenceEvaluator
import pytest
from support.onnx_models import save_failing_generator, save_generator


def feeds(n=2, size_px=32):
    rng = np.random.default_rng(0)
    return {
        'condition': rng.uniform(-1, 1, (n, 3, size_px, size_px)).astype(np.float32),
        'mask': np.ones((n, 1, size_px, size_px), np.float32),
    }


def test_infer_is_the_network(tmp_path):
    path = save_generator(tmp_path / 'generator.onnx')
    backend = open_model(path, device='cpu', threads=1)
    got = backend.infer(feeds())['inpainted']
    reference = ReferenceEvaluator(str(path)).run(None, feeds())[0]
    assert np.allclose(got, reference, atol=1e-4)
    assert backend.device == Device('cpu', notes=('asked for',))
    assert str(backend.device) == 'cpu (asked for)'


@pytest.mark.parametrize('n', [1, 5])
def test_any_batch_goes(tmp_path, n):
    backend = open_model(save_generator(tmp_path / 'generator.onnx'))
    assert backend.infer(feeds(n))['inpainted'].shape == (n, 3, 32, 32)


def test_initializers_among_the_inputs_are_cleaned_away():
    names = [spec.name for spec in open_model(default_detector()).inputs]
    assert names == ['input.1']


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'mask': None}, r"got the inputs \['condition'\], expected \['condition', 'mask'\]"),
        (
            {'mask': np.ones((2, 1, 31, 32), np.float32)},
            r"'mask' got float32 \(2, 1, 31, 32\), expected float32 \(-1, 1, 32, 32\)",
        ),
        ({'mask': np.ones((2, 1, 32, 32))}, r"'mask' got float64"),
    ],
)
def test_inputs_that_do_not_fit_are_refused(tmp_path, change, message):
    backend = open_model(save_generator(tmp_path / 'generator.onnx'))
    wrong = {name: value for name, value in {**feeds(), **change}.items() if value is not None}
    with pytest.raises(ModelError, match=message):
        backend.infer(wrong)


class _Narrow(Backend):
    """A back end for one thread at a time, which notes how many there were."""

    name, device, path = 'narrow', 'cpu', Path('narrow.onnx')
    outputs = (
        TensorSpec('537', (-1, 1, -1, -1)),
        *(TensorSpec(n, (-1,) * 4) for n in ('538', '539')),
    )
    inputs = (TensorSpec('image', (1, 3, -1, -1)),)

    def __init__(self, *, concurrent):
        self.concurrent = concurrent
        self.inside = self.most = 0

    def infer_impl(self, feeds):
        self.inside += 1
        self.most = max(self.most, self.inside)
        time.sleep(0.02)
        self.inside -= 1
        shape = np.array(feeds['image'].shape[2:]) // 4
        return {
            name: np.zeros((1, channels, *shape), np.float32)
            for name, channels in (('537', 1), ('538', 2), ('539', 2))
        }


@pytest.mark.parametrize('concurrent', [True, False])
def test_only_a_back_end_that_can_is_run_by_several_threads_at_once(concurrent):
    model = _Narrow(concurrent=concurrent)
    network = Network(model, FACE)
    image = np.zeros((64, 64, 3), np.uint8)
    with ThreadPoolExecutor(4) as pool:
        looks = [
            pool.submit(network.detect, image, threshold=0.5, nms_iou=0.3, scale=1.0)
            for _ in range(12)
        ]
        assert [len(look.result()) for look in looks] == [0] * 12
    assert (model.most > 1) == concurrent


def test_a_network_that_fails_midway_is_one_error(tmp_path):
    backend = open_model(save_failing_generator(tmp_path / 'failing.onnx'))
    with pytest.raises(ModelError, match=r'failing.onnx: ONNX Runtime failed'):
        backend.infer(feeds())


def test_missing_and_damaged_files(tmp_path):
    with pytest.raises(ModelError, match=r'model file .*none.onnx: got nothing there'):
        open_model(tmp_path / 'none.onnx')
    path = tmp_path / 'cut.onnx'
    whole = save_generator(tmp_path / 'whole.onnx').read_bytes()
    for damaged in (b'', b'no model', whole[: len(whole) // 2]):
        path.write_bytes(damaged)
        with pytest.raises(ModelError, match=r'cut.onnx: (got a file that is no valid|ONNX)'):
            open_model(path)


def test_the_hash_is_that_of_the_bytes_that_were_loaded(tmp_path):
    path = save_generator(tmp_path / 'generator.onnx')
    expected = hashlib.sha256(path.read_bytes()).hexdigest()
    backend = open_model(path)
    path.unlink()
    assert backend.sha256 == expected
    assert backend.infer(feeds())['inpainted'].shape == (2, 3, 32, 32)


@pytest.mark.parametrize('inner', [False, True])
def test_weights_in_another_file_are_refused(tmp_path, inner):
    path = save_generator(tmp_path / 'generator.onnx')
    model = onnx.load(path)
    external_data_helper.convert_model_to_external_data(
        model, location='weights.bin', size_threshold=0, convert_attribute=True
    )
    if inner:
        then = helper.make_graph([], 'then', [], [], [*model.graph.initializer])
        node = helper.make_node('If', ['near_w'], ['never'], then_branch=then, else_branch=then)
        model.graph.node.append(node)
        del model.graph.initializer[:]
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r'weights lie in another file \(weights.bin\)'):
        open_model(path)


def test_a_detector_whose_manifest_is_of_another_file_is_refused(tmp_path):
    path = tmp_path / 'face.onnx'
    shutil.copyfile(default_detector(), path)
    shipped = load_manifest(default_generator())
    save_manifest(dataclasses.replace(shipped, task='detector'), path)
    with pytest.raises(ModelError, match=r'face.onnx: got sha256 \w{64}, expected'):
        open_model(path)


def test_a_device_that_is_not_here_is_an_error_not_a_fallback(tmp_path):
    path = save_generator(tmp_path / 'generator.onnx')
    onnxruntime = pytest.importorskip('onnxruntime')
    if 'CUDAExecutionProvider' in onnxruntime.get_available_providers():
        pytest.skip('this machine has CUDA')
    with pytest.raises(ModelError, match='device cuda: got ONNX Runtime .* without CUDA'):
        open_model(path, device='cuda')


def test_a_network_of_vectors_is_left_as_it_is(tmp_path):
    path = tmp_path / 'add.onnx'
    vector = [helper.make_tensor_value_info(n, TensorProto.FLOAT, [3]) for n in 'abc']
    graph = helper.make_graph(
        [helper.make_node('Add', ['a', 'b'], ['c'])], 'add', vector[:2], vector[2:]
    )
    onnx.save(
        helper.make_model(graph, opset_imports=[helper.make_opsetid('', 17)], ir_version=8), path
    )
    ones = np.ones(3, np.float32)
    assert open_model(path).infer({'a': ones, 'b': ones})['c'].tolist() == [2, 2, 2]


@pytest.mark.parametrize(
    ('flags', 'multiplies', 'gains'),
    [
        ('flags : fpu avx2 avx512f avx512_vnni', True, True),
        ('flags : fpu avx2 avx_vnni', True, True),
        ('Features : fp asimd asimddp', False, False),
        ('flags : fpu avx2 avx512f', False, True),
        ('flags : fpu sse4_2 avx', False, False),
        ('flags : avx512_vnni_of_another_name', False, False),
    ],
)
def test_what_a_processor_says_of_its_products_of_bytes(tmp_path, flags, multiplies, gains):
    path = tmp_path / 'cpuinfo'
    path.write_text(f'processor : 0\n{flags}\n', encoding='utf-8')
    assert multiplies_bytes(path) == multiplies
    assert gains_by_bytes(path) == gains
    assert not multiplies_bytes(tmp_path / 'none')
    assert not gains_by_bytes(tmp_path / 'none')
