"""Self-distillation as an objective of the training loop."""

import sys
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor
from torch.optim import Optimizer

from trainer.data.feed import Fed
from trainer.data.step_inputs import StepKey
from trainer.fit.learning import Learning
from trainer.fit.objective import Forward, Numbers
from trainer.fit.optimiser import Stage, backbone_stages, grouped
from trainer.model.encoder import Encoder, patch_places, patches_valid
from trainer.options import OptimiserOptions
from trainer.pretrain.collapse import Watch
from trainer.pretrain.crops import GLOBAL_VIEWS, Crops, DinoInputs
from trainer.pretrain.dino import Dino
from trainer.pretrain.distillation import (
    HealthSums,
    balanced_targets,
    centred_targets,
    cosine,
    cross_entropy_sums,
    next_centre,
)
from trainer.pretrain.draw import ViewMaker, skip_rates
from trainer.pretrain.tile_objective import TileObjective
from trainer.pretrain.views import crop_sizes
from trainer.pretrain_config import PretrainConfig

LOSS_SUMS = 4
"""Sums of the loss: cross entropies, pairs, agreements, and tiles that were asked whether they agree."""


class DinoObjective(TileObjective):
    """Objective of self-distillation."""

    model: Dino

    def __init__(self, model: Dino, learning: Learning, config: PretrainConfig) -> None:
        """Args:
        model: student and teacher, not wrapped.
        learning: the tiles, and the ranks that share them.
        config: all options.
        """
        super().__init__(model, model.teacher, learning, config)
        self.options, self.views = config.dino, ViewMaker(model.student, config.views, learning.ranks)
        self.sizes = crop_sizes(
            config.views.global_size,
            config.views.local_size,
            model.student.patch_size,
            learning.dataset.schema.chip_size,
        )
        self.skip_rates_L = skip_rates(config.dino.drop_path, len(model.student.backbone.model.layer))
        self.health_sums = HealthSums(model.student.width, len(model.centre_K))
        self.watch = Watch(config.fit.stop_on_collapse)
        self._taught = in_precision_of(model, learning, config)

    def groups(self, options: OptimiserOptions) -> list[dict[str, Any]]:
        """See Objective."""
        stages: list[Stage] = [("head", 1.0, dict(self.model.student_head.named_parameters()))]
        backbone = backbone_stages(self.model.student.backbone, options)
        return grouped(self.model, [*stages, *backbone], options)

    def encoders(self) -> dict[str, Encoder]:
        """Return teacher and student."""
        return {"teacher": self.model.teacher, "student": self.model.student}

    def temperature(self, key: StepKey) -> float:
        """Return the teacher's temperature in a step: up or down along a line, then level."""
        options = self.options
        epochs = key.epoch + key.seen / max(1, self.learning.train_chips.size)
        share = min(1.0, epochs / options.temperature_warm_up) if options.temperature_warm_up else 1.0
        return options.warm_up_temperature + share * (
            options.teacher_temperature - options.warm_up_temperature
        )

    def crops(self, fed: Fed, key: StepKey) -> list[Crops]:
        """Make the student's crops of this rank's tiles, by size; the global ones come first."""
        tiles_BLHW = self.views.tiles(fed)
        options, count = self.config.views, fed.batch.size
        global_size, local_size = self.sizes
        kinds = [(GLOBAL_VIEWS, options.global_scale, global_size, 0)]
        if options.local_crops:
            kinds.append((options.local_crops, options.local_scale, local_size, GLOBAL_VIEWS))
        sizes = []
        for views, scale, size, first in kinds:
            made = [
                self.views.make(tiles_BLHW, self.views.draw(count, key, first + view, scale), fed, size)
                for view in range(views)
            ]
            pixels_NCSS, valid_NSS = (torch.cat(parts) for parts in zip(*made, strict=True))
            sizes.append(self._crops(pixels_NCSS, valid_NSS, views, first, fed, key))
        return sizes

    def inputs(self, fed: Fed, key: StepKey) -> DinoInputs:
        """See Objective: crop, and let the teacher look at the global crops."""
        sizes = self.crops(fed, key)
        grid = self.model.student.grid(sizes[0].pixels_NCSS)
        everywhere_P2 = patch_places(grid, sizes[0].pixels_NCSS.device)
        scores_NK, tokens_ND = self._taught(sizes[0].pixels_NCSS, everywhere_P2[None], sizes[0].valid_NP)
        scores_VBK = scores_NK.float().unflatten(0, (GLOBAL_VIEWS, -1))
        # A view without a valid patch counts nowhere: a tile without pixels, or one that stands in for none.
        seen_N = sizes[0].valid_NP.any(1)
        seen_VB = seen_N.unflatten(0, (GLOBAL_VIEWS, -1))
        targets_VBK = self._targets(scores_VBK, self.temperature(key), seen_VB) * seen_VB[..., None]
        health = self.health_sums.of(
            targets_VBK[seen_VB], tokens_ND.float()[seen_N], scores_NK.float()[seen_N]
        )
        return DinoInputs(targets_VBK, sizes, health)

    def _crops(
        self, pixels_NCSS: Tensor, valid_NSS: Tensor, views: int, first: int, fed: Fed, key: StepKey
    ) -> Crops:
        """Describe the student's crops of one size, with coordinates at random scales."""
        encoder = self.model.student
        places_P2 = patch_places(encoder.grid(pixels_NCSS), pixels_NCSS.device)
        rescale = encoder.backbone.config.pos_embed_rescale
        count, maker, numbers = fed.batch.size, self.views, range(first, first + views)
        scales_N = torch.cat([maker.here(maker.scales(count, key, view, rescale), fed) for view in numbers])
        places_NP2 = scales_N[:, None, None] * places_P2
        valid_NP = patches_valid(valid_NSS, encoder.patch_size)
        factors_NL = None
        if self.options.drop_path:
            drawn = [maker.factors(count, key, view, self.skip_rates_L) for view in numbers]
            factors_NL = torch.cat([maker.here(factors_BL, fed) for factors_BL in drawn])
        return Crops(pixels_NCSS, places_NP2, valid_NP, first, views, factors_NL)

    def _targets(self, scores_VBK: Tensor, temperature: float, seen_VB: Tensor) -> Tensor:
        options = self.options
        if options.centring == "sinkhorn":
            return balanced_targets(scores_VBK, temperature, seen_VB, self.learning.ranks.sum)
        centre_K = (
            self.model.centre_K if options.centring == "mean" else torch.zeros_like(self.model.centre_K)
        )
        return centred_targets(scores_VBK, centre_K, temperature)

    def sums(self, forward: Forward, inputs: DinoInputs) -> Tensor:
        """See Objective."""
        targets_VBK, total = inputs.targets_VBK, torch.zeros(LOSS_SUMS, dtype=torch.float64)
        total = total.to(targets_VBK.device)
        for crops in inputs.sizes:
            scores_NK = forward(crops.pixels_NCSS, crops.places_NP2, crops.valid_NP, crops.factors_NL)
            scores_WBK, seen_WB = scores_NK.float().unflatten(0, (crops.views, -1)), crops.seen_WB
            entropies_2 = cross_entropy_sums(
                targets_VBK, scores_WBK, seen_WB, self.options.student_temperature, crops.first
            )
            agreed_2 = entropies_2.new_tensor(agreement(targets_VBK, scores_WBK, seen_WB, crops.first))
            total = total + torch.cat([entropies_2, agreed_2])
        return torch.cat([total, inputs.health])

    def value(self, sums_K: Tensor, share_done: float) -> Tensor:
        """See Objective: the mean cross entropy over tiles and pairs of views."""
        return sums_K[0] / sums_K[1].clamp(min=1)

    def before_step(self, optimiser: Optimizer, share_done: float) -> None:
        """See Objective: change the weight decay; at first the head's last layer does not learn."""
        super().before_step(optimiser, share_done)
        if share_done * self.config.fit.epochs < self.options.freeze_last_layer:
            self.model.student_head.prototypes_KD.grad = None

    def after_step(self, sums_K: Tensor, share_done: float) -> None:
        """See Objective: move teacher and centre, and watch for a collapse."""
        options, model = self.options, self.model
        model.follow(cosine(options.teacher_momentum, 1.0, share_done))
        sums = sums_K[LOSS_SUMS:]
        if options.centring == "mean":
            mean_K = self.health_sums.mean_scores(sums).float()
            model.centre_K.copy_(next_centre(model.centre_K, mean_K, options.centre_momentum))
        warning = self.watch.after_step(self.health_sums.health(sums, model.centre_K))
        if warning and self.learning.ranks.is_first:
            print(f"treeline: {warning}", file=sys.stderr, flush=True)

    def trained(self, sums_K: Tensor) -> Numbers:
        """See Objective: the signs of a collapse, over the epoch."""
        health = self.health_sums.health(sums_K[LOSS_SUMS:], self.model.centre_K)
        agree, asked = sums_K[2:LOSS_SUMS].tolist()
        rank = self.health_sums.effective_rank(sums_K[LOSS_SUMS:])
        return {**asdict(health), "effective_rank": rank, "agreement": agree / max(asked, 1)}

    def state(self) -> dict[str, Any]:
        """See Objective."""
        return {**super().state(), "watch": self.watch.state()}

    def restore(self, values: dict[str, Any]) -> None:
        """See Objective."""
        super().restore(values)
        self.watch.restore(values["watch"])


def agreement(targets_VBK: Tensor, scores_WBK: Tensor, seen_WB: Tensor, first: int) -> tuple[int, int]:
    """Count where the student's likeliest prototype is the teacher's for the other global view.

    Returns:
        how often it is, and how often that was asked.
    """
    agree = asked = 0
    for place, scores_BK in enumerate(scores_WBK):
        if place + first < len(targets_VBK):
            other_BK = targets_VBK[len(targets_VBK) - 1 - place - first]
            known_B = seen_WB[place] & (other_BK.sum(-1) > 0)
            agree += int((known_B & (scores_BK.argmax(-1) == other_BK.argmax(-1))).sum())
            asked += int(known_B.sum())
    return agree, asked


def in_precision_of(model: Dino, learning: Learning, config: PretrainConfig) -> Forward:
    """Return the teacher's pass, in bfloat16 if that is asked for."""

    def taught(*arguments: Any) -> Any:
        with torch.autocast(learning.ranks.device.type, torch.bfloat16, enabled=config.fit.bf16):
            return model.taught(*arguments)

    return taught
