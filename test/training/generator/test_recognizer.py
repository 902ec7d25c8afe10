from importlib.util import find_spec

from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.training.generator import recognizer
from ffs_anonymizer.training.generator.recognizer import DlibRecognizer, read_layers
import numpy as np
import pytest
import torch


def integer(value: int) -> bytes:
    size = max((abs(value).bit_length() + 7) // 8, 1)
    return bytes([size | (0x80 if value < 0 else 0)]) + abs(value).to_bytes(size, 'little')


def tensor(values: np.ndarray) -> bytes:
    sizes = b''.join(integer(v) for v in (2, len(values), 1, 1, 1))
    return sizes + values.astype('<f4').tobytes()


def small_network(rng: np.random.Generator) -> tuple[bytes, list[np.ndarray]]:
    """Return a stem, a block, a block that halves, and a matrix, as dlib writes them."""
    data, kernels, inputs = b'', [], 3
    for filters, side, stride, padding in (
        (4, 7, 2, 0),
        (4, 3, 1, 1),
        (4, 3, 1, 1),
        (6, 3, 2, 0),
        (6, 3, 1, 1),
    ):
        kernel = rng.normal(0, 0.2, filters * inputs * side * side + filters)
        numbers = (filters, side, side, stride, stride, padding, padding)
        data += b'\x05con_4' + tensor(kernel) + b''.join(integer(v) for v in numbers)
        scale = np.concatenate([rng.uniform(0.5, 1.5, filters), rng.normal(0, 0.1, filters)])
        data += b'\x07affine_' + tensor(scale)
        kernels += [kernel, scale]
        inputs = filters
    kernels.append(rng.normal(0, 1, 6 * 5))
    return data + b'\x04fc_2' + integer(5) + integer(6) + tensor(kernels[-1]), kernels


def test_layers_are_read_as_dlib_writes_them() -> None:
    data, kernels = small_network(np.random.default_rng(0))
    layers = read_layers(data)
    assert [layer.kind for layer in layers] == ['con', 'affine'] * 5 + ['fc']
    assert layers[6].numbers == (6, 3, 3, 2, 2, 0, 0)
    for layer, values in zip(layers, kernels, strict=True):
        assert layer.values == pytest.approx(values, rel=1e-6)


def test_the_network_turns_faces_into_vectors() -> None:
    data, kernels = small_network(np.random.default_rng(0))
    network = DlibRecognizer(read_layers(data))
    faces = torch.rand(3, 3, 112, 112) * 2 - 1
    vectors = network(faces)
    assert vectors.shape == (3, 5)
    assert not torch.allclose(vectors[0], vectors[1])
    first = network.convolutions[0]
    kernel = torch.from_numpy(kernels[0][:-4]).reshape(4, 3, 7, 7).float()
    gain = torch.from_numpy(kernels[1][:4]).float()
    assert torch.allclose(first.weight, kernel * gain[:, None, None, None], atol=1e-6)


def test_a_file_that_is_cut_off_is_refused() -> None:
    data, _ = small_network(np.random.default_rng(0))
    with pytest.raises(ValueError, match='fc: got version 2 and sizes'):
        read_layers(data[:-8])


def test_without_the_package_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(recognizer, 'PACKAGE', 'no_such_package_anywhere')
    with pytest.raises(ModelError, match='pip install no_such_package_anywhere'):
        recognizer.load_dlib()


@pytest.mark.skipif(
    find_spec('face_recognition_models') is None, reason='its weights are not here'
)
def test_the_real_one_has_128_numbers() -> None:
    with torch.no_grad():
        assert recognizer.load_dlib()(torch.zeros(1, 3, 112, 112)).shape == (1, 128)
