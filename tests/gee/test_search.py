"""Fitness, optimiser and loop of the search, on a problem that takes no time."""

import dataclasses
import math

import numpy as np
import pytest
import torch

from gee.search.errors import RunDirectoryError, TooManyFailuresError
from gee.search.executor import Evaluation, InProcess
from gee.search.fitness import METHODS, Fitness, penalised
from gee.search.loop import Callback, best_candidate, random_candidate, search
from gee.search.novelty import spatial_entropy, temporal_difference
from gee.search.run_directory import Candidate, RunDirectory
from gee.search.strategy import Strategy, candidate_seed

from .search_problem import SETTINGS, Bowl, Cube, outcome_of


def run_search(path, evaluate=None, settings=SETTINGS, callbacks=(), resume=False):
    """Search in `path`; the best candidate and what the run holds."""
    make = RunDirectory.resume if resume else RunDirectory.create
    with make(path, {"seed": settings.seed}) as run:
        best = search(InProcess(evaluate or Bowl()), Cube(), settings, run, callbacks)
        return best, outcome_of(run)


# Fitness


def test_temporal_difference_by_hand():
    # One sample: o = (1, 0), (0, 0), (0, 2). Changes 1 and 4, energies 1, 0 and 4.
    o = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 2.0]])[:, None]
    assert temporal_difference(o).tolist() == [pytest.approx((5 / 2) / (5 / 3))]


def test_temporal_difference_of_constant_silent_and_single_step_outputs():
    assert temporal_difference(torch.ones(4, 3, 10)).tolist() == [0.0] * 3
    assert temporal_difference(torch.zeros(4, 3, 10)).tolist() == [0.0] * 3
    assert temporal_difference(torch.randn(1, 3, 10)).tolist() == [0.0] * 3


def test_temporal_difference_does_not_depend_on_scale_or_on_the_rest_of_the_batch():
    o = torch.randn(4, 6, 10, generator=torch.Generator().manual_seed(0))
    td = temporal_difference(o)
    torch.testing.assert_close(temporal_difference(100 * o), td)
    torch.testing.assert_close(temporal_difference(o[:, :2]), td[:2])


def test_spatial_entropy_is_one_for_equal_and_zero_for_single_entries():
    assert spatial_entropy(-torch.ones(5, 5)).item() == pytest.approx(1.0)
    single = torch.zeros(5, 5)
    single[2, 3] = -7
    assert spatial_entropy(single).item() == 0.0
    assert spatial_entropy(torch.zeros(5, 5)).item() == 0.0
    assert spatial_entropy(torch.ones(1, 1)).item() == 0.0


def test_spatial_entropy_by_hand():
    G = torch.tensor([[0.5, -0.25], [0.25, 0.0]])
    expected = (0.5 * math.log(2) + 2 * 0.25 * math.log(4)) / math.log(4)
    assert spatial_entropy(G).item() == pytest.approx(expected)


def test_fitness_follows_eq_16():
    evaluation = Evaluation(2.0, 0.4, 0.8)
    assert Fitness.of("ste")(evaluation, 0) == pytest.approx(2.0 - 0.5 * 0.4 - 0.5 * 0.8)
    assert Fitness.of("ste")(evaluation, 3) == pytest.approx(2.0 - 0.25 * 0.6)  # d(n) = 1 / (1 + n)
    assert Fitness.of("ste", alpha=1.0, beta=0.25, decay=2.0)(evaluation, 1) == pytest.approx(2.0 - 0.6 / 3)
    assert Fitness.of("baseline")(evaluation, 0) == 2.0
    assert Fitness.of("baseline+td")(evaluation, 0) == pytest.approx(1.8)
    assert Fitness.of("baseline+se")(evaluation, 0) == pytest.approx(1.6)
    with pytest.raises(ValueError, match="method must be one of random, baseline"):
        Fitness.of("best")


