"""Typed configuration: one dataclass is the defaults, the flags, their `--help` and the saved `config.json`.

    @dataclass
    class Config:
        '''What the command does, with examples: the head of its `--help`.'''

        epochs: int = 20
        '''Passes over the training images: the help of `--epochs`.'''
        train: TrainConfig = field(default_factory=TrainConfig)     # its flags have no prefix: --lr

    config = parse(Config)                  # from sys.argv; `--config FILE` gives other defaults
    save(config, run / "config.json")
    config = load(Config, run / "config.json")

tyro turns the dataclass into flags. Files are JSON, nested like the dataclasses; what a file does not mention
keeps its default, and what it mentions must exist and have the right type.
"""

import dataclasses
import inspect
import json
import sys
import types
import typing
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro
from typeguard import CollectionCheckStrategy, TypeCheckError, check_type

from gee.files import write_atomically

C = TypeVar("C")


def parse(cls: type[C], args: Sequence[str] | None = None, *, prog: str | None = None) -> C:
    """Read an instance of `cls` from command line flags.

    Args:
        cls: a dataclass. Nested dataclasses contribute their fields as flags of their own, without a prefix.
        args: the flags; None: `sys.argv[1:]`.
        prog: the command's name in `--help`.

    Flags win over `--config FILE`, which wins over the dataclass's defaults. A wrong flag, a wrong file or
    `--help` ends the program (`SystemExit`) with a message, as argparse does.
    """
    args = list(sys.argv[1:] if args is None else args)
    file = _config_flag(args)
    try:
        defaults = None if file is None else load(cls, file)
    except (ConfigError, OSError) as error:
        print(f"{prog or 'error'}: --config: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    # The fields of `cls`, and --config beside them so that --help shows it.
    config_flag = typing.Annotated[
        Path | None,
        tyro.conf.arg(
            help="JSON file with other defaults, such as the config.json of a run.", metavar="FILE"
        ),
    ]
    command = dataclasses.make_dataclass(
        cls.__name__, [("config", config_flag, dataclasses.field(default=None, kw_only=True))], bases=(cls,)
    )
    parsed = tyro.cli(
        command,
        args=args,
        prog=prog,
        description=inspect.cleandoc(cls.__doc__ or ""),
        default=None if defaults is None else command(**_fields(defaults)),
        config=(tyro.conf.OmitArgPrefixes,),
    )
    values = _fields(parsed)
    values.pop("config")
    return cls(**values)


def _fields(config: Any) -> dict[str, Any]:
    return {field.name: getattr(config, field.name) for field in dataclasses.fields(config) if field.init}


class ConfigError(ValueError):
    """A configuration file that does not fit its dataclass."""


def load(cls: type[C], path: str | Path) -> C:
    """Read an instance of `cls` from the JSON file `path`.

    Raises:
        ConfigError: the file is no JSON object, has an unknown key, or a value of the wrong type.
        OSError: the file cannot be read.
    """
    try:
        values = json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path} is not valid JSON: {error}") from None
    try:
        return from_dict(cls, values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from None


def save(config: Any, path: str | Path) -> None:
    """Write `config`, every value of it, as JSON to `path`."""
    write_atomically(path, json.dumps(to_dict(config), indent=2) + "\n")


def to_dict(config: Any) -> dict[str, Any]:
    """`config` as nested dictionaries of JSON's types; `from_dict` is the inverse."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def from_dict(cls: type[C], values: Any, where: str = "") -> C:
    """An instance of the dataclass `cls` from nested dictionaries; what they lack keeps its default.

    Raises:
        ConfigError: naming the key (`train.epochs`), what was expected and what came.
    """
    if not isinstance(values, dict):
        raise ConfigError(f"{where or 'the configuration'} must be an object, got {values!r}")
    hints = typing.get_type_hints(cls)
    known = {
        field.name: hints[field.name] for field in dataclasses.fields(typing.cast(Any, cls)) if field.init
    }
    unknown = [f"{where}{key}" for key in values if key not in known]
    if unknown:
        raise ConfigError(f"unknown key {', '.join(unknown)}; the keys are {', '.join(known)}")
    converted = {key: _convert(known[key], value, f"{where}{key}") for key, value in values.items()}
    try:
        return cls(**converted)
    except (TypeError, ValueError) as error:  # a missing value, or one the dataclass itself refuses
        raise ConfigError(f"{where + ': ' if where else ''}{error}") from None


def _convert(hint: Any, value: Any, name: str) -> Any:
    """`value`, as JSON gives it, in the type `hint`."""
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return from_dict(hint, value, f"{name}.")
    origin = typing.get_origin(hint)
    if isinstance(value, list) and origin is tuple:
        value = tuple(value)
    options = typing.get_args(hint) if origin in (types.UnionType, typing.Union) else (hint,)
    if isinstance(value, str) and Path in options:
        value = Path(value)
    if type(value) is int and float in options and int not in options:
        value = float(value)
    try:
        return check_type(value, hint, collection_check_strategy=CollectionCheckStrategy.ALL_ITEMS)
    except TypeCheckError:
        expected = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
        raise ConfigError(f"{name} must be {expected}, got {value!r}") from None


def _config_flag(args: Sequence[str]) -> str | None:
    """The FILE of the last `--config FILE` or `--config=FILE`."""
    found = None
    for index, flag in enumerate(args):
        if flag == "--config" and index + 1 < len(args):
            found = args[index + 1]
        elif flag.startswith("--config="):
            found = flag.removeprefix("--config=")
    return found
