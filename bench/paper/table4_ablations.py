"""Table 4: what each part of the search adds, over several seeds.

random: a random genotype, no search; baseline: scored by the cross-entropy alone; +td, +se: one regulariser;
ste: both. In the paper's table the names of the two rows with one regulariser are lost, so both of its values
stand beside both of ours.
"""

from collections.abc import Sequence

from bench.paper import figures, published
from bench.paper.options import Configuration
from bench.paper.runner import Experiment, Row, Table, main
from bench.paper.summary import groups, mean, seeds, show

METHODS = ("random", "baseline", "baseline+td", "baseline+se", "ste")
CONFIGURATIONS = tuple(
    Configuration(model, published.ABLATION_GENES, method)
    for model in ("resnet19", "vgg16")
    for method in METHODS
)


def compare(rows: Sequence[Row]) -> Table:
    lines = []
    for (model, method), group in groups(rows, "network", "method"):
        theirs = published.table4(model, method, group[0]["dataset"])
        lines.append(
            [
                f"{model}, {method}",
                show(mean(group, "accuracy", 100)),
                seeds(group),
                " or ".join(map(show, theirs)) or "-",
            ]
        )
    return ["network, method", "accuracy, ours (%)", "seeds", "accuracy, paper (%)"], lines


def figure(rows: Sequence[Row]) -> figures.Figure:
    found = list(groups(rows, "network", "method"))
    return figures.values(
        [f"{model}, {method}" for (model, method), _ in found],
        [mean(group, "accuracy", 100) for _, group in found],
        [[pair[0] for pair in published.table4(*key, group[0]["dataset"])] for key, group in found],
        "held-out accuracy (%)",
    )


EXPERIMENT = Experiment(
    "table4_ablations", "Table 4: ablations of the search", __doc__ or "", figure, compare, CONFIGURATIONS
)

if __name__ == "__main__":
    main(EXPERIMENT)
