"""A run that is stopped goes on as if it had never been, from any step, and on other ranks.

- What follows a stop is the same bit for bit: losses, scores, weights, the average of weights, rates.
- The state survives its bytes; of other chips it is refused; a damaged one is named.
- Killed at random moments (SIGKILL) and started again, a run leaves the same bytes as one that was not.
- Two ranks go on where one stopped, with the same losses within rounding.
"""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from gloo_ranks import in_group, run_ranks
from regressors import small_config, write_dataset
from stopped_runs import Stopped, Stopper, assert_equal_states

from shards.errors import InputError
from shards.read.dataset import Dataset, open_dataset
from trainer.commands.train import fit_of, resumed_fit
from trainer.commands.train_on_ray import launch
from trainer.config import TrainConfig
from trainer.devices.ranks import Ranks
from trainer.fit.learning import Learning
from trainer.fit.loop import Fit
from trainer.model.checkpoint import checkpoint_url
from trainer.model.make import new_regressor
from trainer.run_folder.run_writer import CONFIG, config_yaml
from trainer.run_folder.state import restore, state_of
from trainer.run_folder.state_callback import NOTICE_STEPS, StateCallback
from trainer.run_folder.state_parts import STATE, StateWriter, StoredState

RICH: dict[str, Any] = {
    "epochs": 3,
    "dropout": 0.2,
    "brightness": 0.1,
    "band_dropout": 0.2,
    "average": 0.9,
    "stop_patience": 9,
}
"""Options under which much is to be remembered."""


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Dataset:
    """17 chips or so to train on, some held out: with batches of 4 the last one is smaller."""
    return write_dataset(tmp_path_factory.mktemp("resume"), chips=22, val_share=0.2)


def new_fit(dataset: Dataset, config: TrainConfig, ranks: Ranks | None = None) -> Fit:
    torch.manual_seed(config.fit.seed)
    learning = Learning(dataset, dataset.chips("train"), dataset.chips("val"), ranks or Ranks())
    return fit_of(new_regressor(dataset, config.model), learning, config)


