"""Everything there is to find out on a machine with a GPU: one command, ten minutes, one JSON file.

    python -m bench.gpu --out gpu.json              # on the machine with the GPU
    python -m bench.gpu --out gpu.json --dry-run    # the same code on the CPU, in Triton's interpreter, tiny

Sections, in order: the operators' tests on the device; compute-sanitizer on small cases; the ceilings (copy
bandwidth, matrix rate); every operator, verified and timed, against them; whole networks, a training step
each, also as a CUDA graph. A section that fails is recorded with its traceback, the others still run, and
the command ends with 1. The file is written after every section.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict
from pathlib import Path

import torch

ROOT = Path(__file__).parents[2]
TESTS = "tests/kernels"
SANITIZER = "/usr/local/cuda/bin/compute-sanitizer"
LIMIT = {torch.bfloat16: 3e-2, torch.float32: 1e-2}  # relative; float32 convolutions may run in TF32


class Session:
    """One run: its device, what it has found, and how much time is left."""

    def __init__(self, out: Path, dry: bool, minutes: float) -> None:
        self.out, self.dry, self.end = out, dry, time.monotonic() + 60 * minutes
        self.device = "cpu" if dry else "cuda"
        self.dtype = torch.float32 if dry else torch.bfloat16
        self.rounds, self.warmup = (1, 1) if dry else (11, 2)
        self.found: dict = {"dry_run": dry, "sections": {}, "failures": []}

    @property
    def left(self) -> float:
        return self.end - time.monotonic()

    def section(self, name: str, run: Callable[["Session"], object]) -> None:
        begin = time.monotonic()
        result: object = "left out: no time left"
        if self.left > 0:
            try:
                result = run(self)
            except (
                Exception
            ):  # recorded with its traceback, and the exit code says so; the rest is still measured
                self.fail(name, traceback.format_exc())
                result = "failed"
        self.found["sections"][name] = {"seconds": round(time.monotonic() - begin, 1), "result": result}
        self.out.write_text(json.dumps(self.found, indent=1) + "\n")
        print(f"{name}: {time.monotonic() - begin:.0f} s", flush=True)

    def fail(self, where: str, why: str) -> None:
        self.found["failures"].append({"where": where, "why": why})
        print(f"{where}: {why}", file=sys.stderr, flush=True)

    def command(self, *args: str) -> subprocess.CompletedProcess:
        return subprocess.run(
            args, cwd=ROOT, capture_output=True, text=True, timeout=max(self.left, 1), env=os.environ.copy()
        )


def environment(session: Session) -> dict:
    from bench._measure import environment

    facts = environment()
    if not session.dry:
        properties = torch.cuda.get_device_properties(0)
        query = session.command(
            "nvidia-smi", "--query-gpu=driver_version,clocks.max.sm", "--format=csv,noheader"
        )
        facts |= {
            "capability": f"{properties.major}.{properties.minor}",
            "multiprocessors": properties.multi_processor_count,
            "memory_gib": round(properties.total_memory / 2**30, 1),
            "cuda": torch.version.cuda,
            "driver": query.stdout.strip(),
        }
    return facts


def tests(session: Session) -> dict:
    """The tests of the Triton kernels; where there is a GPU they run on it."""
    chosen = (
        ["tests/kernels/test_triton_synapses.py"]
        if session.dry
        else sorted(str(p.relative_to(ROOT)) for p in (ROOT / TESTS).glob("test_triton_*.py"))
    )
    done = session.command(
        sys.executable, "-m", "pytest", "-q", "--tb=short", "-p", "no:cacheprovider", *chosen
    )
    summary = done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""
    if done.returncode:
        session.fail("tests", done.stdout[-4000:] + done.stderr[-1000:])
    return {"summary": summary, "files": chosen}


def sanitizer(session: Session) -> dict:
    """Small cases of every operator under compute-sanitizer's memory check."""
    small = [sys.executable, "-m", "bench.gpu.small", session.device]
    if session.dry:
        done = session.command(*small)
        tool = "none: dry run"
    else:
        found = shutil.which("compute-sanitizer") or (SANITIZER if Path(SANITIZER).exists() else None)
        if found is None:
            return {"tool": "not installed"}
        done = session.command(found, "--tool", "memcheck", "--error-exitcode", "3", *small)
        tool = "compute-sanitizer memcheck"
    if done.returncode:
        session.fail("sanitizer", done.stdout[-4000:] + done.stderr[-2000:])
    errors = re.findall(r"ERROR SUMMARY: .*", done.stdout)
    return {"tool": tool, "exit": done.returncode, "errors": errors}


def ceilings(session: Session) -> dict:
    """What the machine does at best: bytes read plus written by a copy, and a large matrix product."""
    from bench._measure import Spread, alternate

    n, side = (1 << 10, 32) if session.dry else (1 << 30, 8192)
    source = torch.randint(0, 255, (n,), dtype=torch.uint8, device=session.device)
    target = torch.empty_like(source)
    a, b = (torch.randn(side, side, device=session.device).to(session.dtype) for _ in range(2))
    seconds = alternate(
        {"copy": lambda: target.copy_(source), "matmul": lambda: a @ b}, rounds=session.rounds
    )
    return {
        "copy_gigabytes_per_second": asdict(Spread.of([2 * n / 1e9 / t for t in seconds["copy"]])),
        "matmul_teraflop_per_second": asdict(Spread.of([2 * side**3 / 1e12 / t for t in seconds["matmul"]])),
    }


