"""Ways to run a model: each gives its logits, or says what it lacks."""

import builtins
from types import SimpleNamespace

import pytest
import torch
from torch._dynamo.exc import TorchDynamoException
from transformers import AutoModelForSequenceClassification

from benchmarks.timing import NotRun
from benchmarks.variants import VARIANTS, Runnable, check_answer, prepare

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def folder(tiny_store):
    return tiny_store.store.model_dir(tiny_store.teacher)


@pytest.fixture(scope="module")
def batch():
    """Five texts of eleven tokens, of which the second has five."""
    input_ids = torch.randint(32, (5, 11), generator=torch.Generator().manual_seed(0))
    mask = torch.ones_like(input_ids)
    mask[1, 5:] = 0
    return {"input_ids": input_ids, "attention_mask": mask}


@pytest.fixture(scope="module")
def expected(folder, batch):
    model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float64).eval()
    with torch.inference_mode():
        return model(**batch).logits


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "compiled"])  # which takes half a minute
def test_every_variant_answers_as_the_reference_up_to_its_precision(folder, batch, expected, name):
    runnable = prepare(name, folder, CPU)
    if isinstance(runnable, NotRun):
        pytest.skip(runnable.reason)
    check_answer(runnable.predict(batch), expected, VARIANTS[name].tolerance)
    for wrong in (runnable.predict(batch).flip(1), 0.6 * runnable.predict(batch)):
        with pytest.raises(AssertionError, match="differ from the reference"):
            check_answer(wrong, expected, VARIANTS[name].tolerance)


@pytest.mark.parametrize("name", ["float32", "bfloat16"])
def test_a_model_without_one_of_its_layers_is_found_out(folder, batch, expected, name):
    model = AutoModelForSequenceClassification.from_pretrained(folder).eval()
    del model.bert.encoder.layer[1]
    runnable = VARIANTS[name].prepare(model, CPU)
    with pytest.raises(AssertionError, match="differ from the reference"):
        check_answer(runnable.predict(batch), expected, VARIANTS[name].tolerance)


def test_a_logit_that_is_no_number_fails(expected):
    broken = expected.clone()
    broken[3, 1] = torch.nan
    with pytest.raises(AssertionError, match="not finite"):
        check_answer(broken, expected, 0.5)


def test_sizes_are_those_of_the_weights(folder):
    whole, half = (prepare(name, folder, CPU) for name in ("float32", "bfloat16"))
    model = AutoModelForSequenceClassification.from_pretrained(folder)
    assert whole.size_bytes == 4 * sum(weight.numel() for weight in model.state_dict().values())
    assert half.size_bytes == whole.size_bytes / 2


def test_what_cannot_run_says_why(folder, monkeypatch):
    reason = VARIANTS["int8"].prepare(AutoModelForSequenceClassification.from_pretrained(folder), torch.device("cuda"))
    assert reason == NotRun("PyTorch's dynamic int8 runs on the processor only")
    real_import = builtins.__import__

    def without_onnx(name, *args, **kwargs):
        if name == "onnxruntime":
            raise ImportError(name)
        return real_import(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_onnx)
    found = prepare("onnx", folder, CPU)
    assert isinstance(found, NotRun) and "pip install 'mixkd[onnx]'" in found.reason


def test_an_exporter_that_lacks_something_says_what(folder, monkeypatch):
    exporters = pytest.importorskip("transformers.exporters")
    pytest.importorskip("onnxruntime")

    def fail(*args, **kwargs):
        raise ImportError("To use OnnxExporter, please install onnxscript\nas follows")

    monkeypatch.setattr(exporters.OnnxExporter, "export", fail)
    expected = (
        "ONNX Runtime is not installed: pip install 'mixkd[onnx]' (To use OnnxExporter, please install onnxscript)"
    )
    assert prepare("onnx", folder, CPU) == NotRun(expected)


def test_a_pytorch_without_int8_says_so(folder, monkeypatch):
    monkeypatch.setattr(torch.backends, "quantized", SimpleNamespace(engine="none"))
    assert prepare("int8", folder, CPU) == NotRun("this build of PyTorch has no engine for int8")
    monkeypatch.delattr(torch.ao.quantization, "quantize_dynamic")
    assert prepare("int8", folder, CPU) == NotRun("this version of PyTorch has no dynamic int8 any more")


def test_a_compiled_model_is_the_same_model(folder, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda model, **_: model)
    assert isinstance(prepare("compiled", folder, CPU), Runnable)


def test_without_a_compiler_there_is_no_compiled_model(folder, monkeypatch):
    def fail(**batch):
        raise TorchDynamoException("InvalidCxxCompiler: no working C++ compiler\nin ...")

    monkeypatch.setattr(torch, "compile", lambda model, **_: fail)
    expected = NotRun("torch.compile cannot compile it here: InvalidCxxCompiler: no working C++ compiler")
    assert prepare("compiled", folder, CPU) == expected
