"""Runs an exported network on the CPU, by ONNX Runtime or OpenVINO, on patches of one size."""

import importlib
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, TypeAlias

import numpy as np

from nnunetv2_cafr.errors import UserError

# From patches (1, c, *patch_size) to their logits (1, heads, *patch_size), in order, float32. Logits are only valid
# until the next ones are asked for.
Network: TypeAlias = Callable[[Iterable[np.ndarray]], Iterator[np.ndarray]]

RUNTIMES = ("onnx", "openvino")
PRECISIONS = ("float32", "bf16")
TOLERANCES = {"float32": 1e-3, "bf16": 0.1}  # of probed logits, as a share of the largest; ours
PROBES = 500
AXES = {2: ("height", "width"), 3: ("depth", "height", "width")}


def import_extra(name: str) -> ModuleType:
    """A package of the extra `export`.

    Raises:
        UserError: if it is not installed; says how to install it.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise UserError(f"{name} is not installed here ({error}): pip install 'nnunetv2-cafr[export]'") from error


def probe_patch(channels: int, patch_size: Sequence[int]) -> np.ndarray:
    """A patch (1, channels, *patch_size) that is the same everywhere; its logits tell whether a runtime is right."""
    shape = (1, channels, *patch_size)
    return np.sin(np.arange(np.prod(shape))).reshape(shape).astype(np.float32)


def probe_values(logits: np.ndarray) -> np.ndarray:
    """A few hundred of the logits, from everywhere in the patch."""
    return logits.ravel()[:: max(1, logits.size // PROBES)]


def load_network(
    model: Path, runtime: str, precision: str, probe: Sequence[float], shape: Sequence[int], threads: int
) -> Network:
    """The network of an ONNX file, compiled for patches (1, *shape).

    Args:
        probe: what PyTorch made of `probe_patch`.

    Raises:
        UserError: if the runtime is not installed, cannot compute in this precision here, or computes wrongly.
    """
    if runtime == "openvino":
        network = _load_openvino(model, precision, shape, threads)
    elif precision == "float32":
        network = _load_onnxruntime(model, shape[1:], threads)
    else:
        raise UserError(f"ONNX Runtime has no {precision} kernels for CPUs: use --runtime openvino")
    found = probe_values(next(network([probe_patch(shape[0], shape[1:])])))
    error, largest = np.abs(found - probe).max(), np.abs(probe).max()
    if not error <= TOLERANCES[precision] * max(1.0, largest):
        raise UserError(
            f"{runtime} computes something else from {model} than PyTorch did (error of {error:.2g} in logits up to "
            f"{largest:.3g}, {precision}), so nothing was predicted: use another --runtime or --precision"
        )
    return network


def _load_onnxruntime(model: Path, patch_size: Sequence[int], threads: int) -> Network:
    onnxruntime = import_extra("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 3
    for name, size in zip(("batch", *AXES[len(patch_size)]), (1, *patch_size), strict=True):
        options.add_free_dimension_override_by_name(name, size)
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])

    def run(patches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        for patch in patches:
            yield session.run(None, {"image": patch})[0]

    return run


def has_bfloat16() -> bool:
    """Whether openvino knows bfloat16 instructions of this CPU."""
    return "BF16" in import_extra("openvino").Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _load_openvino(model: Path, precision: str, shape: Sequence[int], threads: int) -> Network:
    openvino = import_extra("openvino")
    core = openvino.Core()
    if precision == "bf16" and not has_bfloat16():
        raise UserError("This CPU has no bfloat16 instructions (AVX512-BF16 or AMX): use --precision float32")
    network = core.read_model(model)
    network.reshape([1, *shape])
    # OpenVINO 2026.4 was seen to confuse heads and tokens of attention where there are as many of one as of the other,
    # without a word, but not with a free batch, which takes twice the memory and a little more time.
    attention = [node.get_output_partial_shape(0) for node in network.get_ops() if node.get_type_name() == "Softmax"]
    if any(of.is_dynamic or (len(of) == 4 and of[1] == of[2]) for of in attention):
        network.reshape([-1, *shape])
    # Several patches at once, each on few cores, take less time than one after the other on all cores.
    settings = {
        "PERFORMANCE_HINT": "THROUGHPUT",
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bf16": "bf16"}[precision],
        "INFERENCE_NUM_THREADS": threads,
    }
    compiled = core.compile_model(network, "CPU", settings)
    count = compiled.get_property("OPTIMAL_NUMBER_OF_INFER_REQUESTS")
    requests = [compiled.create_infer_request() for _ in range(count)]

    def run(patches: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        idle, busy = deque(requests), deque[Any]()
        try:
            for patch in patches:
                if not idle:
                    busy[0].wait()
                    yield busy[0].get_output_tensor().data
                    idle.append(busy.popleft())
                busy.append(idle.popleft())
                busy[-1].start_async({"image": patch})
            for request in busy:
                request.wait()
                yield request.get_output_tensor().data
        finally:  # whoever asked may have stopped half-way, by an error
            for request in busy:
                request.wait()

    return run
