"""Classes of pixels as an objective: cross-entropy over every labelled pixel.

The chips hold the classes to learn. Scores stand beside two baselines, the commonest class and a regression
per pixel (trainer.score.class_baselines), which travel with states and checkpoints.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor

from shards.read.order import subset
from trainer.chip_options import AugmentOptions
from trainer.data.feed import Fed
from trainer.data.pixel_classes import NO_CLASS, PixelClasses, confusion
from trainer.data.step_inputs import StepKey
from trainer.decoders.chip_dropout import Dropouts
from trainer.devices.exact_sums import chip_totals, exact_sums
from trainer.devices.linear import linear
from trainer.devices.ranks import PendingSum
from trainer.fit.failures import HOLD_OUT_OTHERS, nothing_usable
from trainer.fit.labelled import BATCH, MeanObjective, class_numbers
from trainer.fit.learning import Learning
from trainer.fit.objective import Forward, Numbers
from trainer.fit.optimiser import parameter_groups
from trainer.fit.pixel_inputs import PixelInputs, pixel_inputs
from trainer.fit.scoring import Sums, rounded_totals
from trainer.losses.loss_terms import Total
from trainer.model.checkpoint_files import weights_of
from trainer.model.class_checkpoint import ClassCheckpoint
from trainer.model.class_model import ClassModel
from trainer.options import OptimiserOptions
from trainer.score.class_baselines import COMMONEST, ClassBaselines, Labelled, fit_class_baselines
from trainer.score.class_report import compared_classes
from trainer.score.compared import Compared
from trainer.score.evaluation import LINEAR
from trainer.score.tile_baselines import MODEL
from trainer.score.tile_scores import ClassScore


class ClassObjective(MeanObjective[ClassBaselines]):
    """Objective of a model of pixel classes."""

    baselines_type = ClassBaselines
    """See LabelledObjective."""

    def __init__(
        self, model: ClassModel, learning: Learning, augment: AugmentOptions, baseline_chips: int
    ) -> None:
        """Args:
        model: the model in training, not wrapped.
        learning: the chips, and the ranks that share them.
        augment: options of augmentation.
        baseline_chips: most training chips to which the baselines are fitted.
        """
        self.model, self.learning, self.augment = model, learning, augment
        self.baseline_chips, self.classes = baseline_chips, PixelClasses.of(learning.dataset)
        self.dropouts = Dropouts(model)

    def groups(self, options: OptimiserOptions) -> list[dict[str, Any]]:
        """See Objective."""
        return parameter_groups(self.model, options)

    def prepare(self) -> None:
        """See Objective."""
        if self.baselines is None:
            dataset = self.learning.dataset
            self.baselines = fit_class_baselines(self._labelled(), dataset.schema, self.model.bands)
        if self.baselines is None:
            what, chips = "no pixel of the training chips has a class", self.learning.train_chips
            raise nothing_usable(what, "choose others", chips, self.learning)

    def _labelled(self) -> Iterator[Labelled]:
        """Read the chips to which the baselines are fitted."""
        train_chips = np.unique(self.learning.train_chips)
        chosen = train_chips[subset(train_chips.size, self.baseline_chips)]
        for batch in self.learning.dataset.batches(chosen, BATCH):
            place_BHW = self.classes.places(torch.from_numpy(batch.height_BHW), batch.chips)
            yield batch.image_BCHW, place_BHW.numpy()

    def inputs(self, fed: Fed, key: StepKey) -> PixelInputs:
        """See Objective; the labels are the classes' places from here on."""
        place_BHW = self.classes.places(fed.height_BHW, fed.batch.chips)
        placed = Fed(fed.batch, fed.image_BCHW, place_BHW)
        return pixel_inputs(placed, key, self.augment, len(self.model.bands), self.learning)

    def known_sums(self, inputs: PixelInputs) -> PendingSum:
        """See Objective: the number of pixels with a class."""
        valid_BHW = self.model.normalise.valid_of(inputs.image_BCHW)
        count = _over_chips(valid_BHW & (inputs.label_BHW != NO_CLASS))
        return self.begin_count(count)

    def sums(self, forward: Forward, inputs: PixelInputs) -> Tensor:
        """See Objective: the sum of the pixels' losses, and their number."""
        self.dropouts.use(inputs.numbers_B)
        logits_BKHW, valid_BHW = forward(inputs.image_BCHW, None, inputs.changes_BCK)
        return _loss_sums(logits_BKHW, inputs.label_BHW.masked_fill(~valid_BHW, NO_CLASS))

    def score_sums(self, forward: Forward, fed: Fed) -> Sums:
        """See Objective."""
        logits_BKHW, valid_BHW = forward(fed.image_BCHW)
        place_BHW = self.classes.places(fed.height_BHW, fed.batch.chips).masked_fill(~valid_BHW, NO_CLASS)
        confusion_TP = confusion(logits_BKHW.argmax(1), place_BHW, self.classes.count)
        return exact_sums(_loss_sums(logits_BKHW, place_BHW, chip_totals).T), confusion_TP

    def scored(self, sums: Sums, share_done: float) -> Numbers:
        """See Objective."""
        loss_K, confusion_TP = rounded_totals(sums[0]), sums[1]
        if not loss_K[1]:
            what, chips = "no pixel of the validation chips has a class", self.learning.val_chips
            raise nothing_usable(what, HOLD_OUT_OTHERS, chips, self.learning)
        return {"loss": float(self.value(loss_K, share_done)), **class_numbers(confusion_TP)}

    def baseline_sums(self, fed: Fed) -> Sums:
        """See LabelledObjective."""
        valid_BHW = self.model.normalise.valid_of(fed.image_BCHW)
        place_BHW = self.classes.places(fed.height_BHW, fed.batch.chips).masked_fill(~valid_BHW, NO_CLASS)
        compared = baseline_classes(self.fitted, fed.image_BCHW)
        return tuple(confusion(one_BHW, place_BHW, self.classes.count) for one_BHW in compared)

    def compared(self, record: dict[str, Any], sums: Sums) -> Compared:
        """See LabelledObjective."""
        names = zip((LINEAR, COMMONEST), sums, strict=True)
        theirs = {name: ClassScore(confusion_TP.numpy()).error for name, confusion_TP in names}
        return compared_classes({MODEL: 1 - record["val_accuracy"], **theirs})

    def gather(self) -> None:
        """See Objective."""
        weights_of(self.model, self.model.backbone, keep=False)

    def checkpoint(self, record: dict[str, Any], trained_on: dict[str, Any]) -> dict[str, bytes]:
        """See Objective."""
        return ClassCheckpoint(self.model, trained_on, record, self.fitted).files()


