"""Labels of whole tiles as an objective: squared error of a number, or cross-entropy of a class.

The labels are a column of the index. Scores stand beside two baselines, the mean and a ridge regression
(trainer.score.tile_baselines), which travel with states and checkpoints.
"""

from dataclasses import dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from shards.read.dataset import Dataset
from shards.read.order import Chips, subset
from trainer.chip_options import AugmentOptions
from trainer.data.augment import band_changes, symmetries_of
from trainer.data.feed import Fed, feed
from trainer.data.labels import TileLabels
from trainer.data.pixel_classes import NO_CLASS, confusion
from trainer.data.step_inputs import StepKey, equal_parts, is_whole_batch, part_of
from trainer.devices.exact_sums import exact_sums
from trainer.devices.ranks import PendingSum
from trainer.devices.score_sums import chip_sums
from trainer.devices.transfer import to_device
from trainer.fit.failures import HOLD_OUT_OTHERS, nothing_usable
from trainer.fit.labelled import BATCH, MeanObjective, class_numbers
from trainer.fit.learning import Learning
from trainer.fit.objective import Forward, Numbers
from trainer.fit.optimiser import Stage, backbone_stages, grouped
from trainer.fit.scoring import Sums, rounded_totals
from trainer.model.checkpoint_files import weights_of
from trainer.model.encoder import band_features, patches_valid
from trainer.model.symmetries import apply_symmetries
from trainer.model.tile_checkpoint import TileCheckpoint
from trainer.model.tile_model import TileModel
from trainer.options import OptimiserOptions
from trainer.score.baselines import MEAN
from trainer.score.class_report import compared_classes
from trainer.score.compared import Compared
from trainer.score.tile_baselines import MODEL, RIDGE, TileBaselines, fit_tile_baselines
from trainer.score.tile_evaluation import compared_values
from trainer.score.tile_scores import ClassScore, ValueScore


@dataclass(frozen=True)
class LabelInputs:
    """Inputs of one step, on one rank; axis B runs over tiles."""

    image_BCHW: Tensor
    """Images as stored."""
    label_B: Tensor
    """Value, or number of the class; NaN where there is none."""
    changes_BCK: Tensor | None
    """Augmentation of the bands; see Normalise."""
    is_whole: bool
    """Whether no pixel is missing, by the index."""

    def pieces(self, count: int) -> list[Self]:
        """See StepInputs."""
        if count == 1:
            return [self]
        return [self._rows(rows) for rows in equal_parts(count, len(self.image_BCHW))]

    def _rows(self, rows: slice) -> Self:
        return replace(
            self,
            image_BCHW=self.image_BCHW[rows],
            label_B=self.label_B[rows],
            changes_BCK=None if self.changes_BCK is None else self.changes_BCK[rows],
        )


