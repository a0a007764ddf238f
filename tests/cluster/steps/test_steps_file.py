"""A file of steps: every option of every command, as from a file of options; mistakes are named."""

import dataclasses
import re
import shlex
import typing
from pathlib import Path
from typing import Any

import pytest
import yaml
from in_process import treeline

from cluster import cli
from cluster.options import as_options
from cluster.steps.chain import INSTEAD, NEEDS, NO_STEPS, RESULTS, TAKES
from cluster.steps.command_line import command_line
from cluster.steps.example import example
from cluster.steps.steps_file import COMMAND, Step, StepsFile, read_steps
from shards.errors import InputError
from shards.nested import flat, options_of
from shards.roles import Place, roles

COMMANDS = sorted(cli.COMMANDS.keys() - NO_STEPS)


def written(folder: Path, text: str) -> StepsFile:
    """The steps of this text."""
    (folder / "steps.yaml").write_text(text)
    return read_steps(str(folder / "steps.yaml"))


def some_values(name: str) -> dict[str, Any]:
    """A value for each option of a command, as YAML has it: the default, or something where there is none."""
    found: dict[str, Any] = {}
    for option, its in options_of(cli.options_of(name)).items():
        value = its.default
        if value is dataclasses.MISSING:
            kind = typing.get_origin(its.kind) or its.kind
            choice = next(iter(typing.get_args(its.kind)), None)
            value = {str: "x", int: 1, tuple: ["x"], typing.Literal: choice}[kind]
        found[option] = list(value) if isinstance(value, tuple) else value
    if "out" in found:
        found["out"] = "made"  # not where the input lies
    return found | ({"mean": True} if name == "ingest labels" else {})


@pytest.mark.parametrize("name", COMMANDS)
def test_every_option_has_the_value_that_a_file_of_options_gives_it(name: str, tmp_path: Path) -> None:
    values = some_values(name)
    (tmp_path / "options.yaml").write_text(yaml.safe_dump(values))
    (step,) = written(tmp_path, yaml.safe_dump({"steps": {name: values}})).steps
    assert step.config == cli.parse(name, ["--config", str(tmp_path / "options.yaml")])
    assert step.named.keys() == flat(step.config).keys()


@pytest.mark.parametrize("name", COMMANDS)
def test_each_option_alone_is_reachable(name: str, tmp_path: Path) -> None:
    """With another value than its default; some have no effect alone, or are out of range, as they say."""
    needed = {
        option: value
        for option, value in some_values(name).items()
        if options_of(cli.options_of(name))[option].default is dataclasses.MISSING
    }
    refused: dict[str, str] = {}
    for option, value in some_values(name).items():
        other = {bool: not value, int: 3, float: 0.5, str: "y", list: ["y"], type(None): None}[type(value)]
        try:
            (step,) = written(tmp_path, yaml.safe_dump({"steps": {name: needed | {option: other}}})).steps
        except InputError as error:
            refused[option] = str(error)
            continue
        assert flat(step.config)[option] in (other, tuple(other) if isinstance(other, list) else other)
    for said in refused.values():
        assert said.startswith(f"{tmp_path}/steps.yaml: {name}: ")
        assert "no option is called" not in said
    assert len(refused) < len(some_values(name))


def test_words_of_the_chain_are_options_and_commands() -> None:
    """A command that is no step, or a result without a command, would never be noticed otherwise."""
    names = {option for name in COMMANDS for option in options_of(cli.options_of(name))}
    assert TAKES.keys() <= names
    assert INSTEAD.keys() | NEEDS.keys() <= set(COMMANDS)
    assert COMMAND not in names
    assert set(COMMANDS) <= RESULTS.keys()
    assert cli.COMMANDS.keys() >= NO_STEPS
    for name in COMMANDS:
        places, result = roles(cli.options_of(name), Place), RESULTS[name]
        assert result.option in {*places, ""}
        assert result.name or result.is_in_place or not result.option


