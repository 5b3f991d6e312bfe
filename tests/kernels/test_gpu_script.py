"""bench/gpu does on the CPU, tiny and interpreted, everything that it will do on a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from bench.gpu import __main__ as gpu

ROOT = Path(__file__).parents[2]
SECTIONS = ["environment", "tests", "sanitizer", "ceilings", "operators", "networks"]


@pytest.mark.slow
def test_dry_run(tmp_path):
    out = tmp_path / "gpu.json"
    done = subprocess.run(
        [sys.executable, "-m", "bench.gpu", "--dry-run", "--out", out],
        cwd=ROOT,
        env=os.environ | {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    found = json.loads(out.read_text())
    assert found["failures"] == [], done.stderr
    assert done.returncode == 0
    assert list(found["sections"]) == SECTIONS
    results = {name: section["result"] for name, section in found["sections"].items()}
    assert "passed" in results["tests"]["summary"]
    assert {row["case"] for row in results["operators"]} >= {
        "lif forward",
        "genetic_conv2d forward and backward",
    }
    assert all(row["milliseconds"]["gee"]["median"] > 0 for row in results["operators"])
    assert any("CUDA graph" in row["network"] for row in results["networks"])


def test_a_failing_section_is_recorded_and_the_others_run(tmp_path, monkeypatch):
    def broken(session):
        raise ValueError("out of order")

    monkeypatch.setattr(gpu, "ceilings", broken)
    out = tmp_path / "gpu.json"
    assert gpu.main(["--dry-run", "--out", str(out), "--only", "ceilings", "environment"]) == 1
    found = json.loads(out.read_text())
    assert found["failures"][0]["where"] == "ceilings"
    assert "out of order" in found["failures"][0]["why"]
    assert found["sections"]["environment"]["result"]["torch"]


def test_without_a_gpu_it_says_what_to_do(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit):
        gpu.main(["--out", str(tmp_path / "gpu.json")])
    assert "--dry-run" in capsys.readouterr().err
