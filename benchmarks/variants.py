"""Ways to run a finished model: as it is, in fewer bits, compiled, or in ONNX Runtime."""

import io
import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException
from torch.export import Dim
from transformers import PreTrainedModel

from benchmarks.subjects import load_as_measured
from benchmarks.timing import NotRun
from mixkd.forward import compiler_error

MISSING_ONNX = "ONNX Runtime is not installed: pip install 'mixkd[onnx]'"
#: A batch (input_ids, attention_mask, ...: shape (batch_size, length)) -> logits, shape (batch_size, num_classes).
Predict = Callable[[Mapping[str, Tensor]], Tensor]


class Runnable(NamedTuple):
    """A model that is ready to answer.

    Attributes:
        predict: Its answer, when it is there: on a GPU, synchronised.
        size_bytes: Of its weights on disk in this format; None where there is no format without pickle.
    """

    predict: Predict
    size_bytes: int | None


@dataclass(frozen=True)
class Variant:
    """A way to run a model.

    Attributes:
        dtype: Of the numbers that its matrix products multiply.
        tolerance: Largest root-mean-square difference of the logits from the float64 reference's, in units of their
            own root-mean-square. Eight bits lose up to 0.22 on MiniLM, a sixth on average: a layer that is missing, or
            logits that are scaled, stand out; an ignored mask (0.2 to 0.3) only where nothing is quantised.
        prepare: Makes a loaded float32 model ready, on a device.
    """

    dtype: str
    tolerance: float
    prepare: Callable[[PreTrainedModel, torch.device], Runnable | NotRun]


def prepare(name: str, folder: Path, device: torch.device) -> Runnable | NotRun:
    """A checkpoint, ready to run in a way of `VARIANTS`; or why it cannot."""
    return VARIANTS[name].prepare(load_as_measured(folder), device)


def check_answer(logits: Tensor, expected: Tensor, tolerance: float) -> None:
    """Check that logits are what the reference says, up to the precision.

    Args:
        logits: Shape (batch_size, num_classes).
        expected: The reference's, in float64, same shape.
        tolerance: See `Variant`.

    Raises:
        AssertionError: If a logit is not finite, or they are too far off.
    """
    logits, expected = logits.double().cpu(), expected.double().cpu()
    assert torch.isfinite(logits).all(), "the model's logits are not finite"
    error = float((logits - expected).square().mean().sqrt() / expected.square().mean().sqrt())
    assert error <= tolerance, f"the logits differ from the reference's by {error:.2g} of their size, not {tolerance:g}"


def _as_it_is(model: PreTrainedModel, device: torch.device) -> Runnable:
    return _torch(model.to(device), device, sum(_bytes(weight) for weight in model.state_dict().values()))


def _bfloat16(model: PreTrainedModel, device: torch.device) -> Runnable:
    return _as_it_is(model.to(torch.bfloat16), device)


def _compiled(model: PreTrainedModel, device: torch.device) -> Runnable | NotRun:
    whole = _as_it_is(model, device)
    compiled = _torch(torch.compile(model, dynamic=True), device, whole.size_bytes)
    try:
        compiled.predict({name: tensor.to(device) for name, tensor in _example().items()})  # asks the compiler
    except TorchDynamoException as error:
        return NotRun(f"torch.compile cannot compile it here: {compiler_error(error)}")
    return compiled


def _int8(model: PreTrainedModel, device: torch.device) -> Runnable | NotRun:
    """Weights of linear layers in 8 bits, activations quantised at run time, by PyTorch's own dynamic quantisation.

    PyTorch will remove it in favour of torchao, which today is fast on a processor only after `torch.compile`.
    """
    if device.type != "cpu":
        return NotRun("PyTorch's dynamic int8 runs on the processor only")
    if not hasattr(torch.ao.quantization, "quantize_dynamic"):
        return NotRun("this version of PyTorch has no dynamic int8 any more")
    if torch.backends.quantized.engine == "none":
        return NotRun("this build of PyTorch has no engine for int8")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of its removal
        quantised = torch.ao.quantization.quantize_dynamic(model, {torch.nn.Linear}, dtype=torch.qint8)
    return _torch(quantised, device, None)


