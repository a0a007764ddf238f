"""The training loop: one page, without Ray and without files. Every rank runs it; sums make them agree."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from math import cos, inf, isfinite, pi
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau

from shards.errors import DatasetError
from shards.order import Chips, rank_part
from shards.progress import Advance
from shards.reader import Batch, Dataset, Part
from shards.schema import Schema
from shards.tar import arrays_of, row_layout
from trainer.augment import apply_symmetries, symmetries_of
from trainer.config import TrainConfig
from trainer.feed import Fed, feed
from trainer.loss import asymmetric_squared_error
from trainer.metrics import Score
from trainer.model import Regressor
from trainer.ranks import Ranks

WARM_UP_SHARE = 0.05
ADAM_EPSILON = 1e-6
"""A gradient that is 0 but for rounding (a bias before a norm) must not become a full step: ranks round
differently, and would drift apart."""

OnEpoch = Callable[[dict[str, Any], bool], None]
"""on_epoch(record, is_best): called on every rank after each epoch."""


@dataclass(frozen=True)
class Learning:
    """What is learnt from, by which processes."""

    dataset: Dataset
    train_chips: Chips
    val_chips: Chips
    ranks: Ranks
    weights: NDArray[np.float64] | None = None
    """How often each training chip is met, relatively; default: each once an epoch."""


def fit(
    regressor: Regressor, learning: Learning, config: TrainConfig, advance: Advance, on_epoch: OnEpoch
) -> None:
    """Train `regressor` in place, epoch by epoch, until it is done or stops improving.

    Without validation chips the training loss decides what is best.
    """
    model = learning.ranks.wrap(regressor)
    groups = _parameter_groups(regressor, config)
    optimiser = torch.optim.AdamW(groups, weight_decay=config.weight_decay, eps=ADAM_EPSILON, fused=True)
    steps = -(-learning.train_chips.size // config.global_batch)
    after_step, after_epoch = _schedules(optimiser, config, steps)
    best, epochs_since_best = inf, 0
    for epoch in range(config.epochs):
        loss = _train_epoch((regressor, model), optimiser, after_step, learning, config, (epoch, advance))
        score = (
            score_chips(regressor, learning, learning.val_chips, config) if learning.val_chips.size else None
        )
        value = score.loss if score else loss
        is_best = value < best
        best, epochs_since_best = min(best, value), 0 if is_best else epochs_since_best + 1
        record = {"epoch": epoch, "loss": loss, "learning_rate": optimiser.param_groups[0]["lr"]}
        if score:
            record |= {
                "val_loss": score.loss,
                **{f"val_{k}": v for k, v in score.score.all.to_json().items()},
            }
        on_epoch(record, is_best)
        if after_epoch:
            after_epoch.step(value)
        if config.stop_patience and epochs_since_best >= config.stop_patience:
            return


def _train_epoch(
    models: tuple[Regressor, nn.Module],
    optimiser: torch.optim.Optimizer,
    after_step: LambdaLR | None,
    learning: Learning,
    config: TrainConfig,
    at: tuple[int, Advance],
) -> float:
    """Mean loss per pixel over the epoch."""
    (regressor, model), (epoch, advance), ranks = models, at, learning.ranks
    model.train()
    order = learning.dataset.epoch(learning.train_chips, config.seed, epoch, learning.weights)
    loss_sum, pixel_sum = torch.zeros(2, dtype=torch.float64).unbind()
    batches = _batches(learning, order, config.global_batch)
    for step, fed in enumerate(batches):
        batch, image_BCHW, height_BHW = fed.batch, fed.image_BCHW, fed.height_BHW
        if config.flips:
            symmetries = symmetries_of(batch.size, config.seed, epoch, step)
            mine = rank_part(symmetries, batch.start, ranks.rank, ranks.world_size)
            image_BCHW, height_BHW = apply_symmetries(image_BCHW, height_BHW, mine)
        predicted_BHW, valid_BHW = model(image_BCHW)
        loss, pixels = asymmetric_squared_error(
            predicted_BHW, height_BHW, valid_BHW, config.underestimate_factor
        )
        loss_all, pixels_all = ranks.sum(torch.stack([loss.detach().double(), pixels.double()]).cpu())
        if not isfinite(loss_all):
            raise FloatingPointError(
                f"the loss is {loss_all} in epoch {epoch}, step {step}; lower --learning-rate"
            )
        # Ranks average gradients; with their number as a factor that is the sum, over the pixels of all.
        (loss * ranks.world_size / pixels_all.clamp(min=1).item()).backward()
        torch.nn.utils.clip_grad_norm_(regressor.parameters(), config.gradient_norm)
        optimiser.step()
        optimiser.zero_grad(set_to_none=True)
        if after_step:
            after_step.step()
        loss_sum, pixel_sum = loss_sum + loss_all, pixel_sum + pixels_all
        advance(batch.size, f"epoch {epoch + 1}, loss {float(loss_sum / pixel_sum):.3f}")
    if not pixel_sum:
        raise DatasetError(
            f"{learning.dataset.url}: epoch {epoch} met no pixel with a height; see its shards"
        )
    return float(loss_sum / pixel_sum)


@dataclass(frozen=True)
class Scored:
    """A score, and the loss per pixel that goes with it."""

    score: Score
    loss: float


def score_chips(regressor: Regressor, learning: Learning, chips: Chips, config: TrainConfig) -> Scored:
    """How good `regressor` is on `chips`: the same on every rank, summed over all."""
    regressor.eval()
    score, sums = Score.empty(), torch.zeros(2, dtype=torch.float64)
    # In an epoch's order each byte is fetched by one rank; a score is a sum, whatever the order.
    order = learning.dataset.epoch(chips, config.seed, 0)
    for fed in _batches(learning, order, config.global_batch):
        height_BHW = fed.height_BHW
        with torch.inference_mode():
            predicted_BHW, valid_BHW = regressor(fed.image_BCHW)
            loss, pixels = asymmetric_squared_error(
                predicted_BHW, height_BHW, valid_BHW, config.underestimate_factor
            )
        sums += torch.stack([loss.double(), pixels.double()]).cpu()
        measured_BHW = height_BHW.masked_fill(~valid_BHW, float("nan"))
        score.add(predicted_BHW.clamp(min=0).cpu().numpy(), measured_BHW.cpu().numpy())
    sums = learning.ranks.sum(sums)
    sums_KS = learning.ranks.sum(torch.from_numpy(score.sums_KS)).numpy()
    density_PM = learning.ranks.sum(torch.from_numpy(score.density_PM)).numpy()
    return Scored(Score(sums_KS, density_PM), float(sums[0] / sums[1].clamp(min=1)))


def _batches(learning: Learning, order: Chips, batch_size: int) -> Iterator[Fed]:
    """This rank's part of each global batch, on its device.

    A rank whose part is empty (of the last, short batch, or for a shard that was left out) gets a chip
    without heights: it takes part in every collective operation, and adds nothing to loss and gradients.
    """
    dataset, ranks = learning.dataset, learning.ranks
    batches = dataset.batches(order, batch_size, Part(ranks.rank, ranks.world_size))
    return feed(_never_empty(batches, dataset.schema), dataset.schema, ranks.device)


def _never_empty(batches: Iterator[Batch], schema: Schema) -> Iterator[Batch]:
    """The batches, an empty one as a chip that was met before, without heights."""
    rows_1S = np.zeros((1, row_layout(schema).span), np.uint8)
    for batch in batches:
        if batch.chips.size:
            rows_1S = batch.rows_BS[:1]
            yield batch
        else:
            stand_in_1S = rows_1S.copy()
            image_BCHW, height_BHW = arrays_of(stand_in_1S, schema)
            height_BHW[:] = np.nan
            yield replace(batch, rows_BS=stand_in_1S, image_BCHW=image_BCHW, height_BHW=height_BHW)


def _parameter_groups(regressor: Regressor, config: TrainConfig) -> list[dict[str, Any]]:
    """The decoder's output layer, its other parameters, and the backbone's where it learns."""
    output = set(regressor.decoder.output.parameters())
    decoder = [parameter for parameter in regressor.decoder.parameters() if parameter not in output]
    backbone = [parameter for parameter in regressor.backbone.parameters() if parameter.requires_grad]
    rates = ((decoder, 1.0), (output, config.output_rate_factor), (backbone, config.backbone_rate_factor))
    groups = [{"params": list(group), "lr": config.learning_rate * factor} for group, factor in rates]
    return [group for group in groups if group["params"]]


def _schedules(
    optimiser: torch.optim.Optimizer, config: TrainConfig, steps_per_epoch: int
) -> tuple[LambdaLR | None, ReduceLROnPlateau | None]:
    """(after each step, after each epoch): one of the two."""
    if config.schedule == "plateau":
        floor = config.lowest_learning_rate
        return None, ReduceLROnPlateau(optimiser, factor=0.5, patience=config.plateau_patience, min_lr=floor)
    total = max(1, config.epochs * steps_per_epoch)
    warm_up = max(1, round(total * WARM_UP_SHARE))

    def factor(step: int) -> float:
        if step < warm_up:
            return (step + 1) / warm_up
        return 0.5 * (1 + cos(pi * min(1.0, (step - warm_up) / max(1, total - warm_up))))

    return LambdaLR(optimiser, factor), None