def test_failures_rank_last_with_a_margin():
    assert penalised([1.0, None, 3.0, None]) == [1.0, 5.0, 3.0, 5.0]
    assert penalised([1.0, None]) == [1.0, 2.0]
    with pytest.raises(ValueError, match="at least one finite"):
        penalised([None, None])


# Optimiser


def asked(generations, seed=3, diagonal=False, dimension=6):
    strategy = Strategy([0.5] * dimension, 0.4, 6, seed, diagonal)
    vectors = []
    for _ in range(generations):
        vectors.append(strategy.ask())
        strategy.tell([sum((u - 0.1) ** 2 for u in vector) for vector in vectors[-1]])
    return vectors


@pytest.mark.parametrize("diagonal", [False, True])
def test_the_optimiser_is_a_function_of_seed_and_values(diagonal):
    first = asked(6, diagonal=diagonal)
    np.random.seed(1)
    torch.manual_seed(1)
    assert asked(6, diagonal=diagonal) == first
    assert asked(6, seed=4, diagonal=diagonal) != first
    assert asked(6, seed=0, diagonal=diagonal) == asked(6, seed=0, diagonal=diagonal)


def test_the_optimiser_leaves_the_global_generators_alone():
    np.random.seed(5)
    before = np.random.get_state()[1].copy()
    asked(2)
    np.testing.assert_array_equal(np.random.get_state()[1], before)


def test_the_optimiser_respects_the_cube_and_improves():
    generations = asked(40)
    assert all(0 <= u <= 1 for vectors in generations for vector in vectors for u in vector)
    distance = [min(max(abs(u - 0.1) for u in vector) for vector in vectors) for vectors in generations]
    assert distance[-1] < 0.05 < distance[0]


def test_the_optimiser_refuses_what_cma_would_swallow():
    strategy = Strategy([0.5] * 3, 0.2, 4, 0)
    strategy.ask()
    for values in ([1.0, 2.0, math.nan, 3.0], [1.0, 2.0, 3.0], [math.inf] * 4):
        with pytest.raises(ValueError, match="4 finite numbers"):
            strategy.tell(values)
    with pytest.raises(ValueError, match="population"):
        Strategy([0.5] * 3, 0.2, 1, 0)


def test_candidate_seeds_differ_and_are_fixed():
    seeds = {candidate_seed(r, g, i) for r in range(4) for g in range(4) for i in range(4)}
    assert len(seeds) == 64
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert candidate_seed(0, 0, 0) == 7896617691693857887


# Loop


def test_a_search_records_every_candidate_and_repeats_itself(tmp_path):
    best, outcome = run_search(tmp_path / "a")
    assert len(outcome) == SETTINGS.generations * SETTINGS.population
    again, outcome_again = run_search(tmp_path / "c")
    assert (again.vector, outcome_again) == (best.vector, outcome)
    other, _ = run_search(tmp_path / "d", settings=dataclasses.replace(SETTINGS, seed=8))
    assert other.vector != best.vector


def test_the_best_is_chosen_by_one_measure_for_all_generations(tmp_path):
    def candidate(generation, ce, td):
        return Candidate(generation, 0, 0, (), {}, ce, td, 0.0, ce - td / 2 / (1 + generation), 1.0)

    early, late = candidate(0, 2.0, 3.0), candidate(4, 1.0, 1.0)
    assert early.fitness < late.fitness  # but only by the bonus of the first generation
    assert best_candidate([early, late], 4, Fitness()) is late


def test_evolution_improves_on_its_first_generation(tmp_path):
    settings = dataclasses.replace(SETTINGS, fitness=Fitness.of("baseline"), generations=12, population=8)
    best, _ = run_search(tmp_path, settings=settings)
    with RunDirectory.resume(tmp_path) as run:
        first = min(run.candidates[0, i].cross_entropy for i in range(8))
    assert best.cross_entropy < first / 3