class LabelObjective(MeanObjective[TileBaselines]):
    """Objective of a model of tiles: a number or a class for each."""

    baselines_type = TileBaselines
    """See LabelledObjective."""

    learns_from = "tiles"
    """See Objective."""

    def __init__(
        self,
        model: TileModel,
        learning: Learning,
        labels: TileLabels,
        augment: AugmentOptions,
        baseline_tiles: int,
    ) -> None:
        """Args:
        model: the model in training, not wrapped.
        learning: the tiles, and the ranks that share them.
        labels: labels of all tiles of the dataset.
        augment: options of augmentation.
        baseline_tiles: most training tiles to which the baselines are fitted.
        """
        self.model, self.learning, self.labels, self.augment = model, learning, labels, augment
        self.baseline_tiles, self.classes = baseline_tiles, len(labels.classes)

    def groups(self, options: OptimiserOptions) -> list[dict[str, Any]]:
        """See Objective: the output layer, then the backbone from its embeddings to its last block."""
        output: list[Stage] = [("output", 1.0, dict(self.model.output.named_parameters()))]
        stages = [*output, *backbone_stages(self.model.encoder.backbone, options)]
        return grouped(self.model, stages, options)

    def prepare(self) -> None:
        """See Objective."""
        if self.baselines is None:
            learning = self.learning
            tiles = np.unique(learning.train_chips)
            chosen = tiles[subset(tiles.size, self.baseline_tiles)]
            met, features_MF = tile_features(self.model, learning.dataset, chosen, learning.ranks.device)
            if not met.size:
                what = "no training tile has a valid patch"
                raise nothing_usable(what, "choose others", tiles, learning)
            self.baselines = fit_tile_baselines(features_MF, self.labels.values_N[met], self.classes)

    def inputs(self, fed: Fed, key: StepKey) -> LabelInputs:
        """See Objective."""
        augment, learning, count = self.augment, self.learning, fed.batch.size
        image_BCHW, changes_BCK = fed.image_BCHW, None
        if augment.flips:
            symmetries_B = part_of(symmetries_of(count, *key), fed.batch, learning.ranks)
            (image_BCHW,) = apply_symmetries(symmetries_B, image_BCHW)
        shape = count, len(self.model.encoder.bands)
        changes = band_changes(shape, key, augment)
        if changes is not None:
            changes_BCK = to_device(part_of(changes, fed.batch, learning.ranks), learning.ranks.device)
        is_whole = is_whole_batch(fed.batch, learning.dataset)
        return LabelInputs(image_BCHW, self._labels_of(fed), changes_BCK, is_whole)

    def _labels_of(self, fed: Fed) -> Tensor:
        """Return label_B of the batch's tiles; a stand-in has none."""
        label_B = self.labels.values_N[fed.batch.chips].astype(np.float32)
        if fed.batch.stands_in:
            label_B[:] = np.nan
        return to_device(label_B, fed.image_BCHW.device)

    def known_sums(self, inputs: LabelInputs) -> PendingSum:
        """See Objective: the number of tiles that count."""
        encoder = self.model.encoder
        valid_BHW = encoder.normalise.valid_of(inputs.image_BCHW)
        seen_B = patches_valid(valid_BHW, encoder.patch_size).any(1)
        count = (seen_B & inputs.label_B.isfinite()).sum().float()
        return self.begin_count(count)

    def sums(self, forward: Forward, inputs: LabelInputs) -> Tensor:
        """See Objective: the sum of the tiles' losses, and their number."""
        outputs_BK, seen_B = forward(inputs.image_BCHW, inputs.changes_BCK, inputs.is_whole)
        return self._loss_sums(outputs_BK.float(), inputs.label_B, seen_B)

    def _loss_sums(self, outputs_BK: Tensor, label_B: Tensor, seen_B: Tensor) -> Tensor:
        loss_B, known_B = self._losses(outputs_BK, label_B, seen_B)
        # All losses, not only known ones: each rank's sum must depend on the weights, even without labels.
        return torch.stack([(loss_B * known_B).sum(), known_B.sum().to(loss_B.dtype)])

    def _losses(self, outputs_BK: Tensor, label_B: Tensor, seen_B: Tensor) -> tuple[Tensor, Tensor]:
        """Return loss_B, and whether each tile counts."""
        known_B = seen_B & label_B.isfinite()
        target_B = label_B.masked_fill(~known_B, 0.0)
        if self.classes:
            loss_B = cross_entropy(outputs_BK, target_B.long(), reduction="none")
        else:
            loss_B = ((outputs_BK[:, 0] - target_B) / self.model.head.scale) ** 2
        return loss_B, known_B

    def score_sums(self, forward: Forward, fed: Fed) -> Sums:
        """See Objective."""
        is_whole = is_whole_batch(fed.batch, self.learning.dataset)
        outputs_BK, seen_B = forward(fed.image_BCHW, None, is_whole)
        outputs_BK, label_B = outputs_BK.float(), self._labels_of(fed)
        loss_B, known_B = self._losses(outputs_BK, label_B, seen_B)
        losses_KL = exact_sums(torch.stack([loss_B * known_B, known_B], 1))
        decided_B = outputs_BK.argmax(1) if self.classes else outputs_BK[:, 0]
        return losses_KL, self._scores_of(decided_B, label_B, known_B)

    def _scores_of(self, predicted_B: Tensor, label_B: Tensor, known_B: Tensor) -> Tensor:
        """Return the sums from which the scores follow of predicted values, or numbers of classes."""
        if self.classes:
            place_B = torch.where(known_B, label_B, NO_CLASS).long()
            return confusion(predicted_B.long(), place_B, self.classes)
        true_B = label_B.masked_fill(~known_B, torch.nan)
        return exact_sums(chip_sums(predicted_B[:, None], true_B[:, None]))

    def scored(self, sums: Sums, share_done: float) -> Numbers:
        """See Objective."""
        loss_K = rounded_totals(sums[0])
        if not loss_K[1]:
            what, chips = "no validation tile has a valid patch", self.learning.val_chips
            raise nothing_usable(what, HOLD_OUT_OTHERS, chips, self.learning)
        numbers: Numbers = {"loss": float(self.value(loss_K, share_done))}
        if self.classes:
            return numbers | class_numbers(sums[1])
        return numbers | ValueScore(rounded_totals(sums[1]).numpy()).to_json()

    def baseline_sums(self, fed: Fed) -> Sums:
        """See LabelledObjective."""
        encoder, label_B = self.model.encoder, self._labels_of(fed)
        pixels_BCHW, valid_BHW = encoder.normalise(fed.image_BCHW)
        known_B = patches_valid(valid_BHW, encoder.patch_size).any(1) & label_B.isfinite()
        features_BF = band_features(pixels_BCHW, valid_BHW).cpu().numpy()
        compared = self.fitted.predicted(features_BF).values()
        return tuple(
            self._scores_of(to_device(one_B, label_B.device), label_B, known_B) for one_B in compared
        )

    def compared(self, record: dict[str, Any], sums: Sums) -> Compared:
        """See LabelledObjective."""
        theirs = zip((RIDGE, MEAN), sums, strict=True)
        if self.classes:
            errors = {name: ClassScore(confusion_TP.numpy()).error for name, confusion_TP in theirs}
            return compared_classes({MODEL: 1 - record["val_accuracy"], **errors})
        errors = {name: ValueScore(rounded_totals(sums_SL).numpy()).error for name, sums_SL in theirs}
        return compared_values({MODEL: float(record["val_rmse"]), **errors}, self.labels.unit)

    def summary(self, record: dict[str, Any]) -> str:
        """See Objective: the loss and the accuracy, or the RMSE."""
        text, rmse = super().summary(record), record.get("val_rmse")
        return text if rmse is None else f"{text}, RMSE {rmse:.3g} {self.labels.unit}".rstrip()

    def gather(self) -> None:
        """See Objective."""
        weights_of(self.model, self.model.encoder.backbone, keep=False)

    def checkpoint(self, record: dict[str, Any], trained_on: dict[str, Any]) -> dict[str, bytes]:
        """See Objective."""
        return TileCheckpoint(self.model, trained_on, record, self.fitted).files()


def decided(outputs_BK: Tensor, classes: int) -> Any:
    """Return the value, or the likeliest class's number, of each tile, float64 (B,)."""
    decided_B = outputs_BK.argmax(1) if classes else outputs_BK[:, 0]
    return decided_B.double().cpu().numpy()


def tile_features(
    model: TileModel, dataset: Dataset, tiles: Chips, device: torch.device
) -> tuple[Chips, NDArray[np.float32]]:
    """Return those of `tiles`, ascending, that could be read and have a valid patch, and their features_MF.

    The features are those of the baselines: means and deviations of the bands.
    """
    met, found = [tiles[:0]], [np.zeros((0, 2 * len(model.encoder.bands)), np.float32)]
    with torch.no_grad():
        for fed in feed(dataset.batches(tiles, BATCH), dataset.schema, device):
            pixels_BCHW, valid_BHW = model.encoder.normalise(fed.image_BCHW)
            is_seen_B = patches_valid(valid_BHW, model.encoder.patch_size).any(1).cpu().numpy()
            met.append(fed.batch.chips[is_seen_B])
            found.append(band_features(pixels_BCHW, valid_BHW).cpu().numpy()[is_seen_B])
    return np.concatenate(met), np.concatenate(found)
