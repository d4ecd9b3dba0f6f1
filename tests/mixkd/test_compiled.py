"""A compiled model computes and draws what it does uncompiled, through torch's tracer but not its C++ compiler."""

import copy

import pytest
import torch
from tiny_models import ARCHITECTURES, tiny_classifier
from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException
from torch._dynamo.testing import CompileCounterWithBackend
from torch._inductor.compile_worker.subproc_pool import SubprocException
from torch._inductor.exc import InductorError

from mixkd import training
from mixkd.cpu import use_cheap_dropout
from mixkd.forward import compiled, first_token_only
from mixkd.runs import run
from mixkd.store import UserError


@pytest.fixture
def tracer(monkeypatch):
    """Counts the graphs that are made, which run as they are traced."""
    torch._dynamo.reset()
    counter = CompileCounterWithBackend("eager")
    asked = []

    def compile_quickly(model, *, dynamic, options, real=torch.compile):
        asked.append((dynamic, options))
        return real(model, dynamic=dynamic, backend=counter)

    monkeypatch.setattr(torch, "compile", compile_quickly)
    yield counter
    assert set(map(str, asked)) == {"(True, {'fallback_random': True})"}
    torch._dynamo.reset()


def gradients_of_batches(model):
    """Logits and gradients of batches of several sizes and lengths, with dropout, and the length of the last states."""
    torch.manual_seed(0)
    found = []
    for num_texts, length in ((4, 9), (5, 12), (3, 7)):
        ids = torch.randint(3, 32, (num_texts, length))
        mask = (torch.arange(length) < torch.arange(2, 2 + num_texts)[:, None]).long()
        model.zero_grad()
        outputs = model(input_ids=ids, attention_mask=mask, output_hidden_states=True)
        (outputs.logits**2).sum().backward()
        found += [outputs.logits.detach(), *(p.grad for p in model.parameters() if p.grad is not None)]
    return found, outputs.hidden_states[-1].shape[1]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_a_compiled_model_computes_and_draws_the_same_in_one_graph(architecture, tracer):
    dropout = {"bert": "hidden_dropout_prob", "roberta": "hidden_dropout_prob", "distilbert": "dropout"}[architecture]
    plain = tiny_classifier(architecture, **{dropout: 0.2}).train()
    model = copy.deepcopy(plain)  # which was never asked
    with first_token_only(plain), first_token_only(model):
        expected, length = gradients_of_batches(plain)
        assert tracer.frame_count == 0
        with compiled(model, None):
            found, traced_length = gradients_of_batches(model)
        assert tracer.frame_count == 1  # whatever the batches' shapes
        again, _ = gradients_of_batches(model)
    assert tracer.frame_count == 1 and length == traced_length == (7 if architecture == "distilbert" else 1)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert all(map(torch.equal, again, expected))  # and it is undone


@torch._dynamo.config.patch(recompile_limit=2)  # graphs that torch keeps of a function
def test_however_many_models_are_compiled_one_after_another_all_are(tracer):
    for number in range(1, 4):
        model = tiny_classifier("bert", 1, hidden_size=8 * number)
        with compiled(model):
            gradients_of_batches(model)
        assert tracer.frame_count == number


def test_the_dropout_of_a_processor_is_drawn_the_same(tracer):
    model = tiny_classifier("bert", 1, hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2).train()
    use_cheap_dropout(model)
    expected, _ = gradients_of_batches(model)
    with compiled(model):
        found, _ = gradients_of_batches(model)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    assert tracer.frame_count > 1


def test_a_run_that_is_compiled_is_the_same_run(experiment, tmp_path, vader_folder, tracer, monkeypatch):
    """As on a GPU, without a processor's dropout, which torch cannot trace."""
    monkeypatch.setattr(training, "use_cheap_dropout", lambda model: None)
    done, options = experiment(recipe="sm+tmkd"), {"data_dir": vader_folder}
    plain = run(done, tmp_path / "store", **options)
    assert tracer.frame_count == 0
    fast = run(done, tmp_path / "store", **options, force=True, torch_compile=True)
    assert tracer.frame_count == 2  # student and teacher
    for one, other in zip(fast.history, plain.history, strict=True):
        assert one == pytest.approx(other, rel=1e-3)
    assert fast.measurements == pytest.approx(plain.measurements, rel=0.02)


def fail_to_compile(monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(torch, "compile", lambda *args, **_: fail)


NO_COMPILER = "RuntimeError: Failed to find C compiler. Please specify via CC environment variable."


@pytest.mark.parametrize(
    "error",
    [
        TorchDynamoException(f"{NO_COMPILER}\nin ...\n\nSet TORCHDYNAMO_VERBOSE=1 for more"),
        InductorError(RuntimeError(NO_COMPILER.partition(": ")[2]), None),
        InductorError(SubprocException(f"Traceback (most recent call last):\n  File x, line 1\n{NO_COMPILER}\n"), None),
        BackendCompilerFailed(print, RuntimeError(NO_COMPILER.partition(": ")[2]), None),
    ],
    ids=["dynamo", "inductor", "worker", "backend"],
)
def test_without_a_compiler_a_run_says_so(experiment, tmp_path, vader_folder, monkeypatch, error):
    fail_to_compile(monkeypatch, error)
    message = (
        "cannot compile the model here: RuntimeError: Failed to find C compiler[^:]*variable. Leave torch_compile out"
    )
    with pytest.raises(UserError, match=message):
        run(experiment(), tmp_path / "store", data_dir=vader_folder, torch_compile=True)


def test_too_little_memory_for_compiling_is_too_little_memory(experiment, tmp_path, vader_folder, monkeypatch):
    fail_to_compile(monkeypatch, InductorError(torch.OutOfMemoryError("CUDA out of memory"), None))
    with pytest.raises(UserError, match="ran out of memory in .* --gradient_accumulation_steps"):
        run(experiment(), tmp_path / "store", data_dir=vader_folder, torch_compile=True)


def test_what_is_mixed_inside_the_network_is_not_compiled(experiment, tmp_path, vader_folder):
    with pytest.raises(UserError, match="torch_compile does not see what is mixed at level 1"):
        run(experiment(recipe="sm+tmkd", level=1), tmp_path / "store", data_dir=vader_folder, torch_compile=True)
    assert not (tmp_path / "store" / "runs").exists()  # nor was the teacher trained


@pytest.mark.gpu
def test_a_compiled_model_computes_and_draws_the_same_on_a_gpu():
    """By torch's own compiler; with padding, so that attention is the same kernel's."""
    model = tiny_classifier("bert", hidden_dropout_prob=0.2, attention_probs_dropout_prob=0.2).train().cuda()
    with torch.device("cuda"), first_token_only(model):
        expected, _ = gradients_of_batches(model)
        with compiled(model):
            found, _ = gradients_of_batches(model)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)
