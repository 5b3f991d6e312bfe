"""`python -m gee.report RUN...`: rebuild the report of a run, or compare several."""

import argparse
import sys

from gee import report

EXAMPLES = """\
examples:
  python -m gee.report runs/20260101-120000            rebuild its report.html; the run may still be going
  python -m gee.report runs/a runs/b runs/c            compare them in comparison.html
  python -m gee.report runs/* --output all.html
"""


def main(args: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m gee.report",
        description="Write a run's report as one self-contained HTML page, or compare several runs.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run directory of gee.evolve or gee.train")
    parser.add_argument(
        "--output", metavar="FILE", help="where the comparison goes (default: comparison.html)"
    )
    options = parser.parse_args(args)
    if options.output and len(options.runs) == 1:
        parser.error("--output is for the comparison of several runs; one run's report lies in its directory")
    try:
        if len(options.runs) == 1:
            print(report.write(options.runs[0]))
        else:
            print(report.compare(options.runs, options.output or "comparison.html"))
    except (OSError, ValueError) as error:
        sys.exit(f"python -m gee.report: {error}")


if __name__ == "__main__":
    main()
