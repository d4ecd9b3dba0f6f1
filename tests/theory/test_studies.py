"""The registered studies, and that what is missing, and only that, is run."""

from theory.studies import MASTER_SEED, PILOT_SEED, STUDIES, needs_embeddings, pilot_of


def test_roles_say_what_the_cells_are():
    for name, study in STUDIES.items():
        for role, cell in study.cells.items():
            words = role.split()
            assert cell.master_seed == MASTER_SEED != PILOT_SEED
            assert cell.num_augmented == 0 if cell.arm == "S0" else cell.num_augmented > 0
            if any(word.startswith("n=") for word in words):
                assert f"n={cell.num_samples}" in words, (name, role)
            arms = {"S0", "S1", "S2", "S3", "jitter", "label-mixup", "random", "balanced"} & set(words)
            assert arms <= {cell.arm}, (name, role)
            if name.startswith("phase") and cell.arm == "S3":
                assert role.startswith(f"{cell.world} ")
                assert words[-2:] == [f"a={cell.beta_alpha:g}", f"rho={cell.num_augmented // cell.num_samples}"]


def test_cells_are_as_registered():
    assert set(STUDIES["T16"].cells) == {"S0", "S3"} and STUDIES["T16"].cells["S3"].pairing == "every"
    t05, t11, t14 = (STUDIES[name].cells["S0"].cell_id for name in ("T05", "T11", "T14"))
    assert t05 == t11 == t14
    assert {cell.num_samples for cell in STUDIES["T17"].cells.values()} == {6}  # n < d <= n + m
    assert STUDIES["T22"].cells["S3 n=20"].num_augmented == 80
    assert {cell.num_replicates for cell in STUDIES["T01"].cells.values()} == {600}
    sizes = {(cell.num_samples, cell.num_augmented) for cell in STUDIES["T12"].cells.values() if cell.arm == "S3"}
    assert sizes == {(400, 8000), (2000, 40000)}
    assert len(STUDIES["phase"].cells) == len({cell.cell_id for cell in STUDIES["phase"].cells.values()})
    assert STUDIES["phase"].cells.items() < STUDIES["phase_full"].cells.items()  # none is run twice


def test_pilots_differ_in_their_seed_only():
    for name in ("T05", "T24"):
        for role, cell in pilot_of(STUDIES[name]).cells.items():
            assert cell == STUDIES[name].cells[role].model_copy(update={"master_seed": PILOT_SEED})


def test_only_studies_with_real_inputs_need_embeddings():
    assert needs_embeddings(["T24"]) and needs_embeddings([]) and not needs_embeddings(["T05", "phase"])