def _onnx(model: PreTrainedModel, device: torch.device) -> Runnable | NotRun:
    return _onnx_runtime(model, device, is_int8=False)


def _onnx_int8(model: PreTrainedModel, device: torch.device) -> Runnable | NotRun:
    return _onnx_runtime(model, device, is_int8=True)


def _onnx_runtime(model: PreTrainedModel, device: torch.device, is_int8: bool) -> Runnable | NotRun:
    """Exported by transformers with the fusions for the processor, on as many threads as torch has."""
    try:
        import onnxruntime
        from transformers.exporters import (
            OnnxConfig,
            OnnxExporter,
            OnnxRuntimeDynamicConfig,
            OnnxRuntimeQuantizer,
        )
    except ImportError:
        return NotRun(MISSING_ONNX)
    is_gpu = device.type == "cuda"
    if is_gpu and "CUDAExecutionProvider" not in onnxruntime.get_available_providers():
        return NotRun("this build of ONNX Runtime has no CUDA: pip install onnxruntime-gpu")
    batch = _example()
    config = OnnxConfig(
        dynamic=True,
        dynamic_shapes={name: {0: Dim.DYNAMIC, 1: Dim.DYNAMIC} for name in batch},
        ort_fusions="cuda" if is_gpu else "cpu",
        quantizer=OnnxRuntimeQuantizer(OnnxRuntimeDynamicConfig()) if is_int8 else None,
    )
    try:
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):  # progress, names of untested versions
            exported = OnnxExporter().export(model, batch, config=config)
    except ImportError as error:  # what it needs beside
        return NotRun(f"{MISSING_ONNX} ({str(error).splitlines()[0]})")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    with tempfile.TemporaryDirectory() as folder:
        exported.save_pretrained(folder)
        size_bytes = sum(path.stat().st_size for path in Path(folder).glob("*.onnx*"))
        provider = "CUDAExecutionProvider" if is_gpu else "CPUExecutionProvider"
        session = onnxruntime.InferenceSession(str(Path(folder) / "model.onnx"), options, providers=[provider])
    if provider not in session.get_providers():  # it goes on without
        return NotRun("ONNX Runtime finds no CUDA that it can use")
    names = [spec.name for spec in session.get_inputs()]

    def predict(batch: Mapping[str, Tensor]) -> Tensor:
        feed = {name: batch[name].cpu().numpy() for name in names}
        return torch.from_numpy(session.run(["logits"], feed)[0])

    return Runnable(predict, size_bytes)


def _example() -> dict[str, Tensor]:
    """Two texts, as a dimension of one would be taken for a constant; one is shorter, or there would be no mask."""
    input_ids, attention_mask = torch.ones((2, 8), dtype=torch.long), torch.tensor([[1] * 8, [1] * 5 + [0] * 3])
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def _torch(model: Callable[..., object], device: torch.device, size_bytes: int | None) -> Runnable:
    @torch.inference_mode()
    def predict(batch: Mapping[str, Tensor]) -> Tensor:
        logits: Tensor = model(**batch).logits  # type: ignore[attr-defined]
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return logits

    return Runnable(predict, size_bytes)


def _bytes(weight: Tensor) -> int:
    return weight.numel() * weight.element_size()


VARIANTS: dict[str, Variant] = {
    "float32": Variant("float32", 1e-4, _as_it_is),
    "bfloat16": Variant("bfloat16", 0.02, _bfloat16),
    "compiled": Variant("float32", 1e-4, _compiled),
    "int8": Variant("int8", 0.35, _int8),
    "onnx": Variant("float32", 1e-3, _onnx),
    "onnx-int8": Variant("int8", 0.35, _onnx_int8),
}
