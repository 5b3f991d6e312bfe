"""The whole job on a minute network and real digits: search, full training, measurement, resume."""

import json
import os
import shutil
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gee import evolve as command
from gee.config import load, to_dict
from gee.search import Callback, SearchConfig, evolve, resume_config
from gee.search.candidate import TrainCandidate
from gee.search.errors import SearchError
from gee.search.evolution import problem_of
from gee.search.executor import InProcess, Task
from gee.search.processes import LocalProcesses
from gee.search.run_directory import MAY_CHANGE, RunDirectory
from gee.training import DataConfig, ModelConfig, TrainConfig

from .search_problem import outcome_of

TINY = SearchConfig(
    generations=2,
    population=3,
    candidate_epochs=1,
    workers=0,
    tensorboard="off",
    progress=False,
    device="cpu",
    network=ModelConfig(genes=3, width=0.25, time_steps=2),
    training=TrainConfig(epochs=2, batch_size=128, seed=5),
)


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module", autouse=True)
def few_digits():
    """A tenth of the training digits, so that an epoch is a step."""
    original = DataConfig.load
    DataConfig.load = lambda self: original(self).subset(train=144)
    yield
    DataConfig.load = original


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A finished run and its result."""
    path = tmp_path_factory.mktemp("finished") / "run"
    return path, evolve(replace(TINY, run_dir=path))


def end_of(path: Path):
    """What a run came to, apart from times: candidates, result, weights."""
    result = json.loads((path / "result.json").read_text())
    result.pop("seconds")
    result["best"].pop("seconds")
    return outcome_of(path), result, (path / "weights.safetensors").read_bytes()


def test_a_run_leaves_everything_a_report_needs(finished):
    path, result = finished
    assert {
        "config.json",
        "run.json",
        "candidates.jsonl",
        "weights.safetensors",
        "result.json",
        "train",
        "report.html",
    } <= {file.name for file in path.iterdir()}
    data = json.loads((path / "result.json").read_text())
    confusion = torch.tensor(data["confusion"])
    assert confusion.sum() == data["held_out"] == 360
    assert confusion.trace() / 360 == pytest.approx(data["accuracy"])
    network = result.load_model()
    assert result.parameters == sum(p.numel() for p in network.parameters()) < result.dense_parameters
    layers = data["energy"]["layers"]
    assert sum(layer["spikes"] for layer in layers) == pytest.approx(result.spikes)
    assert sum(layer["energy_mj"] for layer in layers) == pytest.approx(result.energy_mj)
    assert set(data["firing_rates"]) == set(network.spiking_layers())
    assert data["seconds"]["candidates"] > 0
    metrics = (path / "train" / "metrics.jsonl").read_text().splitlines()
    assert len(metrics) == TINY.training.epochs
    assert json.loads(metrics[-1])["test_accuracy"] == data["accuracy"]
    assert f"{result.accuracy:.2%} of 360 held-out images" in str(result)


def test_the_best_candidate_is_trained_from_where_it_began(finished):
    _, result = finished
    assert result.best in result.candidates
    problem = problem_of(TINY)
    first, again = problem.build(result.best), problem.build(result.best)
    for p, q in zip(first.parameters(), again.parameters(), strict=True):
        assert torch.equal(p, q)
    other = next(c for c in result.candidates if c != result.best)
    assert not torch.equal(problem.build(other).interaction, first.interaction)
    encodings, G = first.genetic_parameters()
    low, high = (result.best.genotype["interaction"][name] for name in ("low", "high"))
    assert low - 1e-6 <= G.min() <= G.max() <= high + 1e-6
    low, high = (result.best.genotype["encodings"][name] for name in ("low", "high"))
    assert all(low - 1e-6 <= X.min() <= X.max() <= high + 1e-6 for X in encodings)


def test_the_same_run_again_is_the_same_to_the_bit(finished, tmp_path):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    evolve(replace(TINY, run_dir=tmp_path / "run"))
    assert torch.equal(torch.get_rng_state(), before)
    assert end_of(tmp_path / "run") == end_of(finished[0])


def test_candidates_are_the_same_in_workers_and_for_any_number_of_threads(finished):
    _, result = finished
    problem = problem_of(TINY)
    task = Task(0, 1, result.candidates[1].seed, result.candidates[1].vector)
    torch.set_num_threads(2)
    try:
        (here,) = InProcess(problem).run([task])
        workers = LocalProcesses(problem, 1, threads=TINY.candidate_threads)
        (there,) = workers.run([task])
        workers.close()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert here.evaluation == there.evaluation
    assert here.evaluation.cross_entropy == result.candidates[1].cross_entropy


def test_a_candidate_is_scored_by_the_last_epoch_of_the_one_training_loop(finished):
    from gee.search.novelty import spatial_entropy, temporal_difference
    from gee.training import Trainer

    problem = replace(problem_of(TINY), epochs=2)
    task = Task(0, 0, 77, tuple(problem.space.start))
    seen = []
    trainer = Trainer(
        problem.build(task),
        problem.data,
        replace(TINY.training, epochs=2, seed=77),
        on_batch=lambda step: seen.append(temporal_difference(step.step_logits)),
    )
    *_, last = trainer.epochs(evaluate=False)
    evaluation = problem(task)
    steps = problem.data.steps_per_epoch(TINY.training.batch_size)
    assert evaluation.cross_entropy == last.cross_entropy
    assert evaluation.temporal_difference == pytest.approx(torch.cat(seen[-steps:]).mean().item())
    assert evaluation.spatial_entropy == spatial_entropy(trainer.model.interaction).item()


def test_full_genotype_and_random_ablation(tmp_path):
    full = evolve(replace(TINY, genotype="full", generations=1, run_dir=tmp_path / "full"))
    assert len(full.best.vector) == 3 + 3 * 3
    random = evolve(replace(TINY, method="random", run_dir=tmp_path / "random"))
    assert random.candidates == ()
    ste = resume_config(tmp_path / "random")
    assert ste.method == "random"
    assert random.data["method"] == "random"


class Interrupt(Callback):
    def __init__(self, stage=None, candidate=None):
        self.stage, self.candidate = stage, candidate

    def on_stage(self, stage):
        if stage == self.stage:
            raise KeyboardInterrupt

    def on_candidate(self, candidate):
        if (candidate.generation, candidate.index) == self.candidate:
            raise KeyboardInterrupt


@pytest.mark.parametrize(
    "where",
    [Interrupt(candidate=(1, 1)), Interrupt("training"), Interrupt("measuring"), Interrupt("reporting")],
)
def test_an_interrupted_run_is_resumed_to_the_same_end(finished, tmp_path, where):
    with pytest.raises(KeyboardInterrupt):
        evolve(replace(TINY, run_dir=tmp_path / "run"), [where])
    evolve(resume_config(tmp_path / "run"))
    assert end_of(tmp_path / "run") == end_of(finished[0])


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded:DeprecationWarning")
def test_kills_during_search_and_full_training_change_nothing(finished, tmp_path):
    path = tmp_path / "run"
    config = replace(TINY, run_dir=path)

    def has(name):
        return lambda: (path / name).exists()

    def lines(count):
        file = path / "candidates.jsonl"
        return lambda: file.exists() and file.read_bytes().count(b"\n") >= count

    moments = [
        has("config.json"),
        lines(2),
        lines(5),
        has("train/checkpoint.safetensors"),
        has("result.json"),
    ]
    for happened in moments:
        pid = os.fork()
        if pid == 0:
            try:
                evolve(resume_config(path) if (path / "config.json").exists() else config)
            finally:
                os._exit(0)
        while not happened() and os.waitpid(pid, os.WNOHANG) == (0, 0):
            time.sleep(0.002)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    evolve(resume_config(path))
    assert end_of(path) == end_of(finished[0])


def test_a_damaged_checkpoint_is_set_aside_and_the_training_repeated(finished, tmp_path):
    path = tmp_path / "run"
    shutil.copytree(finished[0], path)
    for name in ("result.json", "weights.safetensors"):
        (path / name).unlink()
    checkpoint = path / "train" / "checkpoint.safetensors"
    content = checkpoint.read_bytes()
    checkpoint.write_bytes(content[: len(content) // 2])
    evolve(resume_config(path))
    assert end_of(path) == end_of(finished[0])
    (aside,) = path.glob("train.damaged-*")
    assert (aside / "checkpoint.safetensors").stat().st_size == len(content) // 2
    assert "starts again" in (path / "search.log").read_text()


def test_a_finished_run_gives_its_result_again(finished):
    path, result = finished
    before = (path / "result.json").stat().st_mtime_ns
    again = evolve(resume_config(path))
    assert (again.data, again.best, again.candidates) == (result.data, result.best, result.candidates)
    assert (path / "result.json").stat().st_mtime_ns == before


def test_what_may_change_is_named_after_fields_that_exist():
    values = to_dict(SearchConfig())
    for name in MAY_CHANGE:
        where = values
        for part in name.split("."):
            where = where[part]


# Command line

FLAGS = [
    *("--generations", "2", "--population", "3", "--candidate-epochs", "1", "--workers", "0"),
    *("--tensorboard", "off", "--no-progress", "--device", "cpu"),
    *("--genes", "3", "--width", "0.25", "--time-steps", "2"),
    *("--epochs", "2", "--batch-size", "128", "--seed", "5"),
]


def test_the_command_line_does_what_the_library_does(finished, tmp_path, capsys):
    command.main([*FLAGS, "--run-dir", str(tmp_path / "run")])
    assert end_of(tmp_path / "run") == end_of(finished[0])
    assert "accuracy" in capsys.readouterr().out
    assert replace(load(SearchConfig, tmp_path / "run" / "config.json"), run_dir=None) == TINY


def test_resume_on_the_command_line_keeps_the_configuration(finished, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        evolve(replace(TINY, run_dir=tmp_path / "run"), [Interrupt(candidate=(0, 1))])
    command.main(["--resume", str(tmp_path / "run"), "--retries", "5"])
    assert end_of(tmp_path / "run") == end_of(finished[0])
    with pytest.raises(SystemExit, match=r"another configuration: population \(3, now 4\)"):
        command.main(["--resume", str(tmp_path / "run"), "--population", "4"])
    with pytest.raises(SystemExit, match="holds no run"):
        command.main(["--resume", str(tmp_path / "nothing")])


def test_progress_names_generations_and_failures(tmp_path, capsys):
    command.main([*FLAGS, "--progress", "--max-failures", "1", "--run-dir", str(tmp_path / "run")])
    out = capsys.readouterr().out
    header, *rows = [line for line in out.splitlines() if line[:12].strip() in ("generation", "0", "1")]
    assert header.split()[:3] == ["generation", "best", "F"]
    assert len(rows) == 2
    assert "training candidate" in out


def test_the_plan_measures_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    command.main([*FLAGS, "--plan"])
    out = capsys.readouterr().out
    assert "6 candidates, 1 epochs of 1 steps each" in out
    assert "ms for a training step on cpu" in out
    assert list(tmp_path.iterdir()) == []


def test_help_teaches(capsys):
    with pytest.raises(SystemExit) as stop:
        command.main(["--help"])
    assert stop.value.code == 0
    out = capsys.readouterr().out
    for word in ("--resume runs/NAME", "--candidate-timeout", "--on-oom", "--lr", "--genes", "--plan"):
        assert word in out


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"population": 1}, "population must be at least 2, got 1"),
        ({"step": 0.0}, r"step must be in \(0, 1\]"),
        ({"candidate_timeout": 5.0, "workers": 0}, "candidate_timeout needs worker processes"),
        ({"network": ModelConfig(genes=None)}, "genes must be a number"),
        ({"max_failures": 1.5}, "max_failures"),
    ],
)
def test_impossible_configurations_are_named(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(TINY, **changes)


def test_an_unknown_model_is_said_before_anything_is_written(tmp_path):
    config = replace(TINY, network=ModelConfig(model="resnet20"), run_dir=tmp_path / "run")
    with pytest.raises(ValueError, match="name must be one of"):
        evolve(config)
    assert not (tmp_path / "run").exists()


def test_a_diverging_candidate_is_a_failure_not_the_end(tmp_path):
    """With an absurd learning rate every candidate diverges: the run stops, says why, and keeps its lines."""
    config = replace(TINY, training=replace(TINY.training, lr=1e30, clip=None, batch_size=32))
    with pytest.raises(SearchError, match=r"3 of 3 candidates of generation 0 failed .*NonFiniteLossError"):
        evolve(replace(config, candidate_epochs=2, run_dir=tmp_path / "run"))
    with RunDirectory.resume(tmp_path / "run") as run:
        assert all(c.failure and c.fitness is None for c in run.candidates.values())


def test_the_problem_travels_to_workers_with_its_data():
    import pickle

    problem = pickle.loads(pickle.dumps(problem_of(TINY)))
    assert isinstance(problem, TrainCandidate)
    assert len(problem.data.train_labels) == 144
