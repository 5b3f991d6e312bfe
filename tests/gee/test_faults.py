"""Kills, full disks, damaged files, strange directories: nothing is lost, and the message says what to do."""

import contextlib
import json
import os
import pickle
import random
import resource
import signal
import tempfile
import time
from pathlib import Path

import pytest

from gee.search.errors import RunDirectoryError
from gee.search.executor import InProcess
from gee.search.loop import search
from gee.search.run_directory import FORMAT, RunDirectory

from .search_problem import SETTINGS, Bowl, Cube, outcome_of

CONFIG = {"seed": 7, "train": {"epochs": 3}, "workers": 1}


def run_or_resume(path: Path, evaluate=None) -> None:
    """What somebody does who wants the search done: begin it, or continue what is there."""
    begun = (path / "config.json").exists()
    with (RunDirectory.resume if begun else RunDirectory.create)(path, CONFIG) as run:
        best = search(InProcess(evaluate or Bowl()), Cube(), SETTINGS, run)
        run.write_json("result.json", {"best": best.vector})


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    path = tmp_path_factory.mktemp("undisturbed") / "run"
    run_or_resume(path)
    return end_of(path)


def end_of(path: Path):
    return json.loads((path / "result.json").read_text()), outcome_of(path)


@contextlib.contextmanager
def forked(function):
    """Run `function` in a forked process (so nothing is imported again), yield its pid, and reap it."""
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            function()
            status = 0
        finally:
            os._exit(status)
    try:
        yield pid
    finally:
        with contextlib.suppress(ChildProcessError):
            os.waitpid(pid, 0)


def write_in_pieces():
    """Make every write take several calls, a moment apart, so that kills fall between them, too."""
    write = os.write

    def slowly(descriptor, data):
        time.sleep(0.0005)
        return write(descriptor, data[: max(1, len(data) // 3)])

    os.write = slowly


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_25_kills_at_random_moments_change_nothing(tmp_path, undisturbed):
    moments = random.Random(0)
    kills, run, cut_lines = 0, 0, 0

    def attempt():
        write_in_pieces()
        run_or_resume(tmp_path / str(run))

    begun = time.monotonic()
    with forked(attempt):
        pass
    duration = time.monotonic() - begun
    assert end_of(tmp_path / "0") == undisturbed
    while kills < 25:
        run += 1
        finished = False
        while not finished:
            with forked(attempt) as pid:
                time.sleep(moments.uniform(0, duration))
                os.kill(pid, signal.SIGKILL)
                _, status = os.waitpid(pid, 0)
            finished = not os.WIFSIGNALED(status)
            assert finished is False or os.WEXITSTATUS(status) == 0
            kills += not finished
            lines = tmp_path / str(run) / "candidates.jsonl"
            cut_lines += lines.exists() and not (lines.read_bytes() or b"\n").endswith(b"\n")
            if kills >= 25 and not finished:
                run_or_resume(tmp_path / str(run))
                finished = True
        assert end_of(tmp_path / str(run)) == undisturbed
    assert cut_lines > 0, "no kill fell into a write"


@pytest.mark.parametrize("cut", [1, 40, -1])
def test_a_line_cut_off_is_trained_again(tmp_path, undisturbed, cut):
    run_or_resume(tmp_path / "run")
    path = tmp_path / "run" / "candidates.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join(lines[:7]) + lines[7][:cut])
    (tmp_path / "run" / "result.json").unlink()
    evaluate = Bowl(scratch=tmp_path)
    run_or_resume(tmp_path / "run", evaluate)
    assert end_of(tmp_path / "run") == undisturbed
    assert len((tmp_path / "calls").read_text().split()) == 15 - 7
    assert "line 8 was cut off" in (tmp_path / "run" / "search.log").read_text()


def test_zeros_left_by_a_power_failure_are_a_line_cut_off(tmp_path, undisturbed):
    run_or_resume(tmp_path / "run")
    with (tmp_path / "run" / "candidates.jsonl").open("ab") as file:
        file.write(bytes(500))
    run_or_resume(tmp_path / "run")
    assert end_of(tmp_path / "run") == undisturbed


def test_damage_in_the_middle_is_named_and_deleting_the_line_mends_it(tmp_path, undisturbed):
    run_or_resume(tmp_path / "run")
    path = tmp_path / "run" / "candidates.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    damaged = [*lines[:4], lines[4][:30] + b"\n", *lines[5:]]
    path.write_bytes(b"".join(damaged))
    with pytest.raises(RunDirectoryError, match=r"line 5 is damaged .*delete the line"):
        run_or_resume(tmp_path / "run")
    assert path.read_bytes() == b"".join(damaged)
    path.write_bytes(b"".join(lines[:4] + lines[5:]))
    run_or_resume(tmp_path / "run")
    assert end_of(tmp_path / "run") == undisturbed


def test_a_candidate_recorded_twice_is_refused(tmp_path):
    run_or_resume(tmp_path / "run")
    path = tmp_path / "run" / "candidates.jsonl"
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*lines, lines[6]]))
    with pytest.raises(RunDirectoryError, match="line 16 is generation 1, index 1 a second time"):
        run_or_resume(tmp_path / "run")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_a_full_disk_loses_nothing(tmp_path, undisturbed):
    path = tmp_path / "run"

    def on_a_small_disk():  # a limit on file sizes: writes fail half way, as on a disk that fills up
        resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))
        with pytest.raises(RunDirectoryError, match=r"Make room and continue with --resume") as caught:
            run_or_resume(path)
        assert str(path) in str(caught.value)

    with forked(on_a_small_disk) as pid:
        _, status = os.waitpid(pid, 0)
    assert status == 0
    content = (path / "candidates.jsonl").read_bytes()
    assert 0 < len(content) < 3000
    assert content.endswith(b"\n")
    kept = content.count(b"\n")
    run_or_resume(path, Bowl(scratch=tmp_path))
    assert len((tmp_path / "calls").read_text().split()) == 15 - kept
    assert end_of(path) == undisturbed