FILE = """
out: land
steps:
  ingest scenes: {images: ["scenes/*.tif"], heights: [lidar]}
  ingest labels: {raster: [cover.tif], column: trees, majority: true, valid: [0, 9]}
  split: {shares: [0.5, 0.25, 0.25], split_by: scene}
  inspect:
  pretrain: {recipe: mae-tiny}
  train: {recipe: notebook, learning_rate: 2e-5, flips: false, limit: null}
  evaluate: {split: test}
  predict: {overlap: 0.25}
  evaluate maps: {command: evaluate, heights: [lidar]}
  mosaic: {bounds: [-1, 0, 2.5, 3]}
  embed:
  export run: {command: export, run: land/run/last}
"""


def test_steps_take_what_earlier_ones_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f").write_text(FILE)
    steps = {step.name: flat(step.config) for step in read_steps("f").steps}
    out = {name: values["out"] for name, values in steps.items() if "out" in values}
    assert out == {
        "ingest scenes": "land/chips",
        "inspect": "land/inspect",
        "pretrain": "land/pretrained",
        "train": "land/run",
        "evaluate": "land/evaluation",
        "predict": "land/maps",
        "evaluate maps": "land/evaluate-maps",
        "mosaic": "land/mosaic.tif",
        "embed": "land/embeddings",
        "export run": "land/export-run",
    }
    for name in ("ingest labels", "split", "inspect", "pretrain", "train", "evaluate", "embed"):
        assert steps[name]["data"] == "land/chips", name
    for name in ("evaluate", "predict", "embed"):
        assert steps[name]["checkpoint"] == "land/run", name
    assert steps["train"]["backbone"] == "land/pretrained"
    assert (steps["train"]["resume"], steps["pretrain"]["resume"]) == ("auto", "auto")
    assert steps["predict"]["scenes"] == ("scenes/*.tif",)
    assert steps["mosaic"]["maps"] == steps["evaluate maps"]["maps"] == ("land/maps/*.tif",)
    assert (steps["evaluate maps"]["data"], steps["evaluate maps"]["checkpoint"]) == ("", "")
    assert steps["train"]["decoder"] == "residual", "of the recipe"
    assert steps["train"]["learning_rate"] == 2e-5


def test_a_printed_command_has_the_options_of_its_step(tmp_path: Path) -> None:
    for step in written(tmp_path, FILE).steps:
        program, *words = shlex.split(command_line(step))
        name, arguments = cli.split_command(words)
        assert (program, name) == ("treeline", step.command)
        assert cli.parse(name, arguments) == step.config


def test_places_are_absolute_in_what_is_sent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nothing else is another: the same steps anywhere."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "f").write_text(FILE)
    here = read_steps("f")
    sent = yaml.safe_dump(here.resolved(), sort_keys=False)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    there = written(elsewhere, sent)
    assert there.out == f"{tmp_path}/land"
    for one, other in zip(here.steps, there.steps, strict=True):
        assert (one.name, one.command) == (other.name, other.command)
        places = roles(type(one.config), Place)
        for option, value in flat(one.config).items():
            expected = value
            if option in places and option != "backbone":
                texts = [f"{tmp_path}/{text}" for text in _texts(value)]
                expected = tuple(texts) if isinstance(value, tuple) else "".join(texts)
            assert flat(other.config)[option] == expected, (one.name, option)


def _texts(value: Any) -> list[str]:
    return list(value) if isinstance(value, tuple) else [value] * bool(value)


def test_a_file_of_options_may_stand_in_a_step(tmp_path: Path) -> None:
    (tmp_path / "best.yaml").write_text("learning_rate: 1e-4\nloss: [squared]\n")
    text = f"steps: {{train: {{data: d, config: {tmp_path}/best.yaml, learning_rate: 1e-3}}}}"
    (step,) = written(tmp_path, text).steps
    config = flat(step.config)
    assert (config["learning_rate"], config["loss"]) == (1e-3, ("squared",))


def test_the_folder_is_beside_the_file_and_named_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "tundra.yaml").write_text("steps: {train: {data: d}}")
    assert read_steps(f"{tmp_path}/tundra.yaml").out == f"{tmp_path}/tundra"
    (tmp_path / "tundra").write_text("steps: {train: {data: d}}")
    assert read_steps(f"{tmp_path}/tundra").out == f"{tmp_path}/tundra-out"


