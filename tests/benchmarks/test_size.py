import pytest

from benchmarks.size import bert_flops, bytes_told_by, count_flops, memory_shortage, peak_memory_bytes, size_bytes
from benchmarks.subjects import texts


@pytest.fixture(scope="module")
def folder(tiny_store):
    return tiny_store.store.model_dir(tiny_store.teacher)


@pytest.fixture(scope="module")
def model(folder):
    from transformers import AutoModelForSequenceClassification

    return AutoModelForSequenceClassification.from_pretrained(folder).eval()


@pytest.mark.parametrize(("batch_size", "sequence_length"), [(1, 8), (3, 8), (2, 32)])
def test_counted_flops_are_those_of_the_closed_form(model, batch_size, sequence_length):
    counted = count_flops(model, texts(32, batch_size, sequence_length))
    assert counted == bert_flops(model.config, batch_size, sequence_length)


def test_flops_do_not_depend_on_the_attention_kernel(folder, model):
    from transformers import AutoModelForSequenceClassification

    eager = AutoModelForSequenceClassification.from_pretrained(folder, attn_implementation="eager").eval()
    assert count_flops(eager, texts(32, 2, 16)) == count_flops(model, texts(32, 2, 16))


def test_flops_of_bert_base_are_those_in_the_literature():
    """Wang et al. (2020), MobileBERT and others: 22.5 G multiply-adds, both counted, for 128 tokens."""
    from transformers import BertConfig

    assert bert_flops(BertConfig(), 1, 128) == pytest.approx(22.5e9, rel=0.02)


def test_size_is_that_of_float32_weights(folder, model):
    weights = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert weights < size_bytes(folder) < weights + 20_000


def test_a_case_that_cannot_fit_says_what_it_needs(model):
    import torch

    assert memory_shortage(model.config, 1, 32, torch.device("cpu")) == ""
    reason = memory_shortage(model.config, 10**9, 32, torch.device("cpu"))
    assert reason.startswith("too little memory: needs about")


@pytest.mark.parametrize(
    ("program", "error", "message"),
    [
        ("import os; os.kill(os.getpid(), 9)", MemoryError, "had to end"),
        ("raise RuntimeError('CUDA out of memory')", MemoryError, "had to end"),
        ("raise RuntimeError('another')", RuntimeError, "exit code 1"),
    ],
)
def test_a_program_that_cannot_tell_its_bytes_says_whether_memory_was_short(program, error, message):
    assert bytes_told_by(["-c", "print('loading'); print(12)"]) == 12
    with pytest.raises(error, match=message):
        bytes_told_by(["-c", program])


def test_peak_memory_grows_with_the_batch(folder):
    import torch

    small, large = (peak_memory_bytes(folder, batch_size, 64, torch.device("cpu")) for batch_size in (1, 2048))
    one_hidden_state = 4 * 2048 * 64 * 32
    assert size_bytes(folder) < small
    assert small + 2 * one_hidden_state < large < small + 40 * one_hidden_state
