"""Treeline's own training, for a given number of seconds of the processor from the first batch on."""

import time
from pathlib import Path
from typing import Any

from torch import Tensor

from compared.peers import Trained
from compared.places import Place
from ingest.config import ScenesConfig
from ingest.scenes.scenes_source import ScenesSource
from ingest.work.run import ingest
from trainer.commands.train import resumed_fit
from trainer.config import TrainConfig
from trainer.devices.ranks import ALONE
from trainer.fit.loop import Fit

CHIP, STRIDE, CROP = 96, 32, 64
"""Side of stored chips, from one to the next, and of what is cut from them: every place is met."""
TRIED_STEPS = 12
"""Steps of a short training before, which tells how many fill the time."""


class Untold:
    """Callback that keeps nothing but the weights that are scored."""

    def after_step(self, fit: Fit, chips: int, loss: float) -> None:
        """Do nothing."""

    def may_save(self, step: int) -> bool:
        """Return that no step saves."""
        return False

    def after_epoch(self, fit: Fit, record: dict[str, Any], is_best: bool) -> None:
        """Keep the weights that are scored: the average, if there is one."""
        self.weights = {name: value.clone() for name, value in fit.model.state_dict().items()}

    def save(self, fit: Fit) -> None:
        """Do nothing."""


def chips_of(place: Place, folder: Path) -> str:
    """Make a dataset of the ground that the place learns from, unless it is there."""
    out = folder / "chips"
    if not (out / "dataset.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        image, heights = place.learns.write(folder)
        config = ScenesConfig(
            images=(image,),
            heights=(heights,),
            out=str(out),
            bands=place.bands,
            chip_size=CHIP,
            stride=STRIDE,
            min_height=None,
            split_by="key",
            shares=(1.0, 0.0),
        )
        ingest(ScenesSource(config), config)
    return str(out)


def train(chips: str, options: dict[str, Any], seconds: float, seed: int) -> Trained:
    """Train a regressor with the defaults, but for these options, for this many seconds of the processor."""
    base = {"crop": CROP, "baseline_chips": 8, **options}
    config = TrainConfig.of(chips, "not written", epochs=1, seed=seed, epoch_steps=TRIED_STEPS, **base)
    _, tried = _run(_of_length(config, TRIED_STEPS))
    steps = max(2, round(seconds / (tried / TRIED_STEPS)))
    fit, taken = _run(_of_length(config, steps))
    regressor = fit.model.eval()

    def predict(image_BCHW: Tensor) -> Tensor:
        height_BHW: Tensor = regressor.predict(image_BCHW)[0]
        return height_BHW

    return Trained(predict, taken, fit.position.step)


def _of_length(config: TrainConfig, steps: int) -> TrainConfig:
    return config.with_options(epoch_steps=steps)


def _run(config: TrainConfig) -> tuple[Fit, float]:
    fit, told = resumed_fit(config, ALONE), Untold()
    begun = time.process_time()
    fit.run(told)
    seconds = time.process_time() - begun
    fit.model.load_state_dict(told.weights)
    return fit, seconds
