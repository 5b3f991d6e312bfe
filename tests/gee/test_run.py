"""Runs with a directory: what they leave behind, how they resume, and the two command lines."""

import json
import pickle
import shutil
import sys

import pytest
import torch

import gee.data
from gee import evaluate, train
from gee.training import ModelConfig, TrainConfig, WeightsError, load_model
from gee.training.logs import MetricsLog, read_metrics
from gee.training.run import train as train_run
from gee.training.trainer import Trainer
from gee.training.weights import read_tensors

TINY = ["--width", "0.5", "--genes", "4", "--time-steps", "2", "--batch-size", "96", "--device", "cpu"]
NETWORK = ModelConfig(width=0.5, genes=4, time_steps=2)
TRAINING = TrainConfig(epochs=3, batch_size=48)


@pytest.fixture(autouse=True, scope="module")  # as the runs that are shared: torch's sums depend on threads
def one_thread():
    """The networks here are too small to share between threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data():
    return gee.data.load("digits").subset(train=144, test=60)


def start(data, run_dir, training=TRAINING, **options):
    torch.manual_seed(0)
    model = NETWORK.create(num_classes=10, in_channels=1)
    return train_run(model, data, training, model_config=NETWORK, run_dir=run_dir, progress=False, **options)


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("run")
    start(data, run_dir)
    return run_dir


def without_times(records):
    return [
        {k: v for k, v in record.items() if k not in ("seconds", "images_per_second")} for record in records
    ]


# -- what a run leaves behind


def test_a_run_leaves_metrics_weights_and_scalars(undisturbed):
    records = read_metrics(undisturbed / "metrics.jsonl")
    assert [record["epoch"] for record in records] == [1, 2, 3]
    best = max(records, key=lambda record: record["test_accuracy"])
    for name, record in (("best", best), ("last", records[-1])):
        _, about = load_model(undisturbed / f"{name}.safetensors")
        assert about["epoch"] == record["epoch"]
        assert about["test_accuracy"] == record["test_accuracy"]
        assert about["classes"] == [str(digit) for digit in range(10)]
    assert set(records[0]["firing_rates"]) == {f"layers.{i}" for i in range(4)}
    assert not list(undisturbed.glob(".*"))  # no temporary file


def test_tensorboard_has_the_scalars_of_the_metrics(undisturbed):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(undisturbed / "tensorboard"))
    events.Reload()
    records = read_metrics(undisturbed / "metrics.jsonl")
    for tag, value in {
        "loss/train": lambda r: r["loss"],
        "accuracy/test": lambda r: r["test_accuracy"],
        "firing_rates/layers.2": lambda r: r["firing_rates"]["layers.2"],
        "encoding_gradient_norms/interaction": lambda r: r["encoding_gradient_norms"]["interaction"],
    }.items():
        scalars = events.Scalars(tag)
        assert [scalar.step for scalar in scalars] == [1, 2, 3]
        assert [scalar.value for scalar in scalars] == pytest.approx([value(record) for record in records])


def test_tensorboard_off_or_missing(tmp_path, monkeypatch):
    MetricsLog(tmp_path, 0, "off").close()
    assert not (tmp_path / "tensorboard").exists()
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'gee\[tensorboard\]'"):
        MetricsLog(tmp_path, 0, "on")


# -- resuming


class KilledError(Exception):
    pass


@pytest.mark.parametrize("moment", ["in epoch 1", "in epoch 2", "while writing the checkpoint of epoch 2"])
def test_a_killed_run_resumes_to_the_same_end(data, undisturbed, tmp_path, monkeypatch, moment):
    with monkeypatch.context() as patch:
        if moment.startswith("in"):
            after = {"in epoch 1": 2, "in epoch 2": 4}[moment]
            step, steps = Trainer._step, []

            def dying(self, *args):
                steps.append(1)
                if len(steps) > after:
                    raise KilledError
                return step(self, *args)

            patch.setattr(Trainer, "_step", dying)
        else:
            from gee.training import run

            save, saved = run._save_checkpoint, []

            def dying(path, *args):
                saved.append(1)
                if len(saved) > 1:
                    path.with_name(".checkpoint.safetensors.tmp").write_bytes(b"half a file")
                    raise KilledError
                save(path, *args)

            patch.setattr(run, "_save_checkpoint", dying)
        with pytest.raises(KilledError):
            start(data, tmp_path)
    if moment.startswith("while"):
        with (tmp_path / "metrics.jsonl").open("a") as file:
            file.write('{"epoch": 3, "lo')  # cut in the middle of a line
    start(data, tmp_path, resume=True)
    for name in ("best", "last", "checkpoint"):
        format = "gee checkpoint 1" if name == "checkpoint" else "gee weights 1"
        ours, about = read_tensors(tmp_path / f"{name}.safetensors", format)
        theirs, expected = read_tensors(undisturbed / f"{name}.safetensors", format)
        assert about == expected
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours), name
    ours, theirs = (without_times(read_metrics(path / "metrics.jsonl")) for path in (tmp_path, undisturbed))
    assert ours == theirs


def test_resuming_a_finished_run_only_evaluates(data, undisturbed):
    before = {path.name: path.read_bytes() for path in undisturbed.iterdir() if path.is_file()}
    evaluation = start(data, undisturbed, resume=True)
    assert evaluation.accuracy == read_metrics(undisturbed / "metrics.jsonl")[-1]["test_accuracy"]
    assert {path.name: path.read_bytes() for path in undisturbed.iterdir() if path.is_file()} == before


def test_other_settings_are_not_resumed(data, undisturbed):
    with pytest.raises(WeightsError, match=r"other settings: training\.lr was 0\.002, is 0\.1"):
        start(data, undisturbed, TrainConfig(epochs=3, batch_size=48, lr=0.1), resume=True)


class Exploit:
    def __reduce__(self):
        return (print, ("THE PICKLE RAN",))


def test_a_hostile_or_damaged_checkpoint_is_refused(data, undisturbed, tmp_path, capsys):
    shutil.copytree(undisturbed, tmp_path / "run")
    checkpoint = tmp_path / "run" / "checkpoint.safetensors"
    for content in (pickle.dumps(Exploit()), checkpoint.read_bytes()[:5000]):
        checkpoint.write_bytes(content)
        with pytest.raises(WeightsError, match="this run cannot be continued: start it again"):
            start(data, tmp_path / "run", resume=True)
    assert "THE PICKLE RAN" not in capsys.readouterr().out


# -- command lines


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    run_dir = tmp_path_factory.mktemp("trained") / "run"
    train.main([*TINY, "--epochs", "2", "--run-dir", str(run_dir)])
    return run_dir


def test_train_prints_each_epoch_and_saves_its_settings(tmp_path, capsys):
    train.main([*TINY, "--epochs", "1", "--run-dir", str(tmp_path / "run")])
    shown = capsys.readouterr().out
    assert "digitsnet: 0.0" in shown
    assert "epoch   1/1" in shown
    assert "scikit-learn's digits" in shown
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert saved["training"]["epochs"] == 1
    assert saved["network"]["genes"] == 4
    with pytest.raises(SystemExit, match="already holds a run; continue it with --resume"):
        train.main([*TINY, "--epochs", "1", "--run-dir", str(tmp_path / "run")])


def test_train_resumes_with_the_runs_own_settings(trained, tmp_path, capsys):
    shutil.copytree(trained, tmp_path / "run")
    (tmp_path / "run" / "checkpoint.safetensors").unlink()
    train.main(["--resume", str(tmp_path / "run"), "--device", "cpu"])
    ours, theirs = (
        without_times(read_metrics(path / "metrics.jsonl")) for path in (tmp_path / "run", trained)
    )
    assert ours == theirs
    with pytest.raises(SystemExit, match=r"training\.lr was 0\.002, is 0\.5"):
        train.main(["--resume", str(tmp_path / "run"), "--lr", "0.5"])
    with pytest.raises(SystemExit) as stop:
        train.main(["--resume", str(tmp_path / "nothing")])
    assert stop.value.code == 2
    assert "config.json" in capsys.readouterr().err


def test_train_begins_with_given_weights(trained, tmp_path):
    flags = [*TINY, "--epochs", "1", "--lr", "1e-12", "--no-progress"]
    train.main([*flags, "--init", str(trained / "last.safetensors"), "--run-dir", str(tmp_path / "run")])
    begun, ended = (load_model(path / "last.safetensors")[0] for path in (trained, tmp_path / "run"))
    torch.testing.assert_close(ended.interaction, begun.interaction, atol=1e-8, rtol=0)
    other = ["--init", str(trained / "last.safetensors"), "--genes", "5", "--device", "cpu"]
    with pytest.raises(SystemExit, match="does not fit the network"):
        train.main([*other, "--width", "0.5", "--run-dir", str(tmp_path / "other")])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dataset", "cifar10", "--data-dir", "nowhere"], "no CIFAR-10 in nowhere"),
        (["--model", "resnet7"], "resnet7"),
        (["--epochs", "0"], "epochs must be positive"),
    ],
)
def test_train_ends_with_a_message(flags, message, tmp_path, capsys):
    with pytest.raises(SystemExit) as stop:
        train.main([*TINY, *flags, "--run-dir", str(tmp_path / "run")])
    assert message in f"{stop.value} {capsys.readouterr().err}"


def test_evaluate_needs_only_the_run(trained, tmp_path, capsys):
    evaluate.main(
        [str(trained), "--json", str(tmp_path / "r.json"), "--device", "cpu", "--energy-images", "40"]
    )
    shown = capsys.readouterr().out
    result = json.loads((tmp_path / "r.json").read_text())
    best = max(record["test_accuracy"] for record in read_metrics(trained / "metrics.jsonl"))
    assert result["accuracy"] == best
    assert f"{best:.2%}" in shown
    assert sum(map(sum, result["confusion"])) == result["images"] == 360
    assert result["spikes"] > 0
    assert result["energy_mj"] == pytest.approx((4.6 * result["macs"] + 0.9 * result["acs"]) * 1e-9)
    assert set(result["latency_ms"]) == {"1", "40"}
    assert all(ms > 0 for ms in result["latency_ms"].values())
    for part in ("mJ per image", "spikes", "latency", "scikit-learn's digits"):
        assert part in shown


def test_evaluate_takes_a_file_noise_and_the_last_weights(trained, tmp_path):
    path = tmp_path / "weights.safetensors"
    shutil.copy(trained / "last.safetensors", path)
    flags = {"energy_images": 8, "device": "cpu"}
    clean = evaluate.run(evaluate.Config(path, **flags))
    assert clean["accuracy"] == evaluate.run(evaluate.Config(trained, which="last", **flags))["accuracy"]
    noisy = evaluate.run(evaluate.Config(path, noise=2.0, **flags))
    assert noisy["loss"] != clean["loss"]
    assert "noise of 200%" in evaluate.describe(noisy)


def test_evaluate_ends_with_a_message(tmp_path):
    (tmp_path / "w.safetensors").write_bytes(pickle.dumps(Exploit()))
    with pytest.raises(SystemExit, match="no safetensors file"):
        evaluate.main([str(tmp_path / "w.safetensors")])
    with pytest.raises(SystemExit, match=r"best\.safetensors"):
        evaluate.main([str(tmp_path)])
