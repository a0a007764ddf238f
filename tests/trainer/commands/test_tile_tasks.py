"""Labels of whole tiles: trained, resumed, scored beside baselines, on ranks and in pieces alike.

- A run learns, and the first line of `evaluate` says whether it or a baseline is better.
- What follows a stop is the same bit for bit; two ranks and pieces of a batch learn what one does.
- --limit takes a share of the labelled tiles, per region, nested, by --label-seed; validation keeps all.
- Scores of `evaluate` follow from its rows of predictions.
- Wrong labels are refused by the tile's key.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch
from gloo_ranks import in_group, run_ranks
from in_process import treeline
from regressors import CHIP_SCHEMA, local_backbone, visible_chip
from stopped_runs import Stopped, Stopper, assert_equal_states

from shards.errors import InputError
from shards.format.key import split_of
from shards.read.dataset import Dataset, open_dataset
from shards.roles import refuse_idle
from shards.write.writer import DatasetWriter
from trainer.commands.train import new_fit, train
from trainer.commands.train_check import check
from trainer.commands.train_on_ray import launch
from trainer.commands.train_tiles import labelled_tiles, labels_of
from trainer.config import EvaluateConfig, TrainConfig
from trainer.data.feed import feed
from trainer.data.step_inputs import StepKey, never_empty
from trainer.devices.ranks import Ranks
from trainer.evaluate.tiles import evaluate_tiles
from trainer.model.height_checkpoint import load_checkpoint
from trainer.model.load_encoder import load_encoder
from trainer.model.tile_checkpoint import load_tile_checkpoint
from trainer.run_folder.state import restore, state_of
from trainer.run_folder.state_parts import StoredState

NODATA = CHIP_SCHEMA.nodata
TILES = 60
COLUMNS = {"tree_percent": "float64", "cover": "string", "region": "string"}
KINDS = ("open", "shrub", "forest")


def facts(number: int, height_m: float) -> dict[str, Any]:
    """Labels that follow from the tile; every seventh tile has none."""
    if number % 7 == 6:
        return {"region": "north" if number % 3 else "south"}
    return {
        "tree_percent": 30 * (height_m - 3),
        "cover": KINDS[int(np.searchsorted((3.7, 4.4), height_m))],
        "region": "north" if number % 3 else "south",
    }


def write_tiles(folder: Path, **changes: Any) -> Dataset:
    """Tiles with labels, some of them with holes, one of them without a pixel.

    Args:
        folder: of the dataset.
        changes: labels of tile 8 instead of its own.
    """
    with DatasetWriter(str(folder), CHIP_SCHEMA, {"command": "test"}, 10, attributes=COLUMNS) as writer:
        for number in range(TILES):
            chip = visible_chip(number)
            chip.attributes.clear()
            chip.attributes.update(facts(number, float(np.nanmean(chip.height_HW))))
            if number == 8:
                chip.attributes.update(changes)
            if number % 5 == 0:
                chip.image_CHW[:, : number % 20, :9] = NODATA
            if number == 11:
                chip.image_CHW[:] = NODATA
            writer.add(chip, split_of(chip.key, 0.3))
        writer.finish()
    return open_dataset(str(folder))


@pytest.fixture(scope="module", autouse=True)
def small_backbone(tmp_path_factory: pytest.TempPathFactory) -> None:
    """A backbone with which a step takes milliseconds."""
    SMALL["backbone"] = str(local_backbone(tmp_path_factory.mktemp("backbone")))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    return write_tiles(tmp_path_factory.mktemp("tiles") / "tiles")


SMALL: dict[str, Any] = {"task": "tile-value", "label": "tree_percent", "batch_size": 4, "epochs": 2}
CASES: dict[str, dict[str, Any]] = {
    "mean": {},
    "attention": {"head": "attention", "brightness": 0.1},
    "classes": {"task": "tile-class", "label": "cover", "head": "class"},
    "frozen": {"tune": "frozen", "average": 0.9},
}


def config_of(dataset: Dataset, out: Path | str = "", **options: Any) -> TrainConfig:
    return TrainConfig.of(dataset.url, str(out), **{**SMALL, **options})


@pytest.mark.parametrize("case", CASES)
def test_what_follows_a_stop_is_the_same_bit_for_bit(dataset: Dataset, case: str, tmp_path: Path) -> None:
    config = config_of(dataset, **CASES[case])
    whole, undisturbed = new_fit(config, Ranks()), Stopper()
    whole.objective.prepare()
    whole.run(undisturbed)
    for at in (2, whole.steps_per_epoch + 1):
        stopper, rest = Stopper(at, tmp_path), Stopper()
        begun = new_fit(config, Ranks())
        begun.objective.prepare()
        with pytest.raises(Stopped):
            begun.run(stopper)
        again = new_fit(config, Ranks())
        with StoredState(str(tmp_path)) as state:
            restore(again, state)
        again.run(rest)
        assert stopper.losses + rest.losses == undisturbed.losses
        assert_equal_states(state_of(again), state_of(whole))


def test_pieces_of_a_batch_give_the_same_losses(dataset: Dataset) -> None:
    whole, pieces = Stopper(), Stopper()
    new_fit(config_of(dataset, batch_size=8), Ranks()).run(whole)
    new_fit(config_of(dataset, batch_size=8, accumulate=3), Ranks()).run(pieces)
    assert pieces.losses == pytest.approx(whole.losses, rel=1e-5)


def run_as_rank(rank: int, configs: dict[str, TrainConfig], folder: Path) -> None:
    """Train as one of two ranks; the first one writes the losses."""

    def losses(ranks: Ranks) -> dict[str, list[float]]:
        noted = {}
        for name, config in configs.items():
            fit, stopper = new_fit(config, ranks), Stopper()
            fit.run(stopper)
            noted[name] = [*stopper.losses, fit.records[-1]["val_loss"]]
        return noted

    found = in_group(rank, 2, folder / "rendezvous", losses)
    if rank == 0:
        (folder / "losses.json").write_text(json.dumps(found))


@pytest.mark.slow
def test_two_ranks_learn_what_one_learns(dataset: Dataset, tmp_path: Path) -> None:
    configs = {name: config_of(dataset, **options) for name, options in CASES.items()}
    for name in ("mean", "frozen"):
        sharded: dict[str, Any] = {"shard_model": True, "precision": "bf16"}
        configs[f"{name}, sharded"] = config_of(dataset, **CASES[name], **sharded)
    run_ranks(run_as_rank, 2, (configs, tmp_path))
    found = json.loads((tmp_path / "losses.json").read_text())
    for name, config in configs.items():
        fit, noted = new_fit(config, Ranks()), Stopper()
        fit.run(noted)
        share = 1e-5 if config.fit.precision == "float32" else 1e-2
        assert found[name] == pytest.approx([*noted.losses, fit.records[-1]["val_loss"]], rel=share), name


@pytest.fixture(scope="module")
def run(dataset: Dataset, tmp_path_factory: pytest.TempPathFactory) -> str:
    out = tmp_path_factory.mktemp("run") / "run"
    train(config_of(dataset, out, epochs=12, learning_rate=1e-2), Ranks())
    return str(out)


def test_it_learns_and_its_scores_follow_from_its_rows(dataset: Dataset, run: str, tmp_path: Path) -> None:
    lines = [json.loads(line) for line in (Path(run) / "metrics.jsonl").read_text().splitlines()]
    assert lines[-1]["val_rmse"] < 0.6 * lines[0]["val_rmse"]
    done = treeline("evaluate", "--checkpoint", run, "--data", dataset.url, "--out", str(tmp_path))
    assert done.returncode == 0, done.stderr
    rows = pq.read_table(tmp_path / "predictions.parquet").to_pydict()
    scores = json.loads((tmp_path / "evaluation.json").read_text())["scores"]
    true = np.array(rows["true"])
    for name in ("model", "ridge on bands", "training mean"):
        error = np.array(rows[name.replace(" ", "_")]) - true
        assert scores[name]["rmse"] == pytest.approx(float(np.sqrt((error**2).mean())))
        assert scores[name]["mae"] == pytest.approx(float(np.abs(error).mean()))
        assert scores[name]["r2"] == pytest.approx(1 - (error**2).sum() / ((true - true.mean()) ** 2).sum())
    model, ridge, mean = (scores[name]["rmse"] for name in ("model", "ridge on bands", "training mean"))
    beaten = "better than both: " if model < min(ridge, mean) else "worse than the ridge on bands: "
    assert model < mean
    assert done.stdout.startswith(f"{beaten}RMSE {model:.3g} % against {ridge:.3g} % (ridge on bands) and ")
    assert "tree_percent (%)" in done.stdout
    assert "chip_11" not in rows["key"], "it has no pixel"


def test_the_last_epochs_score_is_that_of_evaluate(dataset: Dataset, run: str) -> None:
    last = json.loads((Path(run) / "metrics.jsonl").read_text().splitlines()[-1])
    found = evaluate_tiles(EvaluateConfig(checkpoint=f"{run}/last", data=dataset.url))
    assert found.scores["model"].error == pytest.approx(last["val_rmse"], rel=1e-5)


def test_a_ridge_that_is_better_is_named_first(dataset: Dataset, tmp_path: Path, capsys: Any) -> None:
    train(config_of(dataset, tmp_path / "run", epochs=1, learning_rate=1e-6), Ranks())
    found = evaluate_tiles(EvaluateConfig(checkpoint=str(tmp_path / "run"), data=dataset.url))
    assert found.verdict.startswith("worse than the ridge on bands: RMSE ")
    assert found.scores["ridge on bands"].error < found.scores["training mean"].error


def test_classes_are_scored_by_confusion(dataset: Dataset, tmp_path: Path) -> None:
    options = CASES["classes"] | {"epochs": 10, "learning_rate": 1e-2}
    train(config_of(dataset, tmp_path / "run", **options), Ranks())
    run, scores = str(tmp_path / "run"), str(tmp_path / "scores")
    done = treeline("evaluate", "--checkpoint", run, "--data", dataset.url, "--out", scores)
    assert done.returncode == 0, done.stderr
    assert all(f"  {name}" in done.stdout for name in KINDS)
    rows = pq.read_table(tmp_path / "scores" / "predictions.parquet").to_pylist()
    model = json.loads((tmp_path / "scores" / "evaluation.json").read_text())["scores"]["model"]
    assert model["accuracy"] == pytest.approx(np.mean([row["true"] == row["model"] for row in rows]))
    assert model["accuracy"] > 0.5


def test_the_first_output_is_the_labels_mean_in_units_of_its_deviation(dataset: Dataset) -> None:
    config = config_of(dataset)
    fit = new_fit(config, Ranks())
    labels = labels_of(config, dataset)
    train_tiles, _ = labelled_tiles(config, dataset, labels)
    values = labels.values_N[train_tiles]
    batch = dataset.gather(train_tiles[:8])
    outputs_BK, seen_B = fit.model.eval()(torch.from_numpy(batch.image_BCHW))
    seen_BK = outputs_BK.detach().numpy()[seen_B]
    assert np.abs(seen_BK - values.mean()).max() < 0.2 * values.std()


def test_a_share_of_the_labelled_tiles_is_nested_and_per_region(dataset: Dataset) -> None:
    labels = labels_of(config_of(dataset), dataset)
    chosen = {}
    for share in ("20%", "50%", "100%"):
        config = config_of(dataset, limit=share, per="region")
        chosen[share], val = labelled_tiles(config, dataset, labels)
        assert val.size == labels.labelled(dataset.chips("val")).size
    assert set(chosen["20%"]) < set(chosen["50%"]) < set(chosen["100%"])
    assert chosen["100%"].tolist() == labels.labelled(dataset.chips("train")).tolist()
    regions = np.array(dataset.index["region"].to_pylist())
    for region in ("north", "south"):
        counts = [int((regions[chosen[share]] == region).sum()) for share in ("50%", "100%")]
        assert counts[0] == round(counts[1] / 2)
    others = [labelled_tiles(config_of(dataset, limit=9, label_seed=s), dataset, labels)[0] for s in (0, 1)]
    assert others[0].tolist() != others[1].tolist()


def test_tiles_without_a_pixel_and_stand_ins_count_nowhere(dataset: Dataset) -> None:
    config = config_of(dataset, val_where="")
    fit = new_fit(config, Ranks())
    fit.objective.prepare()
    chosen = labelled_tiles(config, dataset, labels_of(config, dataset))[0]
    assert fit.objective.state()["baselines"]["tiles"] == chosen.size - int(
        "chip_11" in dataset.index["key"].take(chosen).to_pylist()
    )
    assert float(fit.objective.value(torch.zeros(2), 0.0)) == 0.0, "a batch without a valid patch"
    batches = list(dataset.batches(chosen[:8], 4))
    nothing = replace(batches[1], chips=chosen[:0])
    assert nothing.size == 4, "as where a shard was left out"
    one, other = never_empty(iter([batches[0], nothing]), dataset.schema, chosen)
    assert not one.stands_in
    (fed,) = feed([other], dataset.schema, torch.device("cpu"))
    inputs = fit.objective.inputs(fed, StepKey(0, 0, 4))
    assert fit.objective.sums(fit.model, inputs).tolist() == [0.0, 0.0]


def test_few_tiles_are_met_several_times_in_an_epoch(dataset: Dataset) -> None:
    config = config_of(dataset, limit=5, epoch_steps=6)
    fit = new_fit(config, Ranks())
    met, times = np.unique(fit.learning.train_chips, return_counts=True)
    assert met.tolist() == labelled_tiles(config, dataset, labels_of(config, dataset))[0].tolist()
    assert times.tolist() == [5] * 5, "24 tiles are needed for six steps of four"
    assert fit.steps_per_epoch >= 6
    plain = new_fit(config_of(dataset, limit=5), Ranks())
    for one in (fit, plain):
        one.objective.prepare()
    assert fit.objective.state() == plain.objective.state(), "baselines see each tile once"


def test_a_run_of_tiles_gives_an_encoder(dataset: Dataset, run: str) -> None:
    loaded = load_encoder(run)
    assert loaded.name == "trained"
    assert loaded.fingerprint == load_tile_checkpoint(run).fingerprint
    assert loaded.encoder.bands == ("nir", "red", "green")
    assert loaded.encoder.statistics == dataset.statistics


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"label": ""}, "--label: is needed for tiles"),
        ({"label": "biomass"}, "--label biomass: .* has no such column; it has key"),
        ({"label": "cover"}, "--label cover: holds no numbers; .* --task tile-class"),
        ({"task": "tile-class"}, "--label tree_percent: holds fractions, not classes"),
        ({"limit": 1}, "--limit 1 leaves 1 labelled training tile of"),
        ({"limit": "1%"}, "--limit 1% leaves 1 labelled training tile of"),
        ({"limit": 4, "per": "biome"}, "--per biome: .* has no such column"),
        ({"where": "region == 'east'"}, "--where .* leaves no training chip"),
        ({"val_where": "tree_percent is None"}, "no validation tile of .* has a label"),
        ({"head": "attention", "compile": True}, "--compile: does not go together with --head attention"),
        ({"task": "height", "label": ""}, None),
    ],
)
def test_what_cannot_be_learnt_is_refused(
    dataset: Dataset, options: dict[str, Any], says: str | None, tmp_path: Path
) -> None:
    config = config_of(dataset, tmp_path / "out", **options)
    if says is None:
        check(config)
        return
    with pytest.raises(InputError, match=says) as refused:
        check(config)
    assert "\n" not in str(refused.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("limit", ["0%", "101%", "-3%", "a lot", "5 %%", -1])
def test_a_limit_is_a_number_or_a_share(limit: Any, dataset: Dataset) -> None:
    with pytest.raises(InputError, match=f"--limit {limit}: give a number of chips"):
        config_of(dataset, limit=limit)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"tree_percent": 101.0},
            r"tree_percent of tile {key} \(split {split}\) is 101 .*, not a number from 0 to 100",
        ),
        ({"tree_percent": -0.5}, r"tree_percent of tile {key} \(split {split}\) is -0.5"),
        ({"tree_percent": float("nan")}, r"tree_percent of tile {key} \(split {split}\) is nan"),
    ],
)
def test_a_wrong_label_is_refused_by_its_key(changes: dict[str, Any], says: str, tmp_path: Path) -> None:
    dataset = write_tiles(tmp_path / "tiles", **changes)
    key = "chip_8"
    with pytest.raises(InputError, match=says.format(key=key, split=split_of(key, 0.3))):
        check(config_of(dataset, tmp_path / "out"))


@pytest.mark.parametrize("wrong", [101.0, -0.5, float("nan")])
def test_a_wrong_label_stops_no_score_of_another_split(
    wrong: float, dataset: Dataset, run: str, tmp_path: Path
) -> None:
    other = write_tiles(tmp_path / "tiles", tree_percent=wrong)
    split = split_of("chip_8", 0.3)
    sound = {"train": "val", "val": "train"}[split]
    config = EvaluateConfig(checkpoint=run, data=dataset.url, split=sound)
    found = evaluate_tiles(replace(config, data=other.url))
    assert found.to_json()["scores"] == evaluate_tiles(config).to_json()["scores"]
    said = rf"{other.url}: tree_percent of tile chip_8 \(split {split}\) is .* label it again"
    with pytest.raises(InputError, match=said):
        evaluate_tiles(replace(config, data=other.url, split=split))
    evaluate_tiles(replace(config, data=other.url, split=split, where="key != 'chip_8'"))


def test_a_class_that_the_model_does_not_know_stops_no_score_of_another_split(
    tmp_path: Path, dataset: Dataset
) -> None:
    train(config_of(dataset, tmp_path / "run", **CASES["classes"] | {"epochs": 1}), Ranks())
    other = write_tiles(tmp_path / "tiles", cover="bog")
    config = EvaluateConfig(checkpoint=str(tmp_path / "run"), data=other.url)
    sound = {"train": "val", "val": "train"}[split_of("chip_8", 0.3)]
    assert evaluate_tiles(replace(config, split=sound)).chips
    with pytest.raises(InputError, match=r"cover of tile chip_8 \(split .*\) is 'bog', which the model"):
        evaluate_tiles(replace(config, split="all"))


def test_reports_count_tiles(dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train(config_of(dataset, tmp_path / "run", epochs=1), Ranks())
    said = capsys.readouterr().err
    assert " tiles/s" in next(line for line in said.splitlines() if line.startswith("epoch 1: "))
    assert "treeline: trains on " in said
    assert " tiles (all with a label tree_percent)" in said
    assert "chips" not in said


def test_a_constant_label_is_refused(dataset: Dataset, tmp_path: Path) -> None:
    config = config_of(dataset, tmp_path / "out", where="region == 'south'")
    config = config.with_options(task="tile-class", label="region", val_where="")
    with pytest.raises(InputError, match="have the same value"):
        check(config)


def test_options_of_heights_are_refused(dataset: Dataset) -> None:
    for option, value in (
        ("loss", ("squared",)),
        ("decoder", "linear"),
        ("upsample", 2),
        ("balance_heights", (0.0, 5.0)),
        ("token_store", "tokens"),
    ):
        with pytest.raises(InputError, match=f"--{option.replace('_', '-')}: does nothing without --task"):
            refuse_idle(config_of(dataset, **{option: value}), {option})
    with pytest.raises(InputError, match="--label: does nothing without --task"):
        refuse_idle(TrainConfig.of(dataset.url, "", label="cover"), {"label"})


def test_other_commands_name_what_they_cannot_use(dataset: Dataset, run: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="predicts tree_percent of whole tiles, no heights"):
        load_checkpoint(run)
    with pytest.raises(InputError, match="no tile of the split 'test' has a label tree_percent"):
        evaluate_tiles(EvaluateConfig(checkpoint=run, data=dataset.url, split="test"))
    other = write_tiles(tmp_path / "tiles", cover="bog")
    train(config_of(dataset, tmp_path / "run", **CASES["classes"] | {"epochs": 1}), Ranks())
    with pytest.raises(InputError, match="is 'bog', which the model does not know; it knows forest, open"):
        evaluate_tiles(EvaluateConfig(checkpoint=str(tmp_path / "run"), data=other.url, split="all"))


def test_it_resumes_only_the_same_task(dataset: Dataset, tmp_path: Path) -> None:
    launch(config_of(dataset, tmp_path / "run", epochs=1))
    with pytest.raises(InputError, match=r"other options: --head \("):
        launch(config_of(dataset, tmp_path / "run", epochs=1, head="class", resume="auto"))
