"""The paper's experiments end to end at a microscopic size on digits: run, interrupted, resumed, reported."""

import csv
import json
import re
from dataclasses import replace

import pytest
import torch

import gee.report
from bench.paper import (
    figure2_noise,
    figure3_genes,
    published,
    report,
    runner,
    section44_search_time,
    table1_energy,
    table2_accuracy,
    table3_spikes,
    table4_ablations,
)
from bench.paper.options import Configuration, Options, Scale
from bench.paper.summary import groups, mean, seeds, show
from gee.training import DataConfig, NonFiniteLossError, Trainer

TINY = {"dataset": "digits", "width": 0.02, "image-size": 8, "train-images": 64, "test-images": 40}
TINY |= {"epochs": 1, "generations": 1, "population": 2, "candidate-epochs": 1, "batch-size": 32}
TINY |= {"workers": 0, "device": "cpu"}
RUN_COLUMNS = {"network", "genes", "method", "seed", "accuracy", "accuracy_low", "parameters", "spikes"}
RUN_COLUMNS |= {"energy_mj", "search_seconds", "held_out", "width", "image_size", "train_images", "failure"}


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """One thread, as the networks are small, and no report of each run: those have tests of their own."""
    monkeypatch.setattr(gee.report, "write", lambda run: run)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """Runs and results that the tests share, as the experiments do."""
    return tmp_path_factory.mktemp("paper")


def flags(place, *more):
    tiny = [word for name, value in TINY.items() for word in (f"--{name}", str(value))]
    return [*tiny, "--run-dir", str(place / "runs"), "--results", str(place / "results"), *more]


def run(experiment, place, *more, preset="cpu"):
    runner.main(experiment, flags(place, *more))
    path = place / "results" / f"{experiment.name}-digits-{preset}.csv"
    with path.open(newline="") as file:
        return list(csv.DictReader(file)), json.loads(path.with_suffix(".json").read_text()), path


def only(experiment, *configurations):
    return replace(experiment, configurations=configurations)


# -- the experiments


def test_ablations_survive_an_interruption_and_are_not_run_twice(place, monkeypatch, capsys):
    """Killed in the middle of its last run, the experiment goes on there and ends as the undisturbed one."""
    methods = ["random", "baseline+td", "ste"]
    every = {configuration.method: configuration for configuration in table4_ablations.CONFIGURATIONS[:5]}
    experiment = only(table4_ablations.EXPERIMENT, *map(every.get, methods))
    step, steps = Trainer.train_epoch, []

    def counted(self):
        steps.append(self.config.epochs)
        if len(steps) == 4:  # one epoch for random, then three for each search: in its full training
            raise KeyboardInterrupt
        return step(self)

    monkeypatch.setattr(Trainer, "train_epoch", counted)
    with pytest.raises(SystemExit, match="the same command continues where it stopped"):
        runner.main(experiment, flags(place, "--seeds", "1"))
    assert not (place / "results").exists()
    runner.main(experiment, flags(place, "--seeds", "1", "--plan"))
    shown = capsys.readouterr().out
    assert [shown.count(f"\n{state} ") for state in ("done", "begun", "to do")] == [1, 1, 1]
    steps.extend([0] * 9)
    rows, about, path = run(experiment, place, "--seeds", "1")
    assert len(steps) == 4 + 9 + 4, "what was trained before must not be trained again"
    assert [row["method"] for row in rows] == methods
    assert set(rows[0]) >= RUN_COLUMNS
    for row in rows:
        assert 0 <= float(row["accuracy_low"]) <= float(row["accuracy"]) <= float(row["accuracy_high"]) <= 1
        assert (row["train_images"], row["width"], row["image_size"]) == ("64", "0.02", "8")
        assert "the first 40 of 360 images of a fixed stratified draw" in row["held_out"]
    assert rows[0]["search_seconds"] == "0"  # random searches nothing
    assert about["command"].startswith("python -m bench.paper.table4_ablations --dataset digits --width 0.02")
    assert "/" not in about["command"], "a result says nothing about where it was made"
    assert about["seeds"] == [0]
    assert {"processor", "cores"} <= set(about["machine"])
    assert torch.__version__.startswith(about["versions"]["torch"])
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\+00:00", about["date"])
    for text in (about["description"], capsys.readouterr().out):
        assert "Scaled down: channels and genes times 0.02" in text
    picture = path.with_suffix(".svg").read_text()
    assert picture.startswith("<svg")
    assert "Scaled down" in picture

    before = len(steps)
    again, *_ = run(experiment, place, "--seeds", "1", "--no-progress")
    assert again == rows
    assert len(steps) == before


