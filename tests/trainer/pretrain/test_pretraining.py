"""Pre-training keeps the promises of training, by both methods.

- What follows a stop is the same bit for bit: losses, scores, weights of student and teacher, centre.
- Killed at random moments (SIGKILL) and started again, a run leaves the same bytes as one that was not.
- Killed while its workers change (1, 2, 1), it ends in the same losses, scores and weights within rounding.
- Two ranks learn what one learns, and resume what one saved, within rounding; so do pieces of a batch.
- What is in it is a function of seed, step and tile: no view depends on the ranks.
"""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from gloo_ranks import PROCESSES, TIMEOUT_SECONDS, in_group, run_ranks
from pretrainings import METHODS, config_of
from safetensors.torch import load, load_file
from stopped_runs import Stopped, Stopper, assert_equal_states

from shards.errors import InputError
from shards.read.dataset import Dataset
from shards.read.order import Part
from shards.roles import refuse_idle
from trainer.commands.begun import check_resumes
from trainer.commands.pretrain import as_it_began, check, new_encoder, new_fit, pretrain, resumed_fit
from trainer.commands.train_on_ray import launch_pretraining
from trainer.config import TrainConfig
from trainer.data.feed import feed
from trainer.data.step_inputs import StepKey
from trainer.devices.ranks import Meeting, Ranks
from trainer.devices.sharding import rows_of, whole
from trainer.fit.loop import Fit
from trainer.model.checkpoint import checkpoint_url
from trainer.model.height_checkpoint import load_checkpoint
from trainer.model.pretrained import is_pretrained, load_pretrained
from trainer.pretrain.draw import ViewMaker, skip_rates
from trainer.pretrain.probe import Probe, probe_tiles
from trainer.pretrain_config import PretrainConfig
from trainer.run_folder.run_writer import config_yaml
from trainer.run_folder.state import restore, state_of
from trainer.run_folder.state_parts import StateWriter, StoredState


@pytest.mark.parametrize("method", METHODS)
def test_what_follows_a_stop_is_the_same_bit_for_bit(dataset: Dataset, method: str, tmp_path: Path) -> None:
    config = config_of(dataset, method)
    whole, undisturbed = new_fit(config, Ranks()), Stopper()
    whole.run(undisturbed)
    assert len(undisturbed.losses) == config.fit.epochs * whole.steps_per_epoch > 10
    followed = [name for name in state_of(whole).tensors if name.startswith("weights.teacher")]
    assert bool(followed) == (method != "mae")
    for at in (1, 3, whole.steps_per_epoch, 2 * whole.steps_per_epoch + 1):
        stopper, rest = Stopper(at, tmp_path), Stopper()
        with pytest.raises(Stopped):
            new_fit(config, Ranks()).run(stopper)
        again = new_fit(config, Ranks())
        with StoredState(str(tmp_path)) as state:
            restore(again, state)
        again.run(rest)
        assert stopper.losses + rest.losses == undisturbed.losses
        assert_equal_states(state_of(again), state_of(whole))


@pytest.mark.parametrize("method", METHODS)
def test_pieces_of_a_batch_give_the_same_losses(dataset: Dataset, method: str) -> None:
    options: dict[str, Any] = {"batch_size": 6, "epochs": 2, "learning_rate": 1e-4}
    if method != "mae":
        options |= {"centring": "sinkhorn", "koleo": 0.0}
    whole, pieces = Stopper(), Stopper()
    one = new_fit(config_of(dataset, method, **options), Ranks())
    one.run(whole)
    other = new_fit(config_of(dataset, method, **options, accumulate=4), Ranks())
    other.run(pieces)
    assert pieces.losses == pytest.approx(whole.losses, rel=1e-5)
    assert_near(one, other.model.state_dict())


def assert_near(fit: Fit, weights: dict[str, torch.Tensor], rel: float = 1e-4) -> None:
    """Weights agree to a share of each tensor's norm, and of how far a step can move it."""
    for name, tensor in fit.model.state_dict().items():
        away = float((tensor - weights[name]).norm())
        assert away <= rel * max(1.0, float(tensor.norm())), name


