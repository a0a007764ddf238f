"""Heights of pixels as an objective: a loss over every measured pixel, scored in metres.

The chips hold the heights to learn. Scores are compared with two baselines, a constant and a regression per
pixel (trainer.score.baselines), which travel with states and checkpoints.
"""

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from shards.read.arena import Memory
from shards.read.dataset import Batch
from shards.read.order import Chips
from trainer.chip_options import AugmentOptions
from trainer.data.augment import symmetries_of
from trainer.data.feed import Fed, RowReader
from trainer.data.step_inputs import StepKey, part_of
from trainer.decoders.chip_dropout import Dropouts
from trainer.devices.exact_sums import chip_totals, exact_sums
from trainer.devices.linear import linear
from trainer.devices.ranks import PendingSum
from trainer.devices.score_sums import chip_sums
from trainer.fit.failures import HOLD_OUT_OTHERS, nothing_usable
from trainer.fit.labelled import LabelledObjective
from trainer.fit.learning import Learning
from trainer.fit.objective import Forward, Numbers, Panel
from trainer.fit.optimiser import parameter_groups
from trainer.fit.pixel_inputs import PixelInputs, features_of, pixel_inputs
from trainer.fit.sample_panel import draw_panel
from trainer.fit.scoring import Sums, rounded_totals
from trainer.losses.loss import parse_loss
from trainer.model.checkpoint_files import weights_of
from trainer.model.height_checkpoint import Checkpoint
from trainer.model.regressor import Regressor
from trainer.options import ObjectiveOptions, OptimiserOptions
from trainer.score.baselines import MEAN, Baselines, baselines_of
from trainer.score.compared import Compared
from trainer.score.evaluation import LINEAR, REGRESSOR, compared_heights
from trainer.score.metrics import finite, metrics_of


