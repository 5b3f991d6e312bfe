"""The spatio-temporal fitness of a candidate (GEE, Eq. 16), minimised."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gee.search.executor import Evaluation

# name -> (TD is rewarded, SE is rewarded): the ablations of the paper's Table 4. `random` evolves nothing.
METHODS = {
    "random": (False, False),
    "baseline": (False, False),
    "baseline+td": (True, False),
    "baseline+se": (False, True),
    "ste": (True, True),
}


@dataclass(frozen=True)
class Fitness:
    """F = CE - d(n) (alpha TD + beta SE),   d(n) = 1 / (1 + decay n)                         Eq. 16

    The paper gives neither d, alpha nor beta; these are ours.
    """

    alpha: float = 0.5
    beta: float = 0.5
    decay: float = 1.0

    @classmethod
    def of(cls, method: str, alpha: float = 0.5, beta: float = 0.5, decay: float = 1.0) -> Fitness:
        """The fitness of one of `METHODS`: what the method leaves out weighs nothing."""
        if method not in METHODS:
            raise ValueError(f"method must be one of {', '.join(METHODS)}, got {method!r}")
        temporal, spatial = METHODS[method]
        return cls(alpha * temporal, beta * spatial, decay)

    def __call__(self, evaluation: Evaluation, generation: int) -> float:
        """F of a candidate, as seen by generation n, counted from 0."""
        d = 1.0 / (1.0 + self.decay * generation)
        novelty = self.alpha * evaluation.temporal_difference + self.beta * evaluation.spatial_entropy
        return evaluation.cross_entropy - d * novelty


def penalised(values: Sequence[float | None]) -> list[float]:
    """The fitness told to the optimiser: a failed candidate (None) ranks behind every other, with a margin.

    All failures share one value, the worst finite one plus the spread of the generation (at least 1), so
    they are worse than anything measured and none is preferred.
    """
    finite = [v for v in values if v is not None]
    if not finite:
        raise ValueError("values must hold at least one finite fitness, got none")
    worst = max(finite) + max(1.0, max(finite) - min(finite))
    return [worst if v is None else v for v in values]