@contextlib.contextmanager
def as_an_ordinary_user():
    """Whoever runs the tests: root may write anywhere, so step down for a moment."""
    user = os.geteuid()
    try:
        if user == 0:
            os.seteuid(65534)
        yield
    finally:
        os.seteuid(user)


@pytest.mark.parametrize("begun", [True, False])
def test_a_read_only_directory_is_named(begun):
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        path = Path(folder) / "run"
        path.mkdir()
        if begun:
            run_or_resume(path)
            for file in path.iterdir():
                file.chmod(0o444)
        path.chmod(0o555)
        with as_an_ordinary_user(), pytest.raises(RunDirectoryError, match=r"cannot use .*Permission denied"):
            run_or_resume(path)
        path.chmod(0o755)


def test_a_run_in_use_is_left_alone(tmp_path):
    with (
        RunDirectory.create(tmp_path, CONFIG),
        pytest.raises(RunDirectoryError, match=f"in use by process {os.getpid()} on"),
    ):
        RunDirectory.resume(tmp_path, CONFIG)
    RunDirectory.resume(tmp_path, CONFIG).close()


def test_an_existing_run_is_not_overwritten_and_a_missing_one_not_resumed(tmp_path):
    run_or_resume(tmp_path / "run")
    before = outcome_of(tmp_path / "run")
    with pytest.raises(RunDirectoryError, match="already holds a run: continue it with --resume"):
        RunDirectory.create(tmp_path / "run", CONFIG)
    assert outcome_of(tmp_path / "run") == before
    with pytest.raises(RunDirectoryError, match=r"holds no run \(no config.json\)"):
        RunDirectory.resume(tmp_path / "nothing")
    assert not (tmp_path / "nothing").exists()


def test_another_configuration_is_refused_but_for_where_it_runs(tmp_path):
    run_or_resume(tmp_path)
    with pytest.raises(RunDirectoryError, match=r"train.epochs \(3, now 4\).*--run-dir"):
        RunDirectory.resume(tmp_path, {**CONFIG, "train": {"epochs": 4}})
    RunDirectory.resume(tmp_path, {**CONFIG, "workers": 8}).close()


def test_another_version_is_refused_or_logged(tmp_path):
    run_or_resume(tmp_path)
    path = tmp_path / "run.json"
    run = json.loads(path.read_text())
    path.write_text(json.dumps({**run, "format": FORMAT + 1, "versions": {"gee": "9.9"}}))
    with pytest.raises(RunDirectoryError, match=r"format 2 of gee 9.9.*install"):
        RunDirectory.resume(tmp_path, CONFIG)
    path.write_text(json.dumps({**run, "versions": {**run["versions"], "torch": "1.0"}}))
    RunDirectory.resume(tmp_path, CONFIG).close()
    assert "begun with 1.0: roundings may differ" in (tmp_path / "search.log").read_text()


class Hostile:
    def __reduce__(self):
        return os.mkdir, (os.environ["GEE_TEST_HOSTILE"],)


@pytest.mark.parametrize("name", ["config.json", "run.json", "candidates.jsonl", "result.json"])
def test_a_hostile_pickle_in_place_of_a_file_is_not_executed(tmp_path, monkeypatch, name):
    monkeypatch.setenv("GEE_TEST_HOSTILE", str(tmp_path / "executed"))
    run_or_resume(tmp_path / "run")
    (tmp_path / "run" / name).write_bytes(pickle.dumps(Hostile()) + b"\n" + pickle.dumps(Hostile()))
    damaged = pytest.raises(RunDirectoryError, match=f"{name}.* is damaged")
    with damaged, RunDirectory.resume(tmp_path / "run", CONFIG) as run:
        run.read_json("result.json")
    assert not (tmp_path / "executed").exists()


def test_a_damaged_result_can_be_deleted_and_a_damaged_configuration_not(tmp_path):
    run_or_resume(tmp_path)
    for name, advice in (("result.json", "delete it to have it made again"), ("run.json", "from a copy")):
        content = (tmp_path / name).read_text()
        (tmp_path / name).write_text(content[:20])
        with pytest.raises(RunDirectoryError, match=advice), RunDirectory.resume(tmp_path, CONFIG) as run:
            run.read_json(name)
        (tmp_path / name).write_text(content)