class HeightObjective(LabelledObjective[Baselines]):
    """Objective of a regressor: heights of pixels."""

    baselines_type = Baselines
    """See LabelledObjective."""

    def __init__(
        self,
        regressor: Regressor,
        learning: Learning,
        options: ObjectiveOptions,
        augment: AugmentOptions,
    ) -> None:
        """Args:
        regressor: the model in training, not wrapped.
        learning: the chips, and the ranks that share them.
        options: options of loss and baselines.
        augment: options of augmentation.
        """
        self.regressor, self.learning, self.options, self.augment = regressor, learning, options, augment
        self.loss = parse_loss(options.loss)
        self.dropouts = Dropouts(regressor)

    def groups(self, options: OptimiserOptions) -> list[dict[str, Any]]:
        """See Objective."""
        return parameter_groups(self.regressor, options)

    def prepare(self) -> None:
        """See Objective."""
        if self.baselines is None:
            learning = self.learning
            self.baselines = baselines_of(
                learning.dataset,
                np.unique(learning.train_chips),
                self.options.baseline_chips,
                self.regressor.bands,
            )

    def row_reader(self, of_epoch: tuple[int, int] | None) -> RowReader | None:
        """See Objective: the tokens of a store, turned as the step will turn the chips."""
        tokens, learning = self.learning.tokens, self.learning
        if tokens is None:
            return None

        def rows(batch: Batch, memory: Memory | None) -> NDArray[np.uint8]:
            symmetries_B = None
            if of_epoch is not None and self.augment.flips:
                drawn = symmetries_of(batch.size, *of_epoch, batch.start)
                symmetries_B = part_of(drawn, batch, learning.ranks)
            return tokens.rows(batch.chips, symmetries_B, memory)

        return rows

    def inputs(self, fed: Fed, key: StepKey) -> PixelInputs:
        """See Objective."""
        return pixel_inputs(fed, key, self.augment, len(self.regressor.bands), self.learning)

    def known_sums(self, inputs: PixelInputs) -> PendingSum | None:
        """See Objective: counts of measured pixels, unless a term's slope depends on predictions."""
        if not self.loss.counts_tell_slope:
            return None
        valid_BHW = self.regressor.normalise.valid_of(inputs.image_BCHW)
        counts_K = self.loss.counts(valid_BHW & inputs.label_BHW.isfinite())
        return self.learning.ranks.begin_sum(counts_K)

    def sums(self, forward: Forward, inputs: PixelInputs) -> Tensor:
        """See Objective."""
        self.dropouts.use(inputs.numbers_B)
        predicted_BHW, valid_BHW = forward(inputs.image_BCHW, inputs.features, inputs.changes_BCK)
        measured_BHW = valid_BHW & inputs.label_BHW.isfinite()
        return self.loss.sums(predicted_BHW.float(), inputs.label_BHW, measured_BHW)

    def value(self, sums_K: Tensor, share_done: float) -> Tensor:
        """See Objective."""
        return self.loss.value(sums_K, share_done)

    def score_sums(self, forward: Forward, fed: Fed) -> Sums:
        """See Objective."""
        predicted_BHW, valid_BHW = forward(fed.image_BCHW, features_of(fed, self.learning))
        predicted_BHW = predicted_BHW.float()
        measured_BHW = valid_BHW & fed.height_BHW.isfinite()
        loss_KB = self.loss.sums(predicted_BHW, fed.height_BHW, measured_BHW, chip_totals)
        sums_BS = chip_sums(predicted_BHW.clamp(min=0), measured_heights(fed, valid_BHW))
        return exact_sums(loss_KB.T), exact_sums(sums_BS)

    def scored(self, sums: Sums, share_done: float) -> Numbers:
        """See Objective."""
        loss_K, sums_S = map(rounded_totals, sums)
        metrics = metrics_of(finite(sums_S.numpy()))
        if not metrics.count:
            what, chips = "no pixel of the validation chips has a height", self.learning.val_chips
            raise nothing_usable(what, HOLD_OUT_OTHERS, chips, self.learning)
        return {"loss": float(self.loss.value(loss_K, share_done)), **metrics.to_json()}

    def baseline_sums(self, fed: Fed) -> Sums:
        """See LabelledObjective."""
        measured_BHW = measured_heights(fed, self.regressor.normalise.valid_of(fed.image_BCHW))
        compared = baseline_heights(self.fitted, fed.image_BCHW)
        return tuple(exact_sums(chip_sums(one_BHW, measured_BHW)) for one_BHW in compared)

    def compared(self, record: dict[str, Any], sums: Sums) -> Compared:
        """See LabelledObjective."""
        errors = {REGRESSOR: float(record["val_rmse"])}
        for name, sums_SL in zip((LINEAR, MEAN), sums, strict=True):
            errors[name] = metrics_of(finite(rounded_totals(sums_SL).numpy())).rmse
        return compared_heights(errors)

    def summary(self, record: dict[str, Any]) -> str:
        """See Objective: the loss and the RMSE."""
        text, rmse = super().summary(record), record.get("val_rmse")
        return text if rmse is None else f"{text}, RMSE {rmse:.2f} m"

    def panel(self, chips: Chips) -> Panel | None:
        """See Objective."""
        learning = self.learning
        return draw_panel(self.regressor, learning.dataset, chips, learning.ranks.device, learning.tokens)

    def gather(self) -> None:
        """See Objective."""
        weights_of(self.regressor, self.regressor.backbone, keep=False)

    def checkpoint(self, record: dict[str, Any], trained_on: dict[str, Any]) -> dict[str, bytes]:
        """See Objective."""
        return Checkpoint(self.regressor, trained_on, record, self.fitted).files()


def baseline_heights(baselines: Baselines, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Predict heights (B, H, W) in metres by the regression per pixel, and by the mean."""
    linear_BHW = linear(image_BCHW, [baselines.coefficients], baselines.positions)[:, 0]
    return linear_BHW, torch.full_like(linear_BHW, baselines.mean_height)


def measured_heights(fed: Fed, valid_BHW: Tensor) -> Tensor:
    """Return measured_BHW, metres: NaN where nothing is measured, or the image is missing."""
    return fed.height_BHW.masked_fill(~valid_BHW, float("nan"))
