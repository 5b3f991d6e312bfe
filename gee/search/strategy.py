"""CMA-ES (Eqs. 10-12) by ask and tell, as a function of its seed and of the values told, and of nothing else.

It draws from a generator of its own, so neither the clock nor numpy's global generator plays a part, and the
state after n generations is rebuilt by asking and telling them again: nothing has to be stored or unpickled.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np

_STRATEGY_STREAM = 0xC3A  # keeps the optimiser's draws apart from the candidates' seeds


def candidate_seed(run_seed: int, generation: int, index: int) -> int:
    """The seed of one candidate, a function of where it stands in the run and of nothing else; below 2^63."""
    state = np.random.SeedSequence([run_seed, generation, index]).generate_state(1, np.uint64)
    return int(state[0]) >> 1


class Strategy:
    """CMA-ES over the unit cube.

    start: `[n]` where the search begins, in [0, 1];  step: its first standard deviation, in the same units
    population: candidates in a generation;  diagonal: a diagonal covariance, for hundreds of dimensions
    """

    def __init__(
        self, start: Sequence[float], step: float, population: int, seed: int, diagonal: bool = False
    ) -> None:
        if population < 2:
            raise ValueError(f"population must be at least 2, got {population}")
        import cma

        generator = np.random.default_rng([seed, _STRATEGY_STREAM])
        options = {
            "seed": math.nan,  # leave numpy's global generator alone
            "randn": lambda *shape: generator.standard_normal(shape),
            "bounds": [0.0, 1.0],
            "popsize": population,
            "CMA_diagonal": diagonal,
            "signals_filename": None,
            "verbose": -9,
        }
        with warnings.catch_warnings():  # cma warns about the default of an option that is not used here
            warnings.simplefilter("ignore")
            self._cma = cma.CMAEvolutionStrategy(list(start), step, options)
        self._asked: list[np.ndarray] = []

    def ask(self) -> list[tuple[float, ...]]:
        """The vectors of the next generation, each `[n]` inside [0, 1]."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._asked = self._cma.ask()
        return [tuple(float(v) for v in vector) for vector in self._asked]

    def tell(self, values: Sequence[float]) -> None:
        """The values to minimise, in the order of `ask`; all of them finite."""
        if len(values) != len(self._asked) or not all(map(math.isfinite, values)):
            raise ValueError(f"values must be {len(self._asked)} finite numbers, got {list(values)}")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._cma.tell(self._asked, list(values))