def go_on_from(fit: Fit, out: Path | str) -> None:
    with StoredState(str(out)) as state:
        restore(fit, state)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, marks=pytest.mark.slow),
        pytest.param({"norm": "batch", "schedule": "plateau", "plateau_patience": 0}, marks=pytest.mark.slow),
        pytest.param({"tune": "lora"}, marks=pytest.mark.slow),
        {"tune": "last", "tune_blocks": 1},
        {"decoder": "unet", "norm": "batch", "crop": 16, "jitter": 0.1, "average": 0.9},
    ],
    ids=["all", "batch-plateau", "lora", "last", "unet"],
)
def test_what_follows_a_stop_is_the_same_bit_for_bit(
    dataset: Dataset, backbone: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    config = small_config(dataset, backbone, **{**RICH, "batch_size": 4, **options})
    whole, undisturbed = new_fit(dataset, config), Stopper(at=0)
    whole.run(undisturbed)
    steps = len(undisturbed.losses)
    assert steps == config.fit.epochs * whole.steps_per_epoch > 10
    # Within an epoch, at its last step (before it is scored), and at the first of the last one.
    for at in (1, 3, whole.steps_per_epoch, 2 * whole.steps_per_epoch + 1):
        stopper = Stopper(at, tmp_path)
        with pytest.raises(Stopped):
            new_fit(dataset, config).run(stopper)
        again, rest = new_fit(dataset, config), Stopper(at=0)
        go_on_from(again, tmp_path)
        again.run(rest)
        assert stopper.losses + rest.losses == undisturbed.losses
        assert_equal_states(state_of(again), state_of(whole))


def test_a_state_of_other_chips_is_refused(dataset: Dataset, backbone: Path, tmp_path: Path) -> None:
    config = small_config(dataset, backbone)
    StateWriter(str(tmp_path)).write(state_of(new_fit(dataset, config)))
    other = Learning(dataset, dataset.chips("train")[:5], dataset.chips("val"), Ranks())
    with pytest.raises(InputError, match="stopped on other chips"):
        go_on_from(fit_of(new_regressor(dataset, config.model), other, config), tmp_path)


@pytest.mark.parametrize("spoil", [lambda data: data[:100], lambda data: b"{}" * 20, lambda data: b""])
def test_a_damaged_state_is_named(
    dataset: Dataset, backbone: Path, tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    fit = new_fit(dataset, small_config(dataset, backbone))
    StateWriter(str(tmp_path)).write(state_of(fit))
    [part] = tmp_path.glob("state/*/*.safetensors")
    for path, said in ((tmp_path / STATE, "not a JSON file"), (part, "bytes instead of")):
        data = path.read_bytes()
        path.write_bytes(spoil(data))
        with pytest.raises(InputError, match=rf"{STATE}.*{said}|{said}.*{STATE}") as error:
            go_on_from(fit, tmp_path)
        assert "to start over" in str(error.value)
        path.write_bytes(data)
    go_on_from(fit, tmp_path)


class Saver(StateCallback):
    """Notes the steps after which the state is to be saved."""

    steps: list[int]

    def save(self, fit: Fit) -> None:
        self.steps.append(fit.position.step)


def test_on_a_notice_the_state_is_saved_at_once_and_once(dataset: Dataset, backbone: Path) -> None:
    fit = new_fit(dataset, small_config(dataset, backbone, batch_size=1, epochs=3))
    asked: list[int] = []

    def notice() -> bool:
        asked.append(fit.position.step)
        return len(asked) > 1

    saver = Saver(notice)
    saver.steps = []
    fit.run(saver)
    assert asked == [NOTICE_STEPS, 2 * NOTICE_STEPS]
    ends = [fit.steps_per_epoch * epoch for epoch in (1, 2, 3)]
    assert saver.steps == sorted([*ends, 2 * NOTICE_STEPS])


# --- the command ---


def flags(config: TrainConfig) -> list[str]:
    return [
        *("--data", config.data, "--out", config.out, "--recipe", "tiny", "--resume", "auto"),
        *("--backbone", config.model.backbone),
        *(
            "--decoder-widths",
            *map(str, config.model.decoder_widths),
            "--batch-size",
            str(config.fit.batch_size),
        ),
        *(
            "--epochs",
            str(config.fit.epochs),
            "--dropout",
            str(config.model.dropout),
            "--average",
            str(config.fit.average),
        ),
        *("--checkpoint-steps", str(config.keep.checkpoint_steps)),
    ]


def files_of(run: Path) -> dict[str, bytes]:
    """What a run leaves, but TensorBoard's log, which tells the time, and what names the folder."""
    return {
        str(path.relative_to(run)): path.read_bytes()
        for path in run.rglob("*")
        if path.is_file() and "tensorboard" not in path.parts and path.name != "config.yaml"
    }


@pytest.mark.slow
@pytest.mark.parametrize("most", [2, pytest.param(6, marks=pytest.mark.long)])
def test_killed_at_random_moments_it_leaves_the_same_bytes(
    dataset: Dataset, backbone: Path, tmp_path: Path, most: int
) -> None:
    options = {"batch_size": 4, "epochs": 6, "dropout": 0.1, "average": 0.9, "checkpoint_steps": 3}
    whole = small_config(dataset, backbone, out=str(tmp_path / "whole"), **options)
    launch(whole)
    expected = files_of(tmp_path / "whole")
    rng, out = random.Random(4), tmp_path / "killed"
    command = [sys.executable, "-m", "cluster.cli", "train"]
    config = small_config(dataset, backbone, out=str(out), **options)
    kills = 0
    for _ in range(30):
        process = subprocess.Popen([*command, *flags(config)], stderr=subprocess.PIPE, text=True)
        deadline = time.monotonic() + rng.uniform(0.1, 1.0)
        while not out.exists() and process.poll() is None:
            time.sleep(0.01)
            deadline = time.monotonic() + rng.uniform(0.0, 1.0)
        while time.monotonic() < deadline and process.poll() is None:
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
    assert checkpoint_url(str(out)).startswith(str(out))


def test_a_run_goes_on_with_the_same_options_only(dataset: Dataset, backbone: Path, tmp_path: Path) -> None:
    config = small_config(dataset, backbone, out=str(tmp_path / "run"), epochs=1)
    launch(config)
    before = files_of(tmp_path / "run")
    other = small_config(dataset, backbone, out=config.out, epochs=1, resume="auto", learning_rate=1e-5)
    with pytest.raises(InputError, match=r"other options: --learning-rate \("):
        launch(other)
    launch(small_config(dataset, backbone, out=config.out, epochs=1, resume="auto", keep_best=2))
    assert files_of(tmp_path / "run") == before


def test_a_run_begun_before_goes_on_with_all_validation_chips(
    dataset: Dataset, backbone: Path, tmp_path: Path
) -> None:
    """Its config.yaml does not name --val-where, and --where was of training chips alone."""
    where, whole, out = "height_max > 7.8", tmp_path / "whole", tmp_path / "run"
    assert 0 < dataset.chips("val", where=where).size < dataset.chips("val").size
    as_it_was = small_config(dataset, backbone, batch_size=4, where=where, val_where="")
    launch(as_it_was.with_options(out=str(whole)))
    with pytest.raises(Stopped):
        resumed_fit(as_it_was.with_options(out=str(out)), Ranks()).run(Stopper(1, out))
    config = small_config(dataset, backbone, out=str(out), batch_size=4, where=where)
    options = yaml.safe_load(config_yaml(config))
    del options["val_where"]
    (out / CONFIG).write_text(yaml.safe_dump(options))
    with pytest.raises(InputError, match=r"other options: --val-where \("):
        launch(config.with_options(resume="auto", val_where=where))
    launch(config.with_options(resume="auto"))
    assert files_of(out) == files_of(whole)
    launch(config.with_options(resume="auto"))  # there is nothing left to do, and nothing to refuse


@pytest.mark.parametrize(
    ("older", "precision", "other"), [(True, "bf16", "fp16"), (False, "float32", "bf16")]
)
def test_a_run_begun_with_or_without_bfloat16_goes_on(
    older: bool, precision: str, other: str, dataset: Dataset, backbone: Path, tmp_path: Path
) -> None:
    """Its config.yaml names the older option, a yes or no."""
    whole, out = tmp_path / "whole", tmp_path / "run"
    config = small_config(dataset, backbone, batch_size=4, epochs=1, decoder="linear", precision=precision)
    launch(config.with_options(out=str(whole)))
    config = config.with_options(out=str(out))
    with pytest.raises(Stopped):
        resumed_fit(config, Ranks()).run(Stopper(1, out))
    text = config_yaml(config)
    assert f"precision: {precision}\n" in text
    (out / CONFIG).write_text(text.replace(f"precision: {precision}\n", f"bf16: {str(older).lower()}\n"))
    with pytest.raises(InputError, match=rf": --precision \({precision} there, {other} asked for\);"):
        launch(config.with_options(resume="auto", precision=other))
    launch(config.with_options(resume="auto"))
    assert files_of(out) == files_of(whole)


def test_an_option_without_effect_is_not_compared(dataset: Dataset, backbone: Path, tmp_path: Path) -> None:
    """It could be given once, and is refused now: a run that began with it is resumed without it."""
    config = small_config(dataset, backbone, out=str(tmp_path / "run"), epochs=1, lora_rank=4)
    launch(config)
    before = files_of(tmp_path / "run")
    launch(small_config(dataset, backbone, out=config.out, epochs=1, resume="auto"))
    assert files_of(tmp_path / "run") == before


# --- other ranks ---


def go_on_as_rank(rank: int, config: TrainConfig, folder: Path) -> None:
    """In a process of its own: go on from the state in a folder; the first rank writes its records."""
    result = in_group(rank, 2, folder / "rendezvous", lambda ranks: gone_on(config, ranks, str(folder)))
    if rank == 0:
        (folder / "records.json").write_text(json.dumps(result))


def gone_on(config: TrainConfig, ranks: Ranks, state: str) -> tuple[int, list[dict[str, Any]]]:
    """Chips met, and the records of the epochs."""
    fit = new_fit(open_dataset(config.data), config, ranks)
    go_on_from(fit, state)
    fit.run(StateCallback())
    return fit.position.chips, fit.records


@pytest.mark.slow
def test_two_ranks_go_on_where_one_stopped(dataset: Dataset, backbone: Path, tmp_path: Path) -> None:
    config = small_config(dataset, backbone, batch_size=4, epochs=2, learning_rate=1e-4, average=0.9)
    whole, stopper = new_fit(dataset, config), Stopper(3, tmp_path)
    whole.run(StateCallback())
    with pytest.raises(Stopped):
        new_fit(dataset, config).run(stopper)
    run_ranks(go_on_as_rank, 2, (config, tmp_path))
    chips, records = json.loads((tmp_path / "records.json").read_text())
    assert chips == whole.position.chips == config.fit.epochs * dataset.chips("train").size
    for one, two in zip(whole.records, records, strict=True):
        for name in ("loss", "val_loss"):
            assert two[name] == pytest.approx(one[name], rel=1e-5), name
        assert np.isfinite(two["val_rmse"])
