"""The faults of the notebook that has trained regressors so far, each a switch that `--faithful` turns on.

    notebook_variant(config)                                all faults, as --faithful has them
    notebook_variant(config, Faults(clamped_loss=True))     one alone (benchmarks/notebook_faults.py)

docs/training.md says what each one does, and how much it matters. One fault has no switch, since every run
here has it as well: the validation chips decide when training stops, and also score it.
"""

from dataclasses import dataclass, fields, replace
from functools import partial
from math import nan

import numpy as np
import torch
from torch import Tensor

from shards.errors import InputError
from shards.nested import flat
from shards.read.dataset import Dataset
from shards.read.order import Chips, subset
from shards.roles import flag_of
from trainer.chip_options import AugmentOptions, ChipOptions
from trainer.config import TrainConfig
from trainer.data.feed import Fed
from trainer.data.step_inputs import StepKey
from trainer.fit.heights import HeightObjective
from trainer.fit.learning import Learning
from trainer.fit.objective import Forward, Numbers
from trainer.fit.pixel_inputs import PixelInputs
from trainer.fit.scoring import Sums, rounded_totals
from trainer.fit.variant import Variant, ordinary
from trainer.losses.loss import Loss
from trainer.losses.loss_terms import Total, over_chips
from trainer.model.regressor import Regressor
from trainer.options import ObjectiveOptions

DROPOUT = 0.1
TRAIN_SHARE = 0.8
_DEAL, _JITTER = 0xDEA1, 0x317E
"""Parts of the generators' keys that set these draws apart from order, augmentation and dropout."""
_MOMENTS = 6


@dataclass(frozen=True)
class Faults:
    """Faults that a training has."""

    blue_patches: bool = False
    """Whether near infrared and red start from blue's pretrained patch weights."""
    low_dropout: bool = False
    """Whether the decoder's dropout is 0.1, whatever the configuration says."""
    dealt_by_chip: bool = False
    """Whether chips are split anew, 80 to 20 and one by one, so both splits share scenes."""
    clamped_loss: bool = False
    """Whether the loss takes predictions below 0 as 0, so that they have no gradient."""
    own_scores: bool = False
    """Whether the root of the loss is recorded as an RMSE, and a squared correlation as R2."""
    unmasked: bool = False
    """Whether the loss counts every pixel: one without a height as 0 m, and one without an image too."""
    jittered: bool = False
    """Whether the backbone trains in train mode, in which it draws random positions for its patches."""


ALL = Faults(**{fault.name: True for fault in fields(Faults)})


def notebook_variant(config: TrainConfig, faults: Faults = ALL) -> Variant:
    """Return the variant of training that has these faults, and otherwise follows `config`."""
    variant = ordinary(config)
    model, bands, choose_chips = variant.model, variant.pretrained_bands, variant.choose_chips
    if faults.low_dropout:
        model = replace(model, dropout=DROPOUT)
    if faults.blue_patches:
        bands = tuple("blue" if band in ("nir", "red") else band for band in bands)
    if faults.dealt_by_chip:
        choose_chips = partial(_dealt_by_chip, options=config.chips, seed=config.fit.seed)
    return Variant(
        model,
        bands,
        choose_chips,
        lambda regressor, learning: NotebookObjective(
            regressor, learning, config.objective, config.augment, faults
        ),
    )


def _dealt_by_chip(dataset: Dataset, options: ChipOptions, seed: int) -> tuple[Chips, Chips]:
    both = np.concatenate([dataset.chips(split, where=options.where) for split in ("train", "val")])
    mixed = np.random.default_rng((seed, _DEAL)).permutation(both)
    train, val = np.split(mixed, [max(1, round(TRAIN_SHARE * both.size))])
    return np.sort(train[subset(train.size, options.limit_of(train.size))]), np.sort(val)


def check_faithful(config: TrainConfig) -> None:
    """Refuse --faithful with options that the notebook did not have.

    Raises:
        InputError: another recipe, augmentation, mixed precision, stored tokens, or resuming.
    """
    if not config.faithful:
        return
    if config.recipe != "notebook":
        raise InputError(
            "--faithful: the faults belong to --recipe notebook; give it, or leave --faithful out"
        )
    without = {"resume": "no", "flips": False, "brightness": 0.0, "band_dropout": 0.0, "precision": "float32"}
    given = flat(config)
    for name, value in {**without, "token_store": ""}.items():
        if given[name] != value:
            flag = flag_of(name)
            raise InputError(
                f"--faithful: the notebook did not have {flag}; leave it out, or leave --faithful out"
            )
    if config.chips.validated_where != config.chips.where:
        raise InputError(
            "--faithful: training and validation chips come from one --where; leave --val-where out"
        )


