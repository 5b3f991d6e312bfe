"""Every Triton kernel compiles for sm_80 and sm_90, without spills and within the chip, as the tables say."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
OPERATORS = sorted(path.parent.name for path in (ROOT / "gee_kernels").glob("*/triton_kernel.py"))


def run(code_or_module: list[str]) -> subprocess.CompletedProcess:
    env = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-W", "ignore", *code_or_module], cwd=ROOT, env=env, capture_output=True, text=True
    )


def test_all_operators_compile_as_the_tables_say():
    done = run(["-m", "bench.compile_kernels", "--check"])
    assert done.returncode == 0, done.stdout + done.stderr
    for operator in OPERATORS:
        assert f"{operator}: " in done.stdout
