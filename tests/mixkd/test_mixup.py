import numpy as np
import pytest
import torch
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st
from transformers import BertForSequenceClassification

from mixkd.mixup import (
    TokenTable,
    mix_embeddings,
    mix_labels,
    mix_masks,
    mix_token_types,
)

PAD, CLS, SEP = 0, 2, 3


def token_dataset(texts, types=None):
    """A tokenised data set of these ids."""
    columns = {"input_ids": texts, "attention_mask": [[1] * len(text) for text in texts]}
    return Dataset.from_dict(columns | ({} if types is None else {"token_type_ids": types}))


# ---- the mixed tensors ----

LONG = [CLS, 5, 6, 7, SEP, 8, 9, SEP]  # a pair
SHORT = [CLS, 10, SEP, 11, SEP]
SAME = [CLS, 10, 11, 12, SEP, 13, 14, SEP]
TYPES = {8: [0] * 5 + [1] * 3, 5: [0] * 3 + [1] * 2}


@pytest.fixture(scope="module")
def model():
    from tiny import tiny_config

    torch.manual_seed(0)
    return BertForSequenceClassification(tiny_config()).eval()


def mixed_inputs(model, text, partner, lam, is_pair=True):
    """The mixed example of two texts, put together from the functions under test."""
    texts = [text, partner]
    table = TokenTable(token_dataset(texts, [TYPES[len(t)] for t in texts] if is_pair else None), PAD)
    batch = table.batch(np.arange(2), max(map(len, texts)))
    ids, mask, types = (batch[name] for name in ("input_ids", "attention_mask", "token_type_ids"))
    embeddings = model.get_input_embeddings()(ids)
    return {
        "inputs_embeds": mix_embeddings(embeddings[:1], embeddings[1:], torch.tensor([lam])),
        "attention_mask": mix_masks(mask[:1], mask[1:]),
        "token_type_ids": mix_token_types(types[:1], types[1:], mask[:1], mask[1:]),
    }


def plain_inputs(text, is_pair=True):
    types = TYPES[len(text)] if is_pair else [0] * len(text)
    ids = torch.tensor([text])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "token_type_ids": torch.tensor([types])}


@pytest.mark.parametrize("is_pair", [False, True])
@pytest.mark.parametrize(("lam", "text", "partner"), [(1.0, LONG, SHORT), (1.0, LONG, SAME), (0.0, SHORT, LONG)])
def test_lam_of_one_or_zero_is_the_original_through_the_whole_forward(model, lam, text, partner, is_pair):
    original = text if lam == 1 else partner
    mixed, plain = mixed_inputs(model, text, partner, lam, is_pair), plain_inputs(original, is_pair)
    assert torch.equal(mixed["inputs_embeds"], model.get_input_embeddings()(plain["input_ids"]))
    assert torch.equal(mixed["attention_mask"], plain["attention_mask"])
    assert torch.equal(mixed["token_type_ids"], plain["token_type_ids"])
    with torch.inference_mode():
        assert torch.equal(model(**mixed).logits, model(**plain).logits)
        between = model(**mixed_inputs(model, text, partner, 0.5, is_pair)).logits
        assert not torch.allclose(between, model(**plain).logits, atol=1e-3)  # control: lam matters


def test_inputs_embeds_are_input_ids_in_eval_mode(model):
    inputs = plain_inputs(LONG)
    with torch.inference_mode():
        expected = model(**inputs).logits
        embeddings = model.get_input_embeddings()(inputs.pop("input_ids"))
        assert torch.equal(model(inputs_embeds=embeddings, **inputs).logits, expected)


@pytest.mark.parametrize(("text", "partner"), [(LONG, SHORT), (SHORT, LONG)])
def test_the_shorter_text_goes_on_as_padding_and_the_longer_gives_mask_and_segments(model, text, partner):
    lam = 0.3
    mixed = mixed_inputs(model, text, partner, lam)
    table = model.get_input_embeddings().weight.detach().double().numpy()
    for position in range(len(LONG)):
        first, second = (t[position] if position < len(t) else PAD for t in (text, partner))
        expected = lam * table[first] + (1 - lam) * table[second]
        np.testing.assert_allclose(mixed["inputs_embeds"][0, position].detach(), expected, rtol=1e-6, atol=1e-7)
    assert mixed["attention_mask"].tolist() == [[1] * len(LONG)]
    assert mixed["token_type_ids"].tolist() == [TYPES[len(LONG)]]


def test_masks_are_united_and_equally_long_texts_keep_the_source_s_segments():
    mask, other = torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1]]), torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    assert mix_masks(mask, other).tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    types, other_types = torch.tensor([[0, 1, 1]]), torch.tensor([[0, 0, 1]])
    full = torch.ones(1, 3, dtype=torch.int64)
    assert mix_token_types(types, other_types, full, full).tolist() == [[0, 1, 1]]


unit = st.floats(0, 1, width=32)
values = st.floats(-100, 100, width=32)


