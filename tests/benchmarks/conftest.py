"""A store with finished runs of a tiny teacher and its students."""

from types import SimpleNamespace

import pytest


def save_run(store, experiment, model, tokenizer):
    from mixkd.store import Record, content_id, now, provenance

    identity = experiment.identity()
    made_by = provenance(device="cpu", num_threads=1, seeds={}, started_at=now())
    record = Record(
        run_id=content_id(identity),
        experiment=identity,
        provenance=made_by,
        measurements={"test_score": 0.5},
        history=[],
    )
    for part in (model, tokenizer):
        part.save_pretrained(store.model_dir(record.run_id))
    store.save_run(record)
    return record.run_id


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory, tiny_bert, vader_folder, tokenizer):
    """A store with a 4-layer teacher, students of 2 layers (two of them) and 1, and a teacher without students.

    The attributes `teacher` and `students` are run ids; pinning is that of `mixkd.run`.
    """
    from mixkd.experiment import Experiment
    from mixkd.models import build_student, load_classifier
    from mixkd.runs import pin
    from mixkd.store import Store

    store = Store(tmp_path_factory.mktemp("store"))
    model = load_classifier(str(tiny_bert), ["negative", "positive"])
    settings = {"teacher": str(tiny_bert), "teacher_num_epochs": 2, "teacher_seed": 5}
    students = [
        Experiment(**settings, student_layers=layers, recipe="kd", seed=seed)
        for layers, seed in ((2, 0), (2, 1), (1, 0))
    ]
    teacher = save_run(store, pin(students[0].teacher_experiment(), vader_folder), model, tokenizer)
    save_run(store, pin(Experiment(teacher=str(tiny_bert), seed=6), vader_folder), model, tokenizer)
    student_ids = [
        save_run(store, pin(student, vader_folder), build_student(model, student.student_layers), tokenizer)
        for student in students
    ]
    return SimpleNamespace(store=store, root=store.root, teacher=teacher, students=student_ids)