def test_hidden_patches_alone_are_restored_with_the_same_loss(dataset: Dataset) -> None:
    """Without groups to hide, patches that are shown are not restored at all."""
    losses = []
    for share in (0.0, 1e-9):  # the second goes the longer way, and never hides a group
        config = config_of(dataset, "mae", mask_groups=share, speckle_looks=0, epochs=2)
        noted = Stopper()
        new_fit(config, Ranks()).run(noted)
        losses.append(noted.losses)
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)


def test_a_run_with_the_decoder_of_before_goes_on_with_it(dataset: Dataset, tmp_path: Path) -> None:
    options = {"recipe": "mae", "width": 48, "depth": 1, "epochs": 1, "patch_size": 16}
    begun = PretrainConfig.of(dataset.url, str(tmp_path / "run"), **options, decoder_width=192)
    pretrain(begun, Ranks())
    again = PretrainConfig.of(dataset.url, str(tmp_path / "run"), **options, resume="auto")
    assert as_it_began(again).mask.decoder_width == 192
    check(as_it_began(again))
    assert new_fit(again, Ranks()).model.narrow.out_features == 24, "half of the backbone's"


CASES: dict[str, tuple[str, dict[str, Any]]] = {
    "mae": ("mae", {}),
    "dino": ("dino", {}),
    "balanced": ("ibot", {"centring": "sinkhorn"}),
    "ibot": ("ibot", {}),
    "sharded-mae": ("mae", {"shard_model": True}),
    "sharded-ibot": ("ibot", {"shard_model": True}),
}
"""Methods and options that two ranks are tried with, in one pair of processes."""


def run_as_rank(rank: int, configs: dict[str, PretrainConfig], folder: Path) -> None:
    """Train from the beginning, and from what one rank saved; the first rank writes the results."""
    results = in_group(rank, 2, folder / "rendezvous", lambda ranks: ran_all(configs, ranks, folder))
    if rank == 0:
        (folder / "losses.json").write_text(json.dumps(results))


def ran_all(configs: dict[str, PretrainConfig], ranks: Ranks, folder: Path) -> dict[str, list[float]]:
    results = {}
    for name, config in configs.items():
        for begun in (False, True):
            fit, noted = new_fit(config, ranks), Stopper()
            if begun:
                with StoredState(str(folder / name)) as state:
                    restore(fit, state)
            fit.run(noted)
            weights = {key: whole(value) for key, value in fit.model.state_dict().items()}
            held = sum(rows_of(value).tensor.numel() for value in fit.model.parameters())
            share = held / sum(value.numel() for value in fit.model.parameters())
            assert share < 0.6 if config.fit.shard_model else share == 1
            if not ranks.is_first:
                fit.objective.gather()
            else:
                torch.save(weights, folder / f"{name}-{begun}.pt")
                files = fit.objective.checkpoint({}, {})
                (folder / f"{name}-{begun}.safetensors").write_bytes(files["model.safetensors"])
            if config.fit.shard_model and not begun:
                StateWriter(str(folder / f"{name}-state"), Meeting(ranks)).write(state_of(fit))
            results[f"{name}-{begun}"] = [*noted.losses, fit.records[1]["val_probe_rmse"]]
    return results