def baseline_classes(baselines: ClassBaselines, image_BCHW: Tensor) -> tuple[Tensor, Tensor]:
    """Predict the places of classes (B, H, W) by the regression per pixel, and the commonest one."""
    linear_BHW = linear(image_BCHW, baselines.coefficients_KF.tolist(), baselines.positions).argmax(1)
    return linear_BHW, torch.full_like(linear_BHW, baselines.commonest)


def _over_chips(values_BHW: Tensor) -> Tensor:
    # Summed batch by batch in float32 and on in float64, which counts pixels beyond 2^24.
    return values_BHW.sum().double()


def _loss_sums(logits_BKHW: Tensor, place_BHW: Tensor, total: Total = _over_chips) -> Tensor:
    """Return the sum of the pixels' cross-entropies, and the number of pixels with a class, as `total` says.

    It is written out because torch's own has no deterministic sum over pixels on GPUs (torch 2.13,
    use_deterministic_algorithms: NLLLoss).
    """
    logits_BKHW, known_BHW = logits_BKHW.float(), place_BHW != NO_CLASS
    of_true_BHW = logits_BKHW.gather(1, place_BHW.clamp(min=0)[:, None])[:, 0]
    loss_BHW = logits_BKHW.logsumexp(1) - of_true_BHW
    return torch.stack([total(loss_BHW * known_BHW), total(known_BHW)])
