"""Operations of a training step, against a closed form that shares no code with the counter."""

from contextlib import contextmanager

import pytest
import torch
from torch._dynamo.testing import CompileCounterWithBackend
from transformers import BertConfig

from benchmarks import utilisation
from benchmarks.utilisation import Steps, matmul_ceiling

CONFIG = BertConfig(
    vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=4, num_attention_heads=2,
    max_position_embeddings=32, num_labels=2,
)  # fmt: skip
CPU = torch.device("cpu")


def forward_flops(num_layers, length):
    """One text, with the last layer's work after attention on its first token alone."""
    h, i = 16, 24
    keys_and_values, attention = 4 * length * h**2, 4 * length**2 * h
    per_token = 4 * h**2 + 4 * h * i  # query, output; feed-forward
    full = keys_and_values + attention + length * per_token
    last = keys_and_values + 2 * length * h**2 + attention + (2 * h**2 + 4 * h * i)
    return (num_layers - 1) * full + last + 2 * h**2 + 2 * 2 * h


@pytest.mark.parametrize("num_layers", [2, 3])
def test_operations_of_a_step_are_those_of_the_closed_form(num_layers, tmp_path):
    batch_size, length = 8, 12
    counted = {
        name: Steps(name, CONFIG, num_layers, batch_size, length, CPU, tmp_path, bf16=False).count_flops()
        for name in ("kd", "sm+tmkd")
    }
    student = 3 * batch_size * forward_flops(num_layers, length)
    teacher = batch_size * forward_flops(4, length)
    assert counted["kd"] == pytest.approx(student, rel=0.02)
    assert counted["sm+tmkd"] == pytest.approx(2 * student + teacher, rel=0.02)


def test_every_step_is_timed_after_the_warm_up(tmp_path):
    steps = Steps("sm+tmkd", CONFIG, 2, 4, 8, CPU, tmp_path, bf16=False)
    for num_steps in (3, 7):
        seconds = steps.seconds(num_steps)
        assert len(seconds) == num_steps and all(0 < second < 10 for second in seconds)


def test_only_what_is_timed_is_compiled(tmp_path, monkeypatch):
    graphs = CompileCounterWithBackend("eager")

    def compile_quickly(call, *, real=torch.compile, **_):
        return real(call, dynamic=True, backend=graphs)

    monkeypatch.setattr(torch, "compile", compile_quickly)
    monkeypatch.setattr(utilisation, "use_cheap_dropout", lambda model: None)  # which makes many graphs of one
    steps = Steps("sm+tmkd", CONFIG, 2, 4, 8, CPU, tmp_path, bf16=False, torch_compile=True)
    assert steps.count_flops() and not graphs.frame_count  # the counter does not see into what is compiled
    assert len(steps.seconds(3)) == 3 and graphs.frame_count == 3  # student and teacher, and the check


def test_a_training_that_should_be_compiled_and_is_not_is_no_measurement(tmp_path, monkeypatch):
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)
    with pytest.raises(AssertionError, match="nothing was compiled"):
        Steps("kd", CONFIG, 2, 4, 8, CPU, tmp_path, bf16=False, torch_compile=True).seconds(1)


def test_a_student_that_answers_otherwise_while_it_is_trained_is_no_measurement(tmp_path, monkeypatch):
    @contextmanager
    def wrong(model):
        hook = model.classifier.register_forward_hook(lambda module, inputs, logits: 1.2 * logits)
        yield
        hook.remove()

    monkeypatch.setattr(utilisation, "first_token_only", wrong)
    with pytest.raises(AssertionError, match="the logits differ"):
        Steps("sm+tmkd", CONFIG, 2, 4, 8, CPU, tmp_path, bf16=False).seconds(1)


def test_the_ceiling_is_the_fastest_product():
    speeds = [matmul_ceiling(CPU, torch.float32, sizes=[size]) for size in (8, 512)]
    assert speeds[0] < speeds[1] < 1e14


@pytest.mark.gpu
@pytest.mark.parametrize("torch_compile", [False, True])
def test_the_share_of_the_ceiling_is_measured_on_a_gpu(tmp_path, torch_compile):
    device = torch.device("cuda")
    steps = Steps("sm+tmkd", BertConfig(num_labels=2), 3, 32, 128, device, tmp_path, torch_compile=torch_compile)
    flops, seconds = steps.count_flops(), steps.seconds(10)
    assert 0 < flops / min(seconds) < matmul_ceiling(device, torch.bfloat16)
