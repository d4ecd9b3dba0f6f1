"""Which examples, and which mixed ones, a step of the trainer meets."""

import numpy as np
import pytest
from naive_step import assert_same_gradients, make_dataset, make_model, make_trainer, train

from mixkd.mixup import EpochMixup, epoch_order
from mixkd.recipes import recipe


@pytest.mark.parametrize("strategy", ["random", "group_by_length", "sequential"])
@pytest.mark.parametrize("name", ["kd", "sm"])
def test_every_example_once_per_epoch_with_its_own_row(tmp_path, tokenizer, strategy, name):
    dataset, seen = make_dataset(21, is_pair=True), []
    trainer = make_trainer(
        tmp_path, recipe(name), dataset, tokenizer, make_model(), make_model(4, seed=1), num_train_epochs=2,
        per_device_train_batch_size=2, gradient_accumulation_steps=2, train_sampling_strategy=strategy,
    )  # fmt: skip
    compute_loss = trainer.compute_loss

    def spy(model, inputs, *args, **kwargs):
        seen.append(inputs["rows"].tolist())
        for position, row in enumerate(inputs["rows"]):
            length = dataset[int(row)]["length"]
            for column in ("input_ids", "token_type_ids", "attention_mask"):
                values = inputs[column][position].tolist()
                assert values[:length] == dataset[int(row)][column]
                assert not any(values[length:])
            assert inputs["labels"][position] == dataset[int(row)]["label"]
        return compute_loss(model, inputs, *args, **kwargs)

    trainer.compute_loss = spy
    trainer.train()
    epochs = [[row for batch in part for row in batch] for part in (seen[:11], seen[11:])]
    assert [sorted(epoch) for epoch in epochs] == [list(range(21))] * 2
    assert (epochs[0] == epochs[1]) == (strategy == "sequential")


def test_the_callers_data_and_extra_columns_survive(tmp_path, tokenizer):
    dataset = make_dataset().add_column("note", [{"any": [number]} for number in range(7)])
    columns = list(dataset.column_names)
    gradients, _ = train(tmp_path, recipe("sm"), dataset, tokenizer, make_model())
    bare = dataset.select_columns(["input_ids", "attention_mask", "token_type_ids", "label"])
    assert_same_gradients(gradients[0], train(tmp_path, recipe("sm"), bare, tokenizer, make_model())[0][0], rtol=1e-6)
    assert dataset.column_names == columns and "row" not in columns


def sampler(lengths, batch_size=8, seed=0, epoch=0, grouped=True):
    lengths = np.asarray(lengths)
    return epoch_order(len(lengths), lengths if grouped else None, batch_size, seed, epoch).tolist()


def test_length_grouping_saves_padding():
    lengths = np.random.default_rng(0).integers(3, 60, size=1003)

    def padding(order):
        steps = [lengths[order[start : start + 8]] for start in range(0, len(order), 8)]
        return sum((step.max() - step).sum() for step in steps)

    grouped, plain = sampler(lengths), sampler(lengths, grouped=False)
    assert sorted(grouped) == sorted(plain) == list(range(1003))
    assert padding(grouped) < 0.1 * padding(plain)
    step_lengths = [lengths[grouped[start]] for start in range(0, 1000, 8)]
    assert abs(np.corrcoef(step_lengths, np.arange(125))[0, 1]) < 0.4  # and the steps are in no order of length


@pytest.mark.parametrize("grouped", [False, True])
def test_order_is_a_function_of_seed_and_epoch(grouped):
    lengths = np.random.default_rng(0).integers(3, 60, size=50)
    orders = [sampler(lengths, seed=s, epoch=e, grouped=grouped) for s, e in [(0, 0), (0, 0), (0, 1), (1, 0), (1, 1)]]
    assert orders[0] == orders[1]
    assert len({tuple(order) for order in orders}) == 4


# ---- mixed examples ----


def record_pairs(trainer):
    """Makes the trainer note every optimizer step's mixed examples: global step -> those of its micro-batches."""
    seen, mixup = {}, trainer._mixup

    def spy(rows):
        drawn = mixup(rows)
        seen[trainer.state.global_step] = [[column.tolist() for column in pairs] for pairs in drawn]
        return drawn

    trainer._mixup = spy
    return seen