ENDLESS = ", ".join(["&a0 [x, x]", *(f"&a{n} [*a{n - 1}, *a{n - 1}]" for n in range(1, 60))])
"""A list that is too long to print."""
MISTAKES = {
    "steps: {tran: {data: d}}": "no step is called 'tran'; did you mean train? ",
    "steps: {ingest scene: {}}": "no step is called 'ingest scene'; did you mean ingest scenes? ",
    "steps: {submit: {}}": "no step is called 'submit'; ",
    "steps: {first: {command: predictt}}": "no step is called 'predictt'; did you mean predict? ",
    "steps: {train: {data: d, learnig_rate: 1}}": "train: no option is called 'learnig_rate'; did you mean "
    "learning_rate? see treeline train --help-all",
    "steps: {train: {data: d, learning_rate: fast}}": "train: learning_rate is 'fast', not a number",
    "steps: {train: {data: d, learning_rate: 0}}": "train: --learning-rate 0.0: choose above 0",
    "steps: {train: {data: d, recipe: notebok}}": "train: recipe is 'notebok', not one of treeline",
    "steps: {train: {data: d, lora_rank: 4}}": "train: --lora-rank: does nothing without --tune lora",
    "steps: {train: }": "train: data must be given",
    "steps: {mosaic: , predict: }": "mosaic: maps must be given",
    "steps: {predict: {scenes: a.tif, checkpoint: c}}": "scenes is 'a.tif', not a list; write [a.tif]",
    "steps: {train: {data: d}, train: {data: e}}": "train occurs twice; give one another name",
    "steps: {train: {data: d}, more: {command: train, data: d, out: steps/run}}": "both write ",
    "steps: {../train: {command: train}}": "'../train' is no name of a step",
    "steps: [train]": "steps: has no entries",
    "stages: {}": "no entry is called 'stages'; there are out and steps",
    "steps: {train: [1]}": "train: has no entries",
    "out: 3\nsteps: {train: {data: d}}": "out is 3, not a folder",
    "steps: {": "not a YAML or JSON file",
    "steps: {}": "steps: is empty; treeline run --example shows some",
    "steps: {<<: {}}": "steps: is empty; ",
    "steps: " + "[" * 3000: "steps.yaml: not a file of options (it is nested too deeply)",
    f"out: [{ENDLESS}]\nsteps: {{train: {{data: d}}}}": "its aliases (*name) unfold into more than 200,000",
    "out: [x]\nsteps: {train: {data: d}}": "out is a list, not a folder",
    "steps: {train: {data: [x]}}": "train: data is a list, not of type str",
    "steps: {train: {command: [x]}}": "train: command is a list, not a text",
    "steps: {steps.json: {command: embed, data: d, checkpoint: c}}": "steps.json is the record of the run",
    "steps: {ingest pairs: {out: data, images: data/img}}": "its input data/img lies in its out ",
    "steps: {ingest pairs: {out: data, images: img, table: data/t.csv}}": "its input data/t.csv lies in its",
    "steps: {ingest pairs: {out: data, images: 'data/*.npy'}}": "its input data/*.npy lies in its out ",
    "steps: {big: {command: convert, data: d, to: tar, out: w4}, small: "
    "{command: convert, data: d, to: tar, out: w4/other}}": "w4 of big; give one another out",
    "steps: {small: {command: convert, data: d, to: tar, out: w4/a}, big: "
    "{command: convert, data: d, to: tar, out: w4}}": "w4 of big; give one another out",
    "steps: {ingest synthetic: {chips: 6, out: w4}, train: {out: w4/run}}": "w4 of ingest synthetic",
    "": "has no entries (name: ...); treeline run --example shows some",
}