def test_a_continued_run_ends_as_an_undisturbed_one(place, tmp_path):
    configuration = table4_ablations.CONFIGURATIONS[2]  # the one that was interrupted above
    rows, *_ = run(only(table4_ablations.EXPERIMENT, configuration), tmp_path, "--seeds", "1")
    shared, *_ = run(only(table4_ablations.EXPERIMENT, configuration), place, "--seeds", "1")
    times = ("search_seconds", "training_seconds")
    assert [{k: v for k, v in row.items() if k not in times} for row in rows] == [
        {k: v for k, v in row.items() if k not in times} for row in shared
    ]


def test_accuracy_spikes_noise_and_genes_share_their_runs(place, monkeypatch):
    network = table2_accuracy.CONFIGURATIONS[1]  # cifarnet, g = 200, in all four
    rows, *_ = run(only(table2_accuracy.EXPERIMENT, network), place, "--seeds", "1")
    assert int(rows[0]["paper_size_parameters"]) == pytest.approx(7.44e6, abs=5e3)
    monkeypatch.setattr(Trainer, "train_epoch", None)  # from here on nothing may be trained
    spikes, *_ = run(only(table3_spikes.EXPERIMENT, network), place, "--seeds", "1")
    assert float(spikes[0]["spikes"]) == float(rows[0]["spikes"]) > 0
    assert float(spikes[0]["spikes_per_step_and_layer"]) == pytest.approx(float(rows[0]["spikes"]) / 4 / 8)
    noise, *_ = run(only(figure2_noise.EXPERIMENT, network), place, "--seeds", "1")
    assert [float(row["noise"]) for row in noise] == list(figure2_noise.LEVELS)
    assert noise[0]["accuracy"] == rows[0]["accuracy"]
    genes, *_ = run(only(figure3_genes.EXPERIMENT, network), place, "--seeds", "1")
    assert genes[0]["accuracy"] == rows[0]["accuracy"]


def test_search_time_gives_the_baseline_five_times_the_epochs(place):
    experiment = section44_search_time.EXPERIMENT
    rows, *_ = run(experiment, place, "--seeds", "1")
    epochs = {row["method"]: int(row["candidate_epochs"]) for row in rows}
    assert epochs["baseline"] == 5 * epochs["ste"]
    (_, ste), (_, baseline) = groups(
        [row | {"search_seconds": float(row["search_seconds"])} for row in rows], "method"
    )
    assert mean(baseline, "search_seconds").mean > mean(ste, "search_seconds").mean > 0


def test_energy_is_arithmetic(place, monkeypatch):
    monkeypatch.setattr(table1_energy, "SIZE", 32)
    monkeypatch.setattr(table1_energy, "IMAGES", 2)
    rows, about, _ = run(table1_energy.EXPERIMENT, place, "--seeds", "1")
    assert int(rows[0]["parameters"]) == pytest.approx(10.75e6, abs=4e4)  # one gene more or less is 69 K
    by_rate = {float(row["firing_rate"]): row for row in rows if row["case"] == "assumed"}
    assert float(by_rate[0.2]["acs"]) == pytest.approx(0.2 * float(by_rate[1.0]["acs"]))
    untrained = rows[-1]
    assert untrained["case"] == "untrained"
    assert 0 < float(untrained["firing_rate"]) < 1
    for row in rows:
        joule = 4.6 * float(row["macs"]) + 0.9 * float(row["acs"])
        assert float(row["energy_mj"]) == pytest.approx(joule * 1e-9)
    assert "untrained" in about["description"]


def test_a_run_that_diverges_is_a_result(tmp_path, monkeypatch):
    def diverge(self):
        raise NonFiniteLossError("the loss is nan in epoch 1")

    monkeypatch.setattr(Trainer, "train_epoch", diverge)
    experiment = only(table4_ablations.EXPERIMENT, table4_ablations.CONFIGURATIONS[0])
    rows, *_ = run(experiment, tmp_path, "--seeds", "1")
    assert rows[0]["failure"] == "the loss is nan in epoch 1"
    assert rows[0]["accuracy"] == ""
    page = report.render(tmp_path / "results")
    assert "1 of 1 failed: the loss is nan in epoch 1" in page
    assert "<td>0 of 1</td>" in page


# -- the page


