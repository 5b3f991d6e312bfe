"""The spatio-temporal fitness of a candidate (Eq. 16), minimised."""

from __future__ import annotations

from collections.abc import Sequence

from gee.search.executor import Evaluation

# name -> (weight of TD, weight of SE); the ablations of the paper's Table 4. `random` evolves nothing.
METHODS = {
    "random": (0.0, 0.0),
    "baseline": (0.0, 0.0),
    "baseline+td": (0.5, 0.0),
    "baseline+se": (0.0, 0.5),
    "ste": (0.5, 0.5),
}


def decay(generation: int) -> float:
    """d(n) = 1 / (1 + n), generations counted from 0: the weight that novelty keeps."""
    return 1.0 / (1.0 + generation)


def fitness(evaluation: Evaluation, generation: int, alpha: float, beta: float) -> float:
    """F = CE - d(n) (alpha TD + beta SE)                                                     Eq. 16"""
    novelty = alpha * evaluation.temporal_difference + beta * evaluation.spatial_entropy
    return evaluation.cross_entropy - decay(generation) * novelty


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
