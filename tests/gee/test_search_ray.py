"""Candidates on a real Ray cluster of three nodes on this machine, with nodes, workers and tasks failing."""

import builtins
import os
import signal
import sys
from dataclasses import replace

import pytest

from gee.search import SearchConfig, evolve
from gee.search.errors import MissingExtraError, SearchError
from gee.search.executor import InProcess, Policy
from gee.search.loop import search
from gee.search.ray_executor import RayExecutor
from gee.search.run_directory import RunDirectory
from gee.training import ModelConfig, TrainConfig

from .search_problem import SETTINGS, Bowl, Cube, outcome_of

pytestmark = pytest.mark.slow
WORKERS = 2  # nodes for candidates, beside the head
NODE = {"num_cpus": 1, "object_store_memory": 80 * 2**20}


@pytest.fixture(scope="module")
def cluster():
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from ray.cluster_utils import Cluster

    head = {**NODE, "num_cpus": 0, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=head)
    for _ in range(WORKERS):
        cluster.add_node(**NODE)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster
    ray.shutdown()
    cluster.shutdown()


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory):
    with RunDirectory.create(tmp_path_factory.mktemp("undisturbed"), {}) as run:
        return search(InProcess(Bowl()), Cube(), SETTINGS, run).vector, outcome_of(run)


def run_search(path, evaluate, policy=Policy(), on_event=lambda event: None):  # noqa: B008
    events = []

    def notify(event):
        events.append(event)
        on_event(event)

    executor = RayExecutor(evaluate, notify, policy)
    try:
        with RunDirectory.create(path / "run", {}) as run:
            return (search(executor, Cube(), SETTINGS, run).vector, outcome_of(run)), events
    finally:
        executor.close()


def test_ray_gives_the_same_candidates_and_shows_where_they_ran(cluster, tmp_path, undisturbed):
    result, events = run_search(tmp_path, Bowl(seconds=0.1))
    assert result == undisturbed
    nodes = {event.place.split(" (")[0] for event in events if event.kind == "started"}
    assert len(nodes) == WORKERS
    assert RayExecutor(Bowl()).slots == WORKERS


def test_a_killed_worker_and_a_hanging_task_change_nothing(cluster, tmp_path, undisturbed):
    evaluate = Bowl({(0, 1): "kill", (1, 0): "hang", (2, 4): "oom once"}, tmp_path)
    result, events = run_search(tmp_path, evaluate, Policy(timeout=4.0, on_oom="retry"))
    assert result == undisturbed
    retried = {event.task.name: event.detail for event in events if event.kind == "retried"}
    assert retried == {
        "candidate 0.1": "worker died",
        "candidate 1.0": "took longer than 4 s",
        "candidate 2.4": "out of memory, runs again alone",
    }


def test_a_worker_killed_from_outside_changes_nothing(cluster, tmp_path, undisturbed):
    killed = []

    def kill_the_second(event):
        if event.kind == "started" and not killed and event.task.index == 1:
            killed.append(int(event.place.split("process ")[1].rstrip(")")))
            os.kill(killed[0], signal.SIGKILL)

    result, events = run_search(tmp_path, Bowl(seconds=0.3), on_event=kill_the_second)
    assert killed
    assert result == undisturbed
    assert [event.kind for event in events].count("retried") == 1


def test_a_node_killed_in_the_middle_of_a_generation_changes_nothing(cluster, tmp_path, undisturbed):
    lost = []

    def kill_its_node(event):
        if event.kind == "started" and event.task.name == "candidate 1.2" and not lost:
            (node,) = [node for node in cluster.list_all_nodes() if node.node_id[:8] in event.place]
            lost.append(node)
            cluster.remove_node(node, allow_graceful=False)

    evaluate = Bowl({(1, 2): "hang"}, tmp_path)  # so that it surely runs when its node goes
    result, events = run_search(tmp_path, evaluate, on_event=kill_its_node)
    cluster.add_node(**NODE)
    assert len(lost) == 1
    assert result == undisturbed
    assert "candidate 1.2" in {event.task.name for event in events if event.kind == "retried"}


def test_real_candidates_are_the_same_on_ray_and_in_this_process(cluster, tmp_path):
    config = SearchConfig(
        generations=1,
        population=2,
        candidate_epochs=1,
        workers=0,
        tensorboard="off",
        progress=False,
        device="cpu",
        network=ModelConfig(genes=3, width=0.25, time_steps=2),
        training=TrainConfig(epochs=1, batch_size=256),
    )
    here = evolve(replace(config, run_dir=tmp_path / "here"))
    there = evolve(replace(config, executor="ray", run_dir=tmp_path / "there"))
    assert outcome_of(tmp_path / "here") == outcome_of(tmp_path / "there")
    assert here.accuracy == there.accuracy


def test_a_candidate_too_large_for_every_node_is_refused(cluster):
    with pytest.raises(SearchError, match=r"needs .*'GPU': 1.* largest has .*--gpus-per-candidate"):
        RayExecutor(Bowl(), gpus_per_candidate=1)


def test_without_ray_the_error_names_the_extra(monkeypatch):
    real = builtins.__import__

    def without_ray(name, *args, **kwargs):
        if name == "ray":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", without_ray)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    with pytest.raises(MissingExtraError, match=r"gee\[ray\]"):
        RayExecutor(Bowl())