def test_the_page_sets_ours_beside_the_papers(place, capsys):
    report.main(["--results", str(place / "results")])
    assert capsys.readouterr().out.strip() == str(place / "results" / "report.html")
    page = (place / "results" / "report.html").read_text()
    titles = [report.experiment(name).title for name in report.EXPERIMENTS]
    assert re.findall("<h2>(.*?)</h2>", page) == titles
    assert "arXiv 2411.06792" in page
    missing = [name for name in report.EXPERIMENTS if not list((place / "results").glob(f"{name}-*.json"))]
    assert page.count("Not run yet") == len(missing)
    assert page.count("<svg") == len(titles) - len(missing)
    assert not re.search(r'(?:src|href)="(?!#|data:)', page), "the page must hold everything itself"
    assert "43.24" in page


def test_on_cifar_the_papers_accuracies_stand_beside_ours():
    row = {"dataset": "cifar10", "network": "resnet19", "seed": 0, "failure": "", "genes_paper": 200}
    row |= {"parameters": 1234, "paper_size_parameters": 8_410_000}
    rows = [row | {"method": m, "accuracy": a} for m in ("ste", "baseline+td") for a in (0.5, 0.7)]
    _, (ste, one) = table4_ablations.compare(rows)
    assert ste == ["resnet19, ste", "60.00 ± 14.14", "2", "96.16 ± 0.13"]
    assert one[-1] == "95.47 ± 0.49 or 95.02 ± 0.66"
    assert table2_accuracy.compare(rows)[1][0][3:] == ["96.80", "1,234", "8.41", "8.41"]


def test_a_damaged_result_is_said(tmp_path):
    (tmp_path / "table2_accuracy-digits-cpu.json").write_text("{")
    with pytest.raises(SystemExit, match=r"is damaged .* run `python -m bench.paper.table2_accuracy` again"):
        report.main(["--results", str(tmp_path)])


# -- what they are made of


@pytest.mark.parametrize("network", published.TABLE2[2:5:2], ids=lambda n: f"{n.model}-{n.genes}")
def test_networks_have_the_papers_parameters(network):
    configuration = Configuration(network.model, network.genes, tail_channels=network.tail_channels)
    for dataset, classes in published.CLASSES.items():
        count = runner.paper_size_parameters(configuration, classes)
        assert f"{count / 1e6:.2f}" == f"{network.parameters[dataset]:.2f}"


def test_presets_and_flags():
    configuration = Configuration("resnet19", 200)
    full = Options(preset="gpu", device="cpu").search(configuration, seed=3)
    assert (full.network.width, full.network.genes, full.data.image_size) == (1.0, 200, None)
    assert (full.training.epochs, full.generations, full.training.seed) == (200, 5, 3)
    small = Options(device="cpu", scale=Scale(epochs=7)).search(configuration, seed=0)
    assert small.training.epochs == 7
    assert small.network.width < 1
    assert small.network.genes == round(200 * small.network.width)
    with pytest.raises(ValueError, match="seeds must be at least 1, got 0"):
        Options(seeds=0)


def test_whole_repetitions_come_first():
    jobs = runner.list_jobs(table4_ablations.EXPERIMENT, Options(seeds=2, networks=("vgg16",), device="cpu"))
    methods = list(table4_ablations.METHODS)
    assert [(seed, c.method) for c, seed in jobs] == [(seed, m) for seed in (0, 1) for m in methods]
    assert {c.model for c, _ in jobs} == {"vgg16"}


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--networks", "resnet7"], "networks must be among resnet19, vgg16, got resnet7"),
        (["--dataset", "cifar10", "--data-dir", "nowhere"], "no CIFAR-10 in nowhere"),
    ],
)
def test_what_is_wrong_is_said(place, more, message):
    with pytest.raises(SystemExit, match=message):
        runner.main(table4_ablations.EXPERIMENT, flags(place, *more))


def test_part_of_a_data_set():
    part = DataConfig(train_images=64, test_images=40).load()
    assert (part.train_size, part.test_size) == (64, 40)
    assert (
        part.note == "the first 40 of 360 images of a fixed stratified draw of 360 of scikit-learn's digits"
    )
    assert DataConfig(train_images=64).load().note == DataConfig().load().note
    with pytest.raises(ValueError, match="train_images must be at least 1 or None, got 0"):
        DataConfig(train_images=0).load()


def test_means_leave_out_what_failed():
    rows = [{"a": 0.5, "failure": ""}, {"a": 0.7, "failure": ""}, {"a": None, "failure": "nan"}]
    assert show(mean(rows, "a", 100)) == "60.00 ± 14.14"
    assert seeds(rows) == "2 of 3"
    assert show(mean(rows[:1], "a")) == "0.50"
    assert show(mean(rows[2:], "a")) == "-"
