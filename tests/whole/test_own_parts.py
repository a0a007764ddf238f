"""Parts of the user's own: a loss, a decoder and a source of chips, by import path.

- One that computes what a built-in part does leaves the same bytes: weights, shards.
- A mistake is one line and exit code 2, before anything is written.
- They are recorded with their version, a changed one is noted, and a run goes on with the same options.
- A checkpoint that names one imports nothing until the user names the same one.
"""

import hashlib
import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from in_process import treeline as run
from regressors import CHIP_SCHEMA, fitted, small_config, stored_images, write_scene
from regressors import write_dataset as write_visible_chips
from safetensors.torch import save

import treeline
from cluster.jobs.submit import job_of
from shards.errors import InputError
from shards.format.manifest import read_manifest
from shards.format.sealed import sealed
from shards.own_parts import note_changes, version_of
from shards.read.dataset import Dataset
from trainer.commands.train_on_ray import launch
from trainer.losses.loss import parse_loss
from trainer.model.checkpoint import checkpoint_url
from trainer.model.checkpoint_files import weights_of as weights_of_model
from trainer.weights.checkpoint_sums import WEIGHTS

LOSSES = """
import torch
from trainer.losses.loss_terms import SmoothL1

def squared(predicted_BHW, height_BHW):
    return (predicted_BHW - height_BHW).square()

def asymmetric(predicted_BHW, height_BHW, *, factor=3.0):
    error_BHW = predicted_BHW - height_BHW
    return error_BHW.square() * (1.0 + (factor - 1.0) * (error_BHW < 0))

class Mine(SmoothL1):
    pass

number = 3
def without_heights(): return 0
def one_height(height_BHW): return height_BHW
def needs_key(predicted_BHW, height_BHW, factor): return predicted_BHW * factor
def mean(predicted_BHW, height_BHW): return (predicted_BHW - height_BHW).square().mean()
def plain(predicted_BHW, height_BHW): return 0.0
def infinite(predicted_BHW, height_BHW): return predicted_BHW / height_BHW
def steep(predicted_BHW, height_BHW): return (predicted_BHW - height_BHW).square().sqrt()
def cut_off(predicted_BHW, height_BHW): return (predicted_BHW.detach() - height_BHW).square()
def constant(predicted_BHW, height_BHW): return height_BHW + torch.ones(1, requires_grad=True)
def fails(predicted_BHW, height_BHW): raise ValueError("no\\nluck")
class NoTerm: pass
"""
DECODERS = """
import torch
from dataclasses import replace
from torch import nn
from trainer.decoders.detail import DetailDecoder
from trainer.decoders.linear import LinearDecoder

class Detail(DetailDecoder):
    def __init__(self, config, depth, token_width, patch, bands):
        widths = config.widths or (64, 48, 32, 16)
        super().__init__(replace(config, widths=widths), depth, token_width, patch, bands)

class Plain(LinearDecoder):
    def __init__(self, config, depth, token_width, patch, bands):
        super().__init__(config, depth, token_width, patch)

class FewArguments(LinearDecoder):
    def __init__(self, config): super().__init__(config, 1, 1, 1)

class NoModule: pass
class Abstract(DetailDecoder.__mro__[1]): pass
class Fails(Plain):
    def forward(self, features, pixels_BCHW): raise IndexError("of mine")
class Small(Plain):
    def forward(self, features, pixels_BCHW): return super().forward(features, pixels_BCHW)[:, ::2]
class Listed(Plain):
    def forward(self, features, pixels_BCHW): return [1]
class NotANumber(Plain):
    def forward(self, features, pixels_BCHW): return super().forward(features, pixels_BCHW) * float("nan")
class CutOff(Plain):
    def forward(self, features, pixels_BCHW): return super().forward(features, pixels_BCHW).detach()
class Deep(Plain):
    def __init__(self, config, depth, *more):
        super().__init__(config, depth, *more)
        self.layers = (depth + 1,)
"""
SOURCES = '''
import pyarrow as pa
from ingest.chips.source import Candidates
from ingest.config import PairsConfig
from ingest.files.pairs_source import PairsSource

class Pairs:
    """The pairs of two folders, by the code for pairs."""
    def __init__(self, images: str, heights: str, pixel_size: float = 2.0, array=""):
        config = PairsConfig(images=images, heights=heights, out="", pixel_size=pixel_size, array=array)
        self.pairs = PairsSource(config)
    @property
    def schema(self): return self.pairs.schema
    def candidates(self): return self.pairs.candidates()
    def read(self, table): return self.pairs.read(table)

class NoRead:
    schema = candidates = None
class NoSchema(Pairs):
    schema = 3
class Empty(Pairs):
    def candidates(self): return Candidates(pa.table({"key": pa.array([], pa.string())}))
class Listed(Pairs):
    def candidates(self): return ["a", "b"]
class Keyless(Pairs):
    def candidates(self): return Candidates(pa.table({"name": ["a"]}))
class Twice(Pairs):
    def candidates(self): return Candidates(pa.concat_tables([super().candidates().table] * 2))
class Fails(Pairs):
    def candidates(self): raise RuntimeError("of mine")
class ReadsArrays(Pairs):
    def read(self, table): yield from ([1] for _ in range(table.num_rows))
class ReadsNothing(Pairs):
    def read(self, table): yield from ()
class ReadsSmall(Pairs):
    def read(self, table):
        for raw in super().read(table):
            yield type(raw)(raw.image[:, :3], raw.height)
'''
LEAVES_A_FILE = (
    "from pathlib import Path\nPath(__file__).with_name('imported').touch()\nclass Decoder: pass\n"
)


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Folder of the package `canopy`, which can be imported."""
    folder = tmp_path_factory.mktemp("parts")
    package = folder / "canopy"
    package.mkdir()
    modules = {
        "__init__": "",
        "losses": LOSSES,
        "decoders": DECODERS,
        "sources": SOURCES,
        "raises": "1 / 0",
        "exits": "raise SystemExit(0)",
        "broken": "def f(:",
        "lacks": "import nowhere_at_all",
        "stranger": LEAVES_A_FILE,
    }
    for name, code in modules.items():
        (package / f"{name}.py").write_text(code)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(folder))
        yield package


@pytest.fixture(scope="module")
def chips(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_visible_chips(tmp_path_factory.mktemp("chips"), chips=16, val_share=0.3)


def trained(chips: Dataset, backbone: Path, out: Path, **options: Any) -> Path:
    """Train for an epoch; returns the run."""
    launch(small_config(chips, backbone, str(out), **{"epochs": 1, **options}))
    return out


def weights_of(out: Path) -> bytes:
    return Path(checkpoint_url(str(out)), WEIGHTS).read_bytes()


# --- losses ---


@pytest.mark.parametrize(
    ("built_in", "own"),
    [
        ("squared", "canopy.losses.squared"),
        ("smooth_l1(beta=0.5):0:2@0.1", "canopy.losses.Mine(beta=0.5):0:2@0.1"),
        ("asymmetric(factor=1.3):0.5", "canopy.losses.asymmetric(factor=1.3):0.5"),
    ],
)
def test_an_own_loss_trains_as_the_built_in_one(
    built_in: str, own: str, parts: Path, chips: Dataset, backbone: Path
) -> None:
    ours, theirs = (
        fitted(chips, small_config(chips, backbone, epochs=1, loss=(loss, "gradient:0.1")))[0]
        for loss in (own, built_in)
    )
    assert save(weights_of_model(ours, ours.backbone)) == save(weights_of_model(theirs, theirs.backbone))


def test_own_parts_are_recorded_and_the_options_can_be_fed_back(
    decoded: tuple[Path, Path], tmp_path: Path
) -> None:
    out = decoded[0]
    told = yaml.safe_load((out / "config.yaml").read_text())["own_parts"]
    assert told.keys() == {"canopy.losses.squared", "canopy.decoders.Detail"}
    assert told["canopy.losses.squared"] == version_of("canopy.losses.squared")
    config = json.loads(Path(checkpoint_url(str(out)), "config.json").read_text())
    assert config["trained_on"]["own_parts"] == told
    assert config["decoder"]["kind"] == "canopy.decoders.Detail"
    again = run("train", "--config", str(out / "config.yaml"), "--out", str(tmp_path / "again"))
    assert again.returncode == 0, again.stderr
    assert weights_of(tmp_path / "again") == weights_of(out)


def test_a_run_without_own_parts_records_none(decoded: tuple[Path, Path]) -> None:
    out = decoded[1]
    assert "own_parts" not in yaml.safe_load((out / "config.yaml").read_text())
    config = json.loads(Path(checkpoint_url(str(out)), "config.json").read_text())
    assert "own_parts" not in config["trained_on"]


def test_a_run_with_own_parts_resumes_and_a_changed_version_is_noted(
    parts: Path,
    chips: Dataset,
    backbone: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    own: dict[str, Any] = {"decoder": "canopy.decoders.Detail", "loss": ("canopy.losses.squared",)}
    options = {**own, "epochs": 2, "schedule": "constant"}
    out = trained(chips, backbone, tmp_path / "run", **options | {"epochs": 1})
    config = yaml.safe_load((out / "config.yaml").read_text())
    version = config["own_parts"]["canopy.losses.squared"]
    config["own_parts"]["canopy.losses.squared"] = "canopy 0.1"
    # As if it had been stopped after the first epoch.
    (out / "config.yaml").write_text(yaml.safe_dump(config | {"epochs": 2}, sort_keys=False))
    capsys.readouterr()
    trained(chips, backbone, out, **options, resume="auto")
    said = capsys.readouterr().err
    assert f"canopy.losses.squared is {version} now; {out} was made with canopy 0.1" in said
    assert "canopy.decoders.Detail is" not in said
    assert len((out / "metrics.jsonl").read_text().splitlines()) == 2
    assert yaml.safe_load((out / "config.yaml").read_text())["own_parts"]["canopy.losses.squared"] == version


def test_the_version_is_that_of_the_distribution_that_holds_the_module(parts: Path) -> None:
    assert version_of("yaml.safe_load") == f"PyYAML {yaml.__version__}"
    digest = hashlib.sha256((parts / "losses.py").read_bytes()).hexdigest()
    assert version_of("canopy.losses.squared") == f"no version, sha256 {digest[:16]}"


def test_a_version_that_stays_is_not_noted(capsys: pytest.CaptureFixture[str]) -> None:
    record = {"own_parts": {"a.b": "a 1"}}
    note_changes(record, record, "it")
    note_changes({}, record, "it")
    assert not capsys.readouterr().err


def test_names_of_what_is_built_in_win(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "squared.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(str(tmp_path))
    assert type(parse_loss(("squared",)).terms[0].term).__name__ == "Squared"


# --- decoders ---


@pytest.fixture(scope="module")
def decoded(
    parts: Path, chips: Dataset, backbone: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, Path]:
    """A run with an own decoder and an own loss, and one with the built-in ones that they equal."""
    folder = tmp_path_factory.mktemp("decoded")
    options: dict[str, Any] = {"decoder_widths": (), "dropout": 0.2}
    own = {"decoder": "canopy.decoders.Detail", "loss": ("canopy.losses.squared", "absolute:0.1")}
    built_in = {"decoder": "detail", "loss": ("squared", "absolute:0.1")}
    return (
        trained(chips, backbone, folder / "own", **own, **options),
        trained(chips, backbone, folder / "built-in", **built_in, **options),
    )


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("scene")
    return write_scene(folder / "scene.tif", np.tile(stored_images(1, 64, 64)[0], (1, 1, 2)))


TRUST = ("--trust", "canopy.decoders.Detail")
BANDS = ("--bands", *CHIP_SCHEMA.bands)
NOTED = ("--on-mismatch", "ignore")


def test_an_own_decoder_trains_scores_and_maps_as_the_built_in_one(
    decoded: tuple[Path, Path], chips: Dataset, scene: Path, tmp_path: Path
) -> None:
    assert weights_of(decoded[0]) == weights_of(decoded[1])
    tables, maps = [], []
    for place, (out, trust) in enumerate(zip(decoded, (TRUST, ()), strict=True)):
        done = run("evaluate", "--checkpoint", str(out), "--data", chips.url, *trust)
        assert done.returncode == 0, done.stderr
        tables.append(done.stdout.replace(str(out), "RUN"))
        to = tmp_path / str(place)
        words = ("--checkpoint", str(out), "--out", str(to), "--window", "32")
        done = run("predict", str(scene), *words, *BANDS, *NOTED, *trust)
        assert done.returncode == 0, done.stderr
        with treeline_map(to) as raster:
            maps.append(raster.read())
    assert tables[0] == tables[1]
    np.testing.assert_array_equal(maps[0], maps[1])
    assert maps[0].std() > 0


def treeline_map(folder: Path) -> Any:
    import rasterio

    return rasterio.open(next(folder.glob("*.chm.tif")))


def commands_of(checkpoint: Path, chips: Dataset, scene: Path, out: Path) -> dict[str, tuple[str, ...]]:
    """Every command that loads a checkpoint."""
    of, to = ("--checkpoint", str(checkpoint)), ("--out", str(out))
    return {
        "evaluate": ("evaluate", *of, "--data", chips.url, *to),
        "predict": ("predict", str(scene), *of, *to, *BANDS, *NOTED, "--window", "32"),
        "embed": ("embed", chips.url, *of, *to),
        "attention": ("attention", *of, "--data", chips.url, "--limit", "1", *to),
    }


@pytest.mark.parametrize("command", ["embed", "attention"])
def test_an_encoder_beside_an_own_decoder_can_be_used(
    command: str, decoded: tuple[Path, Path], chips: Dataset, scene: Path, tmp_path: Path
) -> None:
    done = run(*commands_of(decoded[0], chips, scene, tmp_path / "out")[command], *TRUST)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("command", ["evaluate", "predict", "embed", "attention"])
@pytest.mark.parametrize("trust", ["", "canopy.decoders.Plain", "canopy.decoders"])
def test_a_checkpoint_from_elsewhere_imports_nothing(
    trust: str,
    command: str,
    parts: Path,
    decoded: tuple[Path, Path],
    chips: Dataset,
    scene: Path,
    tmp_path: Path,
) -> None:
    stranger = checkpoint_of_a_stranger(decoded[1], tmp_path / "stranger")
    given = ("--trust", trust) if trust else ()
    done = run(*commands_of(stranger, chips, scene, tmp_path / "out")[command], *given)
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "its decoder is canopy.stranger.Decoder" in done.stderr
    assert "--trust canopy.stranger.Decoder" in done.stderr
    assert not (parts / "imported").exists()
    assert "canopy.stranger" not in sys.modules
    assert not (tmp_path / "out").exists()


def checkpoint_of_a_stranger(of: Path, to: Path) -> Path:
    shutil.copytree(checkpoint_url(str(of)), to)
    config = json.loads((to / "config.json").read_text())
    config["decoder"]["kind"] = "canopy.stranger.Decoder"
    (to / "config.json").write_bytes(sealed(config))
    return to


def test_the_front_for_python_imports_what_it_is_told_to(
    parts: Path, decoded: tuple[Path, Path], chips: Dataset, tmp_path: Path
) -> None:
    own, built_in = map(str, decoded)
    with pytest.raises(InputError, match=r"--trust canopy\.decoders\.Detail"):
        treeline.load(own)
    with pytest.raises(InputError, match=r"--trust canopy\.decoders\.Detail"):
        treeline.evaluate(checkpoint=own, data=chips.url)
    trust = TRUST[1]
    image_CHW = stored_images(1, 64, 64)[0]
    ours = treeline.load(own, trust=trust)
    theirs = treeline.load(built_in)
    for found in (
        [model.predict(image_CHW, window=32).values_HW for model in (ours, theirs)],
        [model.embed(image_CHW[:, :32, :32]).vectors_ND for model in (ours, theirs)],
    ):
        np.testing.assert_array_equal(*found)
    assert (
        treeline.evaluate(checkpoint=own, data=chips.url, trust=trust).table()
        == treeline.evaluate(checkpoint=built_in, data=chips.url).table()
    )


def test_trust_in_a_decoder_that_is_not_there_is_refused(decoded: tuple[Path, Path], chips: Dataset) -> None:
    done = run("evaluate", "--checkpoint", str(decoded[1]), "--data", chips.url, *TRUST)
    assert done.returncode == 2
    assert "--trust canopy.decoders.Detail" in done.stderr
    assert "detail" in done.stderr


def test_help_imports_nothing(parts: Path) -> None:
    for command in (
        ("train", "--loss", "canopy.stranger.f", "--decoder", "canopy.stranger.Decoder", "--help"),
        ("predict", "--trust", "canopy.stranger.Decoder", "--help-all"),
        ("ingest", "source", "canopy.stranger.Decoder", "--help"),
    ):
        assert run(*command).returncode == 0
    assert not (parts / "imported").exists()


# --- sources ---


@pytest.fixture
def folders(chip_folders: Callable[..., Any]) -> Any:
    return chip_folders(12)


def test_an_own_source_gives_the_shards_of_the_built_in_one(
    parts: Path, folders: Any, tmp_path: Path
) -> None:
    """Made at once, and resumed after a stop."""
    images, heights = str(folders.images), str(folders.heights)
    of_pairs = ("ingest", "pairs", "--images", images, "--heights", heights)
    own = ("ingest", "source", "canopy.sources.Pairs")
    own += ("--option", f"images={images}", "--option", f"heights={heights}", "--option", "pixel_size=2")
    for name, command in (("pairs", of_pairs), ("own", own)):
        done = run(*command, "--out", str(tmp_path / name), "--shard-chips", "5")
        assert done.returncode == 0, done.stderr
    shards = [
        {
            str(path.relative_to(tmp_path / name)): path.read_bytes()
            for path in (tmp_path / name).rglob("*.tar")
        }
        for name in ("pairs", "own")
    ]
    assert shards[0] == shards[1]
    assert len(shards[0]) > 2
    made_by = read_manifest(str(tmp_path / "own")).made_by
    assert made_by["own_parts"]["canopy.sources.Pairs"].startswith("no version, sha256 ")
    assert made_by["config"]["source"] == "canopy.sources.Pairs"
    again = run(*own, "--out", str(tmp_path / "own"), "--shard-chips", "5")
    assert "is complete already" in again.stdout, again.stderr


# --- what cannot be used ---

WRONG_LOSSES = {
    "nowhere.losses.f": "cannot import nowhere.losses (ModuleNotFoundError: No module named 'nowhere')",
    "canopy.lacks.f": "cannot import canopy.lacks (ModuleNotFoundError: No module named 'nowhere_at_all')",
    "canopy.raises.f": "cannot import canopy.raises (ZeroDivisionError",
    "canopy.exits.f": "cannot import canopy.exits (SystemExit: 0)",
    "canopy.broken.f": "cannot import canopy.broken (SyntaxError",
    "canopy.losses.nothing": "has no nothing",
    "canopy..f": "no import path",
    "canopy.losses.f-g": "no import path",
    "canopy.losses.number": "is a int; name a function",
    "canopy.losses.without_heights": "takes too few arguments",
    "canopy.losses.one_height": "takes too few arguments",
    "canopy.losses.needs_key": "has no default for factor",
    "canopy.losses.squared(factor=2)": "has no key 'factor'",
    "canopy.losses.asymmetric(factor=two)": "factor is 'two'",
    "canopy.losses.asymmetric(factor=nan)": "factor is 'nan'",
    "canopy.losses.squared:-1": "the weight is '-1'",
    "canopy.losses.mean": "returns values of shape () instead of ",
    "canopy.losses.plain": "returns values of type float, not a tensor",
    "canopy.losses.infinite": "no finite numbers",
    "canopy.losses.steep": "gradient that is no number",
    "canopy.losses.cut_off": "no gradient",
    "canopy.losses.constant": "no gradient",
    "canopy.losses.fails": "failed where all heights are 0 (ValueError: no luck)",
    "canopy.losses.NoTerm": "is a class without sum_count, counts_tell_slope, sums, counts, value",
}
WRONG_DECODERS = {
    "canopy.nowhere.Class": "cannot import canopy.nowhere",
    "canopy.raises.Class": "cannot import canopy.raises (ZeroDivisionError",
    "canopy.decoders.Nothing": "has no Nothing",
    "canopy.decoders.NoModule": "is no subclass",
    "canopy.losses.squared": "is no subclass",
    "canopy.decoders.FewArguments": "cannot be made (TypeError",
    "canopy.decoders.Abstract": "cannot be made (TypeError",
    "canopy.decoders.Fails": "failed on an input of zeros (IndexError: of mine)",
    "canopy.decoders.Small": "returns the shape (2, 32, 64)",
    "canopy.decoders.Listed": "returns a list",
    "canopy.decoders.NotANumber": "no finite numbers",
    "canopy.decoders.CutOff": "no gradient",
    "canopy.decoders.Deep": "has layers (5,)",
    "best": "no such decoder",
    "canopy.decoders.": "no such decoder",
}
WRONG_SOURCES = {
    "canopy": "no import path",
    "canopy.nowhere.Class": "cannot import canopy.nowhere",
    "canopy.exits.Class": "cannot import canopy.exits",
    "canopy.losses.squared": "is no class",
    "canopy.sources.NoRead": "is a class without read",
    "canopy.sources.NoSchema": "has a schema of type int",
    "canopy.sources.Empty": "lists no candidate",
    "canopy.sources.Listed": "returns a list from candidates()",
    "canopy.sources.Keyless": 'a column "key"',
    "canopy.sources.Twice": "two candidates of one key",
    "canopy.sources.Fails": "candidates() raised (RuntimeError: of mine)",
    "canopy.sources.ReadsArrays": "yields a list from read()",
    "canopy.sources.ReadsNothing": "yields 0 chips",
    "canopy.sources.ReadsSmall": "gives a first chip of wrong shape",
    "canopy.sources.Pairs --option pixel_size=wide": "'wide' is no number",
    "canopy.sources.Pairs --option size=2": "has no argument size; choose one of images, heights",
    "canopy.sources.Pairs --option pixel_size": "write KEY=VALUE",
    "canopy.sources.Pairs --option array=a --option array=b": "array is given twice",
}


def refused(done: Any, says: str, out: Path) -> None:
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert says in done.stderr
    assert not out.exists()


@pytest.mark.parametrize("loss", WRONG_LOSSES)
def test_a_loss_that_cannot_be_used(loss: str, parts: Path, chips: Dataset, tmp_path: Path) -> None:
    done = run("train", "--data", chips.url, "--out", str(tmp_path / "run"), "--loss", loss)
    refused(done, WRONG_LOSSES[loss], tmp_path / "run")


@pytest.mark.parametrize("decoder", WRONG_DECODERS)
def test_a_decoder_that_cannot_be_used(decoder: str, parts: Path, chips: Dataset, tmp_path: Path) -> None:
    done = run("train", "--data", chips.url, "--out", str(tmp_path / "run"), "--decoder", decoder)
    refused(done, WRONG_DECODERS[decoder], tmp_path / "run")


def test_a_decoder_is_tried_where_only_the_backbone_tells_its_shape(
    parts: Path, chips: Dataset, backbone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    words = ("--decoder", "canopy.decoders.Small", "--backbone", str(backbone))
    refused(run("train", "--data", chips.url, "--out", str(out), *words), "returns the shape", out)


@pytest.mark.parametrize("words", WRONG_SOURCES)
def test_a_source_that_cannot_be_used(words: str, parts: Path, folders: Any, tmp_path: Path) -> None:
    source, *options = words.split()
    given = ("--option", f"images={folders.images}", "--option", f"heights={folders.heights}")
    done = run("ingest", "source", source, *given, *options, "--out", str(tmp_path / "made"))
    refused(done, WRONG_SOURCES[words], tmp_path / "made")


def test_a_source_without_an_option_that_it_needs(parts: Path, tmp_path: Path) -> None:
    done = run("ingest", "source", "canopy.sources.Pairs", "--out", str(tmp_path / "made"))
    refused(done, "needs --option images=VALUE", tmp_path / "made")


# --- on a cluster ---


def test_what_a_cluster_must_have_is_said_before_a_job_is_sent(chips: Dataset, tmp_path: Path) -> None:
    """Nothing is imported here: it may be installed there alone."""
    (tmp_path / "train.yaml").write_text("decoder: there.decoders.Class\n")
    job = job_of(["train", "--data", chips.url, "--out", str(tmp_path / "run"), "--loss", "there.losses.f:1"])
    assert len(job.own_parts) == 1
    assert job.own_parts[0].startswith("--loss there.losses.f: ")
    assert "import there.losses" in job.own_parts[0]
    sweep = ["sweep", "--data", chips.url, "--out", "sweep", "--train-config", str(tmp_path / "train.yaml")]
    assert "import there.decoders" in job_of(sweep).own_parts[0]
    assert not job_of(["train", "--data", chips.url, "--out", "run"]).own_parts
