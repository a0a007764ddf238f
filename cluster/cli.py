"""The command line: `treeline COMMAND ...` and `python -m cluster.cli COMMAND ...`.

A command is a class of options, a frozen dataclass from which the flags are made, and a function. Both are
named as text and imported only when the command is called, so that --help answers at once.
"""

import dataclasses
import importlib
import os
import sys
from dataclasses import dataclass
from types import TracebackType
from typing import Any

USER_MISTAKE = 2


@dataclass(frozen=True)
class Command:
    """What a command needs and does; both as module:name."""

    options: str
    run: str
    help: str


COMMANDS = {
    "demo": Command(
        "cluster.config:DemoConfig", "cluster.commands:demo", "the whole job on a synthetic landscape"
    ),
    "ingest pairs": Command(
        "ingest.config:PairsConfig", "cluster.commands:ingest_pairs", "folders of chips -> a dataset"
    ),
    "ingest huggingface": Command(
        "ingest.config:HuggingFaceConfig",
        "cluster.commands:ingest_huggingface",
        "a Hugging Face dataset -> a dataset",
    ),
    "ingest scenes": Command(
        "ingest.config:ScenesConfig",
        "cluster.commands:ingest_scenes",
        "images and height rasters -> a dataset",
    ),
    "ingest synthetic": Command(
        "ingest.config:SyntheticConfig",
        "cluster.commands:ingest_synthetic",
        "a synthetic landscape -> a dataset, for load tests",
    ),
    "ingest tars": Command(
        "ingest.config:TarsConfig",
        "cluster.commands:ingest_tars",
        "WebDataset tars, as they are -> a dataset",
    ),
    "inspect": Command(
        "shards.config:InspectConfig", "cluster.commands:inspect", "what a dataset holds, with a picture"
    ),
    "split": Command(
        "shards.config:SplitConfig", "cluster.commands:split", "hold out other chips; pixels stay in place"
    ),
    "verify": Command(
        "shards.config:VerifyConfig", "cluster.commands:verify", "read a whole dataset and check everything"
    ),
    "convert": Command(
        "shards.config:ConvertConfig", "cluster.commands:convert", "a dataset from tar to Zarr, or back"
    ),
    "train": Command("trainer.config:TrainConfig", "cluster.commands:train", "a dataset -> a regressor"),
    "evaluate": Command(
        "trainer.config:EvaluateConfig", "cluster.commands:evaluate", "how good a regressor is"
    ),
    "predict": Command(
        "inference.config:PredictConfig", "cluster.commands:predict", "scenes -> canopy height maps"
    ),
    "submit": Command(
        "cluster.config:SubmitConfig", "cluster.commands:submit", "run a command as a job of a Ray cluster"
    ),
}


def main() -> None:
    """Run the command that the program was called with."""
    arguments = sys.argv[1:]
    if "--debug" in arguments:
        arguments.remove("--debug")
    else:
        sys.excepthook = _one_line
    from shards.errors import InputError

    try:
        sys.exit(run(arguments))
    except InputError as error:
        print(f"treeline: {_text(error)}", file=sys.stderr)
        sys.exit(USER_MISTAKE)


def run(arguments: list[str]) -> int:
    """Run one command; returns the exit code.

    Raises:
        InputError: a mistake of the user's.
    """
    name, rest = split_command(arguments)
    if name not in COMMANDS:
        return _usage(arguments)
    command = COMMANDS[name]
    if name == "submit":
        options, job = (
            (rest[: rest.index("--")], rest[rest.index("--") + 1 :]) if "--" in rest else (rest, [])
        )
        config = parse(name, options)
        return int(_named(command.run)(config, job) or 0)
    return int(_named(command.run)(parse(name, rest)) or 0)


def parse(name: str, arguments: list[str]) -> Any:
    """The options of command `name`: defaults < --recipe < --config FILE < flags.

    Raises:
        InputError: the file has a key or a value that is no option's.
        SystemExit: a flag is wrong (code 2) or help was asked for (code 0).
    """
    import tyro

    options = _named(COMMANDS[name].options)
    defaults = _defaults(options, arguments)
    return tyro.cli(options, args=arguments, default=defaults, prog=f"treeline {name}")


