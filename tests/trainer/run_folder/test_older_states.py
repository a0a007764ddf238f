"""States of earlier versions are read, and the run goes on bit for bit as if it had not stopped."""

import json
from pathlib import Path
from typing import Any

import pytest
from older_states import write_layout_2
from regressors import local_backbone, small_config, write_dataset
from stopped_runs import Stopped, Stopper, assert_equal_states

from shards.errors import InputError
from trainer.commands.train import new_fit
from trainer.config import TrainConfig
from trainer.devices.ranks import Ranks
from trainer.fit.loop import Fit
from trainer.run_folder.state import restore, state_of
from trainer.run_folder.state_callback import StateCallback
from trainer.run_folder.state_parts import STATE, StateWriter, StoredState

AT = 4
"""Steps before the stop, in the second of two epochs of three."""


class OlderStopper(Stopper):
    """Saves the state as layout 2 has it."""

    def after_step(self, fit: Fit, chips: int, loss: float) -> None:
        self.losses.append(loss)
        if len(self.losses) == self.at:
            assert self.out
            write_layout_2(fit, self.out)
            raise Stopped


def config_of(folder: Path, **options: Any) -> TrainConfig:
    dataset = write_dataset(folder / "chips", 24, val_share=0.25)
    return small_config(dataset, local_backbone(folder / "backbone"), tune="all", **options)


@pytest.mark.parametrize("layer_decay", [1.0, 0.7])
def test_a_state_whose_moments_are_named_after_groups_is_gone_on_from(
    layer_decay: float, tmp_path: Path
) -> None:
    config = config_of(tmp_path, layer_decay=layer_decay, average=0.9)
    whole, through = new_fit(config, Ranks()), Stopper()
    whole.first_epoch = 0  # as in the run that is gone on from
    whole.run(through)
    stopper = OlderStopper(AT, tmp_path)
    with pytest.raises(Stopped):
        new_fit(config, Ranks()).run(stopper)
    parts = json.loads((tmp_path / STATE).read_text())["parts"]
    assert b"optimiser.3.0.exp_avg" in (tmp_path / parts[0]).read_bytes()
    again, rest = new_fit(config, Ranks()), Stopper()
    with StoredState(str(tmp_path)) as state:
        restore(again, state)
    again.run(rest)
    assert stopper.losses + rest.losses == through.losses
    assert_equal_states(state_of(again), state_of(whole))


def test_moments_are_named_after_parameters_and_of_another_model_refused(tmp_path: Path) -> None:
    config = config_of(tmp_path, epochs=1)
    fit = new_fit(config, Ranks())
    fit.run(StateCallback())
    names = {name for name in state_of(fit).tensors if name.startswith("optimiser.")}
    learning = [name for name, weight in fit.model.named_parameters() if weight.requires_grad]
    assert names == {
        f"optimiser.{name}.{moment}" for name in learning for moment in ("step", "exp_avg", "exp_avg_sq")
    }
    StateWriter(str(tmp_path)).write(state_of(fit))
    other = new_fit(config.with_options(tune="frozen"), Ranks())
    with StoredState(str(tmp_path)) as state, pytest.raises(InputError, match="belongs to another regressor"):
        restore(other, state)