@pytest.mark.slow
def test_two_ranks_learn_what_one_learns(dataset: Dataset, tmp_path: Path) -> None:
    """The last batch of an epoch has one tile: the second rank then has a stand-in."""
    limit = dataset.chips("train").size // 4 * 4 - 3
    configs = {
        name: config_of(dataset, method, epochs=2, learning_rate=1e-4, limit=limit, **options)
        for name, (method, options) in CASES.items()
    }
    alone = {}
    for name, config in configs.items():
        (tmp_path / name).mkdir()
        with pytest.raises(Stopped):
            new_fit(config, Ranks()).run(Stopper(2, tmp_path / name))
        fit, noted = new_fit(config, Ranks()), Stopper()
        fit.run(noted)
        alone[name] = fit, [*noted.losses, fit.records[1]["val_probe_rmse"]]
    run_ranks(run_as_rank, 2, (configs, tmp_path))
    results = json.loads((tmp_path / "losses.json").read_text())
    for name, (fit, expected) in alone.items():
        for begun, skipped in ((False, 0), (True, 2)):
            assert results[f"{name}-{begun}"] == pytest.approx(expected[skipped:], rel=1e-5), (name, begun)
            assert_near(fit, torch.load(tmp_path / f"{name}-{begun}.pt"))
            if configs[name].fit.shard_model and not begun:
                with StoredState(str(tmp_path / f"{name}-state")) as state:
                    restore(unsharded := new_fit(configs[name], Ranks()), state)
                assert_near(fit, unsharded.model.state_dict())
            kept = load_file(tmp_path / f"{name}-{begun}.safetensors")
            of_one = load(fit.objective.checkpoint({}, {})["model.safetensors"])
            assert kept.keys() == of_one.keys()
            for key, value in of_one.items():
                torch.testing.assert_close(kept[key], value, rtol=0, atol=1e-3)


