"""The command line: `treeline COMMAND ...` and `python -m cluster.cli COMMAND ...`.

A command is a function and a class of options, a frozen dataclass from which the flags are made. Both are
named as text and imported only when the command is called, so that --help answers at once.
"""

import importlib
import os
import select
import signal
import sys
from collections.abc import Set
from dataclasses import dataclass
from types import FrameType, TracebackType
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cluster.options import Parsed

USER_MISTAKE = 2
"""Exit code for a mistake of the user's."""


@dataclass(frozen=True)
class Command:
    """A command, by the names of its parts."""

    options: str
    """Class of its options, as module:name."""
    run: str
    """Function that runs it, as module:name."""
    help: str
    """Sentence that the list of commands shows."""
    asks_what_was_given: bool = False
    """Whether the function takes the names of the options that the user gave, too."""


COMMANDS = {
    "demo": Command(
        "cluster.config:DemoConfig", "cluster.commands:demo", "run the whole job on a synthetic landscape"
    ),
    "ingest pairs": Command(
        "ingest.config:PairsConfig", "cluster.commands:ingest_pairs", "make a dataset from folders of chips"
    ),
    "ingest huggingface": Command(
        "ingest.config:HuggingFaceConfig",
        "cluster.commands:ingest_huggingface",
        "make a dataset from a Hugging Face dataset",
    ),
    "ingest scenes": Command(
        "ingest.config:ScenesConfig",
        "cluster.commands:ingest_scenes",
        "make a dataset from images and height rasters",
    ),
    "ingest synthetic": Command(
        "ingest.config:SyntheticConfig",
        "cluster.commands:ingest_synthetic",
        "make a dataset from a synthetic landscape, optical or SAR",
    ),
    "ingest source": Command(
        "ingest.config:SourceConfig",
        "cluster.commands:ingest_source",
        "make a dataset from a source of your own",
    ),
    "ingest labels": Command(
        "ingest.config:LabelsConfig",
        "cluster.commands:ingest_labels",
        "label the chips of a dataset with what rasters show there",
    ),
    "ingest tars": Command(
        "ingest.config:TarsConfig",
        "cluster.commands:ingest_tars",
        "make a dataset of WebDataset tars as they are",
    ),
    "inspect": Command(
        "shards.config:InspectConfig", "cluster.commands:inspect", "show what a dataset holds, with a picture"
    ),
    "split": Command(
        "shards.config:SplitConfig",
        "cluster.commands:split",
        "change which chips are held out, or count derived bands; pixels stay in place",
        True,
    ),
    "verify": Command(
        "shards.config:VerifyConfig",
        "cluster.commands:verify",
        "read a dataset, run or maps and check everything",
    ),
    "convert": Command(
        "shards.config:ConvertConfig",
        "cluster.commands:convert",
        "convert a dataset from tar to Zarr, or back",
    ),
    "train": Command(
        "trainer.config:TrainConfig", "cluster.commands:train", "train a regressor on a dataset", True
    ),
    "pretrain": Command(
        "trainer.pretrain_config:PretrainConfig",
        "cluster.commands:pretrain",
        "pre-train a backbone on tiles without labels",
        True,
    ),
    "export": Command(
        "trainer.pretrain_config:ExportConfig",
        "cluster.commands:export",
        "write a checkpoint, or a pre-trained backbone, to a folder of its own",
    ),
    "sweep": Command(
        "trainer.config:SweepConfig", "cluster.commands:sweep", "find training options that suit a dataset"
    ),
    "matrix": Command(
        "trainer.matrix_config:MatrixConfig",
        "cluster.commands:matrix",
        "train in each region and test in all: pre-trained against scratch",
    ),
    "import": Command(
        "trainer.config:ImportConfig",
        "cluster.commands:import_",
        "make a checkpoint of a regressor trained elsewhere",
    ),
    "evaluate": Command(
        "trainer.config:EvaluateConfig", "cluster.commands:evaluate", "score a regressor, or maps"
    ),
    "predict": Command(
        "inference.config:PredictConfig", "cluster.commands:predict", "make canopy height maps of scenes"
    ),
    "embed": Command(
        "inference.config:EmbedConfig", "cluster.commands:embed", "describe tiles by vectors of an encoder"
    ),
    "distances": Command(
        "inference.config:DistancesConfig",
        "cluster.commands:distances",
        "measure how far regions lie apart in embeddings",
    ),
    "attention": Command(
        "inference.config:AttentionConfig",
        "cluster.commands:attention",
        "draw and measure where a backbone's class token looks",
    ),
    "report": Command(
        "inference.config:ReportConfig",
        "cluster.commands:report",
        "show a run and its maps on one page: how good it is, how it learnt, where it errs",
    ),
    "mosaic": Command(
        "inference.config:MosaicConfig", "cluster.commands:mosaic", "merge overlapping maps into one"
    ),
    "view": Command("inference.config:ViewConfig", "cluster.commands:view", "look at maps in a browser"),
    "run": Command(
        "cluster.config:StepsConfig",
        "cluster.commands:run",
        "run the steps of a file, from data to maps",
        asks_what_was_given=True,
    ),
    "submit": Command(
        "cluster.config:SubmitConfig", "cluster.commands:submit", "run a command as a job on a Ray cluster"
    ),
}


