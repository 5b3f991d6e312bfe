"""Where the genes come from: two truncated normal distributions, the six numbers that evolution searches."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

STD_OF_WEIGHT = 0.05  # of the decoded W, see `Genotype.default`


@dataclass(frozen=True)
class TruncatedNormal:
    """Normal distribution with mean 0 and scale sigma, cut to [low, high].   (GEE, Eq. 9)

    Raises:
        ValueError: sigma is not positive, low is not below high, or the interval lies more than 30 sigma
            away from 0, where float64 knows no probabilities.
    """

    sigma: float
    low: float
    high: float

    def __post_init__(self) -> None:
        if not (self.sigma > 0 and math.isfinite(self.sigma)):
            raise ValueError(f"sigma must be positive and finite, got {self.sigma}")
        if not self.low < self.high:
            raise ValueError(f"low must be below high, got low={self.low}, high={self.high}")
        if max(self.low, -self.high) > 30 * self.sigma:
            raise ValueError(
                f"[low, high] must come within 30 sigma of 0, got [{self.low}, {self.high}] "
                f"for sigma {self.sigma}"
            )

    def sample(self, shape: tuple[int, ...], generator: torch.Generator | None = None) -> Tensor:
        """Exact draws by the inverse of the distribution function, in float64.

        They lie on the generator's device, on the CPU without one.
        """
        low, high = self.low / self.sigma, self.high / self.sigma
        # The upper tail is drawn as the mirrored lower one, where probabilities keep their digits.
        mirrored = low > 0
        if mirrored:
            low, high = -high, -low
        device = "cpu" if generator is None else generator.device
        below, above = (0.5 * math.erfc(-bound / math.sqrt(2)) for bound in (low, high))
        u = torch.rand(shape, generator=generator, dtype=torch.float64, device=device)
        z = torch.special.ndtri(below + u * (above - below)).clamp_(low, high)
        return (-z if mirrored else z) * self.sigma


@dataclass(frozen=True)
class Genotype:
    """What is evolved: how encodings X and interaction G begin; gradient descent then learns them.

    `interaction` is a distribution, or the entries of G themselves as a tensor [g, g].
    """

    encodings: TruncatedNormal
    interaction: TruncatedNormal | Tensor

    @classmethod
    def default(cls, genes: int) -> "Genotype":
        """A genotype from which networks of `genes` genes learn without evolution (ours, not the paper's).

        With independent entries std(W) = g * std(X)^2 * std(G) (Eq. 1). Both distributions get the same
        sigma, cut at 2 sigma, such that std(W) is 0.05. The forward pass does not depend on it, as batch
        norm follows every genetic convolution, but two things do: currents must be large against the
        norm's epsilon (0.05 gives a variance of about 1 at a fan-in of 9 * 256 with 15 % of the inputs
        spiking), and X and G must be of a size that an optimiser's steps change gradually.
        """
        cut = 2.0
        # variance of the cut unit normal: 1 - 2 * cut * pdf(cut) / P(|z| < cut)
        std = math.sqrt(
            1 - 2 * cut * math.exp(-(cut**2) / 2) / math.sqrt(2 * math.pi) / math.erf(cut / math.sqrt(2))
        )
        sigma = (STD_OF_WEIGHT / genes) ** (1 / 3) / std
        return cls(
            TruncatedNormal(sigma, -cut * sigma, cut * sigma),
            TruncatedNormal(sigma, -cut * sigma, cut * sigma),
        )


@torch.no_grad()
def initialise(model, genotype: Genotype, generator: torch.Generator | None = None) -> None:
    """Draw every encoding X_p, then the interaction G, from `genotype`, in place.

    The same generator state gives the same network on every device and for every thread count. Parameters
    that no gene describes (first convolution, shortcuts, norms, head) are left as they are.

    Args:
        model: a network with genes (`create_model(..., genes=g)`).
        genotype: the distributions.
        generator: a seeded `torch.Generator`; None: torch's global one.

    Raises:
        ValueError: the model is a dense twin, or the genotype's own G has another shape.
    """
    encodings, interaction = model.genetic_parameters()
    if interaction is None:
        raise ValueError("model must have genes to be initialised from a genotype, got a dense twin")
    for encoding in encodings:
        encoding.copy_(genotype.encodings.sample(encoding.shape, generator))
    if isinstance(genotype.interaction, Tensor):
        if genotype.interaction.shape != interaction.shape:
            raise ValueError(
                f"genotype.interaction must be {list(interaction.shape)}, "
                f"got {list(genotype.interaction.shape)}"
            )
        interaction.copy_(genotype.interaction)
    else:
        interaction.copy_(genotype.interaction.sample(interaction.shape, generator))
