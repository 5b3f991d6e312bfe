"""`report.html`: a run as one self-contained page; several runs side by side.

gee.report.write("runs/NAME")                 # runs/NAME/report.html
gee.report.compare(["runs/A", "runs/B"], "comparison.html")
"""

from collections.abc import Sequence
from pathlib import Path

from gee.files import write_atomically
from gee.report import comparison, single
from gee.report.run import Run, read_run

__all__ = ["Run", "compare", "read_run", "write"]


def write(run: str | Path) -> Path:
    """Write `report.html` into the run directory `run`, finished or still going, and return its path.

    Raises:
        FileNotFoundError: `run` is not a run directory.
        ValueError: a file in it is damaged.
    """
    contents = read_run(run)
    path = Path(run) / "report.html"
    write_atomically(path, single.render(contents))
    return path


def compare(runs: Sequence[str | Path], path: str | Path) -> Path:
    """Write one page about several runs to `path`: a table, curves, how far fitness predicts accuracy.

    Raises:
        FileNotFoundError, ValueError: as `write`.
    """
    write_atomically(Path(path), comparison.render([read_run(run) for run in runs]))
    return Path(path)
