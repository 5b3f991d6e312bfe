"""`pytest` runs the tests, `pytest --benchmark` the speed comparisons in bench/."""

import os

import pytest

# Before torch is imported: threads that wait shall sleep. Spinning, they slow a busy machine tenfold.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--benchmark", action="store_true", help="run the speed comparisons in bench/ instead of the tests"
    )


def pytest_ignore_collect(collection_path, config: pytest.Config) -> bool | None:
    wanted = "bench" if config.getoption("--benchmark") else "tests"
    other = "tests" if wanted == "bench" else "bench"
    if collection_path == config.rootpath / other:
        return True
    return None
