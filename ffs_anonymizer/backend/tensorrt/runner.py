"""TensorRT 8.5 to 11: engines built by an explicit command, loaded from a verified cache."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
import importlib
from pathlib import Path
from typing import Any

from ffs_anonymizer.backend import Backend, Tensors, TensorSpec
from ffs_anonymizer.backend.cuda import (
    Gpu,
    import_pycuda,
    missing_gpu,
    OnGpu,
    Recorded,
    Shared,
)
from ffs_anonymizer.backend.device import Device
from ffs_anonymizer.backend.tensorrt.engine_cache import BUILD, EngineCache, MissingError, name_of
from ffs_anonymizer.errors import ModelError
from ffs_anonymizer.models.model_file import ModelFile
import numpy as np
from numpy.typing import NDArray

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]
ENGINE_KEYS = {'precision', 'inputs', 'outputs', 'variants'}
_WORKSPACE_BYTES = 1 << 30


@dataclass(frozen=True)
class Traits:
    """
    Say what of a network decides how TensorRT is told its precision.

    :param quantized: it has Q/DQ nodes.
    :param half: it computes in FP16 by itself.
    """

    quantized: bool
    half: bool


@dataclass(frozen=True)
class Typing:
    """
    Say how TensorRT is told the precision.

    :param strong: the network's own types hold.
    :param flags: of the builder, where they do not.
    :param precision: what comes out, for people.
    """

    strong: bool
    flags: tuple[str, ...]
    precision: str


@dataclass(frozen=True)
class Built:
    """
    Hold a new engine.

    :param inputs: shape of each, -1 where the variants differ or may differ.
    :param timing: what the next build can learn from this one.
    """

    data: bytes
    precision: str
    inputs: dict[str, Shape]
    outputs: dict[str, Shape]
    timing: bytes


def import_tensorrt() -> Any:
    """
    Return the module, of any version that this can speak to.

    :raises ModelError: there is none, or it is too old.
    """
    try:
        trt = importlib.import_module('tensorrt')
    except ImportError as error:
        raise ModelError(
            f'cannot import tensorrt: {error}; on Jetson it comes with JetPack (apt install '
            'python3-libnvinfer, and a venv made with --system-site-packages), elsewhere '
            '`pip install tensorrt`'
        ) from error
    if version_of(trt.__version__) < (8, 5):
        raise ModelError(f'TensorRT: got {trt.__version__}, expected 8.5 or later')
    return trt


def version_of(text: str) -> tuple[int, ...]:
    """Return the numbers that a version begins with: 10.3.0.post1 is (10, 3, 0)."""
    numbers = []
    for part in text.split('.'):
        if not part.isdigit():
            break
        numbers.append(int(part))
    return tuple(numbers)


def read_traits(model: bytes) -> Traits:
    """
    Look into an ONNX file.

    :param model: its content.
    """
    import onnx

    graph = onnx.load_model_from_string(model).graph
    half = onnx.TensorProto.FLOAT16
    return Traits(
        quantized=any(node.op_type == 'QuantizeLinear' for node in graph.node),
        half=any(weights.data_type == half for weights in graph.initializer)
        or any(
            attribute.i == half
            for node in graph.node
            if node.op_type == 'Cast'
            for attribute in node.attribute
            if attribute.name == 'to'
        ),
    )


def choose_typing(traits: Traits, *, weak: bool, strong: bool, exact: bool = False) -> Typing:
    """
    Decide how to tell TensorRT the precision.

    :param weak: this version takes precision as flags (8.5 to 10).
    :param strong: this version can hold to the network's own types (9 and later).
    :param exact: no precision below that of the file.
    :raises ModelError: the file is of the kind that only newer versions take.
    """
    if traits.half and not strong:
        raise ModelError(
            'got a file that computes in FP16, which this TensorRT cannot parse; expected the '
            'FP32 file of the same model (opset 17, with or without Q/DQ)'
        )
    quantized = ['int8'] if traits.quantized else []
    if traits.half or not weak:
        return Typing(True, (), '+'.join([*quantized, 'fp16' if traits.half else 'fp32']))
    names = [*quantized, *([] if exact else ['fp16'])]
    return Typing(False, tuple(map(str.upper, names)), '+'.join(names) or 'fp32')


def build_engine(
    trt: Any,
    model: bytes,
    variants: Sequence[Shapes],
    *,
    exact: bool = False,
    timing: bytes = b'',
    on_phase: Callable[[str], None] | None = None,
) -> Built:
    """
    Build an engine; that takes from seconds to many minutes.

    :param trt: the module tensorrt.
    :param model: an ONNX file's content, with float32 inputs and outputs.
    :param variants: the shapes that it shall take, each with all inputs; each is tuned by itself.
    :param exact: no precision below that of the file.
    :param timing: of an earlier build with the same TensorRT on the same GPU, to be faster.
    :param on_phase: is told what TensorRT does, from 8.6.2 on.
    :raises ModelError: TensorRT cannot parse or build it; the text is its own.
    """
    creation = trt.NetworkDefinitionCreationFlag
    typing = choose_typing(
        read_traits(model),
        weak=hasattr(trt.BuilderFlag, 'INT8'),
        strong=hasattr(creation, 'STRONGLY_TYPED'),
        exact=exact,
    )
    logger = make_logger(trt)
    _load_plugins(trt, logger)
    builder = trt.Builder(logger)
    if builder is None:
        raise ModelError(f'TensorRT does not start: {logger.text()}')
    bits = 1 << int(creation.STRONGLY_TYPED) if typing.strong else 0
    if hasattr(creation, 'EXPLICIT_BATCH'):
        bits |= 1 << int(creation.EXPLICIT_BATCH)
    network = builder.create_network(bits)

    # The network
    parser = trt.OnnxParser(network, logger)
    if not parser.parse(model):
        errors = [parser.get_error(i).desc() for i in range(parser.num_errors)]
        raise ModelError(f'TensorRT cannot parse it: {"; ".join(errors) or logger.text()}')
    inputs = [network.get_input(i) for i in range(network.num_inputs)]
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    for tensor in (*inputs, *outputs):
        if tensor.dtype != trt.DataType.FLOAT:
            raise ModelError(
                f'{tensor.name!r}: got {tensor.dtype}, expected float32; keep the inputs and '
                'outputs of the file in float32'
            )

    # How it shall be built
    config = builder.create_builder_config()
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, _WORKSPACE_BYTES)
    for flag in typing.flags:
        config.set_flag(getattr(trt.BuilderFlag, flag))
    cache = config.create_timing_cache(timing)
    if cache is not None and not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b''), False)
    for shapes in variants:
        profile = builder.create_optimization_profile()
        for tensor in inputs:
            _check_fits(tensor.name, tuple(tensor.shape), shapes)
            try:
                profile.set_shape(tensor.name, *[shapes[tensor.name]] * 3)
            except ValueError as error:
                raise ModelError(f'TensorRT refuses the shapes {dict(shapes)}: {error}') from error
        if config.add_optimization_profile(profile) < 0:
            raise ModelError(f'TensorRT refuses the shapes {dict(shapes)}: {logger.text()}')
    monitor = _make_monitor(trt, on_phase)
    if monitor is not None:
        config.progress_monitor = monitor

    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise ModelError(f'TensorRT cannot build it: {logger.text()}')
    learned = config.get_timing_cache()
    return Built(
        bytes(serialized),
        typing.precision,
        {tensor.name: tuple(tensor.shape) for tensor in inputs},
        {tensor.name: tuple(tensor.shape) for tensor in outputs},
        b'' if learned is None else bytes(learned.serialize()),
    )


def make_logger(trt: Any) -> Any:
    """
    Return a logger that remembers the last errors; it must outlive what it is given to.

    :param trt: the module tensorrt.
    """

    class Logger(trt.ILogger):  # type: ignore[misc]
        """Keep errors for the text of exceptions; TensorRT itself returns None or False."""

        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.errors: deque[str] = deque(maxlen=8)

        def log(self, severity: Any, message: str) -> None:
            """Take a message."""
            if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
                self.errors.append(message)

        def text(self) -> str:
            """Return the errors since the last call."""
            text = '; '.join(self.errors) or 'it does not say why'
            self.errors.clear()
            return text

    return Logger()


def _load_plugins(trt: Any, logger: Any) -> None:
    """Let TensorRT use its own plugins: the parser of 8 needs them for instance norms."""
    if hasattr(trt, 'init_libnvinfer_plugins'):
        trt.init_libnvinfer_plugins(logger, '')


def _make_monitor(trt: Any, on_phase: Callable[[str], None] | None) -> Any:
    if on_phase is None or not hasattr(trt, 'IProgressMonitor'):
        return None
    tell = on_phase

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        """Tell of each phase that begins."""

        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)

        def phase_start(self, name: str, parent: str | None, steps: int) -> None:
            """Tell it."""
            tell(name)

        def phase_finish(self, name: str) -> None:
            """Say nothing."""

        def step_complete(self, name: str, step: int) -> bool:
            """Let it go on."""
            return True

    return Monitor()


def _check_fits(name: str, shape: Shape, shapes: Shapes) -> None:
    got = shapes.get(name, ())
    fits = len(got) == len(shape) and all(
        want in (-1, n) for n, want in zip(got, shape, strict=True)
    )
    if not fits:
        raise ModelError(f'input {name!r}: got the shape {got} to build for, expected {shape}')


def target_of(trt: Any, gpu: Gpu) -> dict[str, str]:
    """Return what an engine is bound to beside its network."""
    return {
        'tensorrt': str(trt.__version__),
        'gpu': gpu.name,
        'compute_capability': gpu.compute_capability,
    }


def engine_facts(file: ModelFile, target: Mapping[str, str]) -> dict[str, str]:
    """Return the facts by which the cache knows the engine of an ONNX file."""
    return {'onnx_sha256': file.sha256, **target}


class TrtBackend(Backend):
    """
    Run an engine from the cache.

    Each variant, one set of fixed shapes, has its own context, memory and CUDA graph. A batch runs
    in the smallest variant that holds it, padded with zeros.

    :param file: the ONNX file that the engine was built from.
    :param cache: None takes the user's own.
    :raises MissingError: no engine was built for this file on this machine.
    :raises ModelError: the engine is not to be trusted, or does not run here.
    """

    name = 'tensorrt'

    def __init__(self, file: ModelFile, *, cache: EngineCache | None = None) -> None:
        path = self.path = file.path
        self._trt = trt = import_tensorrt()
        self._gpu = gpu = Gpu()
        self._cache = cache or EngineCache()
        try:
            data, facts = _load(self._cache, file, target_of(trt, gpu))
        except ModelError:
            gpu.close()
            raise
        self._logger = make_logger(trt)
        with gpu.current():
            _load_plugins(trt, self._logger)
            runtime = self._runtime = trt.Runtime(self._logger)
            engine = self._engine = runtime and runtime.deserialize_cuda_engine(data)
            if engine is None:
                raise ModelError(
                    f'{path}: TensorRT cannot load its engine: {self._logger.text()}; {BUILD}'
                )
            self._shapes = _checked_shapes(trt, engine, facts, path)
            self.inputs = tuple(TensorSpec(k, tuple(v)) for k, v in facts['inputs'].items())
            self.outputs = tuple(TensorSpec(k, tuple(v)) for k, v in facts['outputs'].items())
            self._variants = [self._make_variant(i) for i in range(len(self._shapes))]
        notes = (f'TensorRT {trt.__version__}', str(facts['precision']))
        self.device = Device('tensorrt', gpu.name, notes)

    def infer_impl(self, feeds: Tensors) -> dict[str, NDArray[np.float32]]:
        """Run the engine, in several goes where there is no variant that takes all."""
        n = len(next(iter(feeds.values())))
        variant = self._variant_for(feeds, n)
        if n > variant.batch:
            parts = [
                self.infer_impl({k: v[i : i + variant.batch] for k, v in feeds.items()})
                for i in range(0, n, variant.batch)
            ]
            return {k: np.concatenate([part[k] for part in parts]) for k in parts[0]}
        with self._gpu.current():
            return variant.infer(feeds)

    def on_gpu(self) -> OnGpu:
        """Return how each variant runs within the GPU's own memory."""
        return OnGpu(
            self._gpu,
            {variant.batch: variant.enqueue for variant in self._variants},
            {variant.batch: variant.output_shapes for variant in self._variants},
        )

    def close(self) -> None:
        """Give the memory back, in the order that TensorRT wants."""
        with self._gpu.current():
            for variant in self._variants:
                variant.close()
            self._variants = []
            self._engine = None
            self._runtime = None
        self._gpu.close()

    def _make_variant(self, index: int) -> _Variant:
        context = self._engine.create_execution_context()
        if context is None:
            raise ModelError(
                f'{self.path}: no memory for variant {self._shapes[index]}: '
                f'{self._logger.text()}; {BUILD} with a smaller --batch or --size'
            )
        return _Variant(self._gpu, context, index, self._shapes[index], self.outputs, self._logger)

    def _variant_for(self, feeds: Tensors, n: int) -> _Variant:
        wanted = {name: feed.shape[1:] for name, feed in feeds.items()}
        fitting = [
            variant
            for variant in self._variants
            if wanted == {name: shape[1:] for name, shape in variant.shapes.items()}
        ]
        if not fitting:
            raise ModelError(
                f'{self.path}: got the shapes {wanted}, expected one of '
                f'{[dict(shapes) for shapes in self._shapes]}, which the engine was built for; '
                f'{BUILD} with --size WIDTHxHEIGHT of this camera'
            )
        largest = max(fitting, key=lambda variant: variant.batch)
        holding = [variant for variant in fitting if variant.batch >= n]
        return min(holding, key=lambda variant: variant.batch, default=largest)


