"""Compile every Triton kernel that can be launched for GPUs that are not there, and tabulate what came out.

    python -m bench.compile_kernels --write      # renew bench/results/triton_*.json
    python -m bench.compile_kernels --check      # fail if a kernel spills, outgrows a chip or left the table

The launches of each `gee_kernels/*/triton_kernel.py` are made with meta tensors under a driver that only
names a target, so what is compiled is what Triton would compile for that call, specialisation and all.
Registers, stack, local memory and instructions are read from the machine code with the `cuobjdump` that
comes with Triton.
"""

import argparse
import collections
import contextlib
import importlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

os.environ.pop("TRITON_INTERPRET", None)

import triton
from triton.backends.compiler import GPUTarget
from triton.runtime.autotuner import Autotuner
from triton.runtime.jit import JITFunction

import gee_kernels

RESULTS = Path(__file__).parent / "results"
TARGETS = (80, 90)  # compute capability times ten: A100, H100 and H200
SHARED_LIMIT = {80: 163 * 1024, 90: 227 * 1024}  # bytes one block may use (CUDA programming guide, table 24)
REGISTER_LIMIT = 255
INSTRUCTIONS = {
    "tensor_core": r"(HMMA|HGMMA|IMMA|IGMMA|QGMMA|DMMA)",
    "load_global": r"LDG|LDGSTS|UBLKCP|UTMALDG",
    "store_global": r"STG",
    "load_shared": r"LDS|LDSM",
    "store_shared": r"STS|STSM",
    "load_local": r"LDL",
    "store_local": r"STL",
    "float": r"(FADD|FMUL|FFMA|FSETP|FSEL|FMNMX|HADD2|HMUL2|HFMA2)",
    "atomic": r"(ATOM|ATOMG|ATOMS|RED|REDG)",
}


class _NamedTarget:
    """A driver without a device: it says only for which GPU to compile."""

    def __init__(self, capability: int) -> None:
        self.capability = capability

    def get_current_target(self) -> GPUTarget:
        return GPUTarget("cuda", self.capability, 32)

    def get_current_device(self) -> int:
        return self.capability  # Triton keeps its compiled kernels by device: one cache per target

    def get_current_stream(self, device: int) -> int:
        return 0


@contextlib.contextmanager
def compiling(capability: int) -> Iterator[list]:
    """Launches within the context compile for sm_`capability` and run nothing; yields (name, kernel)."""
    compiled: list = []
    run, tune, driver = JITFunction.run, Autotuner.run, triton.runtime.driver._active

    def compile_only(self, *args, grid, warmup, **kwargs):
        kernel = run(self, *args, grid=grid, warmup=True, **kwargs)
        compiled.append((self.fn.__name__, kernel))
        return kernel

    def compile_all(self, *args, **kwargs):
        self.nargs = dict(zip(self.arg_names, args, strict=False))
        for config in self.prune_configs(kwargs):
            self.fn.run(*args, **kwargs, **config.all_kwargs())
        self.nargs = None

    JITFunction.run, Autotuner.run = compile_only, compile_all
    triton.runtime.driver.set_active(_NamedTarget(capability))
    try:
        yield compiled
    finally:
        JITFunction.run, Autotuner.run = run, tune
        triton.runtime.driver.set_active(driver)


def operators() -> list[str]:
    """The operators that have a Triton kernel."""
    return sorted(path.parent.name for path in Path(gee_kernels.__file__).parent.glob("*/triton_kernel.py"))


def table(operator: str, capability: int, cache: dict[str, dict]) -> list[dict]:
    """One row per kernel that the operator's launches compile for sm_`capability`.

    `cache` keeps the inspection of machine code by its hash; launches that share a kernel are one row.
    """
    module = importlib.import_module(f"gee_kernels.{operator}.triton_kernel")
    rows: dict[str, dict] = {}
    labels = collections.Counter()
    for launch in module.launches():
        labels[launch.label] += 1
        with compiling(capability) as compiled:
            launch.launcher(*launch.args)
        if not compiled:
            raise RuntimeError(f"{operator}: launch {launch.label!r} started no kernel")
        for name, kernel in compiled:
            row = rows.setdefault(kernel.hash, {"kernel": name, "launches": []})
            if launch.label not in row["launches"]:
                row["launches"].append(launch.label)
            if kernel.hash not in cache:
                cache[kernel.hash] = inspect(kernel)
            row.update(cache[kernel.hash])
    if repeated := [label for label, n in labels.items() if n > 1]:
        raise RuntimeError(f"{operator}: launches() repeats the labels {repeated}")
    return [{"sm": capability, **row} for row in rows.values()]


