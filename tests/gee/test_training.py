"""The training loop: it learns, it is deterministic, it continues bit for bit, and it fails loudly."""

import functools
import math
import pickle

import pytest
import torch
from torch.nn import functional as F

import gee.data
from gee.training import (
    ModelConfig,
    NonFiniteLossError,
    TrainConfig,
    Trainer,
    WeightsError,
    add_noise,
    evaluate,
    load_model,
    save_weights,
)
from gee.training.evaluation import Evaluation
from gee.training.optimiser import build_optimiser, learning_rate
from gee.training.weights import read_tensors, write_tensors


@pytest.fixture(scope="module")
def data():
    return gee.data.load("digits").subset(train=192, test=100)


@pytest.fixture(autouse=True)
def one_thread():
    """The networks here are too small to share between threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small_model(seed=0, **options):
    torch.manual_seed(seed)
    return ModelConfig(width=0.5, genes=8, time_steps=2, backend="reference", **options).create(
        num_classes=10, in_channels=1
    )


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(x, other[name]) for name, x in one.items())


# -- optimiser and schedule


def test_norms_and_biases_do_not_decay():
    model = small_model()
    groups = build_optimiser(model, TrainConfig(weight_decay=0.3)).param_groups
    assert [group["weight_decay"] for group in groups] == [0.3, 0.0]
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    decayed, others = ({names[id(p)] for p in group["params"]} for group in groups)
    assert decayed | others == set(names.values())
    assert {"interaction", "layers.1.encoding", "layers.0.conv.weight"} <= decayed
    assert {"layers.1.weight", "layers.1.bias", "head.output.bias"} <= others


def test_learning_rate_warms_up_linearly_then_follows_a_cosine():
    config = TrainConfig(epochs=100, warmup_epochs=5, lr=0.8)
    rates = [learning_rate(config, step, 10) for step in range(1000)]
    assert rates[0] == pytest.approx(0.8 / 50)
    assert rates[49] == rates[50] == 0.8
    assert rates[50 + 475] == pytest.approx(0.4)
    assert 0 < rates[-1] < 1e-4
    assert max(rates) == 0.8


def test_warm_up_is_at_most_a_quarter_of_a_short_run():
    config = TrainConfig(epochs=2, warmup_epochs=5, lr=1.0)
    rates = [learning_rate(config, step, 8) for step in range(16)]
    assert rates.index(1.0) == 3
    assert learning_rate(TrainConfig(epochs=1, lr=1.0), 0, 1) == 1.0  # a run of a single step


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epochs": 0}, "epochs must be positive, got 0"),
        ({"lr": -1.0}, "lr must be positive"),
        ({"weight_decay": -0.1}, "weight_decay must not be negative"),
        ({"label_smoothing": 1.0}, r"label_smoothing must be in \[0, 1\), got 1.0"),
        ({"clip": 0.0}, "clip must be positive or None"),
    ],
)
def test_wrong_settings_are_refused(values, message):
    with pytest.raises(ValueError, match=message):
        TrainConfig(**values)


# -- the loop


def test_it_learns_digits():
    data = gee.data.load("digits")
    torch.manual_seed(0)
    model = ModelConfig(backend="reference").create(num_classes=10, in_channels=1)
    history = list(Trainer(model, data, TrainConfig(epochs=3, lr=4e-3)).epochs())
    assert [metrics.epoch for metrics in history] == [0, 1, 2]
    assert history[-1].cross_entropy < 0.5 * history[0].cross_entropy
    assert history[-1].evaluation.accuracy > 0.85
    assert set(history[-1].encoding_gradient_norms) == {
        "interaction",
        *(f"layers.{i}.encoding" for i in range(4)),
    }
    assert all(norm > 0 for norm in history[-1].encoding_gradient_norms.values())


def test_two_runs_are_equal_and_leave_the_global_generator_alone(data):
    def run():
        model = small_model()
        torch.manual_seed(77)
        before = torch.get_rng_state()
        losses = [m.loss for m in Trainer(model, data, TrainConfig(epochs=2, seed=3)).epochs(evaluate=False)]
        assert torch.equal(torch.get_rng_state(), before)
        return losses, model.state_dict()

    (losses, weights), (other_losses, other_weights) = run(), run()
    assert losses == other_losses
    assert same(weights, other_weights)


def test_on_batch_sees_what_the_metrics_summarise(data):
    steps = []
    trainer = Trainer(small_model(), data, TrainConfig(epochs=2, batch_size=48), on_batch=steps.append)
    history = list(trainer.epochs(evaluate=False))
    assert [(step.epoch, step.step, step.steps) for step in steps] == [
        (e, s, 4) for e in (0, 1) for s in range(4)
    ]
    assert history[0].evaluation is None
    last = [step for step in steps if step.epoch == 1]
    assert last[0].step_logits.shape == (2, 48, 10)
    assert not last[0].step_logits.requires_grad
    logits = [step.step_logits.mean(0) for step in last]
    cross_entropy = sum(F.cross_entropy(x, step.labels) for x, step in zip(logits, last, strict=True)) / 4
    assert history[1].cross_entropy == pytest.approx(cross_entropy.item(), rel=1e-6)
    assert history[1].loss == pytest.approx(sum(step.loss.item() for step in last) / 4, rel=1e-6)
    hits = sum((x.argmax(1) == step.labels).sum().item() for x, step in zip(logits, last, strict=True))
    assert history[1].accuracy == hits / 192


def test_the_first_step_is_adamws_on_the_smoothed_loss(data):
    """One step of the loop against one step written out."""
    config = TrainConfig(epochs=1, batch_size=192, clip=0.01, weight_decay=0.1)
    model, written_out = small_model(), small_model()
    metrics = Trainer(model, data, config).train_epoch()
    batch = next(data.train_batches(192, seed=0, epoch=0))
    optimiser = build_optimiser(written_out, config)
    written_out.train()
    loss = F.cross_entropy(written_out(batch.images), batch.labels, label_smoothing=0.1)
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(written_out.parameters(), 0.01)
    optimiser.step()
    assert metrics.loss == pytest.approx(loss.item(), rel=1e-6)
    assert metrics.gradient_norm == pytest.approx(norm.item(), rel=1e-5)
    assert metrics.gradient_norm > 0.01
    assert same(model.state_dict(), written_out.state_dict())


def test_bfloat16_autocast_trains(data):
    config = TrainConfig(epochs=2, amp="bfloat16")
    history = list(Trainer(small_model(), data, config).epochs())
    exact = list(Trainer(small_model(), data, TrainConfig(epochs=2)).epochs())
    assert history[0].loss != exact[0].loss
    assert history[0].loss == pytest.approx(exact[0].loss, rel=0.05)


def test_a_non_finite_loss_stops_the_training(data):
    model = small_model()
    with torch.no_grad():
        model.head.output.bias[3] = math.inf
    with pytest.raises(NonFiniteLossError, match=r"the loss is nan in epoch 1, at or before step 1 of 3"):
        Trainer(model, data, TrainConfig(epochs=1)).train_epoch()


def test_a_dense_twin_trains(data):
    metrics = Trainer(dense_twin(), data, TrainConfig(epochs=1)).train_epoch()
    assert metrics.encoding_gradient_norms == {}


def dense_twin():
    torch.manual_seed(0)
    return ModelConfig(genes=None, width=0.5, time_steps=2, backend="reference").create(
        num_classes=10, in_channels=1
    )


# -- state


@pytest.mark.parametrize("amp", ["none", "float16"])
def test_training_continues_bit_for_bit_from_a_file(data, tmp_path, amp):
    config = TrainConfig(epochs=3, amp=amp)
    undisturbed = Trainer(small_model(), data, config)
    history = list(undisturbed.epochs())

    first = Trainer(small_model(), data, config)
    first.train_epoch()
    tensors, values = first.state()
    write_tensors(tmp_path / "state", tensors, {"format": "test", **values})
    resumed = Trainer(small_model(seed=5), data, config)  # whatever it began with is replaced
    resumed.load_state(*read_tensors(tmp_path / "state", "test"))
    rest = list(resumed.epochs())
    assert [m.loss for m in rest] == [m.loss for m in history[1:]]
    assert torch.equal(rest[-1].evaluation.confusion, history[-1].evaluation.confusion)
    assert same(resumed.model.state_dict(), undisturbed.model.state_dict())
    assert same(resumed.state()[0], undisturbed.state()[0])


# -- evaluation


def test_evaluation_counts_right(data):
    model = small_model().train()
    result = evaluate(model, data.test_batches(30))
    assert model.training
    model.eval()
    with torch.no_grad():
        batch = next(data.test_batches(100))
        logits = model(batch.images)
    predicted = logits.argmax(1)
    assert result.count == 100
    assert result.correct == (predicted == batch.labels).sum()
    assert result.accuracy == result.correct / 100
    assert result.loss == pytest.approx(F.cross_entropy(logits, batch.labels).item(), rel=1e-5)
    for true, guess in ((0, 0), (3, 5), (7, 1)):
        assert result.confusion[true, guess] == ((batch.labels == true) & (predicted == guess)).sum()
    rates = {name: rate.item() for name, rate in model.firing_rates().items()}
    assert result.firing_rates == pytest.approx(rates, rel=1e-5)


def test_the_interval_is_wilsons():
    low, high = Evaluation(0.0, torch.tensor([[45, 5], [5, 45]]), {}).interval
    assert (low, high) == pytest.approx(
        (0.8256, 0.9448), abs=1e-4
    )  # R: binom::binom.confint(90, 100, "wilson")
    low, high = Evaluation(0.0, torch.tensor([[100]]), {}).interval
    assert low == pytest.approx(0.9630, abs=1e-4)
    assert high == pytest.approx(1.0)


@pytest.mark.parametrize("shape", [(5, 3, 8, 8), (4, 5, 2, 8, 8)])
def test_noise_has_the_asked_norm_for_every_input(shape):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(shape, generator=generator) * torch.arange(1, 6).reshape(5, 1, 1, 1)
    noise = add_noise(images, 0.5, generator) - images
    by_input = (0, 2, 3, 4) if len(shape) == 5 else (1, 2, 3)
    ratio = noise.square().sum(by_input).sqrt() / images.square().sum(by_input).sqrt()
    torch.testing.assert_close(ratio, torch.full((5,), 0.5))
    assert abs(noise.mean() / noise.std()) < 0.1


def test_noise_changes_the_outcome_and_is_seeded(data):
    model = small_model()
    Trainer(model, data, TrainConfig(epochs=1, batch_size=8)).train_epoch()
    results = [
        evaluate(model, data.test_batches(50), noise=noise, seed=seed).loss
        for noise, seed in ((0.0, 0), (0.8, 0), (0.8, 0), (0.8, 1))
    ]
    assert results[1] == results[2]
    assert len(set(results)) == 3


def test_evaluating_nothing_is_refused():
    with pytest.raises(ValueError, match="at least one example"):
        evaluate(small_model(), [])


# -- files of weights


def test_weights_rebuild_the_network(tmp_path, data):
    config = ModelConfig(width=0.5, genes=8, time_steps=3, v_reset=None, alpha=3.0)
    model = config.create(num_classes=10, in_channels=1).eval()
    save_weights(tmp_path / "w.safetensors", model, config, {"accuracy": 0.5})
    state = torch.get_rng_state()
    loaded, metadata = load_model(tmp_path / "w.safetensors", backend="reference")
    assert torch.equal(torch.get_rng_state(), state)
    assert metadata["accuracy"] == 0.5
    assert (loaded.genes, loaded.time_steps, loaded.backend) == (8, 3, "reference")
    assert same(loaded.state_dict(), model.state_dict())
    assert loaded.neuron == model.neuron


class Exploit:
    def __reduce__(self):
        return (print, ("THE PICKLE RAN",))


def test_pickles_and_damaged_files_are_refused_unopened(tmp_path, capsys):
    config = ModelConfig(width=0.5)
    whole = tmp_path / "w.safetensors"
    save_weights(whole, config.create(num_classes=10, in_channels=1), config)
    hostile, torch_pickle, truncated = (tmp_path / name for name in ("h.pt", "t.pt", "cut.safetensors"))
    hostile.write_bytes(pickle.dumps(Exploit()))
    torch.save(Exploit(), torch_pickle)
    truncated.write_bytes(whole.read_bytes()[:-10])
    for path in (hostile, torch_pickle, truncated):
        with pytest.raises(WeightsError, match="is damaged or no safetensors file"):
            load_model(path)
    assert "THE PICKLE RAN" not in capsys.readouterr().out
    with pytest.raises(FileNotFoundError):
        load_model(tmp_path / "none.safetensors")


def test_weights_that_do_not_fit_are_refused(tmp_path):
    config = ModelConfig(width=0.5)
    model = config.create(num_classes=10, in_channels=1)
    save_weights(tmp_path / "w", model, ModelConfig(width=1.0))
    with pytest.raises(WeightsError, match="does not fit this version's networks"):
        load_model(tmp_path / "w")
    write_tensors(tmp_path / "w", model.state_dict(), {"format": "gee weights 99"})
    with pytest.raises(WeightsError, match="must be of format 'gee weights 1', got 'gee weights 99'"):
        load_model(tmp_path / "w")


def test_compiled_training_is_the_same_training(data, monkeypatch):
    """Captured whole and differentiated ahead of time; code generation is torch's own business."""
    compiled = functools.partial(torch.compile, backend="aot_eager", fullgraph=True)
    monkeypatch.setattr(torch, "compile", compiled)
    config = TrainConfig(epochs=1, compile=True)
    history = list(Trainer(small_model(), data, config).epochs())
    eager = list(Trainer(small_model(), data, TrainConfig(epochs=1)).epochs())
    assert history[0].loss == pytest.approx(eager[0].loss, rel=1e-5)
    assert history[0].evaluation.firing_rates == pytest.approx(eager[0].evaluation.firing_rates, abs=1e-3)
