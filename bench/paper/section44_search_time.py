"""Section 4.4: how long the search takes, STE against the baseline with five times the epochs per candidate.

The time of a search is the sum of its candidates' own times, whatever ran beside them. In the paper STE takes
about 5 GPU-hours (A100) and the baseline 25, and still ends 0.84 points behind.
"""

from collections.abc import Sequence

from bench.paper import figures, published
from bench.paper.options import Configuration
from bench.paper.runner import Experiment, Row, Table, main
from bench.paper.summary import groups, mean, seeds, show

EFFORT = published.SECTION44_EPOCHS["baseline"] // published.SECTION44_EPOCHS["ste"]
CONFIGURATIONS = (
    Configuration("resnet19", published.ABLATION_GENES, "ste"),
    Configuration("resnet19", published.ABLATION_GENES, "baseline", effort=EFFORT),
)


def compare(rows: Sequence[Row]) -> Table:
    header = ["method", "epochs per candidate", "search, ours (s)", "accuracy, ours (%)", "seeds"]
    lines = []
    for (method, epochs), group in groups(rows, "method", "candidate_epochs"):
        lines.append(
            [
                method,
                str(epochs),
                show(mean(group, "search_seconds"), 1),
                show(mean(group, "accuracy", 100)),
                seeds(group),
                f"about {published.SECTION44_HOURS[method]:g}",
                f"{published.SECTION44_EPOCHS[method]}",
            ]
        )
    return [*header, "search, paper (GPU-hours)", "epochs per candidate, paper"], lines


def figure(rows: Sequence[Row]) -> figures.Figure:
    found = list(groups(rows, "method", "candidate_epochs"))
    return figures.values(
        [
            f"{method}, {epochs} epochs per candidate: {show(mean(group, 'accuracy', 100))} %"
            for (method, epochs), group in found
        ],
        [mean(group, "search_seconds") for _, group in found],
        [[] for _ in found],
        "time of the search (s); the paper's are GPU-hours of an A100 and not drawn",
    )


EXPERIMENT = Experiment(
    "section44_search_time", "Section 4.4: search time", __doc__ or "", figure, compare, CONFIGURATIONS
)

if __name__ == "__main__":
    main(EXPERIMENT)
