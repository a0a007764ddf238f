"""What the commands say: mistakes in one line, with exit code 2 and nothing left behind; prompt help."""

import dataclasses
import pickle
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rasterio
from in_process import treeline
from older_checkpoints import without_sums
from ray.exceptions import RayTaskError

import shards
from cluster import cli
from cluster.cli import _named
from cluster.help import usual_options
from ingest.config import ScenesConfig
from ingest.scenes.scenes_source import ScenesSource
from ingest.synthetic.landscape import write_scene
from ingest.work.run import ingest
from shards.errors import DatasetError, InputError
from shards.nested import flat, options_of
from shards.roles import Group, In, flag_of, roles
from shards.storage.one_writer import one_writer
from trainer.commands.train_on_ray import launch
from trainer.config import RECIPES, EvaluateConfig, TrainConfig
from trainer.model.checkpoint import checkpoint_url
from trainer.run_folder.run_writer import config_yaml

KEY = "chip_WV02_20150802_M1BS_1030010047ADDD00_CHM_AK_IFSAR_CHM_02574_v20231006"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with scenes, chips, and a checkpoint of one epoch."""
    folder = tmp_path_factory.mktemp("run")
    scenes = [write_scene(folder, number, 0, (128, 128)) for number in range(3)]
    images, heights = tuple(str(s.image) for s in scenes), tuple(str(s.height) for s in scenes)
    options = ScenesConfig(images=images, heights=heights, out=str(folder / "chips"), shares=(1.0,))
    ingest(ScenesSource(options), options)
    launch(TrainConfig.of(str(folder / "chips"), str(folder / "checkpoints"), epochs=1))
    return folder


def called(arguments: list[str], monkeypatch: pytest.MonkeyPatch, capsys: Any) -> tuple[int, str, str]:
    """Exit code, standard output and standard error of `treeline ARGUMENTS`."""
    monkeypatch.setattr(sys, "argv", ["treeline", *arguments])
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    streams = capsys.readouterr()
    return int(stop.value.code or 0), streams.out, streams.err


def files_below(folder: Path) -> set[Path]:
    return {path.relative_to(folder) for path in folder.rglob("*")}


def pair(folder: Path, image: Any, height: Any) -> list[str]:
    """One chip pair on disk, or half of one; returns the arguments that ingest it."""
    for name, content in (("images", image), ("heights", height)):
        (folder / name).mkdir()
        if isinstance(content, bytes):
            (folder / name / f"{KEY}.npy").write_bytes(content)
        elif content is not None:
            np.save(folder / name / f"{KEY}.npy", content, allow_pickle=content.dtype == object)
    places = ["--images", str(folder / "images"), "--heights", str(folder / "heights")]
    return ["ingest", "pairs", *places, "--shares", "1", "--out", str(folder / "out")]


IMAGE = np.arange(500, 500 + 4 * 64 * 64).reshape(4, 64, 64).astype(np.int16)
HEIGHT = np.ones((64, 64), np.float32)
PICKLED = np.array([{"a": 1}] * 4, dtype=object)


@pytest.mark.parametrize(
    ("image", "height", "says"),
    [
        (None, HEIGHT, "images: no .npy, .npz or .tif chips"),
        (b"\x93NUMPY\x01\x00", HEIGHT, "unreadable"),
        (PICKLED, HEIGHT, "pickled object, which is never loaded"),
        (IMAGE[:3], HEIGHT, "wrong shape"),
        (IMAGE, HEIGHT * 0, "no positive height"),
    ],
    ids=["empty folder", "truncated", "pickle", "three bands", "no height"],
)
def test_chips_that_cannot_be_used(
    image: Any, height: Any, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    arguments = pair(tmp_path, image, height)
    before = files_below(tmp_path)
    code, _, err = called(arguments, monkeypatch, capsys)
    assert code == 2
    line = mistake(err)
    assert says in line
    assert str(tmp_path) in line or KEY in line
    assert files_below(tmp_path) == before


def test_a_missing_partner_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    arguments = pair(tmp_path, IMAGE, HEIGHT)
    np.save(tmp_path / "images" / "alone.npy", IMAGE)
    before = files_below(tmp_path)
    code, _, err = called([*arguments, "--strict"], monkeypatch, capsys)
    assert code == 2
    assert "alone" in mistake(err)
    assert "missing partner" in mistake(err)
    assert files_below(tmp_path) == before
    code, out, _ = called(arguments, monkeypatch, capsys)
    assert code == 0, "one bad chip does not stop the others"
    assert "1 missing partner first alone" in " ".join(out.split())


@pytest.mark.parametrize("kind", ["text", "three bands"])
def test_scenes_that_cannot_be_used(
    kind: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    scene = tmp_path / "scene.tif"
    if kind == "text":
        scene.write_text("this is no raster")
    else:
        with rasterio.open(
            scene, "w", driver="GTiff", count=3, width=80, height=80, dtype="int16", crs="EPSG:3338",
            transform=rasterio.Affine(2, 0, 0, 0, -2, 0),
        ) as raster:  # fmt: skip
            raster.write(np.ones((3, 80, 80), np.int16))
    checkpoint = ["--checkpoint", str(run / "checkpoints")]
    out, said = ["--out", str(tmp_path / "out")], "has 3 bands" if kind == "three bands" else "as a raster"
    scenes = ["--images", str(scene), "--heights", str(scene)]
    code, _, err = called(["ingest", "scenes", *scenes, *out], monkeypatch, capsys)
    assert code == 2
    assert str(scene) in mistake(err)
    assert said in mistake(err)
    # One of many that are to be mapped would not stop the others.
    code, told, _ = called(["predict", str(scene), *checkpoint, *out], monkeypatch, capsys)
    assert code == 2
    assert told.splitlines()[0] == "0 maps made, 0 there before, 1 scene failed"
    assert told.splitlines()[1].startswith(f"failed: {scene}: ")
    assert said in told
    assert files_below(tmp_path) == {Path("scene.tif")}


def test_a_checkpoint_without_weights(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in ("config.json", "statistics.json", "metrics.json"):
        (folder / name).write_bytes(Path(checkpoint_url(str(run / "checkpoints")), name).read_bytes())
    for arguments in (["evaluate", "--data", str(run / "chips")], ["predict", str(run / "*-sr-02m.tif")]):
        arguments += ["--checkpoint", str(folder), "--out", str(tmp_path / "out")]
        code, _, err = called(arguments, monkeypatch, capsys)
        assert code == 2
        assert f"{folder}: not a checkpoint (model.safetensors is missing)" in mistake(err)
        assert not (tmp_path / "out").exists()


def test_an_output_that_cannot_be_written(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    # A file where a folder is wanted: refused for every user, the superuser too.
    (tmp_path / "file").write_text("")
    out = str(tmp_path / "file" / "out")
    images, heights = str(run / "*-sr-02m.tif"), str(run / "*-chm-02m.tif")
    for arguments in (
        ["ingest", "scenes", "--images", images, "--heights", heights],
        ["train", "--data", str(run / "chips"), "--epochs", "1"],
        ["predict", images, "--checkpoint", str(run / "checkpoints")],
        ["evaluate", "--checkpoint", str(run / "checkpoints"), "--data", str(run / "chips")],
    ):
        code, _, err = called([*arguments, "--out", out], monkeypatch, capsys)
        assert code == 2, arguments
        assert f"{out}: cannot be written" in mistake(err)
        assert files_below(tmp_path) == {Path("file")}


def mistake(err: str) -> str:
    """The one line that names the mistake; progress may stand before it."""
    lines = [line for line in err.splitlines() if line.startswith("treeline: ")]
    assert len(lines) == 1, err
    assert "Traceback" not in err
    return lines[0]


@pytest.mark.parametrize(
    "command",
    [
        "ingest scenes --images {0}/*-sr-02m.tif --heights {0}/*-chm-02m.tif --out {1}",
        "ingest labels {1} --raster {0}/*-chm-02m.tif --as tall --mean",
        "split {1} --split-by key",
        "convert {0}/chips --to zarr --out {1}",
        "train --data {0}/chips --out {1} --epochs 1",
        "pretrain --data {0}/chips --out {1} --recipe mae-tiny --epochs 1",
        "sweep --data {0}/chips --out {1} --trials 1 --epochs 1",
        "predict {0}/*-sr-02m.tif --checkpoint {0}/checkpoints --out {1}",
        "embed {0}/chips --checkpoint {0}/checkpoints --out {1}",
    ],
    ids=lambda command: " ".join(command.split()[:2]),
)
def test_the_second_command_in_a_folder_is_refused(
    run: Path, command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    out = tmp_path / "out"
    if "labels" in command or "split" in command:
        shutil.copytree(run / "chips", out)
    with one_writer(str(out)):
        before = files_below(tmp_path)
        code, _, said = called(command.format(run, out).split(), monkeypatch, capsys)
        assert files_below(tmp_path) == before
    assert code == 2
    assert said.splitlines()[-1].startswith(f"treeline: {out}: another command writes here (process ")


def test_defaults_then_recipe_then_file_then_flags(tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text("recipe: notebook\nlearning_rate: 2e-5\nepochs: 7\ndecoder_widths: [8, 8, 8, 8]\n")
    given = ["--data", "d", "--out", "o", "--config", str(file), "--epochs", "9"]
    config = cli.parse("train", given)
    assert config.objective.loss == RECIPES["notebook"]["loss"]
    assert (config.optimiser.learning_rate, config.fit.epochs) == (2e-5, 9)
    assert config.model.decoder_widths == (8, 8, 8, 8)
    assert config.fit.seed == TrainConfig.of("d", "o").fit.seed


def test_an_unknown_recipe_is_refused_and_of_two_the_last_counts() -> None:
    command = ["--data", "d", "--out", "o"]
    with pytest.raises(InputError, match=r"^--recipe tinny: choose treeline, chmv2, tiny, notebook"):
        cli.parse("train", [*command, "--recipe", "tinny"])
    twice = cli.parse("train", [*command, "--recipe", "tiny", "--recipe=notebook"])
    assert twice == cli.parse("train", [*command, "--recipe", "notebook"])


def test_what_a_flag_replaces_is_not_refused(tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text("schedule: plateau\nlowest_learning_rate: 0.01\ndropout: 2\n")
    command = ["--data", "d", "--out", "o", "--config", str(file), "--learning-rate", "0.02"]
    assert cli.parse("train", [*command, "--dropout", "0.1"]).optimiser.lowest_learning_rate == 0.01
    with pytest.raises(InputError, match=r"^--dropout 2\.0: choose"):
        cli.parse("train", command)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("learning_rat: 1", "learning_rat"),
        ("epochs: many", "epochs"),
        ("- 1", "list of options"),
        ("a: [", "YAML"),
    ],
)
def test_a_wrong_options_file_is_refused(text: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_text(text)
    with pytest.raises(InputError, match=says):
        cli.parse("train", ["--data", "d", "--out", "o", "--config", str(tmp_path / "options.yaml")])


def test_the_options_a_run_leaves_can_be_fed_back(run: Path, tmp_path: Path) -> None:
    again = cli.parse("train", ["--config", str(run / "checkpoints" / "config.yaml"), "--out", "elsewhere"])
    assert again == TrainConfig.of(str(run / "chips"), "elsewhere", epochs=1, batch_size=16)  # a CPU's


TRAIN = ["train", "--data", "d", "--out", "o"]
PAIRS = ["ingest", "pairs", "--images", "i", "--out", "o"]
SCENES = ["ingest", "scenes", "--images", "i", "--out", "o"]
HUGGINGFACE = ["ingest", "huggingface", "saved", "--out", "o"]


@pytest.mark.parametrize(
    ("command", "option", "others"),
    [
        (TRAIN, ["--norm", "group"], ["--decoder", "dpt"]),
        (TRAIN, ["--dropout", "0.1"], ["--decoder", "linear"]),
        (TRAIN, ["--decoder-widths", "8", "8"], ["--decoder", "linear"]),
        (TRAIN, ["--tune-blocks", "2"], ["--tune", "lora"]),
        (TRAIN, ["--lora-rank", "8"], []),
        (TRAIN, ["--layer-decay", "0.9"], ["--tune", "frozen"]),
        (TRAIN, ["--backbone-rate-factor", "0.2"], ["--tune", "frozen"]),
        (TRAIN, ["--recompute-activations"], ["--tune", "frozen"]),
        (TRAIN, ["--new-band-from", "mean"], []),
        (TRAIN, ["--token-dtype", "float32"], []),
        (TRAIN, ["--token-variants", "8"], ["--tune", "frozen"]),
        (TRAIN, ["--cache-gigabytes", "5"], []),
        (TRAIN, ["--plateau-patience", "2"], []),
        (TRAIN, ["--lowest-learning-rate", "1e-7"], ["--schedule", "constant"]),
        (TRAIN, ["--warm-up", "0.1"], ["--recipe", "notebook"]),
        (TRAIN, ["--batch-size", "64"], ["--recipe=notebook"]),
        (["evaluate", "--checkpoint", "c", "--data", "d"], ["--cache_gigabytes=5"], []),
        (["import", "folder", "--data", "d", "--out", "o"], ["--heads", "6"], []),
        (["import", "best.pth", "--data", "d", "--out", "o"], ["--new-band-from", "mean"], []),
        (["split", "d"], ["--block-size", "100"], []),
        (["split", "d"], ["--split-axis", "y"], ["--split-by", "blocks"]),
        (["split", "d"], ["--split-bands", "60"], ["--split-by", "strips"]),
        (PAIRS, ["--split-angle", "15"], ["--split-by", "strips"]),
        (SCENES, ["--region-column", "source"], []),
        (PAIRS, ["--height-name", ".*"], []),
        (PAIRS, ["--label", "height"], []),
        (PAIRS, ["--file-column", "filename"], ["--heights", "h"]),
        (PAIRS, ["--min-height", "2"], []),
        (HUGGINGFACE, ["--label-unit", "t/ha"], ["--height-column="]),
        (SCENES, ["--max-days", "5"], []),
        (SCENES, ["--ground", "g.tif"], []),
        (SCENES, ["--mask-drop", "1"], ["--heights", "h"]),
        (["predict", "s", "--checkpoint", "c", "--out", "o"], ["--gpus-per-worker", "0.5"], []),
        (["mosaic", "m", "--out", "o"], ["--feather", "256"], ["--method", "median"]),
    ],
    ids=lambda value: " ".join(value),
)
def test_an_option_that_can_do_nothing_is_refused(
    command: list[str], option: list[str], others: list[str]
) -> None:
    """Also where it is given its default value; without it, the same command is taken."""
    name, rest = cli.split_command(command)
    cli.parse(name, [*rest, *others])
    flag = option[0].partition("=")[0].replace("_", "-").replace("--", "^--", 1)
    with pytest.raises(InputError, match=f"{flag}: does nothing with.*leave it out$") as refused:
        cli.parse(name, [*rest, *others, *option])
    assert "\n" not in str(refused.value)


SYNTHETIC = ["ingest", "synthetic", "--chips", "9", "--out", "o"]


@pytest.mark.parametrize(
    "command",
    [["split", "d"], PAIRS, SCENES, HUGGINGFACE, SYNTHETIC],
    ids=lambda command: " ".join(command[:2]),
)
def test_every_command_that_splits_takes_bands(command: list[str], tmp_path: Path) -> None:
    """By flags and from a file: one angle, or one for each region."""
    name, rest = cli.split_command(command)
    options = ["--split-by", "bands", "--split-bands", "30", "--split-angle"]
    assert cli.parse(name, [*rest, *options, "-15"]).split_angle == (-15.0,)
    angles = ["europe=9", "conus=-15.5", "--region-column", "region"]
    by_flags = cli.parse(name, [*rest, *options, *angles])
    assert by_flags.split_angle == ("europe=9", "conus=-15.5")
    file = tmp_path / "options.yaml"
    file.write_text(
        "split_by: bands\nsplit_bands: 30\nregion_column: region\nsplit_angle: [europe=9, conus=-15.5]\n"
    )
    assert cli.parse(name, [*rest, "--config", str(file)]) == by_flags
    file.write_text("split_by: bands\nsplit_angle: [15]\n")
    assert cli.parse(name, [*rest, "--config", str(file)]).split_angle == (15.0,)


def test_an_option_that_can_do_nothing_is_refused_in_a_file_of_the_users_alone(
    run: Path, tmp_path: Path
) -> None:
    """Not in what a run wrote, which names every option, and not in a recipe."""
    mine = tmp_path / "mine.yaml"
    mine.write_text("lora_rank: 4\n")
    with pytest.raises(InputError, match="--lora-rank: does nothing without --tune lora"):
        cli.parse("train", [*TRAIN[1:], "--config", str(mine)])
    written = ["--config", str(run / "checkpoints" / "config.yaml"), "--out", "o"]
    assert cli.parse("train", [*written, "--decoder", "dpt"]).model.norm == "group"
    with pytest.raises(InputError, match="--norm: does nothing with --decoder dpt"):
        cli.parse("train", [*written, "--decoder", "dpt", "--norm", "group"])
    assert cli.parse("train", [*TRAIN[1:], "--recipe", "notebook", "--decoder", "dpt"]).model.norm == "batch"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["train", "--learnig-rate", "3"], "no option --learnig-rate; did you mean --learning-rate?"),
        (["train", "--learnig_rate=3"], "no option --learnig_rate; did you mean --learning-rate?"),
        (["train", "--no-epochs"], "no option --no-epochs; did you mean --epochs?"),
        (["train", "--quux", "3"], "no option --quux"),
        (["train", "-x"], "no option -x"),
        (["train", "--out", "o"], "--data must be given"),
        (["train"], "--data and --out must be given"),
        (["split"], "DATASET must be given"),
        (["predict", "a.tif", "--checkpoint", "c"], "--out must be given"),
        ([*TRAIN, "--epochs", "many"], "--epochs many: give a whole number"),
        ([*TRAIN, "--epochs=1.5"], "--epochs 1.5: give a whole number"),
        ([*TRAIN, "--epochs"], "--epochs: give a whole number after it"),
        ([*TRAIN, "--learning-rate", "x"], "--learning-rate x: give a number"),
        ([*TRAIN, "--decoder-widths", "8", "x"], "--decoder-widths 8 x: give whole numbers"),
        ([*TRAIN, "extra"], "cannot use 'extra': options begin with --"),
        (["ingest", "labels", "d", "--raster", "r", "--a", "n"], "no option --a"),
    ],
)
def test_a_wrong_flag_is_one_line(
    arguments: list[str], says: str, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    code, out, err = called(arguments, monkeypatch, capsys)
    program = f"treeline {cli.split_command(arguments)[0]}"
    assert (code, out) == (2, "")
    assert err.startswith(f"{program}: {says}")
    assert err.endswith(f"({program} --help)\n")
    assert err.count("\n") == 1


def test_flags_with_a_name_of_their_own_and_negative_numbers_are_known() -> None:
    """They stand beside a wrong one."""
    with pytest.raises(InputError, match=r"^no option --meen; did you mean --mean"):
        cli.parse("ingest labels", ["d", "--raster", "r", "--as", "n", "--meen"])
    with pytest.raises(InputError, match=r"^no option --shres; did you mean --shares"):
        cli.parse("ingest pairs", [*PAIRS[2:], "--split-angle", "-15", "--shres", "1"])


def test_a_range_of_workers_can_be_fed_back(tmp_path: Path) -> None:
    config = TrainConfig.of("d", "o", workers="2:8")
    (tmp_path / "options.yaml").write_text(config_yaml(config))
    file = ["--config", str(tmp_path / "options.yaml")]
    assert cli.parse("train", file) == config


def test_help_imports_nothing_heavy() -> None:
    """In one process: what none of them may import is not there after any."""
    code = (
        "import sys; from cluster import cli\n"
        "for name in cli.COMMANDS:\n"
        "    try: cli.run([*name.split(), '--help'])\n"
        "    except SystemExit: pass\n"
        "    heavy = {'torch', 'ray', 'rasterio', 'transformers', 'matplotlib', 'pyarrow'}\n"
        "    print('imports', name, sorted(heavy & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    said = done.stdout.splitlines()
    for name in cli.COMMANDS:
        assert any(line.startswith(f"usage: treeline {name}") for line in said), name
    assert [line for line in said if line.startswith("imports ")] == [
        f"imports {name} []" for name in cli.COMMANDS
    ]


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_help_is_short_and_names_what_must_be_given_first(name: str, capsys: Any) -> None:
    """The rest is a word away, and no option is anywhere else."""
    options = options_of(_named(cli.COMMANDS[name].options))
    required = {option for option, its in options.items() if its.default is dataclasses.MISSING}
    shown = [_help_of([*name.split(), flag], capsys) for flag in ("--help", "--help-all")]
    usual, everything = (re.findall(r"^│ --([\w-]+)", said, re.MULTILINE) for said in shown)
    assert len(shown[0].splitlines()) <= 100
    assert set(usual) <= set(everything)
    hidden = len(everything) - len(usual)
    assert (f"--help-all: shows {hidden} more options" in shown[0]) == bool(hidden)
    named = [name.replace("-", "_") for name in usual]
    first = [option for option in named if option in required]
    assert named[: len(first)] == first


def test_help_reads_groups_and_usual_options_from_the_fields() -> None:
    """A mark on a field counts more than that of its part; what a class inherits does not hide its own."""
    known = {command: _named(its.options) for command, its in cli.COMMANDS.items()}
    titles = [group.title for group in vars(In).values() if isinstance(group, Group)]
    assert {group.title for options in known.values() for group in roles(options, Group).values()} <= set(
        titles
    )
    train = roles(TrainConfig, Group)
    assert (train["tune"], train["bands"]) == (In.MODEL, In.DATA)
    assert {"shares", "min_valid"} <= set(usual_options(known["ingest pairs"]))
    assert "block_size" not in usual_options(known["ingest pairs"])
    assert set(usual_options(known["split"])) == set(options_of(known["split"]))


def _help_of(command: list[str], capsys: Any) -> str:
    with pytest.raises(SystemExit) as ended:
        cli.run(command)
    assert ended.value.code == 0
    said: str = capsys.readouterr().out
    return said


def test_help_shows_the_defaults_of_a_recipe_and_of_a_file(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "mine.yaml").write_text("epochs: 1234\nflips: false\n")
    given = ["--recipe", "notebook", "--config", str(tmp_path / "mine.yaml"), "--help-all"]
    said = " ".join(_help_of(["train", *given], capsys).replace("│", "").split())
    for default in ("residual", "1,234", "asymmetric(factor=3)", "no"):
        assert f"(default: {default})" in said
    assert "training chips. (default: 1,234)" in said


@pytest.mark.parametrize(("name", "options"), [("train", TrainConfig), ("evaluate", EvaluateConfig)])
def test_options_in_parts_have_flags_without_the_parts(name: str, options: type, capsys: Any) -> None:
    with pytest.raises(SystemExit):
        cli.run([name, "--help-all"])
    flags = re.findall(r"^\W+ (--[^\s,]+)", capsys.readouterr().out, re.MULTILINE)
    assert sorted(flags) == sorted(map(flag_of, options_of(options)))


def test_flags_of_parts_are_written_as_any_other() -> None:
    given = ["--no-flips", "--limit=7", "--balance_heights", "0", "5", "--cache", "c", "--cache-gigabytes=2"]
    config = cli.parse("train", [*TRAIN[1:], *given])
    asked: dict[str, Any] = {"flips": False, "limit": 7, "balance_heights": (0.0, 5.0)}
    assert config == TrainConfig.of("d", "o", **asked, cache="c", cache_gigabytes=2.0)


def test_an_option_out_of_range_is_refused_wherever_it_stands(tmp_path: Path) -> None:
    (tmp_path / "options.yaml").write_text("warm_up: 1.0\n")
    for given in (["--warm-up", "1.0"], ["--config", str(tmp_path / "options.yaml")]):
        with pytest.raises(InputError, match=r"^--warm-up 1\.0: choose 0 or more and below 1$"):
            cli.parse("train", [*TRAIN[1:], *given])


def test_an_unknown_command_lists_the_known_ones(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    code, _, err = called(["everything"], monkeypatch, capsys)
    assert code == 2
    assert all(name in err for name in cli.COMMANDS)
    code, _, err = called(["ingest", "everything"], monkeypatch, capsys)
    assert code == 2
    assert "no command 'ingest everything'" in mistake(err)
    listed = {line.split("  ")[1].strip() for line in err.splitlines() if line.startswith("  ")}
    assert listed == {name for name in cli.COMMANDS if name.startswith("ingest")}


def test_a_group_of_commands_has_a_help_of_its_own(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    code, out, _ = called(["ingest", "--help"], monkeypatch, capsys)
    assert code == 0
    assert "ingest pairs" in out
    assert "evaluate" not in out


def test_the_version(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    code, out, _ = called(["--version"], monkeypatch, capsys)
    assert (code, out) == (0, f"treeline {shards.__version__}\n")


@pytest.mark.parametrize(
    ("flags", "precision"),
    [
        (["--bf16"], "bf16"),
        (["--no-bf16"], "float32"),
        (["--bf16", "--no_bf16"], "float32"),
        ([], "float32"),
    ],
)
@pytest.mark.parametrize("name", ["train", "pretrain", "predict", "embed"])
def test_the_older_flag_for_bfloat16_is_understood(name: str, flags: list[str], precision: str) -> None:
    """The last of several flags counts."""
    rest = {"predict": ["scene.tif", "--checkpoint", "c"], "embed": ["d", "--checkpoint", "c"]}
    config = cli.parse(name, [*rest.get(name, ["--data", "d"]), "--out", "o", *flags])
    assert flat(config)["precision"] == precision


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (["--bf16", "--precision", "fp16"], ("--bf16", "bf16", "fp16")),
        (["--precision=tf32", "--bf16"], ("--bf16", "bf16", "tf32")),
        (["--no-bf16", "--precision", "bf16"], ("--no-bf16", "float32", "bf16")),
        (["--bf16", "--no_bf16", "--precision", "fp16"], ("--no-bf16", "float32", "fp16")),
    ],
)
@pytest.mark.parametrize("name", ["train", "pretrain", "predict", "embed"])
def test_the_older_flag_beside_the_newer_one_is_refused(
    name: str, flags: list[str], says: tuple[str, str, str], tmp_path: Path
) -> None:
    """Neither counts more than the other, just as in a file."""
    rest = {"predict": ["scene.tif", "--checkpoint", "c"], "embed": ["d", "--checkpoint", "c"]}
    done = treeline(name, *rest.get(name, ["--data", "d"]), "--out", "o", *flags, folder=tmp_path)
    assert done.returncode == 2
    older, means, newer = says
    assert done.stderr == (
        f"treeline: {older} means --precision {means}, and --precision {newer} is given too; leave {older} "
        "out\n"
    )


@pytest.mark.parametrize(("text", "precision"), [("true", "bf16"), ("false", "float32")])
def test_a_file_may_name_the_older_option(text: str, precision: str, tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    given = ["--data", "d", "--out", "o", "--config", str(file)]
    file.write_text(f"bf16: {text}")
    assert cli.parsed("train", given).named == {"data": "d", "out": "o", "precision": precision}
    assert cli.parse("train", [*given, "--precision", "fp16"]).fit.precision == "fp16"
    for wrong, says in (
        (
            f"bf16: {text}\nprecision: fp16",
            f"bf16 means precision {precision}, and precision fp16 is",
        ),
        ("bf16: fp16", "bf16 is 'fp16', not of type bool"),
    ):
        file.write_text(wrong)
        with pytest.raises(InputError, match=says):
            cli.parse("train", given)


def test_a_result_that_is_damaged_is_named_instead_of_told(run: Path, tmp_path: Path) -> None:
    """A finished run that is resumed computes nothing, and says what its best checkpoint scores."""
    out = Path(shutil.copytree(run / "checkpoints", tmp_path / "run"))
    again = ("train", "--data", str(run / "chips"), "--out", str(out), "--epochs", "1", "--resume", "auto")
    best = Path(checkpoint_url(str(out)))
    done = treeline(*again)
    assert done.returncode == 0, done.stderr
    assert f"\n{best}: epoch 1, " in done.stdout
    weights, metrics = best / "model.safetensors", best / "metrics.json"

    def is_named(file: Path, damaged: bytes, says: str) -> None:
        whole = file.read_bytes()
        file.write_bytes(damaged)
        done = treeline(*again)
        assert done.returncode == 2
        assert done.stderr.splitlines()[-1].startswith(f"treeline: {file}: {says}")
        assert "; copy " in done.stderr
        assert not done.stdout
        file.write_bytes(whole)

    is_named(weights, weights.read_bytes()[:1000], "damaged weights (is cut off")
    is_named(weights, weights.read_bytes()[:-1000], "damaged weights (")
    is_named(weights, b"", "damaged weights (is empty)")
    is_named(best / "config.json", (best / "config.json").read_bytes()[:50], "not a JSON file")
    is_named(metrics, b"{}", "2 bytes instead of ")
    without_sums(best)
    is_named(metrics, b"{}", "cannot be understood (epoch is missing, or unknown)")
    is_named(metrics, b'{"epoch": "x"}', "cannot be understood (")
    (out / "checkpoints.json").unlink()
    done = treeline(*again)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"{out / 'checkpoints.json'}: is missing; copy it again" in done.stderr


def test_a_reader_that_goes_away_is_no_failure() -> None:
    command = [sys.executable, "-m", "cluster.cli", "train", "--help"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        said = process.stderr.read()
        assert (process.wait(60), said) == (0, b"")


def test_every_command_takes_a_file_of_options(tmp_path: Path) -> None:
    file = tmp_path / "options.json"
    file.write_text('{"chips": 12, "shares": [0.6, 0.4], "min_height": null}')
    config = cli.parse("ingest synthetic", ["--out", "o", f"--config={file}", "--seed", "3"])
    assert (config.chips, config.seed, config.shares, config.min_height) == (12, 3, (0.6, 0.4), None)
    file.write_text('{"split_by": "moon", "chips": 1}')
    with pytest.raises(InputError, match="split_by is 'moon', not one of key, scene"):
        cli.parse("ingest synthetic", ["--out", "o", "--config", str(file)])
    with pytest.raises(InputError, match="--config: give a YAML or JSON file"):
        cli.parse("ingest synthetic", ["--out", "o", "--config"])


def test_inspect_tells_and_draws(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    seen = tmp_path / "seen"
    code, out, _ = called(["inspect", str(run / "chips"), "--out", str(seen)], monkeypatch, capsys)
    assert code == 0
    assert "train" in out
    assert "nir" in out
    assert (seen / "chips.png").read_bytes().startswith(b"\x89PNG")
    assert "nir" in (seen / "index.html").read_text()


def test_what_a_worker_says_about_its_error_is_said_here_too(capsys: pytest.CaptureFixture[str]) -> None:
    """Ray sends an error as bytes, and wraps it in its traceback; the stage that waited adds its own note."""
    error = DatasetError("chips/train/000001.tar: is damaged")
    error.add_note("treeline verify chips names every damaged shard")
    sent = pickle.loads(pickle.dumps(error))
    wrapped = RayTaskError("embed", "a traceback\nof many lines", sent).as_instanceof_cause()
    wrapped.add_note("finished parts are kept")
    cli._one_line(DatasetError, wrapped, None)
    assert capsys.readouterr().err == (
        "treeline: failed: DatasetError: chips/train/000001.tar: is damaged; treeline verify chips names "
        "every damaged shard; finished parts are kept\n"
    )
    cli._one_line(RuntimeError, RuntimeError("cannot be"), None)
    assert capsys.readouterr().err == "treeline: failed: RuntimeError: cannot be (--debug shows where)\n"