def split_command(arguments: list[str]) -> tuple[str, list[str]]:
    """The command's name, which may be two words, and what follows it."""
    words = 2 if arguments[:1] == ["ingest"] else 1
    return " ".join(arguments[:words]), arguments[words:]


def _usage(arguments: list[str]) -> int:
    asked = not arguments or arguments[-1] in ("--help", "-h")
    lines = ["usage: treeline COMMAND [--help] [--debug] ...", ""]
    lines += [f"  {name:20}{command.help}" for name, command in COMMANDS.items()]
    print("\n".join(lines), file=sys.stdout if asked else sys.stderr)
    if asked:
        return 0
    print(f"treeline: no command {' '.join(arguments[:2])!r}; choose one of the above", file=sys.stderr)
    return USER_MISTAKE


def _named(reference: str) -> Any:
    module, name = reference.split(":")
    return getattr(importlib.import_module(module), name)


def _defaults(options: type, arguments: list[str]) -> Any:
    """An instance of `options` with what recipe and file say; what only flags can say is missing."""
    import tyro

    fields = {field.name: field for field in dataclasses.fields(options)}
    values = {
        name: tyro.MISSING if field.default is dataclasses.MISSING else field.default
        for name, field in fields.items()
    }
    if "config" in fields:
        from_file = _read_options(_flag(arguments, "config"), fields)
        recipe = _flag(arguments, "recipe") or from_file.get("recipe")
        recipes = importlib.import_module(options.__module__).RECIPES
        values |= {**recipes.get(recipe, {}), **from_file, "recipe": recipe or values["recipe"]}
    return options(**values)


def _flag(arguments: list[str], name: str) -> str | None:
    for place, argument in enumerate(arguments):
        if argument == f"--{name}" and place + 1 < len(arguments):
            return arguments[place + 1]
        if argument.startswith(f"--{name}="):
            return argument.split("=", 1)[1]
    return None


def _read_options(url: str | None, fields: dict[str, Any]) -> dict[str, Any]:
    """The options in the YAML or JSON file at `url`, checked against the options there are."""
    if url is None:
        return {}
    import yaml

    from shards.errors import InputError
    from shards.storage import read_bytes

    try:
        values = yaml.safe_load(read_bytes(url))
    except yaml.YAMLError as error:
        raise InputError(f"{url}: not a YAML or JSON file ({' '.join(str(error).split())})") from error
    if not isinstance(values, dict):
        raise InputError(f"{url}: not a list of options (key: value)")
    for name, value in values.items():
        if name not in fields:
            raise InputError(f"{url}: no option is called {name!r}; see treeline train --help")
        values[name] = _as_option(value, fields[name].default, f"{url}: {name}")
    return values


def _as_option(value: Any, default: Any, where: str) -> Any:
    """A value from a file, as the option's type; YAML reads 5e-5 as text and lists as lists."""
    from shards.errors import InputError

    if isinstance(value, list):
        value = tuple(value)
    kind = type(default)
    if kind is float and not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError) as error:
            raise InputError(f"{where} is {value!r}, not a number") from error
    if kind in (bool, int, str, tuple) and type(value) is not kind:
        raise InputError(f"{where} is {value!r}, not of type {kind.__name__}")
    return value


def _one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """A failure that is not the user's: one line, and how to see more. Python exits with code 1."""
    hint = "" if issubclass(kind, KeyboardInterrupt) else " (--debug shows where)"
    print(f"treeline: failed: {kind.__name__}: {_text(error)}{hint}", file=sys.stderr)


def _text(error: BaseException) -> str:
    """The error's text on one line; an error from a Ray worker comes wrapped in its traceback."""
    return " ".join(str(getattr(error, "cause", None) or error).split())


if __name__ == "__main__":
    # Found from the repository's root, also where that is not the folder of the call.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    main()
