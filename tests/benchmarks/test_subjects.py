import pytest

from benchmarks.subjects import (
    BUILT,
    MINILM,
    Subject,
    built_subjects,
    check_logits,
    find_subjects,
    load,
    teacher_of,
    texts,
)


def test_an_empty_store_leaves_minilms_architecture_to_be_built(tmp_path):
    from mixkd.store import Store

    subjects = find_subjects(Store(tmp_path / "nothing"))
    assert subjects == [Subject("teacher", 6), Subject("student", 3), Subject("student", 1)]
    assert {subject.origin for subject in subjects} == {"built"}
    assert not (tmp_path / "nothing").exists()


def test_minilms_architecture_is_that_of_the_embedded_teacher():
    """22.7M parameters, of which 11.9M are embeddings: see all-MiniLM-L6-v2."""
    import torch
    from transformers import BertConfig, BertForSequenceClassification

    from mixkd.models import count_parameters

    with torch.device("meta"):
        model = BertForSequenceClassification(BertConfig(**MINILM))
    head = 384 * 2 + 2
    assert count_parameters(model) == (22_713_216 + head, 11_918_592)


def test_models_of_bert_bases_shape_have_a_teacher_of_their_own():
    from transformers import BertConfig

    main, base = [Subject("teacher", 6), Subject("student", 3)], built_subjects("bert-base-")
    assert [subject.key for subject in base] == [
        ("bert-base-teacher", 12), ("bert-base-student", 6), ("bert-base-student", 3),
    ]  # fmt: skip
    for subject in (*main, *base):
        teacher = teacher_of(subject.model, [*main, *base])
        assert teacher == (base[0] if subject in base else main[0])
    config = BertConfig(**BUILT["bert-base-"][0])
    shape = config.hidden_size, config.num_hidden_layers, config.num_attention_heads, config.intermediate_size
    assert (shape, config.vocab_size) == ((768, 12, 12, 3072), 30522)  # Devlin et al. (2019)


def test_the_store_gives_the_teacher_of_the_students_and_one_student_per_number_of_layers(tiny_store):
    store = tiny_store.store
    teacher, *students = find_subjects(store)
    assert teacher == Subject("teacher", 4, store.model_dir(tiny_store.teacher), "vader-movie", 1.0)
    assert [student.key for student in students] == [("student", 2), ("student", 1)]
    assert students[0].folder in [store.model_dir(run_id) for run_id in tiny_store.students[:2]]
    assert students[1].folder == store.model_dir(tiny_store.students[2])
    assert {subject.origin for subject in [teacher, *students]} == {"store"}


def test_beside_a_minilm_the_students_that_the_store_lacks_are_built(tiny_store, monkeypatch):
    sizes = {"num_hidden_layers": 4, "hidden_size": 32, "num_labels": 7}
    monkeypatch.setattr("benchmarks.subjects.MINILM", sizes)
    subjects = find_subjects(tiny_store.store)
    assert [(subject.key, subject.origin) for subject in subjects] == [
        (("teacher", 4), "store"), (("student", 2), "store"), (("student", 1), "store"), (("student", 3), "built"),
    ]  # fmt: skip


def test_runs_whose_teacher_is_gone_are_not_measured(tiny_store, tmp_path):
    import shutil

    from mixkd.store import Store

    shutil.copytree(tiny_store.root, tmp_path / "store")
    store = Store(tmp_path / "store")
    shutil.rmtree(store.model_dir(tiny_store.teacher))
    assert {subject.origin for subject in find_subjects(store)} == {"built"}


@pytest.fixture
def loaded(tiny_store):
    import torch

    return load(find_subjects(tiny_store.store)[0], tiny_store.store.model_dir(tiny_store.teacher), torch.device("cpu"))


@pytest.mark.parametrize("batch_size", [1, 3, 9])
def test_right_logits_pass_and_wrong_ones_fail(loaded, batch_size):
    import torch

    batch = texts(loaded.model.config.vocab_size, batch_size, 16)
    with torch.inference_mode():
        logits = loaded.model(**batch).logits
    check_logits(logits, loaded.reference, batch)
    with pytest.raises(AssertionError, match="not close"):
        check_logits(logits * 1.001, loaded.reference, batch)
    with pytest.raises(AssertionError, match="finite"):
        check_logits(logits * torch.nan, loaded.reference, batch)


def test_another_models_logits_fail(loaded):
    import torch

    batch = texts(loaded.model.config.vocab_size, 4, 16)
    with torch.inference_mode():
        layers = loaded.model.bert.encoder.layer
        loaded.model.bert.encoder.layer = layers[:-1]
        logits = loaded.model(**batch).logits
    with pytest.raises(AssertionError, match="not close"):
        check_logits(logits, loaded.reference, batch)


def test_texts_are_the_same_at_every_call_and_differ_within_a_batch():
    first, second = texts(1000, 4, 16), texts(1000, 4, 16)
    assert (first["input_ids"] == second["input_ids"]).all()
    assert len(first["input_ids"].unique(dim=0)) == 4
    assert first["attention_mask"].all()


def test_of_several_students_the_one_of_the_paper_s_method_that_saw_most_is_measured(tiny_store, tmp_path):
    import shutil

    from mixkd.store import Store, content_id

    store = Store(tmp_path)
    student = next(record for record in tiny_store.store.runs()[0] if record.run_id == tiny_store.students[0])
    shutil.copytree(tiny_store.store.run_dir(tiny_store.teacher), store.run_dir(tiny_store.teacher))
    for recipe, fraction, seed in (("ft", 1.0, 0), ("sm+tmkd", 0.1, 0), ("sm+tmkd", 0.5, 1), ("sm+tmkd", 0.5, 0)):
        changes = {"recipe": recipe, "train_fraction": fraction, "init_seed": seed}
        kept = {name: value for name, value in student.experiment.items() if not name.endswith("_weight")}
        experiment = kept | changes
        run_id = content_id(experiment)
        store.save_run(student.model_copy(update={"run_id": run_id, "experiment": experiment}))
        shutil.copytree(tiny_store.store.model_dir(student.run_id), store.model_dir(run_id))
    _, measured = find_subjects(store)
    assert measured.folder == store.model_dir(run_id) and measured.train_fraction == 0.5
