"""Reports of real, small runs: finished, still going, damaged, several."""

import json
import re
import shutil
from html.parser import HTMLParser

import pytest

from gee import report
from gee.report import __main__ as command
from gee.search import SearchConfig, evolve


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A whole evolution on the digits, as small as it gets."""
    path = tmp_path_factory.mktemp("runs") / "tiny"
    config = SearchConfig(
        generations=2, population=3, candidate_epochs=1, run_dir=path, workers=0, progress=False
    )
    config.network.width, config.network.time_steps, config.network.genes = 0.25, 2, 4
    config.training.epochs = 2
    evolve(config)
    return path


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


class _Page(HTMLParser):
    def __init__(self, html):
        super().__init__()
        self.headings, self.pictures, self.links, self._heading = [], 0, [], False
        self.feed(html)

    def handle_starttag(self, tag, attributes):
        self._heading = tag == "h2"
        self.pictures += tag == "svg"
        addresses = [value for key, value in attributes if key in ("src", "href", "xlink:href")]
        self.links += [value for value in addresses if not value.startswith(("#", "data:"))]

    def handle_data(self, data):
        if self._heading:
            self.headings.append(data)
            self._heading = False


def test_a_finished_run(run):
    html = report.write(run).read_text()
    page = _Page(html)
    assert page.headings == ["Evolution", "Training", "Spikes", "Energy", "Mistakes", "Setup"]
    assert page.pictures == 7
    assert page.links == [], "the page must hold everything itself"
    result = json.loads((run / "result.json").read_text())
    assert f"{result['accuracy']:.1%}" in html
    assert f"{result['parameters']:,}" in html
    for layer in result["energy"]["layers"]:
        assert f"<td>{layer['name']}</td>" in html
    total = re.search(r'<tr class="total"><td>total</td><td>([\d,]+)</td>', html)
    assert total is not None
    assert total[1] == f"{result['energy']['spikes']:,.0f}"


def test_the_same_run_gives_the_same_page(run):
    assert report.write(run).read_bytes() == report.write(run).read_bytes()


def test_a_run_that_is_still_going(run):
    (run / "result.json").unlink()
    shutil.rmtree(run / "train")
    lines = (run / "candidates.jsonl").read_bytes()
    (run / "candidates.jsonl").write_bytes(lines[:-40])  # the last line is being written
    html = report.write(run).read_text()
    assert _Page(html).headings == ["Evolution", "Setup"]
    assert "5 candidates" in html
    assert "Not finished" in html


def test_failed_candidates_are_listed(run):
    lines = [json.loads(line) for line in (run / "candidates.jsonl").read_text().splitlines()]
    lines[1] |= {"failure": "loss <nan> in epoch 1", "fitness": None, "cross_entropy": None}
    lines[1] |= {"temporal_difference": None, "spatial_entropy": None}
    (run / "candidates.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    html = report.write(run).read_text()
    assert "1 candidates failed" in html or "1 candidate failed" in html
    assert "loss &lt;nan&gt; in epoch 1" in html


def test_scores_make_generations_comparable(run):
    contents = report.read_run(run)
    last = contents.candidates[-1]["generation"]
    for candidate, score in zip(contents.candidates, contents.scores, strict=True):
        novelty = 0.5 * candidate["temporal_difference"] + 0.5 * candidate["spatial_entropy"]
        assert score == pytest.approx(candidate["cross_entropy"] - novelty / (1 + last))
        if candidate["generation"] == last:
            assert score == pytest.approx(candidate["fitness"])


def test_several_runs(run, tmp_path, capsys):
    others = []
    for name, accuracy, shift in (("b", 0.5, 0.1), ("c", 0.25, 0.2)):
        other = shutil.copytree(run, tmp_path / name)
        result = json.loads((other / "result.json").read_text()) | {"accuracy": accuracy}
        (other / "result.json").write_text(json.dumps(result))
        lines = [json.loads(line) for line in (other / "candidates.jsonl").read_text().splitlines()]
        for line in lines:
            line["cross_entropy"] += shift
        (other / "candidates.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
        others.append(other)
    result = json.loads((run / "result.json").read_text()) | {"accuracy": 0.75}
    (run / "result.json").write_text(json.dumps(result))
    command.main([str(run), *map(str, others), "--output", str(tmp_path / "all.html")])
    html = (tmp_path / "all.html").read_text()
    assert str(tmp_path / "all.html") in capsys.readouterr().out
    assert _Page(html).headings == ["Results", "Evolution", "Training", "Does fitness predict accuracy?"]
    assert "over 3 runs: +1.00" in html  # lower fitness went with higher accuracy throughout


def test_too_few_runs_for_a_correlation(run, tmp_path):
    path = report.compare([run, run], tmp_path / "two.html")
    assert "needs at least 3" in path.read_text()


def test_what_is_no_run_is_said(run, tmp_path):
    with pytest.raises(FileNotFoundError, match="not a run directory"):
        report.write(tmp_path / "nothing")
    (run / "result.json").write_text("{")
    with pytest.raises(ValueError, match=r"result\.json is damaged"):
        report.write(run)
    with pytest.raises(SystemExit, match=r"result\.json is damaged"):
        command.main([str(run)])