def inspect(kernel) -> dict:
    """Resources and instruction mix of a compiled kernel."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        text = _cuobjdump("--dump-resource-usage", "--dump-sass", file.name)
    field = {k: int(v) for k, v in re.findall(r"\b(REG|STACK|LOCAL):(\d+)", text)}
    opcodes = re.findall(r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?\w+\s+)?([A-Z][A-Z0-9_]*)", text, re.MULTILINE)
    counts = {
        name: sum(re.fullmatch(pattern, opcode) is not None for opcode in opcodes)
        for name, pattern in INSTRUCTIONS.items()
    }
    return {
        "warps": kernel.metadata.num_warps,
        "registers": field["REG"],
        "stack": field["STACK"],
        "local": field["LOCAL"],
        "shared": kernel.metadata.shared,
        "instructions": len(opcodes),
        **counts,
    }


def _cuobjdump(*args: str) -> str:
    tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
    return subprocess.run([tool, *args], check=True, capture_output=True, text=True).stdout


def faults(operator: str, row: dict) -> list[str]:
    """What is wrong with a kernel on any Triton version."""
    where = f"{operator}: {row['kernel']} for sm_{row['sm']} ({row['launches'][0]})"
    found = []
    if row["stack"] or row["local"] or row["load_local"] or row["store_local"]:
        found.append(
            f"{where} spills: stack {row['stack']}, {row['load_local']} loads, {row['store_local']} stores"
        )
    if row["registers"] > REGISTER_LIMIT:
        found.append(f"{where} uses {row['registers']} registers")
    if row["shared"] > SHARED_LIMIT[row["sm"]]:
        found.append(
            f"{where} uses {row['shared']} bytes of shared memory, {SHARED_LIMIT[row['sm']]} allowed"
        )
    wanted = getattr(
        importlib.import_module(f"gee_kernels.{operator}.triton_kernel"), "TENSOR_CORE_KERNELS", ()
    )
    ieee = all(label.startswith("f32") for label in row["launches"])  # tensor cores round float32
    if row["kernel"] in wanted and not ieee and not row["tensor_core"]:
        found.append(f"{where} has no tensor-core instruction")
    return found


def _key(row: dict) -> str:
    return f"sm_{row['sm']} {row['kernel']}: {' | '.join(row['launches'])}"


def compare(operator: str, rows: list[dict], triton_version: str) -> list[str]:
    """Differences from the committed table: every field on its Triton version, else the set of kernels."""
    path = RESULTS / f"triton_{operator}.json"
    if not path.exists():
        return [f"{operator}: {path.name} is missing"]
    saved = json.loads(path.read_text())
    old, new = ({_key(r): r for r in side} for side in (saved["kernels"], rows))
    if saved["triton"] != triton_version:
        names = [{(r["sm"], r["kernel"]) for r in side.values()} for side in (old, new)]
        return (
            [f"{operator}: kernels differ from the table: {names[0] ^ names[1]}"]
            if names[0] != names[1]
            else []
        )
    found = [f"{operator}: in one table only: {key}" for key in sorted(old.keys() ^ new.keys())]
    return found + [
        f"{operator}: {key}: {field} is {new[key][field]}, table says {old[key][field]}"
        for key in sorted(old.keys() & new.keys())
        for field in new[key]
        if new[key][field] != old[key].get(field)
    ]


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--write", action="store_true", help="write the tables into bench/results/")
    action.add_argument("--check", action="store_true", help="compare with the tables in bench/results/")
    parser.add_argument("operators", nargs="*", help="default: all that have a Triton kernel")
    args = parser.parse_args(argv)
    version, problems, cache = triton.__version__, [], {}
    for operator in args.operators or operators():
        rows = [row for capability in TARGETS for row in table(operator, capability, cache)]
        problems += [fault for row in rows for fault in faults(operator, row)]
        if args.write:
            content = {
                "command": "python -m bench.compile_kernels --write",
                "triton": version,
                "kernels": rows,
            }
            lines = ",\n  ".join(json.dumps(row) for row in rows)
            text = json.dumps(content | {"kernels": "@"}, indent=1).replace('"@"', f"[\n  {lines}\n ]")
            (RESULTS / f"triton_{operator}.json").write_text(text + "\n")
        else:
            problems += compare(operator, rows, version)
        worst = max(rows, key=lambda row: row["registers"])
        print(f"{operator}: {len(rows)} kernels, at most {worst['registers']} registers", flush=True)
    print(*problems, sep="\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