@pytest.mark.parametrize("method", ["baseline", "baseline+td", "baseline+se", "ste"])
def test_ablations_differ_in_their_fitness_alone(tmp_path, method):
    settings = dataclasses.replace(SETTINGS, fitness=Fitness.of(method), generations=1)
    run_search(tmp_path, settings=settings)
    with RunDirectory.resume(tmp_path) as run:
        for c in run.candidates.values():
            td, se = (weight / 2 for weight in METHODS[method])
            assert c.fitness == c.cross_entropy - (td * c.temporal_difference + se * c.spatial_entropy)


def test_random_starts_where_the_others_start_and_evaluates_nothing(tmp_path):
    run_search(tmp_path)
    with RunDirectory.resume(tmp_path) as run:
        assert random_candidate(Cube(), SETTINGS).vector == run.candidates[0, 0].vector


@pytest.mark.parametrize("fault", ["nan", "error", "oom"])
def test_failures_are_recorded_and_ranked_last(tmp_path, fault):
    best, outcome = run_search(tmp_path, Bowl(faults={(0, 1): fault, (1, 4): fault}))
    with RunDirectory.resume(tmp_path) as run:
        failed = run.candidates[0, 1]
        assert failed.cross_entropy is None
        assert failed.fitness is None
        words = {"nan": "non-finite", "error": "ValueError: a broken candidate", "oom": "out of memory"}
        assert words[fault] in failed.failure
    assert best.failure is None
    assert f"candidate 0.1 failed: {failed.failure}" in (tmp_path / "search.log").read_text()
    assert run_search(tmp_path, resume=True) == (best, outcome)


def test_too_many_failures_stop_the_run_and_say_what_to_do(tmp_path):
    faults = {(1, i): "error" for i in range(3)}
    with pytest.raises(
        TooManyFailuresError, match=r"3 of 5 candidates of generation 1 .*broken.*delete.*--resume"
    ):
        run_search(tmp_path, Bowl(faults))
    with pytest.raises(TooManyFailuresError):  # the reason is still there
        run_search(tmp_path, resume=True)
    lines = (tmp_path / "candidates.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "candidates.jsonl").write_text("".join(l for l in lines if '"failure": null' in l))
    assert run_search(tmp_path, resume=True)[1] == run_search(tmp_path.with_name("undisturbed"))[1]


def test_out_of_memory_is_tried_again_where_asked(tmp_path):
    (tmp_path / "scratch").mkdir()
    evaluate = Bowl({(0, 2): "oom once"}, tmp_path / "scratch")
    with RunDirectory.create(tmp_path / "a", {}) as run:
        search(InProcess(evaluate, on_oom="retry"), Cube(), SETTINGS, run)
        assert outcome_of(run) == run_search(tmp_path / "b")[1]


def test_callbacks_hear_of_everything_once(tmp_path):
    class Listener(Callback):
        def __init__(self):
            self.candidates, self.generations = [], []

        def on_candidate(self, candidate):
            self.candidates.append((candidate.generation, candidate.index))

        def on_generation(self, generation, candidates, best):
            self.generations.append((generation, len(candidates), best.vector))

    first, second = Listener(), Listener()
    best, _ = run_search(tmp_path, callbacks=[first])
    assert first.candidates == [(g, i) for g in range(3) for i in range(5)]
    assert [g[:2] for g in first.generations] == [(0, 5), (1, 5), (2, 5)]
    assert first.generations[-1][2] == best.vector
    run_search(tmp_path, resume=True, callbacks=[second])
    assert second.candidates == []
    assert second.generations == first.generations


def test_a_run_of_other_versions_is_noticed_by_its_vectors(tmp_path):
    run_search(tmp_path)
    path = tmp_path / "candidates.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    line = Candidate.from_line(lines[3].encode())
    moved = (np.nextafter(line.vector[0], 1), *line.vector[1:])
    lines[3] = dataclasses.replace(line, vector=tuple(map(float, moved))).to_line().decode()
    path.write_text("".join(lines))
    with pytest.raises(RunDirectoryError, match=r"candidate 0.3 .*versions in its run.json"):
        run_search(tmp_path, resume=True)
