"""From the optimiser's coordinates, a point of the unit cube, to the genotype they stand for, and to words.

A truncated normal (sigma, a, b) has three coordinates: ln sigma, the centre of the interval and its half
width, the latter two in units of sigma. So a < b at every point of the cube, an interval may lie off zero,
and a step of the optimiser means the same for a small sigma as for a large one.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import torch

from gee.models import Genotype, TruncatedNormal


@dataclasses.dataclass(frozen=True)
class Range:
    """A number's bounds, and whether it is searched on a logarithmic scale."""

    low: float
    high: float
    log: bool = False

    def decode(self, u: float) -> float:
        """The value at the coordinate u in [0, 1]; never outside the bounds."""
        if self.log:
            value = math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))
        else:
            value = self.low + u * (self.high - self.low)
        return min(max(value, self.low), self.high)


# The middle of the cube is `Genotype.default`: its sigma, cut at 2 sigma (all of it ours).
SIGMA_FACTOR = 8.0  # sigma is searched from the default's / 8 to the default's * 8
CENTRE = Range(-1.0, 1.0)  # of the interval, in sigmas
HALF_WIDTH = Range(1.0, 3.0)  # of the interval, in sigmas
ENTRY_SIGMAS = 3.0  # entries of G are searched within so many of the default's sigmas, in `full`


class GenotypeSpace:
    """The search space of X and G.

    Args:
        kind: `distributions`, six numbers: (sigma, a, b) for X and for G; or `full`: X's three, and the
            g * g entries of G themselves.
        genes: g.

    Raises:
        ValueError: an unknown kind, or fewer than one gene.
    """

    def __init__(self, kind: str, genes: int) -> None:
        if kind not in ("distributions", "full"):
            raise ValueError(f"genotype must be 'distributions' or 'full', got {kind!r}")
        if genes < 1:
            raise ValueError(f"genes must be at least 1, got {genes}")
        self.kind, self.genes = kind, genes
        sigma = Genotype.default(genes).encodings.sigma
        distribution = [Range(sigma / SIGMA_FACTOR, sigma * SIGMA_FACTOR, log=True), CENTRE, HALF_WIDTH]
        entry = Range(-ENTRY_SIGMAS * sigma, ENTRY_SIGMAS * sigma)
        self.ranges = distribution + (distribution if kind == "distributions" else [entry] * genes**2)
        self.start = [0.5] * len(self.ranges)
        self.diagonal = kind == "full"

    def decode(self, vector: Sequence[float]) -> Genotype:
        """The genotype at the coordinates `[n]`.

        Raises:
            ValueError: not n numbers in [0, 1].
        """
        if len(vector) != len(self.ranges) or not all(0 <= u <= 1 for u in vector):
            raise ValueError(f"vector must be {len(self.ranges)} numbers in [0, 1], got {list(vector)[:8]}")
        values = [r.decode(u) for r, u in zip(self.ranges, vector, strict=True)]
        encodings = _distribution(*values[:3])
        if self.kind == "distributions":
            return Genotype(encodings, _distribution(*values[3:]))
        return Genotype(encodings, torch.tensor(values[3:]).reshape(self.genes, self.genes))

    def describe(self, vector: Sequence[float]) -> dict[str, Any]:
        """Six numbers by name, for candidates.jsonl and the report.

        In `full` those of the interaction describe its entries: their deviation, smallest and largest.
        """
        genotype = self.decode(vector)
        G = genotype.interaction
        return {
            "encodings": dataclasses.asdict(genotype.encodings),
            "interaction": dataclasses.asdict(G)
            if isinstance(G, TruncatedNormal)
            else {"sigma": G.std(correction=0).item(), "low": G.min().item(), "high": G.max().item()},
        }


def _distribution(sigma: float, centre: float, half_width: float) -> TruncatedNormal:
    return TruncatedNormal(sigma, sigma * (centre - half_width), sigma * (centre + half_width))
