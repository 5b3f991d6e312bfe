"""gee.config: one dataclass, three faces (flags, file, help), and files that are whole or absent."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from gee import config, files


@dataclass
class Inner:
    """How it learns."""

    rate: float = 1e-3
    """Peak learning rate."""
    clip: float | None = 1.0
    """Largest gradient norm."""


@dataclass
class Settings:
    """Do the work.

    Examples:
        python -m work --epochs 3
    """

    model: str = "small"
    """Name of the model."""
    epochs: int = 20
    """Passes over the data."""
    amp: Literal["none", "bfloat16"] = "none"
    """Autocast type."""
    resume: bool = False
    """Continue."""
    folder: Path | None = None
    """Where the data is."""
    sizes: tuple[int, ...] = (1, 2)
    """Some sizes."""
    inner: Inner = field(default_factory=Inner)


def test_defaults_without_flags():
    assert config.parse(Settings, []) == Settings()


def test_flags_of_every_type():
    flags = "--epochs=3 --amp=bfloat16 --resume --folder=a/b --rate=0.5 --clip=None --model=x --sizes 4 5 6"
    assert config.parse(Settings, flags.split()) == Settings(
        "x", 3, "bfloat16", True, Path("a/b"), (4, 5, 6), Inner(rate=0.5, clip=None)
    )


def test_flags_win_over_file_over_defaults(tmp_path):
    file = tmp_path / "c.json"
    file.write_text(json.dumps({"epochs": 7, "model": "m", "inner": {"rate": 1}}))
    expected = Settings(model="m", epochs=9, inner=Inner(rate=1.0))
    assert config.parse(Settings, ["--config", str(file), "--epochs", "9"]) == expected
    assert config.parse(Settings, ["--epochs", "9", f"--config={file}"]) == expected


def test_help_shows_fields_defaults_and_the_examples(capsys):
    with pytest.raises(SystemExit) as stop:
        config.parse(Settings, ["--help"], prog="work")
    assert stop.value.code == 0
    shown = capsys.readouterr().out
    for text in (
        "--epochs",
        "Passes over the data.",
        "20",
        "--rate",
        "bfloat16",
        "--config",
        "python -m work --epochs 3",
    ):
        assert text in shown, text
    assert "--inner" not in shown
    assert "settings." not in shown


@pytest.mark.parametrize(
    "flags", [["--epochs", "x"], ["--amp", "int4"], ["--epoch", "3"], ["--config", "no.json"]]
)
def test_wrong_flags_end_the_program(flags, capsys):
    with pytest.raises(SystemExit) as stop:
        config.parse(Settings, flags)
    assert stop.value.code == 2
    assert flags[0] in capsys.readouterr().err


def test_saved_config_is_read_back(tmp_path):
    settings = Settings(epochs=1, folder=Path("data"), sizes=(3,), inner=Inner(clip=None))
    config.save(settings, tmp_path / "config.json")
    assert config.load(Settings, tmp_path / "config.json") == settings
    assert set(json.loads((tmp_path / "config.json").read_text())) == set(Settings.__dataclass_fields__)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"epoch": 3}, r"unknown key epoch; the keys are model, epochs"),
        ({"inner": {"lr": 3}}, r"unknown key inner\.lr"),
        ({"epochs": "3"}, r"epochs must be int, got '3'"),
        ({"epochs": 3.5}, r"epochs must be int, got 3.5"),
        ({"inner": {"rate": "fast"}}, r"inner\.rate must be float, got 'fast'"),
        ({"inner": 3}, r"inner\. must be an object, got 3"),
        ({"amp": "int4"}, r"amp must be Literal\['none', 'bfloat16'\], got 'int4'"),
        ({"sizes": [1, "2"]}, r"sizes must be tuple\[int, \.\.\.\], got \(1, '2'\)"),
        ([1], r"the configuration must be an object"),
    ],
)
def test_a_file_that_does_not_fit_is_refused_by_name(tmp_path, values, message):
    file = tmp_path / "config.json"
    file.write_text(json.dumps(values))
    with pytest.raises(config.ConfigError, match=message):
        config.load(Settings, file)


def test_broken_json_is_refused(tmp_path):
    file = tmp_path / "config.json"
    file.write_text('{"epochs": 3')
    with pytest.raises(config.ConfigError, match="not valid JSON"):
        config.load(Settings, file)


def test_write_atomically_replaces_and_leaves_nothing_behind(tmp_path):
    path = tmp_path / "a.bin"
    files.write_atomically(path, b"old")
    files.write_atomically(path, "new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.bin"]


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "a.bin"
    files.write_atomically(path, b"old")

    def full_disk(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space left"):
        files.write_atomically(path, b"new and longer")
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.bin"]