class _Variant:
    """
    Hold the context of one set of fixed shapes.

    :param batch: faces or frames that it takes at once.
    :param output_shapes: of each output.
    """

    def __init__(
        self,
        gpu: Gpu,
        context: Any,
        index: int,
        shapes: Shapes,
        outputs: tuple[TensorSpec, ...],
        logger: Any,
    ) -> None:
        self._gpu = gpu
        self._context = context
        self._logger = logger
        self.shapes = shapes
        self.batch = next(iter(shapes.values()))[0]
        self._memory: dict[str, Shared] = {}
        self._recorded = Recorded(gpu, self._run)
        if not context.set_optimization_profile_async(index, gpu.stream.handle):
            raise ModelError(f'TensorRT refuses variant {dict(shapes)}: {logger.text()}')
        gpu.stream.synchronize()
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise ModelError(f'TensorRT refuses {name} {shape}: {logger.text()}')
        self.output_shapes = {
            spec.name: tuple(context.get_tensor_shape(spec.name)) for spec in outputs
        }
        if any(size < 0 for shape in self.output_shapes.values() for size in shape):
            raise ModelError(f'got outputs of shapes {self.output_shapes}, expected fixed ones')

    def infer(self, feeds: Tensors) -> dict[str, NDArray[np.float32]]:
        """Copy in, run, copy out."""
        n = len(next(iter(feeds.values())))
        self._gpu.stream.synchronize()  # a run that failed may still be under way
        if not self._memory:
            for name, shape in {**self.shapes, **self.output_shapes}.items():
                self._memory[name] = Shared(self._gpu, int(np.prod(shape)) * 4)
        for name, feed in feeds.items():
            host = self._host(name, self.shapes[name])
            host[:n] = feed
            host[n:] = 0
        self._recorded.run()
        self._gpu.stream.synchronize()
        results = {}
        for name, shape in self.output_shapes.items():
            host = self._host(name, shape)
            results[name] = np.array(host[:n] if shape[0] == self.batch else host)
        return results

    def enqueue(self, addresses: Mapping[str, int]) -> None:
        """
        Put one run on the stream.

        :param addresses: of every input and output on the GPU.
        :raises ModelError: TensorRT refuses.
        """
        for name, address in addresses.items():
            self._context.set_tensor_address(name, address)
        if not self._context.execute_async_v3(self._gpu.stream.handle):
            raise ModelError(f'{self._gpu.name}: TensorRT failed: {self._logger.text()}')

    def close(self) -> None:
        """Give the memory back, the context last."""
        self._recorded.close()
        for memory in self._memory.values():
            memory.close()
        self._context = None

    def _run(self) -> None:
        for name in self.shapes:
            self._memory[name].upload(len(self._memory[name].host))
        self.enqueue({name: memory.pointer for name, memory in self._memory.items()})
        for name in self.output_shapes:
            self._memory[name].download(len(self._memory[name].host))

    def _host(self, name: str, shape: Shape) -> NDArray[np.float32]:
        return self._memory[name].host.view(np.float32).reshape(shape)