def operators(session: Session) -> list[dict]:
    """Every operator: verified against its peers, timed, and set against the slower of the two ceilings."""
    from bench._measure import Spread, alternate
    from bench.gpu.cases import STAGES, TINY, cases

    top = session.found["sections"]["ceilings"]["result"]
    bandwidth = top["copy_gigabytes_per_second"]["median"]
    rate = 1e3 * top["matmul_teraflop_per_second"]["median"]
    rows = []
    for case in cases(TINY if session.dry else STAGES, session.dtype, session.device):
        name = f"{case.name}, {case.size}"
        if session.left < 0:
            session.fail(name, "left out: no time left")
            continue
        try:
            results = {contestant: call() for contestant, call in case.run.items()}
            errors = {n: _distance(results["gee"], r) for n, r in results.items() if n != "gee"}
            del results
            limit = LIMIT[session.dtype] if case.limit is None else case.limit
            if wrong := {n: e for n, e in errors.items() if not e <= limit}:
                session.fail(name, f"differs from {wrong}, at most {limit} allowed")
            seconds = alternate(case.run, rounds=session.rounds, warmup=session.warmup)
            floor = max(case.gigabytes / bandwidth, case.gigaflop / rate)
            rows.append(
                {
                    "case": case.name,
                    "size": asdict(case.size),
                    "dtype": str(session.dtype),
                    "gigabytes": case.gigabytes,
                    "gigaflop": case.gigaflop,
                    "bound": "memory" if case.gigabytes / bandwidth >= case.gigaflop / rate else "arithmetic",
                    "floor_ms": 1e3 * floor,
                    "errors": errors,
                    "milliseconds": {
                        n: asdict(Spread.of([1e3 * t for t in ts])) for n, ts in seconds.items()
                    },
                    "share_of_ceiling": floor / Spread.of(seconds["gee"]).median,
                }
            )
        except (
            Exception
        ):  # recorded with its traceback, and the exit code says so; the rest is still measured
            session.fail(name, traceback.format_exc())
    return rows


def _distance(out, ref) -> float:
    """The largest ||out - ref|| / ||ref|| of corresponding tensors."""
    pairs = zip(out, ref, strict=True) if isinstance(out, tuple) else [(out, ref)]
    worst = 0.0
    for a, b in pairs:
        norm = b.double().norm().item()
        error = (a.double() - b.double()).norm().item() / (norm or 1.0)
        worst = max(worst, error if error == error else float("inf"))
    return worst


def networks(session: Session) -> list[dict]:
    """A training step of whole networks: images per second and peak memory, also as a CUDA graph."""
    from bench._measure import Spread, alternate
    from bench.gpu.networks import contestants

    rows = []
    for name, batch, build in contestants(session.dry):
        if session.left < 0:
            session.fail(name, "left out: no time left")
            continue
        try:
            step = build(session.device)
            if not session.dry:
                torch.cuda.reset_peak_memory_stats()
            losses = [step().item() for _ in range(1 if session.dry else 3)]
            if not all(loss == loss and loss < 1e4 for loss in losses):
                session.fail(name, f"losses {losses}")
            seconds = alternate({"step": step}, rounds=session.rounds, warmup=session.warmup)["step"]
            rows.append(
                {
                    "network": name,
                    "batch": batch,
                    "losses": losses,
                    "images_per_second": asdict(Spread.of([batch / t for t in seconds])),
                    "peak_gib": 0.0 if session.dry else torch.cuda.max_memory_allocated() / 2**30,
                }
            )
        except (
            Exception
        ):  # recorded with its traceback, and the exit code says so; the rest is still measured
            session.fail(name, traceback.format_exc())
    return rows


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True, help="the JSON file to write")
    parser.add_argument(
        "--dry-run", action="store_true", help="tiny sizes on the CPU, in Triton's interpreter"
    )
    parser.add_argument("--minutes", type=float, default=9.5, help="time allowed (default: %(default)s)")
    parser.add_argument("--only", nargs="+", metavar="SECTION", help="run these sections only")
    args = parser.parse_args(argv)
    if args.dry_run:
        os.environ["TRITON_INTERPRET"] = "1"
    elif not torch.cuda.is_available():
        parser.error("there is no CUDA device; --dry-run does everything on the CPU with tiny sizes")
    import gee_kernels.testing

    session = Session(args.out, args.dry_run, args.minutes)
    torch.manual_seed(0)
    for name, run in {
        "environment": environment,
        "tests": tests,
        "sanitizer": sanitizer,
        "ceilings": ceilings,
        "operators": operators,
        "networks": networks,
    }.items():
        if args.only and name not in args.only:
            continue
        with gee_kernels.testing.interpreted() if args.dry_run else nullcontext():
            session.section(name, run)
    failures = session.found["failures"]
    print(f"{len(failures)} failures", *[f["where"] for f in failures], sep="\n")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
