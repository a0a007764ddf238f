"""Jobs on a real Ray cluster, started here with token authentication, give what one process gives.

Losses agree to 1e-4 of their value between 0 and 2 workers; maps are the same bytes.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import yaml
from ray_lines import assert_said_once
from servers import free_port

from cluster import cli
from cluster.jobs.submit import job_of
from cluster.steps.steps_file import read_steps
from inference.config import PredictConfig
from inference.predict.in_process import InProcess
from inference.predict.run import predict
from ingest.config import ScenesConfig
from ingest.scenes.scenes_source import ScenesSource
from ingest.synthetic.landscape import write_scene
from ingest.work.run import ingest
from shards.errors import InputError
from shards.nested import flat
from shards.roles import OptionsFile, Place, roles
from shards.version import commit
from trainer.commands.train_on_ray import launch
from trainer.config import TrainConfig
from trainer.model.height_checkpoint import load_checkpoint

ROOT = Path(__file__).parents[3]
BIN = Path(sys.executable).parent
START_SECONDS = 90


@dataclass(frozen=True)
class Cluster:
    """A running cluster: where its dashboard is, and the environment of its user."""

    address: str
    env: dict[str, str]

    def treeline(self, *arguments: str, folder: Path = ROOT) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "cluster.cli", *arguments]
        env = self.env | {"PYTHONPATH": str(ROOT)}
        return subprocess.run(
            command, cwd=folder, env=env, capture_output=True, text=True, timeout=240, check=False
        )


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    home = tmp_path_factory.mktemp("home")
    (home / ".ray").mkdir()
    (home / ".ray" / "auth_token").write_text("a-token-for-this-test-alone-0123456789")
    env = {k: v for k, v in os.environ.items() if not k.startswith("RAY_")}
    env |= {"HOME": str(home), "PATH": f"{BIN}:{env['PATH']}", "RAY_USAGE_STATS_ENABLED": "0"}
    port = free_port()
    options = f"--head --block --node-ip-address 127.0.0.1 --port {free_port()} --num-cpus 3"
    options += f" --dashboard-host 127.0.0.1 --dashboard-port {port} --object-store-memory 100000000"
    # Ray's own choice is one port for all clusters of a machine, of which the second takes no jobs.
    options += f" --dashboard-agent-listen-port {free_port()}"
    # Not below tmp_path: the path of a Unix socket has at most 107 bytes.
    scratch = tempfile.mkdtemp(prefix="treeline-ray-")
    options += f" --temp-dir {scratch} --disable-usage-stats"
    log = (home / "ray.log").open("w")
    command = [BIN / "ray", "start", *options.split()]
    process = subprocess.Popen(command, env=env, stdout=log, stderr=log, start_new_session=True)
    try:
        address = f"http://127.0.0.1:{port}"
        wait_for(address, process)
        yield Cluster(address, env)
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(5)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait(30)
        log.close()
        shutil.rmtree(scratch, ignore_errors=True)


def wait_for(address: str, process: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        try:
            urllib.request.urlopen(f"{address}/api/version", timeout=5).close()
        except urllib.error.HTTPError as refused:
            refused.close()
            return  # it answers, and asks for the token
        except OSError:
            time.sleep(0.5)
        else:
            return
    pytest.fail(f"no Ray dashboard at {address} after {START_SECONDS} s")


@dataclass(frozen=True)
class Trained:
    """Scenes, their chips, and a run in this process."""

    scene: str
    chips: str
    run: Path


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("job")
    scenes = [write_scene(folder, number, 0, (256, 256)) for number in range(2)]
    images, heights = tuple(str(s.image) for s in scenes), tuple(str(s.height) for s in scenes)
    options = ScenesConfig(images=images, heights=heights, out=str(folder / "chips"), split_by="key")
    ingest(ScenesSource(options), options)
    config = TrainConfig.of(str(folder / "chips"), str(folder / "here"), epochs=2, batch_size=7)
    launch(config)
    return Trained(images[0], config.data, folder / "here")


def losses(run: Path) -> list[float]:
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [record[name] for record in records for name in ("loss", "val_loss")]


@pytest.mark.ray
def test_a_training_job_on_ray_gives_the_losses_of_one_process(
    cluster: Cluster, trained: Trained, tmp_path: Path
) -> None:
    """Also with places that are named from where the job is submitted."""
    os.symlink(trained.chips, tmp_path / "2")
    options = ["--data=2", "--out=run", "--epochs", "2", "--batch-size", "7"]
    command = ["submit", "--address", cluster.address, "--", "train", *options, "--workers", "2"]
    done = cluster.treeline(*command, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    assert_said_once(done.stdout, "train")
    assert losses(tmp_path / "run") == pytest.approx(losses(trained.run), rel=1e-4)
    # The job has no checkout: submit tells it the commit.
    there, here = (load_checkpoint(str(run)).trained_on for run in (tmp_path / "run", trained.run))
    assert there["commit"] == here["commit"] == commit()


@pytest.mark.ray
def test_a_map_made_on_ray_by_two_workers_is_the_map_made_by_one_process(
    cluster: Cluster, trained: Trained, tmp_path: Path
) -> None:
    here = PredictConfig((trained.scene,), str(trained.run), str(tmp_path / "here"), block=100)
    (expected,) = predict(here, InProcess()).maps.values()
    command = ["predict", trained.scene, "--checkpoint", str(trained.run), "--out", str(tmp_path / "there")]
    done = cluster.treeline(
        "submit", "--address", cluster.address, "--", *command, "--workers", "2", "--block", "64"
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert_said_once(done.stdout, "predict")
    (made,) = (tmp_path / "there").glob("*.tif")
    assert made.read_bytes() == Path(expected).read_bytes()


@pytest.mark.ray
def test_a_job_on_ray_that_fails_fails_the_submission(cluster: Cluster, tmp_path: Path) -> None:
    command = ["train", "--data", str(tmp_path / "nothing"), "--out", str(tmp_path / "run")]
    done = cluster.treeline("submit", "--address", cluster.address, "--", *command)
    assert done.returncode == 1
    assert "no dataset here" in done.stdout


def test_without_a_cluster_there_is_one_line() -> None:
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "cluster.cli", "submit", "--address", f"http://127.0.0.1:{free_port()}"]
    job = ["--", "train", "--data", "a", "--out", "b"]
    done = subprocess.run([*command, *job], env=env, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "no Ray cluster answers" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


# --- what is sent ---

PLACES_OF = {
    "demo": "demo-out",
    "ingest pairs": "--images=images --heights heights --table list.csv --out out",
    "ingest huggingface": "saved --out=out --workers 2",
    "ingest scenes": "--images a.tif b/*.tif --heights h.tif --ground g.tif --mask m.tif --out out --use nir",
    "ingest synthetic": "--chips 12 --out out --min-height None",
    "ingest source": "package.module.Class --out=out --option data=weights",
    "ingest labels": "data --raster a.tif b/*.tif --as class --majority --valid 0 9 --as-zero 255",
    "ingest tars": "tars --val val/*",
    "inspect": "data --out seen",
    "split": "data --split-by bands --split-angle data=9 out=-15 --region-column data --shares 0.6 0.2 0.2",
    "verify": "data",
    "convert": "data --to zarr --out=zarr",
    "train": "--data train --out=run --recipe notebook --backbone weights --token-store tokens --cache cache "
    "--mlflow sqlite:///runs.db --no-flips --workers 2:8",
    "pretrain": "--data tiles --out=run --recipe dino --backbone weights --probe data --cache cache "
    "--mlflow sqlite:///runs.db",
    "export": "run --to checkpoint --out=out --backbone-weights student",
    "sweep": "--data data --out out --learning-rate 1e-5 1e-2 --loss-choices squared",
    "matrix": "--data data s3://bucket/tiles --init=data=run scratch=random --label data --out out",
    "import": "weights/best.pth --data data --out out",
    "evaluate": "--split val --checkpoint val --data data --out val --cache cache --limit 3",
    "predict": "scenes/*.tif list.txt s3://bucket/a.tif --checkpoint run --out maps --overlap 0.25 "
    "--mask masks/*.tif s3://bucket/m.tif --area area.gpkg --bounds -1 2 3.5 4",
    "embed": "data --scenes scenes/*.tif list.txt --checkpoint run --tokens mean --out vectors --workers 2",
    "distances": "data tiles --region-column data --errors val --label data --out out",
    "attention": "tiles/*.tif --checkpoint run --out=seen --beside cover=lc/*.tif x=s3://bucket/*.tif "
    "--classes cover",
    "mosaic": "maps/a.tif maps --out mosaic.tif --bounds 0 0 1 1.5",
    "report": "run --maps maps/*.tif s3://bucket/m.tif --image scenes/*.tif --heights h.tif --data data "
    "--evaluation scores --out page.html",
}
"""Each command with relative places, in all ways in which options can be written."""
NO_PLACES = {
    *(
        "above",
        "array",
        "asset",
        "bands",
        "class_names",
        "classes",
        "column",
        "crs",
        "decoder",
        "decoder_choices",
        "derive",
        "file_column",
        "height",
    ),
    *(
        "height_column",
        "height_name",
        "image",
        "image_column",
        "image_name",
        "key_column",
        "key_pattern",
        "keys",
    ),
    *(
        "label",
        "label_unit",
        "limit",
        "loss",
        "loss_choices",
        "offset",
        "region_column",
        "scale",
        "split_angle",
    ),
    *("source", "split_crs", "table_crs", "trust", "use", "val", "val_where", "where"),
}
"""Options that are texts, and name no path or URL."""


def sent(command: list[str], there: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The options that a job has in its own folder, `there`."""
    job = job_of(command)
    there.mkdir()
    job.write_files(there)
    with monkeypatch.context() as inside:
        inside.chdir(there)
        name, arguments = cli.split_command(job.command)
        return cli.parse(name, arguments)


