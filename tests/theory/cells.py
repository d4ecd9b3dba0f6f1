"""Small cells of the theory tests."""

from theory.cell import Cell


def cell(world="W1", arm="S0", n=20, m=0, num_replicates=8, **others):
    return Cell(
        world=world,
        arm=arm,
        num_samples=n,
        num_augmented=m,
        num_replicates=num_replicates,
        **{"master_seed": 5, **others},
    )