@given(unit, st.lists(st.tuples(values, values), min_size=1, max_size=6))
def test_mixed_embeddings_lie_between_and_are_symmetric(lam, columns):
    first, second = (torch.tensor(column).reshape(1, -1, 1) for column in zip(*columns, strict=True))
    mixed = mix_embeddings(first, second, torch.tensor([lam]))
    margin = 1e-5 * (1 + torch.maximum(first.abs(), second.abs()))
    assert (mixed >= torch.minimum(first, second) - margin).all()
    assert (mixed <= torch.maximum(first, second) + margin).all()
    torch.testing.assert_close(mixed.double(), lam * first.double() + (1 - lam) * second.double(), rtol=1e-5, atol=1e-4)
    mirrored = mix_embeddings(second, first, torch.tensor([1 - lam], dtype=torch.float32))
    torch.testing.assert_close(mixed, mirrored, rtol=1e-4, atol=1e-3)


def test_mixed_embeddings_keep_the_dtype_and_are_exact_at_one_in_bf16():
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(3, 5, 8, generator=generator).bfloat16() for _ in range(2))
    mixed = mix_embeddings(first, second, torch.tensor([1.0, 0.0, 0.25]))
    assert mixed.dtype == torch.bfloat16
    assert torch.equal(mixed[0], first[0]) and torch.equal(mixed[1], second[1])


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), unit), min_size=1, max_size=8))
def test_mixed_labels(examples):
    labels, partners, lam = zip(*examples, strict=True)
    mixed = mix_labels(torch.tensor(labels), torch.tensor(partners), torch.tensor(lam), 4)
    assert mixed.dtype == torch.float32 and mixed.shape == (len(examples), 4)
    expected = np.zeros((len(examples), 4))
    for row, (label, partner, weight) in enumerate(examples):
        expected[row, label] += weight
        expected[row, partner] += 1 - weight
    np.testing.assert_allclose(mixed, expected, atol=1e-6)
    np.testing.assert_allclose(mixed.sum(1), 1, atol=1e-6)


def test_mixed_numbers_of_a_regression():
    lam = torch.tensor([1.0, 0.0, 0.25])
    mixed = mix_labels(torch.tensor([0.0, 5.0, 2.0]), torch.tensor([3.0, 1.5, 4.0]), lam, 1)
    assert mixed.dtype == torch.float32 and mixed.tolist() == [0.0, 1.5, 3.5]
    assert mix_labels(torch.tensor([1]), torch.tensor([0]), torch.tensor([0.25]), 1).tolist() == [0.25]  # whole numbers


@given(st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=7), min_size=1, max_size=5), st.data())
def test_token_table_is_the_texts_padded(texts, data):
    types = [[int(i % 2) for i in text] for text in texts]
    rows = data.draw(st.lists(st.integers(0, len(texts) - 1), min_size=1, max_size=6))
    table = TokenTable(token_dataset(texts, types), PAD)
    length = max(len(texts[row]) for row in rows)
    batch = table.batch(np.array(rows), length)
    assert set(batch) == {"input_ids", "attention_mask", "token_type_ids"}
    assert all(tensor.dtype == torch.int64 for tensor in batch.values())
    assert table.lengths.tolist() == [len(text) for text in texts]
    columns = batch["input_ids"], batch["attention_mask"], batch["token_type_ids"]
    for row, ids, mask, type_ids in zip(rows, *columns, strict=True):
        missing = length - len(texts[row])
        assert ids.tolist() == texts[row] + [PAD] * missing
        assert mask.tolist() == [1] * len(texts[row]) + [0] * missing
        assert type_ids.tolist() == types[row] + [0] * missing
    assert not TokenTable(token_dataset(texts), PAD).token_type_ids.any()
    assert TokenTable(token_dataset([[7], [7, 7]]), 5).batch(np.array([0]), 2)["input_ids"].tolist() == [[7, 5]]


def test_token_table_of_a_subset_and_of_joined_data_sets():
    """Arrow keeps subsets as slices or row numbers, and joined data sets as chunks: none may shift a text."""
    from datasets import concatenate_datasets

    texts = [[7] * length + [row] for row, length in enumerate((3, 1, 4, 1, 5, 2))]
    types = [[row % 2] * len(text) for row, text in enumerate(texts)]
    whole = token_dataset(texts, types)
    for rows in ([1, 2, 3], [5, 0, 2], range(3, 6)):
        subset = whole.select(rows)
        for dataset, expected in [(subset, list(rows)), (concatenate_datasets([subset, whole]), [*rows, *range(6)])]:
            table = TokenTable(dataset, PAD)
            assert table.lengths.tolist() == [len(texts[row]) for row in expected]
            for position, row in enumerate(expected):
                batch = table.batch(np.array([position]), len(texts[row]))
                assert batch["input_ids"].tolist() == [texts[row]] and batch["token_type_ids"].tolist() == [types[row]]
