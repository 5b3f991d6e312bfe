"""Means over seeds, and how they are written beside the paper's."""

import statistics
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple


class Mean(NamedTuple):
    """Mean and standard deviation over seeds; the deviation is None for a single one."""

    mean: float
    deviation: float | None
    count: int


def groups(rows: Sequence[dict[str, Any]], *keys: str) -> Iterator[tuple[tuple, list[dict[str, Any]]]]:
    """Rows that agree in `keys`, in the order of their first ones."""
    found: dict[tuple, list[dict[str, Any]]] = {}
    for row in rows:
        found.setdefault(tuple(row[key] for key in keys), []).append(row)
    yield from found.items()


def mean(rows: Sequence[dict[str, Any]], column: str, factor: float = 1.0) -> Mean | None:
    """Over the rows that have a value in `column`; None where none has (all of them failed)."""
    values = [factor * row[column] for row in rows if row[column] is not None]
    if not values:
        return None
    return Mean(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None, len(values))


def show(value: Mean | tuple[float, float] | None, digits: int = 2) -> str:
    """`95.47 ± 0.49`."""
    if value is None:
        return "-"
    if value[1] is None:
        return f"{value[0]:,.{digits}f}"
    return f"{value[0]:,.{digits}f} ± {value[1]:,.{digits}f}"


def seeds(rows: Sequence[dict[str, Any]]) -> str:
    """`3`, or `2 of 3` where a run failed."""
    good = sum(not row["failure"] for row in rows)
    return str(good) if good == len(rows) else f"{good} of {len(rows)}"
