"""The run directory: everything a search knows, written so that a kill at any moment loses nothing.

    config.json        the configuration, nothing else: `--config` takes it
    run.json           format, versions, machine
    candidates.jsonl   one line per candidate, flushed to the disk one by one, in the order they finished
    search.log         what happened: retries, failures, repairs
    tensorboard/       scalars of the search
    train/             the full training of the best candidate
    weights.safetensors   what it learned
    result.json        what came out
    report.html        the same, to look at

No state of the optimiser is stored: it is a function of the seed and of the values told to it (`strategy`),
so a resumed search asks and tells again what stands in `candidates.jsonl`.
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import json
import os
import platform
import socket
import time
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

from gee.files import write_atomically
from gee.search.errors import RunDirectoryError

FORMAT = 1  # of the run directory; raised when an older one can no longer be continued


@dataclasses.dataclass(frozen=True)
class Candidate:
    """One line of candidates.jsonl. A failed candidate has a `failure` and no measurements."""

    generation: int
    index: int
    seed: int
    vector: tuple[float, ...]  # [n], the optimiser's coordinates
    genotype: dict[str, Any]  # what they mean
    cross_entropy: float | None
    temporal_difference: float | None
    spatial_entropy: float | None
    fitness: float | None
    seconds: float
    failure: str | None = None

    def to_line(self) -> bytes:
        return (json.dumps(dataclasses.asdict(self), allow_nan=False) + "\n").encode()

    @classmethod
    def from_line(cls, line: bytes) -> Candidate:
        """Raises ValueError for anything that `to_line` did not write."""
        return cls.from_dict(json.loads(line))

    @classmethod
    def from_dict(cls, values: Any) -> Candidate:
        """Raises ValueError for anything but the fields of a candidate."""
        if not isinstance(values, dict) or set(values) != {f.name for f in dataclasses.fields(cls)}:
            raise ValueError("not a candidate")
        return cls(**{**values, "vector": tuple(values["vector"])})


class RunDirectory:
    """An open run directory, locked until `close`. Make one with `create` or `resume`; a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.candidates: dict[tuple[int, int], Candidate] = {}
        self._lock = self._take_lock()
        self._lines: int | None = None  # file descriptor of candidates.jsonl

    @classmethod
    def create(cls, path: str | Path, config: dict[str, Any]) -> RunDirectory:
        """Begin a run at `path`, which is made if need be.

        Raises:
            RunDirectoryError: there is a run already, or the place cannot be written.
        """
        path = Path(path)
        with explained(path):
            path.mkdir(parents=True, exist_ok=True)
        run = cls(path)
        try:
            if (path / "config.json").exists():
                raise RunDirectoryError(
                    f"{path} already holds a run: continue it with --resume {path}, or choose another"
                )
            run.write_json("run.json", {"format": FORMAT, "versions": versions(), "machine": machine()})
            run.write_json("config.json", config)  # last: with it the run has begun
            run._open_lines()
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def resume(cls, path: str | Path, config: dict[str, Any] | None = None) -> RunDirectory:
        """Go on with the run at `path`; `config`, where given, must be the one that it was begun with.

        A last line of candidates.jsonl that was cut off by a crash is dropped, its candidate trained again.

        Raises:
            RunDirectoryError: nothing there, damaged, in use, or of another configuration or version.
        """
        path = Path(path)
        with explained(path):
            begun = (path / "config.json").is_file()
        if not begun:
            raise RunDirectoryError(
                f"{path} holds no run (no config.json): check the path, or begin one with --run-dir {path}"
            )
        run = cls(path)
        try:
            run._check_version()
            if config is not None:
                run._check_config(config)
            run._open_lines()
        except BaseException:
            run.close()
            raise
        return run

    def __enter__(self) -> RunDirectory:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Give the lock back."""
        for descriptor in (self._lines, self._lock):
            if descriptor is not None:
                os.close(descriptor)
        self._lines = self._lock = None  # type: ignore[assignment]

    def append(self, candidate: Candidate) -> None:
        """Add a line and flush it to the disk. A write that fails leaves the file as it was.

        Raises:
            RunDirectoryError: the disk is full, for example.
        """
        assert self._lines is not None, "the run directory is closed"
        size = os.fstat(self._lines).st_size
        with explained(self.path):
            try:
                rest = memoryview(candidate.to_line())
                while rest:
                    rest = rest[os.write(self._lines, rest) :]
                os.fsync(self._lines)
            except OSError:
                with contextlib.suppress(OSError):
                    os.ftruncate(self._lines, size)
                raise
        self.candidates[candidate.generation, candidate.index] = candidate

    def write_json(self, name: str, content: Any) -> None:
        """Write a file of the run, whole or not at all."""
        with explained(self.path):
            write_atomically(self.path / name, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def read_json(self, name: str) -> Any:
        """Read a file of the run; None where there is none.

        Raises:
            RunDirectoryError: it is damaged.
        """
        try:
            return json.loads((self.path / name).read_bytes())
        except FileNotFoundError:
            return None
        except ValueError as error:
            raise RunDirectoryError(
                f"{self.path / name} is damaged ({error}): restore it from a copy"
                + ("" if name in ("config.json", "run.json") else ", or delete it to have it made again")
            ) from None

    def log(self, message: str) -> None:
        """Add a dated line to search.log; a log that cannot be written stops nothing."""
        with contextlib.suppress(OSError), (self.path / "search.log").open("a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {message}\n")

    def _take_lock(self) -> int:
        with explained(self.path):
            descriptor = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            owner = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise RunDirectoryError(
                f"{self.path} is in use by {owner}: wait for it, or stop it and resume then"
            ) from None
        with contextlib.suppress(OSError):  # who holds it, for the message above only
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        return descriptor

    def _open_lines(self) -> None:
        path = self.path / "candidates.jsonl"
        with explained(self.path):
            self._lines = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)
            content = path.read_bytes()
        whole = 0  # bytes of whole lines
        lines = content.splitlines(keepends=True)
        for number, line in enumerate(lines, 1):
            try:
                if not line.endswith(b"\n"):
                    raise ValueError("cut off")
                candidate = Candidate.from_line(line)
            except (ValueError, TypeError, KeyError) as error:
                if number == len(lines):  # the crash that cut it off is the reason to resume
                    self.log(f"candidates.jsonl: line {number} was cut off; its candidate is trained again")
                    break
                raise RunDirectoryError(
                    f"{path}: line {number} is damaged ({error}): restore the file from a copy, or delete "
                    "the line to have its candidate trained again"
                ) from None
            key = candidate.generation, candidate.index
            if key in self.candidates:
                raise RunDirectoryError(
                    f"{path}: line {number} is generation {key[0]}, index {key[1]} a second time: delete one"
                )
            self.candidates[key] = candidate
            whole += len(line)
        if whole < len(content):
            with explained(self.path):
                os.ftruncate(self._lines, whole)

    def _check_version(self) -> None:
        run = self.read_json("run.json") or {}
        written, here = run.get("versions", {}), versions()
        if run.get("format") != FORMAT:
            raise RunDirectoryError(
                f"{self.path} has format {run.get('format')} of gee {written.get('gee', 'unknown')}, but "
                f"gee {here['gee']} continues format {FORMAT}: install that one to continue the run, or "
                f"begin a new one with --config {self.path / 'config.json'}"
            )
        for name, version in here.items():
            if written.get(name) != version:
                self.log(
                    f"resumed with {name} {version}, begun with {written.get(name)}: roundings may differ"
                )

    def _check_config(self, config: dict[str, Any]) -> None:
        begun = self.read_json("config.json")
        changed = [
            f"{key} ({old!r}, now {new!r})"
            for key, old, new in _differences(begun, config)
            if key not in MAY_CHANGE
        ]
        if changed:
            raise RunDirectoryError(
                f"{self.path} was begun with another configuration: {', '.join(changed)}. Resume it without "
                "these flags, or begin a new run with another --run-dir"
            )


# Where and how candidates run, which has no influence on what comes out.
MAY_CHANGE = frozenset(
    {"run_dir", "resume", "plan", "progress", "tensorboard", "executor", "workers", "address"}
    | {"gpus_per_candidate", "candidate_timeout", "retries", "on_oom", "max_failures", "data.data_dir"}
)


def _differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    if isinstance(old, dict) and isinstance(new, dict):
        for name in sorted({*old, *new}):
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new:
        yield key, old, new


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@contextlib.contextmanager
def explained(path: Path) -> Iterator[None]:
    """Turn an OSError under `path` into a RunDirectoryError that says what to do."""
    try:
        yield
    except OSError as error:
        remedy = "Make room" if error.errno in _FULL else "Make it readable and writable for this user"
        raise RunDirectoryError(
            f"cannot use {path}: {error.strerror or error}. {remedy} and continue with --resume {path} "
            "(everything written so far is kept), or begin a run elsewhere with --run-dir"
        ) from error


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    found = {"python": platform.python_version()}
    for name in ("gee", "torch", "cma", "numpy"):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def machine() -> dict[str, Any]:
    """What the run was made on: no name and no address."""
    return {
        "system": platform.system(),
        "processor": _processor(),
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
    }


def _processor() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