@dataclass(frozen=True)
class NotebookLoss(Loss):
    """A loss with faults; after its own sums come the sums of the notebook's R2."""

    faults: Faults = Faults()

    @property
    def counts_tell_slope(self) -> bool:
        """See Loss: False, since the faults decide which pixels count, and the sums of R2 are no counts."""
        return False

    def sums(
        self, predicted_BHW: Tensor, height_BHW: Tensor, measured_BHW: Tensor, total: Total = over_chips
    ) -> Tensor:
        """See Loss."""
        if self.faults.unmasked:
            known_BHW = height_BHW.isfinite()
            height_BHW = height_BHW.masked_fill(~known_BHW, 0.0)
            # A chip without any height is a stand-in, on a rank whose part of the batch is empty.
            measured_BHW = known_BHW.any((1, 2), keepdim=True).expand_as(known_BHW)
        if self.faults.clamped_loss:
            predicted_BHW = predicted_BHW.clamp(min=0)
        sums_K = super().sums(predicted_BHW, height_BHW, measured_BHW, total)
        pair = predicted_BHW.detach().clamp(min=0), height_BHW
        if total is over_chips:
            predicted_N, height_N = (one_BHW[measured_BHW].double() for one_BHW in pair)
            pairs = _pairs(torch.ones_like(height_N), predicted_N, height_N)
            return torch.cat([sums_K, torch.stack([one_N @ other_N for one_N, other_N in pairs])])
        filled = (one_BHW.double().masked_fill(~measured_BHW, 0.0) for one_BHW in pair)
        moments = [
            total(one_BHW * other_BHW) for one_BHW, other_BHW in _pairs(measured_BHW.double(), *filled)
        ]
        return torch.cat([sums_K, torch.stack(moments)])

    def scores(self, sums_K: Tensor, share_done: float) -> dict[str, float]:
        """Compute what the notebook calls RMSE (in metres) and R2, over the pixels that it counts."""
        count, predicted, height, predicted_2, height_2, product = sums_K[-_MOMENTS:].tolist()
        spread = (predicted_2 * count - predicted**2) * (height_2 * count - height**2)
        r2 = (product * count - predicted * height) ** 2 / spread if spread > 0 else nan
        return {"notebook_rmse": float(self.value(sums_K, share_done)) ** 0.5, "notebook_r2": r2}

    def _values(self, sums_K: Tensor) -> list[Tensor]:
        return super()._values(sums_K[:-_MOMENTS])


def _pairs(one: Tensor, predicted: Tensor, height: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Return pairs from whose products, added up, a correlation follows; `one` is 1 where a pixel counts."""
    powers = [(one, one), (predicted, one), (height, one)]
    return [*powers, (predicted, predicted), (height, height), (predicted, height)]


@dataclass(frozen=True)
class JitteredInputs(PixelInputs):
    """Inputs of a step whose patches have random positions."""

    jitter_seed: int
    """Seed of the positions."""


class NotebookObjective(HeightObjective):
    """Objective of heights with faults; its checkpoints are those of ordinary regressors."""

    loss: NotebookLoss

    def __init__(
        self,
        regressor: Regressor,
        learning: Learning,
        options: ObjectiveOptions,
        augment: AugmentOptions,
        faults: Faults,
    ) -> None:
        super().__init__(regressor, learning, options, augment)
        self.loss, self.faults = NotebookLoss(self.loss.terms, faults), faults

    def inputs(self, fed: Fed, key: StepKey) -> PixelInputs:
        """See Objective."""
        inputs = super().inputs(fed, key)
        if not self.faults.jittered:
            return inputs
        seed = int(np.random.SeedSequence([*key, _JITTER]).generate_state(1)[0])
        return JitteredInputs(**vars(inputs), jitter_seed=seed)

    def sums(self, forward: Forward, inputs: PixelInputs) -> Tensor:
        """See Objective."""
        if isinstance(inputs, JitteredInputs):
            torch.manual_seed(inputs.jitter_seed)
            # Scoring puts the backbone back into eval mode with the rest.
            self.regressor.backbone.train()
        return super().sums(forward, inputs)

    def scored(self, sums: Sums, share_done: float) -> Numbers:
        """See Objective; return the right scores, and beside them the notebook's."""
        right = super().scored(sums, share_done)
        if not self.faults.own_scores:
            return right
        own = self.loss.scores(rounded_totals(sums[0]), share_done)
        return right | {name: None if value != value else value for name, value in own.items()}