@pytest.mark.parametrize(("strategy", "accumulation"), [("random", 1), ("group_by_length", 2)])
def test_a_resumed_run_meets_the_same_mixed_examples(tmp_path, tokenizer, strategy, accumulation):
    """Stopped within the first epoch, at its end, and within the second: 2 epochs of 4 steps, the last one shorter."""
    dataset, chosen = make_dataset(14), recipe("sm", mix_ratio=1.5)
    options = {"per_device_train_batch_size": 4 // accumulation, "gradient_accumulation_steps": accumulation,
               "num_train_epochs": 2, "save_strategy": "steps", "save_steps": 1, "save_only_model": False,
               "train_sampling_strategy": strategy}  # fmt: skip
    trainer = make_trainer(tmp_path, chosen, dataset, tokenizer, make_model(1), **options)
    expected = record_pairs(trainer)
    trainer.train()
    assert list(expected) == list(range(8))
    assert len({str(pairs) for pairs in expected.values()}) == 8
    for stopped_after in (2, 4, 7):
        resumed = make_trainer(tmp_path, chosen, dataset, tokenizer, make_model(1), **options)
        seen = record_pairs(resumed)
        resumed.train(resume_from_checkpoint=str(tmp_path / "trainer" / f"checkpoint-{stopped_after}"))
        assert seen == {step: pairs for step, pairs in expected.items() if step >= stopped_after}


@pytest.mark.parametrize("other", [{"per_device_train_batch_size": 2}, {"data_seed": 6}], ids=str)
def test_a_second_training_draws_by_its_own_arguments(tmp_path, tokenizer, other):
    """As a search over hyper-parameters does: one trainer, another seed or batch size."""
    dataset, options = make_dataset(8), {"train_sampling_strategy": "group_by_length"}
    first = {"per_device_train_batch_size": 4, "data_seed": 5}
    trainer = make_trainer(tmp_path, recipe("sm"), dataset, tokenizer, make_model(1), **first, **options)
    trainer.train()
    seen = record_pairs(trainer)
    for name, value in other.items():
        setattr(trainer.args, name, value)
    trainer._train_batch_size = trainer.args.train_batch_size  # what Trainer sets where it searches
    trainer.train()
    fresh = make_trainer(tmp_path, recipe("sm"), dataset, tokenizer, make_model(1), **(first | other), **options)
    expected = record_pairs(fresh)
    fresh.train()
    assert seen == expected and len(seen) in (2, 4)


@pytest.mark.parametrize(
    ("changes", "strategy"),
    [({"mix_ratio": 1.5}, "group_by_length"), ({"partner": "batch"}, "group_by_length"),
     ({"lam_per": "batch"}, "group_by_length"), ({"mix_ratio": 1.5}, "random")],
    ids=str,
)  # fmt: skip
def test_which_mixed_examples_a_step_meets(tmp_path, tokenizer, changes, strategy):
    """Those of its rows; with batches by length those of similar length, unless the law is one of the batch."""
    dataset, chosen = make_dataset(26), recipe("sm", **changes)
    trainer = make_trainer(tmp_path, chosen, dataset, tokenizer, make_model(1), num_train_epochs=2,
                           per_device_train_batch_size=2, gradient_accumulation_steps=2,
                           train_sampling_strategy=strategy)  # fmt: skip
    seen, lengths = record_pairs(trainer), np.array(dataset["length"])
    trainer.train()
    for epoch in range(2):
        order = epoch_order(26, lengths if strategy == "group_by_length" else None, 4, 5, epoch)
        draws = EpochMixup(26, 5, epoch, chosen.mixup)
        expected = [draws.of_rows(order[start : start + 4]) for start in range(0, 26, 4)]
        if strategy == "group_by_length" and "mix_ratio" in changes:
            expected = draws.by_length(lengths, order, 4)
        for step, pairs in enumerate(expected):
            found = [sum(column, []) for column in zip(*seen[7 * epoch + step], strict=True)]
            assert found == [column.tolist() for column in pairs]
