"""`python -m gee.evolve`: evolve, train and measure a network."""

import os
import sys
from collections.abc import Sequence
from pathlib import Path

# Before torch is imported: threads that wait shall sleep. Spinning, they slow a busy machine tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

from gee import config as configuration


def main(args: Sequence[str] | None = None) -> None:
    """Parse the flags (None: `sys.argv`) and evolve; ends with a message where something is wrong."""
    from gee.data import DataError
    from gee.search import SearchConfig, evolve
    from gee.search.errors import SearchError
    from gee.search.plan import make_plan
    from gee.training import NonFiniteLossError, WeightsError

    prog = "python -m gee.evolve"
    given = list(sys.argv[1:] if args is None else args)
    config = configuration.parse(SearchConfig, given, prog=prog)
    try:
        if config.resume is not None and "--config" not in given:
            saved = Path(config.resume) / "config.json"
            if saved.is_file():  # else: evolve says what is wrong
                config = configuration.parse(SearchConfig, [*given, "--config", str(saved)], prog=prog)
        if config.plan:
            print(make_plan(config))
            return
        result = evolve(config)
    except (SearchError, DataError, NonFiniteLossError, WeightsError, ValueError, ImportError) as error:
        raise SystemExit(f"{prog}: {error}") from error
    except KeyboardInterrupt:
        raise SystemExit(f"{prog}: interrupted; continue with --resume and the run directory") from None
    print(f"\n{result}")


if __name__ == "__main__":
    main()
