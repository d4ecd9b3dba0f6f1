"""A cell: one simulation, and everything that decides its numbers."""

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from mixkd.store import UserError, content_id
from theory.arms import Arm, Pairing
from theory.worlds import WORLDS


class Cell(BaseModel):
    """Everything that decides the numbers of one simulation, and nothing else.

    Attributes:
        world: Key of `theory.worlds.WORLDS`.
        arm: How the augmented inputs are drawn (`theory.arms`).
        num_samples: n, originals per replicate.
        num_augmented: m, augmented inputs per replicate.
        num_replicates: Independent samples.
        master_seed: Entropy of all streams of the cell.
        beta_alpha: a of lam ~ Beta(a, a), for mixup.
        pairing: Law of the mixed pairs, for S3 and label-mixup.
        jitter_scale: Standard deviation of the jitter.
        delta: Probability of failure of the bound.

    Raises:
        UserError: If there is no such world, or nothing can be drawn from it as asked.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    world: str
    arm: Arm
    num_samples: int = Field(ge=1)
    num_augmented: int = Field(ge=0)
    num_replicates: int = Field(ge=1)
    master_seed: int = Field(ge=0)
    beta_alpha: float = 1.0
    pairing: Pairing = "distinct"
    jitter_scale: float = 0.3
    delta: float = 0.05

    @property
    def cell_id(self) -> str:
        """Name of the cell's files in the store."""
        return content_id(self.model_dump(mode="json"))

    @model_validator(mode="after")
    def _possible(self) -> Self:
        n, m = self.num_samples, self.num_augmented
        mixes = self.arm in ("S3", "label-mixup")
        if self.world not in WORLDS:
            raise UserError(f"There is no world {self.world!r}; choose one of {', '.join(WORLDS)}.")
        if self.arm == "S0" and m != 0:
            raise UserError(f"Arm S0 adds nothing; set num_augmented to 0, not {m}.")
        if self.arm != "S0" and m == 0:
            raise UserError(f"Arm {self.arm} needs augmented inputs; set num_augmented to 1 or more.")
        if self.beta_alpha <= 0:
            raise UserError(f"Beta(a, a) needs a > 0; set beta_alpha to a positive number, not {self.beta_alpha}.")
        if self.jitter_scale <= 0:
            raise UserError(f"Jitter needs a width; set jitter_scale to a positive number, not {self.jitter_scale}.")
        if not 0 < self.delta < 1:
            raise UserError(f"A bound holds with probability 1 - delta; set delta inside (0, 1), not {self.delta}.")
        if mixes and self.pairing != "any" and n < 2:
            raise UserError(f"Mixup needs two originals; set num_samples to 2 or more, not {n}.")
        if mixes and self.pairing == "every" and m != n * (n - 1) // 2:
            raise UserError(f"{n} originals have {n * (n - 1) // 2} pairs; set num_augmented to that, not {m}.")
        if self.arm == "balanced" and m % n:
            raise UserError(f"Balanced copies need a multiple of {n} as num_augmented, not {m}.")
        return self