def files_of(run: Path) -> dict[str, bytes]:
    """What a run leaves, but TensorBoard's log, which tells the time, and what names the folder."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and "tensorboard" not in path.parts and path.name != "config.yaml"
    }


def flags(config: PretrainConfig, method: str) -> list[str]:
    words = ["--data", config.data, "--out", config.out, "--resume", "auto", "--checkpoint-steps", "2"]
    for name, value in {**METHODS[method], "epochs": config.fit.epochs}.items():
        if name == "method" or value is False:
            continue
        flag = f"--{name.replace('_', '-')}"
        values = list(map(str, value)) if isinstance(value, tuple) else [str(value)]
        words += [flag] if value is True else [flag, *values]
    return words


@pytest.mark.slow
@pytest.mark.parametrize("most", [2, pytest.param(20, marks=pytest.mark.long)])
@pytest.mark.parametrize("method", ["mae", "ibot"])
def test_killed_at_random_moments_it_leaves_the_same_bytes(
    dataset: Dataset, method: str, tmp_path: Path, most: int
) -> None:
    epochs = 8 if most < 9 else 40
    whole = config_of(dataset, method, tmp_path / "whole", epochs=epochs, checkpoint_steps=2)
    launch_pretraining(whole)
    expected = files_of(tmp_path / "whole")
    rng, out = random.Random(4), tmp_path / "killed"
    command = [sys.executable, "-m", "cluster.cli", "pretrain"]
    words = flags(whole.with_options(out=str(out)), method)
    kills = 0
    for _ in range(most + 9):
        process = subprocess.Popen([*command, *words], stderr=subprocess.PIPE, text=True)
        seen = None
        while process.poll() is None and (seen is None or time.monotonic() < seen):
            if seen is None and (out / "state.json").exists():
                seen = time.monotonic() + rng.uniform(3.0, 5.0) * (kills > 0) + rng.uniform(0, 0.4)
            time.sleep(0.005)
        if process.poll() is None and kills < most:
            process.send_signal(signal.SIGKILL)
            kills += 1
        _, said = process.communicate()
        if process.returncode == 0:
            break
        assert process.returncode == -signal.SIGKILL, said
    assert kills > 1
    assert files_of(out) == expected


def pretrain_as_rank(rank: int, workers: int, config: PretrainConfig, rendezvous: Path) -> None:
    torch.set_num_threads(1)
    in_group(rank, workers, rendezvous, lambda ranks: pretrain(config, ranks))


@contextmanager
def ranks_at_work(
    config: PretrainConfig, workers: int, rendezvous: Path
) -> Iterator[list[ForkServerProcess]]:
    """The processes of a run; what still lives at the end is killed (SIGKILL)."""
    processes = [
        PROCESSES.Process(target=pretrain_as_rank, args=(rank, workers, config, rendezvous), daemon=True)
        for rank in range(workers)
    ]
    for process in processes:
        process.start()
    try:
        yield processes
    finally:
        for process in processes:
            process.kill()
            process.join()


MANY = (pytest.mark.long, pytest.mark.timeout(1800))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "most"),
    [
        pytest.param("dino", 2, marks=pytest.mark.long),
        pytest.param("ibot", 2, marks=pytest.mark.long),
        pytest.param("dino", 20, marks=MANY),
        pytest.param("mae", 20, marks=MANY),
    ],
)
def test_killed_at_random_moments_it_goes_on_with_other_workers(
    dataset: Dataset, method: str, tmp_path: Path, most: int
) -> None:
    """One worker, then two, then one and so on; each is killed after some more steps."""
    out, rng = tmp_path / "killed", random.Random(5)
    options = {"epochs": 6 if most < 9 else 40, "checkpoint_steps": 1, "learning_rate": 1e-5}
    whole = config_of(dataset, method, tmp_path / "whole", **options)
    launch_pretraining(whole)
    config = whole.with_options(out=str(out), resume="auto")
    for number in range(most + 1):
        workers, until = 1 + number % 2, steps_saved(out) + rng.randint(1, 5)
        with ranks_at_work(config, workers, tmp_path / f"rendezvous-{number}") as processes:
            deadline = time.monotonic() + TIMEOUT_SECONDS
            while number < most and steps_saved(out) < until:
                assert all(process.exitcode is None for process in processes)
                assert time.monotonic() < deadline
                time.sleep(0.002)
            if number < most:
                time.sleep(rng.uniform(0, 0.05))
                assert all(process.exitcode is None for process in processes), "it ended before it was killed"
                continue
            for process in processes:
                process.join(TIMEOUT_SECONDS)
                assert process.exitcode == 0
    ours, theirs = (
        [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        for run in (out, tmp_path / "whole")
    )
    assert len(ours) == len(theirs) == whole.fit.epochs
    for our, their in zip(ours, theirs, strict=True):
        assert our == pytest.approx(their, rel=1e-5), our["epoch"]
    for name in json.loads(Path(checkpoint_url(str(out)), "config.json").read_text())["backbones"]:
        one, other = (weights_of(f"{run}/last", name) for run in (out, whole.out))
        assert float((one - other).norm()) <= 1e-5 * float(other.norm()), name


def steps_saved(run: Path) -> int:
    """Steps of the last state of a run; 0 without one."""
    state = run / "state.json"
    return int(json.loads(state.read_text())["position"]["step"]) if state.exists() else 0


def weights_of(run: str, name: str) -> torch.Tensor:
    """All weights of a backbone, in one row."""
    (backbone,) = load_pretrained(run, name).backbones.values()
    return torch.cat([weight.detach().flatten() for weight in backbone.parameters()])


@pytest.mark.parametrize("method", METHODS)
def test_a_run_leaves_a_backbone_with_all_that_normalises_its_input(
    dataset: Dataset, method: str, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    config = config_of(dataset, method, out, epochs=2)
    launch_pretraining(config)
    assert is_pretrained(str(out))
    loaded = load_pretrained(str(out))
    assert loaded.bands == dataset.schema.bands
    assert loaded.statistics == dataset.statistics
    assert list(loaded.backbones) == ["student" if method == "mae" else "teacher"]
    fit = resumed_fit(config.with_options(resume="auto"), Ranks())
    [backbone] = loaded.backbones.values()
    encoder = fit.model.get_submodule("encoder" if method == "mae" else "teacher")
    for name, tensor in encoder.backbone.state_dict().items():
        assert torch.equal(tensor, backbone.state_dict()[name]), name
    continued = config_of(dataset, method, tmp_path / "more", epochs=1, backbone=str(out))
    launch_pretraining(continued.with_options(bands=dataset.schema.bands))
    with pytest.raises(InputError, match="was pre-trained on the bands blue green red nir, not on nir red"):
        new_fit(continued.with_options(bands=("nir", "red")), Ranks())


def test_without_a_probe_the_last_epoch_is_best(
    dataset: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    launch_pretraining(
        config_of(dataset, "mae", tmp_path / "run", probe="", probe_epochs=1, probe_tiles=1000)
    )
    names = json.loads((tmp_path / "run" / "checkpoints.json").read_text())
    assert (names["best"], names["last"]) == (["epoch-0003"], "epoch-0003")
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("epoch ")]
    assert len(lines) == 3
    assert all(" tiles/s" in line and "chips" not in line for line in lines)


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("mae", {"patch_size": 7}, "tiles of 32 pixels are no multiple of --patch-size 7"),
        ("mae", {"mask_ratio": 0.01}, "--mask-ratio 0.01: shows 16 of a tile's 16 patches"),
        ("mae", {"probe": "trees"}, "--probe trees: .* has no such column; it has key, "),
        ("mae", {"probe": "crs"}, "--probe crs: 0 tiles of train have a label"),
        ("mae", {"bands": ("nir", "thermal")}, "no band thermal: there are blue green red nir"),
        ("mae", {"bands": ("nir", "red", "nir")}, "--bands: names nir twice; leave one out"),
        ("mae", {"probe": "key"}, "--probe key: 6 of 6 training tiles have different values"),
        ("mae", {"mask_groups": 0.0}, "--band-groups: does nothing without --group-dropout or --mask-groups"),
        ("mae", {"where": "height_max > 1e9"}, "leaves no tile to learn from"),
        ("mae", {"band_groups": ("vv_*",)}, r"--band-groups vv_\*: matches none of the bands"),
        ("dino", {"global_size": 64}, "--global-size 64: is larger than a tile, 32 pixels"),
        ("dino", {"local_size": 12}, "--local-size 12: is no multiple of a patch, 8 pixels"),
        ("dino", {"shard_model": True, "compile": True}, "--shard-model: does not go together with --comp"),
        (
            "dino",
            {"koleo": 0.1, "accumulate": 4},
            "--koleo: compares all tiles of a batch, and --accumulate 4",
        ),
        (
            "dino",
            {"ibot": 1.0, "ibot_mask": (0.01, 0.05)},
            "--ibot-mask 0.01 0.05: hides none of a global crop's",
        ),
        ("dino", {"ibot": 1.0, "ibot_mask": (0.01, 1 / 16)}, "hides none of a global crop's 16 patches"),
        ("dino", {"koleo": 0.1, "limit": 1}, "--koleo: a batch of 1 tile has no neighbours"),
        ("dino", {"koleo": 0.1, "batch_size": 1}, "--koleo: a batch of 1 tile has no neighbours"),
    ],
)
def test_what_does_not_fit_is_refused(
    dataset: Dataset, method: str, options: dict[str, Any], said: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=said):
        check(config_of(dataset, method, tmp_path / "run", **options))
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"method": "mae", "mask_ratio": 0.0}, "--mask-ratio 0.0: choose above 0 and below 1"),
        ({"method": "mae", "mask_ratio": 1.0}, "--mask-ratio 1.0: choose above 0 and below 1"),
        ({"teacher_temperature": 0.2}, "--teacher-temperature 0.2: choose above 0 and below the student's"),
        ({"warm_up_temperature": 0.1}, "--warm-up-temperature 0.1: choose above 0 and below the student's"),
        ({"local_scale": (0.5, 0.2)}, r"--local-scale \(0.5, 0.2\): choose two shares"),
        ({"prototypes": 1}, "--prototypes 1: choose 2 or more"),
        ({"method": "dino", "drop_path": 1.0}, "--drop-path 1.0: choose 0 or more and below 1"),
        ({"method": "dino", "koleo": -0.1}, "--koleo -0.1: choose 0 or more"),
        ({"method": "dino", "ibot": -0.1}, "--ibot -0.1: choose 0 or more"),
        ({"method": "dino", "ibot_tiles": 0.0}, "--ibot-tiles 0.0: choose above 0 and at most 1"),
        ({"method": "dino", "ibot_mask": (0.5, 1.0)}, r"--ibot-mask \(0.5, 1.0\): choose two shares above 0"),
        ({"method": "dino", "ibot_mask": (0.5, 0.1)}, r"--ibot-mask \(0.5, 0.1\): choose two shares above 0"),
        ({"decoder_width": 100}, "--decoder-width 100: choose a multiple of 24"),
    ],
)
def test_what_is_out_of_range_is_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        PretrainConfig.of("tiles", "run", **options)


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"mask_groups": 0.5}, "--mask-groups: does nothing without --band-groups"),
        ({"group_dropout": 0.5}, "--group-dropout: does nothing without --band-groups"),
        ({"method": "dino", "local_crops": 0, "local_size": 8}, "--local-size: does nothing without --local"),
        (
            {"method": "dino", "warm_up_temperature": 0.02},
            "--warm-up-temperature: does nothing without --temperature-warm-up",
        ),
        ({"method": "mae", "drop_path": 0.1}, "--drop-path: does nothing without --method dino"),
        ({"method": "mae", "koleo": 0.1}, "--koleo: does nothing without --method dino"),
        ({"method": "mae", "ibot": 0.1}, "--ibot: does nothing without --method dino"),
        ({"method": "dino", "ibot_tiles": 0.3}, "--ibot-tiles: does nothing without --ibot"),
        ({"method": "dino", "ibot_mask": (0.1, 0.3)}, "--ibot-mask: does nothing without --ibot"),
    ],
)
def test_options_without_effect_are_refused(given: dict[str, Any], said: str) -> None:
    with pytest.raises(InputError, match=said):
        refuse_idle(PretrainConfig.of("tiles", "run", **given), {*given})


def test_prototypes_that_no_memory_holds_are_refused(dataset: Dataset, tmp_path: Path) -> None:
    config = config_of(dataset, "dino", tmp_path / "run", prototypes=10**12)
    with pytest.raises(
        InputError, match="--prototypes 1000000000000: training them needs 320,000 GB, and cpu"
    ):
        launch_pretraining(config)
    assert not (tmp_path / "run").exists()


def test_labels_that_are_all_alike_have_no_r2(dataset: Dataset) -> None:
    probe = Probe(dataset, probe_tiles(dataset, "height_mean", 20), "height_mean")
    features_NF = np.random.default_rng(0).normal(size=(len(probe.is_train_N), 4))
    assert probe.scored(features_NF, "probe")["probe_r2"] is not None
    probe.values_NL[~probe.is_train_N] = 3.0
    scores = probe.scored(features_NF, "probe")
    assert scores["probe_r2"] is None
    assert scores["probe_rmse"] is not None


def test_a_head_whose_last_layer_never_learns_is_named(
    dataset: Dataset, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    for epochs, is_named in ((1, True), (2, False)):
        out = tmp_path / str(epochs)
        launch_pretraining(config_of(dataset, "dino", out, epochs=epochs, freeze_last_layer=1.0))
        assert ("--freeze-last-layer 1 is not below --epochs 1" in capfd.readouterr().err) == is_named


def test_a_run_of_another_command_is_not_resumed(dataset: Dataset, tmp_path: Path) -> None:
    config = config_of(dataset, "mae", tmp_path / "run", epochs=1, resume="auto")
    launch_pretraining(config)
    trained = TrainConfig.of(dataset.url, config.out, resume="auto")
    with pytest.raises(InputError, match="holds a run of treeline pretrain; choose another --out"):
        check_resumes(trained)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.yaml").write_text(config_yaml(trained))
    with pytest.raises(InputError, match="holds a run of treeline train; choose another --out"):
        check_resumes(config.with_options(out=str(tmp_path / "other")))


def test_a_run_begun_before_some_options_existed_goes_on(dataset: Dataset, tmp_path: Path) -> None:
    config = config_of(dataset, "dino", tmp_path / "run", epochs=1, resume="auto")
    launch_pretraining(config)
    stored = tmp_path / "run" / "config.yaml"
    values = yaml.safe_load(stored.read_text())
    for name in ("drop_path", "koleo", "ibot", "ibot_tiles", "ibot_mask"):
        del values[name]
    stored.write_text(yaml.safe_dump(values))
    check_resumes(config)
    with pytest.raises(InputError, match=r"other options: --drop-path \(0.0 there, 0.1 asked for\); give"):
        check_resumes(config.with_options(drop_path=0.1))


def test_a_backbone_is_no_regressor(dataset: Dataset, tmp_path: Path) -> None:
    launch_pretraining(config_of(dataset, "mae", tmp_path / "run", epochs=1))
    with pytest.raises(InputError, match="holds a pre-trained backbone, not a regressor; train one"):
        load_checkpoint(str(tmp_path / "run"))


def test_skipped_blocks_are_drawn_for_the_global_batch(dataset: Dataset) -> None:
    """They depend on the step and the view, and a rank takes its rows; the mean factor of each block is 1."""
    config, chips, key = config_of(dataset, "ibot"), dataset.chips("train")[:5], StepKey(0, 1, 8)
    encoder, parts = new_encoder(config, dataset), []
    for ranks in (Ranks(), Ranks(0, 2), Ranks(1, 2)):
        views = ViewMaker(encoder, config.views, ranks)
        part = Part(ranks.rank, ranks.world_size)
        (fed,) = feed(dataset.batches(chips, 5, part), dataset.schema, ranks.device)
        factors_BL = views.here(views.factors(5, key, 3, skip_rates(0.4, 4)), fed)
        parts.append(
            {chip: factors_L.tolist() for chip, factors_L in zip(fed.batch.chips, factors_BL, strict=True)}
        )
    whole, *halves = parts
    assert halves[0] | halves[1] == whole
    many_BL = views.factors(4000, key, 3, skip_rates(0.4, 4))
    for number, rate in enumerate((0.1, 0.2, 0.3, 0.4)):
        np.testing.assert_allclose(np.unique(many_BL[:, number]), [0, 1 / (1 - rate)], rtol=1e-6)
        assert (many_BL[:, number] == 0).mean() == pytest.approx(rate, abs=0.03)
    others = (
        views.factors(4000, key, 2, skip_rates(0.4, 4)),
        views.factors(4000, StepKey(0, 1, 9), 3, skip_rates(0.4, 4)),
    )
    assert not any(np.array_equal(many_BL, other) for other in others)


def test_views_do_not_depend_on_the_rank(dataset: Dataset) -> None:
    """A rank draws for the global batch, and takes its rows."""
    chips, key, seen = dataset.chips("train")[:4], StepKey(0, 1, 8), []
    for ranks in (Ranks(), Ranks(0, 2), Ranks(1, 2)):
        config = config_of(dataset, "mae", speckle_looks=2, brightness=0.5, band_dropout=0.2)
        encoder = new_encoder(config, dataset)
        views = ViewMaker(encoder, config.views, ranks)
        (fed,) = feed(
            dataset.batches(chips, 4, Part(ranks.rank, ranks.world_size)), dataset.schema, ranks.device
        )
        view = views.draw(4, key, 2, (0.05, 0.4))
        seen.append((fed.batch.chips, *views.make(views.tiles(fed), view, fed, 16)))
    (whole, pixels, valid), *parts = seen
    for chips_of_rank, pixels_of_rank, valid_of_rank in parts:
        rows = np.flatnonzero(np.isin(whole, chips_of_rank))
        assert len(rows) == 2
        assert torch.equal(pixels[rows], pixels_of_rank)
        assert torch.equal(valid[rows], valid_of_rank)