def main() -> None:
    """Run the command that sys.argv names, and exit with its code."""
    arguments = sys.argv[1:]
    if "--debug" in arguments:
        arguments.remove("--debug")
    else:
        sys.excepthook = _one_line
    from shards.errors import InputError

    # SIGTERM stops a command as Ctrl-C does: half-written files are removed, complete ones kept.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        code = run(arguments)
        sys.stdout.flush()
    except InputError as error:
        print(f"{getattr(error, 'program', 'treeline')}: {_text(error)}", file=sys.stderr)
        code = USER_MISTAKE
    except BrokenPipeError:
        if not _nobody_reads():
            raise
        # Otherwise Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    sys.exit(code)


def run(arguments: list[str]) -> int:
    """Run a command; return the exit code.

    Raises:
        InputError: the user made a mistake.
    """
    name, rest = split_command(arguments)
    if arguments == ["--version"]:
        print(f"treeline {importlib.import_module('shards').__version__}")
        return 0
    if name not in COMMANDS:
        return _usage(arguments)
    command = COMMANDS[name]
    if name == "submit":
        options, job = (
            (rest[: rest.index("--")], rest[rest.index("--") + 1 :]) if "--" in rest else (rest, [])
        )
        config = parse(name, options)
        return int(_named(command.run)(config, job) or 0)
    config, named = parsed(name, rest)
    return call(name, config, named.keys())


def call(name: str, config: Any, given: Set[str]) -> int:
    """Call the function of command `name`; return the exit code.

    Args:
        name: name of the command.
        config: its options.
        given: names of the options that the user gave.
    """
    command = COMMANDS[name]
    return int(_named(command.run)(config, *([given] if command.asks_what_was_given else [])) or 0)


def parse(name: str, arguments: list[str]) -> Any:
    """Read the options of command `name`: defaults < --recipe < --config FILE < flags.

    Raises:
        InputError: a flag is wrong, the file has an unknown option or a wrong value, or an option would have
            no effect.
        SystemExit: help was requested (code 0).
    """
    return parsed(name, arguments).config


def parsed(name: str, arguments: list[str]) -> "Parsed":
    """Read the options of command `name`, and tell which ones were given; see `parse`."""
    from cluster.options import parsed as parsed_options

    return parsed_options(options_of(name), arguments, f"treeline {name}")


def options_of(name: str) -> type:
    """Return the class of the options of command `name`."""
    kind: type = _named(COMMANDS[name].options)
    return kind


def split_command(arguments: list[str]) -> tuple[str, list[str]]:
    """Split off the command's name, which may be two words; return it and the rest."""
    words = 2 if arguments[:1] == ["ingest"] else 1
    return " ".join(arguments[:words]), arguments[words:]


def _usage(arguments: list[str]) -> int:
    """Print the commands: all, or those that begin with the first word given."""
    words = [word for word in arguments if word not in ("--help", "-h")]
    group = {name: command for name, command in COMMANDS.items() if words and name.split()[0] == words[0]}
    asked = not words or (group and len(words) < len(arguments))
    title = f"treeline {words[0]} ..." if group else "treeline COMMAND"
    lines = [f"usage: {title} [--help] [--config FILE] [--debug] ...", ""]
    lines += [f"  {name:20}{command.help}" for name, command in (group or COMMANDS).items()]
    print("\n".join(lines), file=sys.stdout if asked else sys.stderr)
    if asked:
        return 0
    print(f"treeline: no command {' '.join(arguments[:2])!r}; choose one of those above", file=sys.stderr)
    return USER_MISTAKE


def _named(reference: str) -> Any:
    module, name = reference.split(":")
    return getattr(importlib.import_module(module), name)


def _one_line(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """Print a failure that is not the user's mistake, on one line; Python then exits with code 1."""
    if issubclass(kind, KeyboardInterrupt):
        print(f"treeline: stopped{_notes(error)}", file=sys.stderr)
    else:
        from shards.errors import DatasetError

        said = f"{kind.__name__}: {_text(error)}{_notes(error)}"
        # Damaged data are no fault of the program, so its traceback would not help.
        hint = "" if issubclass(kind, DatasetError) else " (--debug shows where)"
        print(f"treeline: failed: {said}{hint}", file=sys.stderr)


def _text(error: BaseException) -> str:
    """Return the error's text on one line; an error from a Ray worker comes wrapped in its traceback."""
    from shards.errors import one_line

    return one_line(getattr(error, "cause", None) or error)


def _notes(error: BaseException) -> str:
    """Return the notes that a stage added to the error, for example how to resume."""
    return "".join(f"; {note}" for note in getattr(error, "__notes__", ()))


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _nobody_reads() -> bool:
    """Tell whether standard output is a pipe whose other end was closed, for example by `| head`."""
    poll = select.poll()
    poll.register(sys.stdout.fileno(), select.POLLOUT)
    return any(event & select.POLLERR for _, event in poll.poll(0))


if __name__ == "__main__":
    # Packages are found in the repository's root, even if the program is called from another folder.
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
    main()