@pytest.mark.parametrize("name", sorted(cli.COMMANDS.keys() - {"run", "submit", "view"}))
def test_a_job_has_the_options_of_the_command_with_absolute_places(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where a place and another option have the same text; names, patterns and URLs stay."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "weights").mkdir()
    (tmp_path / "weights" / "best.pth").touch()
    arguments = PLACES_OF[name].split()
    here = cli.parse(name, arguments)
    there = sent([*name.split(), *arguments], tmp_path / "there", monkeypatch)
    places = roles(type(here), Place)
    for option, value in flat(here).items():
        words = value if isinstance(value, tuple) else (value,)
        expected = words
        if option in places:
            spelled = {
                "sqlite:///runs.db": f"sqlite:///{tmp_path}/runs.db",
                "data=run": f"data={tmp_path}/run",
                "scratch=random": "scratch=random",
            }
            expected = tuple(
                word
                if not word or "s3://" in word
                else spelled.get(word, re.sub("^([a-z]+=)?", rf"\g<0>{tmp_path}/", word))
                for word in words
            )
        got = flat(there)[option]
        assert (got if isinstance(got, tuple) else (got,)) == expected, option


def test_every_place_is_tried() -> None:
    tried: set[tuple[str, str]] = set()
    for name, arguments in PLACES_OF.items():
        config = cli.parse(name, arguments.split())
        tried |= {(name, place) for place in roles(type(config), Place) if flat(config)[place]}
    every = {
        (name, place)
        for name in PLACES_OF
        for place in roles(type(cli.parse(name, PLACES_OF[name].split())), Place)
    }
    # Maps are scored, and tiles of datasets looked at, in calls of their own.
    maps = {("evaluate", "maps"), ("evaluate", "heights"), ("evaluate", "ground")}
    assert every - tried == {*maps, ("attention", "data")}


def test_every_text_is_a_place_or_known_to_be_none() -> None:
    texts = {
        (name, option)
        for name, arguments in PLACES_OF.items()
        for options in [type(cli.parse(name, arguments.split()))]
        for option, hint in get_type_hints(options).items()
        if hint in (str, tuple[str, ...])
        and option not in roles(options, Place) | roles(options, OptionsFile)
    }
    assert {option for _, option in texts} <= NO_PLACES


def test_a_file_of_steps_is_read_where_the_job_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is sent with all that steps take from one another, and with the places as they are here."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "options.yaml").write_text("epochs: 7\n")
    (tmp_path / "mine.yaml").write_text(
        "steps:\n"
        "  ingest scenes: {images: [a/*.tif, 's3://bucket/*.tif'], workers: 2}\n"
        "  train: {recipe: notebook, config: options.yaml, backbone: facebook/vit, workers: 2}\n"
        "  predict: {overlap: 0.25}\n"
    )
    there = sent(["run", "mine.yaml", "--redo", "train"], tmp_path / "there", monkeypatch)
    assert (there.file, there.redo) == ("steps.yaml", ("train",))
    steps = read_steps(str(tmp_path / "there" / there.file))
    assert steps.out == f"{tmp_path}/mine"
    chips, train, maps = (flat(step.config) for step in steps.steps)
    assert chips["images"] == maps["scenes"] == (f"{tmp_path}/a/*.tif", "s3://bucket/*.tif")
    assert chips["out"] == train["data"] == f"{tmp_path}/mine/chips"
    assert (train["epochs"], train["norm"], train["backbone"]) == (7, "batch", "facebook/vit")
    assert (train["out"], maps["checkpoint"]) == (f"{tmp_path}/mine/run", f"{tmp_path}/mine/run")
    assert (train["workers"], maps["overlap"]) == (2, 0.25)


@pytest.mark.ray
def test_steps_submitted_on_ray_are_run_there_and_known_here(
    cluster: Cluster, trained: Trained, tmp_path: Path
) -> None:
    (tmp_path / "steps.yaml").write_text(
        "steps:\n"
        f"  predict: {{scenes: ['{trained.scene}'], checkpoint: '{trained.run}', overlap: 0}}\n"
        "  mosaic:\n"
    )
    done = cluster.treeline(
        "submit", "--address", cluster.address, "--", "run", "steps.yaml", folder=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert (tmp_path / "steps" / "mosaic.tif").exists()
    done = cluster.treeline("run", "steps.yaml", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("skipped (done with the same options") == 2


def test_maps_to_be_scored_are_sent_with_absolute_places(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    maps = ["--maps", "a.tif", "b/*.tif", "--heights", "h.tif", "--ground=g.tif"]
    there = sent(["evaluate", *maps], tmp_path / "there", monkeypatch)
    assert there.maps == (f"{tmp_path}/a.tif", f"{tmp_path}/b/*.tif")
    assert (there.heights, there.ground) == ((f"{tmp_path}/h.tif",), (f"{tmp_path}/g.tif",))


def test_a_backbone_is_a_place_where_something_lies_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny").mkdir()
    train = ["train", "--data", "d", "--out", "o", "--backbone"]
    assert sent([*train, "facebook/vit"], tmp_path / "1", monkeypatch).model.backbone == "facebook/vit"
    assert sent([*train, "tiny"], tmp_path / "2", monkeypatch).model.backbone == "tiny"
    (tmp_path / "facebook" / "vit").mkdir(parents=True)
    there = sent([*train, "facebook/vit"], tmp_path / "3", monkeypatch)
    assert there.model.backbone == f"{tmp_path}/facebook/vit"


def test_files_of_options_are_read_where_the_job_is_submitted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With places in them; flags still count more, and recipes less."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.yaml").write_text("data: chips\nrecipe: notebook\nlearning_rate: 2e-5\nepochs: 7\n")
    command = ["train", "--config", "mine.yaml", "--out", "run", "--epochs", "9"]
    there = sent(command, tmp_path / "there", monkeypatch)
    assert (there.data, there.out) == (f"{tmp_path}/chips", f"{tmp_path}/run")
    assert (there.optimiser.learning_rate, there.fit.epochs, there.model.norm) == (2e-5, 9, "batch")
    (tmp_path / "same.yaml").write_text("recipe: notebook\ncache: kept\ntoken_store: s3://bucket/tokens\n")
    command = ["sweep", "--data", "chips", "--out", "found", "--train-config=same.yaml"]
    there = sent(command, tmp_path / "sweep", monkeypatch)
    monkeypatch.chdir(tmp_path / "sweep")
    inner = cli.parse("train", ["--config", there.train_config, "--data", "d", "--out", "o"])
    assert (inner.reading.cache, inner.tokens.token_store) == (f"{tmp_path}/kept", "s3://bucket/tokens")
    assert inner.model.norm == "batch"


def test_what_was_given_here_was_given_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A wrong option is refused before anything is sent; what a recipe says is no option given."""
    monkeypatch.chdir(tmp_path)
    train = ["train", "--data", "d", "--out", "o"]
    with pytest.raises(InputError, match="--lora-rank: does nothing without --tune lora"):
        job_of([*train, "--lora-rank", "8"])
    command = [*train, "--recipe", "notebook", "--decoder", "dpt"]
    assert job_of(command).files["options.yaml"].keys() == {"data", "out", "recipe", "decoder"}
    assert sent(command, tmp_path / "there", monkeypatch).model.norm == "batch"


def test_a_place_can_stand_after_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a matrix; a word that is no place stays one."""
    monkeypatch.chdir(tmp_path)
    role = Place(after_name=True, reserved=("random",))
    assert role.absolute(("a=x.tif", "b=s3://b/y")) == (f"a={tmp_path}/x.tif", "b=s3://b/y")
    assert role.absolute(("random=x", "x=random")) == (f"random={tmp_path}/x", "x=random")
    (tmp_path / "same.yaml").write_text("epochs: 2\ncache: kept\n")
    command = ["matrix", "--data", "tiles", "--region-column", "region", "--out", "found", "--label", "x"]
    command += ["--init", "pretrained=run", "scratch=random", "--train-config", "same.yaml"]
    there = sent(command, tmp_path / "there", monkeypatch)
    assert there.data == (f"{tmp_path}/tiles",)
    assert there.init == (f"pretrained={tmp_path}/run", "scratch=random")
    inner = yaml.safe_load((tmp_path / "there" / there.train_config).read_text())
    assert inner == {"epochs": 2, "cache": f"{tmp_path}/kept"}