@pytest.mark.parametrize("text", MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_is_one_line_before_anything_is_done(text: str, tmp_path: Path) -> None:
    (tmp_path / "steps.yaml").write_text(text)
    said = treeline("run", "steps.yaml", folder=tmp_path)
    assert (said.returncode, said.stdout) == (2, "")
    assert len(said.stderr.splitlines()) == 1
    assert MISTAKES[text] in said.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["steps.yaml"]


@pytest.mark.parametrize(
    "text",
    [
        "steps: {train: {data: d, out: run}, evaluate: {out: run/evaluation}, predict: {scenes: [a.tif]}}",
        "steps: {train: {data: d}, predict: {scenes: ['scenes/*.tif'], out: scenes}}",
        "steps: {predict: {scenes: [a.tif], checkpoint: c, out: maps}, mosaic: {out: maps/all.tif}}",
        "steps: {train: {data: d, out: w4}, convert: {data: d, to: zarr, out: w4-other}}",
    ],
)
def test_results_may_lie_where_none_of_them_can_be_lost(text: str, tmp_path: Path) -> None:
    assert written(tmp_path, text).steps


def test_the_guide_names_the_commands_that_are_no_steps() -> None:
    guide = " ".join((Path(__file__).parents[3] / "docs" / "run.md").read_text().split())
    (said,) = re.findall(r"`train`, and so on; all but (.*?)\. A command", guide)
    assert set(re.findall("`(.*?)`", said)) == NO_STEPS


@pytest.mark.parametrize("words", [["--redo"], ["--redo", "--dry-run"]])
def test_redo_names_steps(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "steps.yaml").write_text("steps: {ingest synthetic: {chips: 6}}")
    said = treeline("run", "steps.yaml", *words, folder=tmp_path)
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr == "treeline: --redo: name the steps to make anew; there are ingest synthetic\n"


def test_a_place_with_nothing_is_named_before_anything_is_done(tmp_path: Path) -> None:
    text = "steps: {ingest synthetic: {chips: 6}, train: , predict: {scenes: ['scenes/*.tif']}}"
    (tmp_path / "steps.yaml").write_text(text)
    said = treeline("run", "steps.yaml", folder=tmp_path)
    assert (said.returncode, said.stdout) == (2, "")
    assert said.stderr == "treeline: predict: scenes: scenes/*.tif: no file matches\n"
    assert [path.name for path in tmp_path.iterdir()] == ["steps.yaml"]


def test_the_example_is_a_file_of_steps(tmp_path: Path) -> None:
    """With all that is commented out there, too."""
    steps = written(tmp_path, example()).steps
    assert [step.name for step in steps][:3] == ["ingest scenes", "inspect", "train"]
    lines = [re.sub("^( +)# ", r"\1", line) for line in example().partition("steps:")[2].splitlines()]
    more = written(tmp_path, "steps:" + "\n".join(lines)).steps
    assert {step.name for step in more} == {step.name for step in steps} | {"split", "evaluate maps"}


def test_without_a_file_the_example_is_named(tmp_path: Path) -> None:
    said = treeline("run", folder=tmp_path)
    assert said.returncode == 2
    assert "treeline run --example > steps.yaml" in said.stderr
    said = treeline("run", "--example", folder=tmp_path)
    assert (said.returncode, said.stdout) == (0, example())


def test_options_that_a_command_lacks_are_named_by_their_nearest() -> None:
    with pytest.raises(InputError, match="no option is called 'workrs'; did you mean workers\\? see "):
        as_options({"workrs": 2}, cli.options_of("predict"), "f.yaml", "treeline predict")


def test_a_step_of_another_command_keeps_its_own_name(tmp_path: Path) -> None:
    steps = written(tmp_path, "steps: {check it: {command: verify, data: d}}").steps
    assert [(step.name, step.command, step.place) for step in steps] == [("check it", "verify", "")]
    assert isinstance(steps[0], Step)


def test_a_report_takes_the_scores_of_chips_and_not_those_of_maps(tmp_path: Path) -> None:
    (tmp_path / "steps.yaml").write_text(
        "out: all\nsteps:\n  train: {data: chips}\n  evaluate: {data: chips}\n  predict: {scenes: [a.tif]}\n"
        "  of maps: {command: evaluate, heights: [h.tif]}\n  report:\n"
    )
    steps = {step.name: step.config for step in read_steps(str(tmp_path / "steps.yaml")).steps}
    assert steps["report"].evaluation == steps["evaluate"].out != steps["of maps"].out
