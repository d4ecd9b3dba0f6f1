import numpy as np
import pytest
import torch
from datasets import Dataset
from naive_step import make_dataset
from tiny_models import ARCHITECTURES, tiny_classifier

from mixkd.models import model_columns, transformer_layers
from mixkd.prediction import predict_logits, predict_states


@pytest.mark.parametrize("batch_size", [1, 4, 64])
def test_predictions_keep_the_order_of_the_data(tokenizer, batch_size):
    rng = np.random.default_rng(0)
    texts = [[2, *rng.integers(5, 29, length).tolist(), 3] for length in rng.integers(1, 20, 17)]
    dataset = Dataset.from_dict({"input_ids": texts, "attention_mask": [[1] * len(text) for text in texts]})
    model = tiny_classifier("bert", 4, hidden_dropout_prob=0.5).train()
    logits = predict_logits(model, dataset, batch_size=batch_size)
    assert model.training and logits.dtype == np.float32 and logits.shape == (17, 2)
    model.eval()
    with torch.inference_mode():
        alone = np.concatenate([model(torch.tensor([text])).logits.numpy() for text in texts])
    np.testing.assert_allclose(logits, alone, rtol=1e-4, atol=1e-5)


@pytest.mark.gpu
def test_a_model_that_was_asked_on_a_gpu_can_still_be_trained():
    model = tiny_classifier("bert", 2)
    predict_logits(model, make_dataset(3), "cuda")
    model(torch.tensor([[2, 5, 3]], device="cuda")).logits.sum().backward()
    assert all(weight.grad is not None and weight.is_cuda for weight in model.classifier.parameters())


EXPECTED_COLUMNS = {
    "bert": ("input_ids", "token_type_ids", "attention_mask"),
    "roberta": ("input_ids", "token_type_ids", "attention_mask"),
    "distilbert": ("input_ids", "attention_mask"),
}


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_logits_and_states_are_those_of_each_example_alone(architecture):
    """States of [CLS] after the chosen layers, in the chosen order; 0 is the embeddings' output."""
    model = tiny_classifier(architecture, 3, seed=1)
    assert model_columns(model) == EXPECTED_COLUMNS[architecture]
    dataset = make_dataset(9, is_pair=True)
    if architecture == "roberta":  # whose tokenizer gives no segments, of which it has one
        dataset = dataset.remove_columns("token_type_ids")
    layers = (3, 0, 1)
    logits, states = predict_logits(model, dataset, batch_size=4), predict_states(model, dataset, layers, batch_size=4)
    assert logits.shape == (9, 2) and states.shape == (9, 3, 32) and states.dtype == np.float32
    outputs = {}
    for depth, module in enumerate([model.base_model.embeddings, *transformer_layers(model)]):
        module.register_forward_hook(lambda _, __, output, depth=depth: outputs.update({depth: output}))
    columns = [name for name in EXPECTED_COLUMNS[architecture] if name in dataset.column_names]
    with torch.inference_mode():
        for row, example in enumerate(dataset):
            alone = model(**{name: torch.tensor([example[name]]) for name in columns}).logits[0]
            np.testing.assert_allclose(logits[row], alone, rtol=1e-4, atol=1e-5)
            for place, layer in enumerate(layers):
                np.testing.assert_allclose(states[row, place], outputs[layer][0, 0], rtol=1e-4, atol=1e-5)


def test_states_leave_the_model_s_mode_alone_and_ignore_its_dropout():
    model = tiny_classifier("bert", 4, hidden_dropout_prob=0.5).train()
    dataset = make_dataset(9, is_pair=True)
    states = [predict_states(model, dataset, (1, 4)) for _ in range(2)]
    assert model.training and np.array_equal(*states)
    assert not np.array_equal(states[0], predict_states(tiny_classifier("bert", 4, seed=1), dataset, (1, 4)))
