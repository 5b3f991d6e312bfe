"""What the paper reports; the only place in which its figures stand. Accuracies in percent.

The numbers of genes of Table 2 are deduced from its numbers of parameters, which they give to every digit.
"""

from dataclasses import dataclass

SOURCE = (
    "Pan, Zhao, Han, Tong, Zeng: Evolving Efficient Genetic Encoding for Deep Spiking Neural Networks, "
    "arXiv 2411.06792"
)
CLASSES = {"cifar10": 10, "cifar100": 100}
TIME_STEPS = 4
GENERATIONS = 5
EPOCHS = 200
ABLATION_GENES = 150


@dataclass(frozen=True)
class Network:
    """A row of Table 2."""

    label: str
    model: str
    genes: int
    parameters: dict[str, float]  # data set -> million
    accuracy: dict[str, float]  # data set -> %
    tail_channels: int | None = None


def _network(label, model, genes, parameters, accuracy, tail_channels=None) -> Network:
    return Network(
        label,
        model,
        genes,
        dict(zip(CLASSES, parameters, strict=True)),
        dict(zip(CLASSES, accuracy, strict=True)),
        tail_channels,
    )


TABLE2 = (
    _network("CIFARNet", "cifarnet", 100, (3.72, 3.81), (93.47, 72.97)),
    _network("CIFARNet", "cifarnet", 200, (7.44, 7.53), (95.79, 75.05)),
    _network("VGG-16", "vgg16", 100, (2.51, 2.70), (94.47, 75.02)),
    _network("VGG-16, last two populations 1024", "vgg16", 200, (6.89, 7.26), (95.57, 76.94), 1024),
    _network("ResNet-18", "resnet18", 100, (3.66, 3.68), (95.60, 77.32)),
    _network("ResNet-18", "resnet18", 250, (8.72, 8.75), (96.26, 78.91)),
    _network("ResNet-19", "resnet19", 100, (4.35, 4.38), (95.94, 77.56)),
    _network("ResNet-19", "resnet19", 200, (8.41, 8.44), (96.80, 78.86)),
)

# Table 1: GEE on ImageNet. g is not stated.
TABLE1_MODEL = "resnet34"
TABLE1_IMAGE_SIZE = 224
TABLE1_PARAMETERS = 10.75  # million
TABLE1_ENERGY_MJ = 43.24

# Table 3: spikes of GEE-ResNet-19 (g = 200) on CIFAR-10; per image, step or layer is not said.
TABLE3_SPIKES = {("resnet19", 200): 3000}

# Table 4, g = 150: (mean, deviation). The symbols of the rows with one regulariser are lost, so which of the
# two is TD and which is SE is not known: both are given for both.
TABLE4 = {
    ("resnet19", "random"): {"cifar10": [(54.96, 5.89)], "cifar100": [(35.94, 3.74)]},
    ("resnet19", "baseline"): {"cifar10": [(94.12, 0.75)], "cifar100": [(75.66, 0.71)]},
    ("resnet19", "one regulariser"): {
        "cifar10": [(95.47, 0.49), (95.02, 0.66)],
        "cifar100": [(76.80, 0.18), (77.10, 0.25)],
    },
    ("resnet19", "ste"): {"cifar10": [(96.16, 0.13)], "cifar100": [(77.90, 0.06)]},
    ("vgg16", "random"): {"cifar10": [(93.63, 0.85)], "cifar100": [(73.89, 0.91)]},
    ("vgg16", "baseline"): {"cifar10": [(93.89, 0.94)], "cifar100": [(74.95, 0.76)]},
    ("vgg16", "one regulariser"): {
        "cifar10": [(95.18, 0.37), (95.21, 0.20)],
        "cifar100": [(75.44, 0.27), (75.58, 0.33)],
    },
    ("vgg16", "ste"): {"cifar10": [(95.40, 0.12)], "cifar100": [(75.69, 0.25)]},
}

# Figure 2: Gaussian noise whose norm is this share of the input's.
FIGURE2_NOISE = 0.5
FIGURE2_ACCURACY = {"cifar10": 92.2, "cifar100": 68.7}

# Section 4.4: GPU-hours of the search, epochs per candidate, and how far the baseline ends behind (points).
SECTION44_HOURS = {"ste": 5.0, "baseline": 25.0}
SECTION44_EPOCHS = {"ste": 2, "baseline": 10}
SECTION44_BEHIND = 0.84


def table4(network: str, method: str, dataset: str) -> list[tuple[float, float]]:
    """(mean, deviation) of an ablation: one pair, two where it is not known which, or none."""
    name = "one regulariser" if method in ("baseline+td", "baseline+se") else method
    return TABLE4.get((network, name), {}).get(dataset, [])