def load(file: ModelFile, *, device: str, threads: int, concurrency: int) -> TrtBackend:
    """
    Open the engine of an ONNX file.

    :raises ModelError: TensorRT, the GPU or the engine is missing, or not to be trusted.
    """
    return TrtBackend(file)


def load_if_built(file: ModelFile) -> TrtBackend | str:
    """
    Open the engine of an ONNX file where there is one; else return why there is none.

    :raises ModelError: an engine lies ready and does not run, or is not to be trusted.
    """
    reason = missing_gpu()
    if reason:
        return reason
    try:
        import_tensorrt()
        import_pycuda()
    except ModelError as error:
        return str(error)
    try:
        return TrtBackend(file)
    except MissingError as error:
        return str(error)


def _load(
    cache: EngineCache, file: ModelFile, target: Mapping[str, str]
) -> tuple[bytes, dict[str, Any]]:
    wanted, path = engine_facts(file, target), file.path
    try:
        data, facts = cache.load(name_of(wanted, '.engine'), wanted)
    except MissingError as error:
        others = [
            ', '.join(str(other.get(key)) for key in target)
            for other in cache.facts_of_all(wanted['onnx_sha256'][:16])
        ]
        found = f'engines for {others}' if others else 'no engine'
        raise MissingError(
            f'{path}: got {found}, expected one for {", ".join(target.values())}; '
            f'{BUILD} --model {path}'
        ) from error
    if not facts.keys() >= ENGINE_KEYS:
        raise ModelError(f'{path}: the JSON beside its engine lacks facts; {BUILD}')
    return data, facts


def _checked_shapes(
    trt: Any, engine: Any, facts: Mapping[str, Any], path: Path
) -> list[dict[str, Shape]]:
    """Return the variants, after comparing the facts with the engine itself."""
    names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
    inputs = {n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT}
    variants = [
        {name: tuple(shape) for name, shape in variant.items()} for variant in facts['variants']
    ]
    same = (
        inputs == set(facts['inputs'])
        and set(names) - inputs == set(facts['outputs'])
        and all(engine.get_tensor_dtype(name) == trt.DataType.FLOAT for name in names)
        and engine.num_optimization_profiles == len(variants)
    )
    for i, variant in enumerate(variants if same else []):
        for name, shape in variant.items():
            fixed = tuple(engine.get_tensor_shape(name))
            profile = engine.get_tensor_profile_shape(name, i) if -1 in fixed else [fixed] * 3
            same = same and [tuple(part) for part in profile] == [shape] * 3
    if not same:
        raise ModelError(f'{path}: its engine is not what the JSON beside it says; {BUILD}')
    return variants
