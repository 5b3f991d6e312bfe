"""Write the README's tables from the measured results, so that no figure is typed.

python -m bench.headline            # rewrite README.md between the `headline:` comments
python -m bench.headline --check    # fail if README.md does not say what bench/results/ holds
"""

import argparse
import json
import math
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "bench" / "results"


def networks() -> str:
    """Whole networks: times of SpikingJelly / ours, and peak memory."""
    content, memory = _read("networks"), _read("networks_memory")
    if content is None:
        return ""
    lines = [
        "| network | firing rate | " + " | ".join(f"{what} against {who}" for what, _, who in _PAIRS) + " |"
    ]
    lines.append("|---|---|" + "---|" * len(_PAIRS))
    for network, rate in sorted({_case(row) for row in content["rows"]}, reverse=True):
        cells = []
        for what, ours, theirs in _PAIRS:
            pair = [_row(content["rows"], what, network, rate, name) for name in (ours, theirs)]
            cells.append(f"{pair[1] / pair[0]:.1f}x" if None not in pair else "")
        lines.append(f"| {network} | {rate:.0%} | " + " | ".join(cells) + " |")
    if memory is not None:
        lines += ["", _memory(memory["rows"])]
    return "\n".join([*lines, "", _conditions(content)])


_PAIRS = [
    ("training step", "gee", "spikingjelly"),
    ("training step", "gee", "snntorch"),
    ("training step", "gee", "norse"),
    ("inference", "gee, deployed", "spikingjelly"),
    ("inference", "gee, deployed", "snntorch"),
    ("inference", "gee, deployed", "norse"),
]


def _case(row: dict[str, Any]) -> tuple[str, float]:
    return row["parameters"]["network"], row["parameters"]["rate"]


def _row(rows: Sequence[dict], case: str, network: str, rate: float, contestant: str) -> float | None:
    for row in rows:
        if row["case"] == case and _case(row) == (network, rate) and row["contestant"] == contestant:
            return row["milliseconds"]["median"]
    return None


def _memory(rows: Sequence[dict]) -> str:
    of = {(row["network"], row["mode"], row["contestant"]): row["step_mib"] for row in rows}
    parts = [
        f"{network} {of[network, 'train', 'gee']:.0f} MiB against {of[network, 'train', 'spikingjelly']:.0f}"
        for network in dict.fromkeys(row["network"] for row in rows)
    ]
    return f"Peak memory of a training step above the loaded model, against SpikingJelly: {'; '.join(parts)}."


def operators() -> str:
    """`genetic_conv2d` auto against dense channels-last convolution, geometric mean over the shapes."""
    content = _read("genetic_conv2d")
    if content is None:
        return ""
    rows = [
        row for row in content["rows"] if row["contestant"] == "auto" and row["parameters"]["genes"] == 100
    ]
    if not rows:
        return ""
    cases = list(dict.fromkeys(row["case"] for row in rows))
    densities = sorted({row["parameters"]["density"] for row in rows if "density" in row["parameters"]})
    lines = ["| genetic_conv2d, g = 100 | " + " | ".join(f"{d:.0%}" for d in densities) + " |"]
    lines.append("|---|" + "---|" * len(densities))
    for case in cases:
        cells = []
        for density in densities:
            # The gradient to x does not depend on the density: its rows have none and count for every column.
            found = [
                row["speedup"]["median"]
                for row in rows
                if row["case"] == case and row["parameters"].get("density", density) == density
            ]
            cells.append(f"{math.prod(found) ** (1 / len(found)):.1f}x" if found else "")
        lines.append(f"| {case} | " + " | ".join(cells) + " |")
    return "\n".join([*lines, "", _conditions(content)])


def _conditions(content: dict[str, Any]) -> str:
    facts = content["environment"]
    threads = content["rows"][0]["threads"]
    return (
        f"*{facts['cpu']}, {threads} threads, torch {facts['torch']}, SpikingJelly {facts['spikingjelly']}, "
        f"snnTorch {facts['snntorch']}, Norse {facts['norse']}, {facts['date'][:10]}; medians of alternating "
        "runs.*"
    )


def _read(name: str) -> Any:
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()) if path.exists() else None


TABLES: dict[str, Callable[[], str]] = {"networks": networks, "operators": operators}


def render(readme: str) -> str:
    """`readme` with each `<!-- headline: NAME -->` ... `<!-- end -->` filled from the results."""
    for name, table in TABLES.items():
        pattern = rf"(<!-- headline: {name} -->\n).*?(<!-- end -->)"
        readme = re.sub(
            pattern, lambda match, table=table: f"{match[1]}{table()}\n{match[2]}", readme, flags=re.DOTALL
        )
    return readme


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="change nothing; fail where README.md differs")
    options = parser.parse_args()
    path = ROOT / "README.md"
    current = path.read_text()
    wanted = render(current)
    if options.check and current != wanted:
        sys.exit("README.md does not hold the results in bench/results: run `python -m bench.headline`")
    if not options.check:
        path.write_text(wanted)


if __name__ == "__main__":
    main()
