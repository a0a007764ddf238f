"""Self-distillation as an objective of the training loop."""

from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.optim import Optimizer

from shards.said import say
from trainer.data.feed import Fed
from trainer.data.step_inputs import StepKey, is_whole_batch, part_of
from trainer.devices.precision import in_precision
from trainer.devices.ranks import PendingSum
from trainer.devices.transfer import rows_where
from trainer.fit.learning import Learning
from trainer.fit.objective import Forward, Numbers
from trainer.fit.optimiser import Stage, backbone_stages, grouped
from trainer.model.encoder import Encoder, patch_places, patches_valid
from trainer.options import OptimiserOptions
from trainer.pretrain.collapse import Watch
from trainer.pretrain.crops import GLOBAL_VIEWS, Crops, DinoInputs
from trainer.pretrain.dino import Dino
from trainer.pretrain.dino_sums import DinoSums
from trainer.pretrain.distillation import (
    HealthSums,
    balanced_targets,
    centred_targets,
    cosine,
    count_pairs,
    cross_entropy_sums,
    next_centre,
)
from trainer.pretrain.draw import ViewMaker, skip_rates
from trainer.pretrain.ibot import (
    Hidden,
    check_hiding,
    crops_with,
    draw_hiding,
    hidden_patches,
    patch_sums,
)
from trainer.pretrain.koleo import KOLEO_SUMS, koleo_sums
from trainer.pretrain.tile_objective import TileObjective
from trainer.pretrain.views import crop_sizes
from trainer.pretrain_config import PretrainConfig


class DinoObjective(TileObjective):
    """Objective of self-distillation."""

    model: Dino
    settles_at_once = True
    """See Objective: the teacher makes the inputs of a step, and the step before has moved it."""

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
        self.layout = DinoSums(self.options.koleo, self.options.ibot, self.health_sums)
        check_hiding(self.options, (self.sizes[0] // model.student.patch_size) ** 2)
        self.watch = Watch(config.fit.stop_on_collapse)

        def taught(*arguments: Any) -> Any:
            return model.taught(*arguments)  # looked up late, since sharding replaces the method

        self._taught = in_precision(taught, learning.ranks.device, config.fit.computed_in)

    def groups(self, options: OptimiserOptions) -> list[dict[str, Any]]:
        """See Objective."""
        stages: list[Stage] = [("head", 1.0, dict(self.model.student_head.named_parameters()))]
        if self.model.student_patch_head is not None:
            stages.append(("patch head", 1.0, dict(self.model.student_patch_head.named_parameters())))
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
        """Make the crops of this rank's tiles, by size; the global ones, for both, come first."""
        tiles_BLHW = self.views.tiles(fed)
        options, count = self.config.views, fed.batch.size
        global_size, local_size = self.sizes
        kinds = [(GLOBAL_VIEWS, options.global_scale, global_size, 0)]
        if options.local_crops:
            kinds.append((options.local_crops, options.local_scale, local_size, GLOBAL_VIEWS))
        made = []
        for views, scale, size, first in kinds:
            tiles, bands = len(tiles_BLHW), tiles_BLHW.shape[1] - 1
            pixels_VBCSS = tiles_BLHW.new_empty(views, tiles, bands, size, size)
            valid_VBSS = tiles_BLHW.new_empty(views, tiles, size, size, dtype=torch.bool)
            for view in range(views):
                drawn = self.views.draw(count, key, first + view, scale)
                _, valid_VBSS[view] = self.views.make(tiles_BLHW, drawn, fed, size, pixels_VBCSS[view])
            valid_NP = patches_valid(valid_VBSS.flatten(0, 1), self.model.student.patch_size)
            made.append((pixels_VBCSS.flatten(0, 1), valid_NP, views, first))
        known = self._on_host([valid_NP for _, valid_NP, _, _ in made], fed)
        return [self._crops(*one, host_NP, fed, key) for one, host_NP in zip(made, known, strict=True)]

    def _on_host(self, masks: list[Tensor], fed: Fed) -> list[NDArray[np.bool_]]:
        """Return valid_NP of each size on the host, which waits for the device only if a pixel is missing."""
        if is_whole_batch(fed.batch, self.learning.dataset):
            return [np.ones(valid_NP.shape, np.bool_) for valid_NP in masks]
        flat = torch.cat([valid_NP.flatten() for valid_NP in masks]).cpu().numpy()
        parts = np.split(flat, np.cumsum([valid_NP.numel() for valid_NP in masks])[:-1])
        return [part.reshape(valid_NP.shape) for part, valid_NP in zip(parts, masks, strict=True)]

    def inputs(self, fed: Fed, key: StepKey) -> DinoInputs:
        """See Objective: crop, and let the teacher look at the global crops."""
        sizes = self.crops(fed, key)
        of_global = sizes[0]
        grid = self.model.student.grid(of_global.pixels_NCSS)
        everywhere_P2 = patch_places(grid, of_global.pixels_NCSS.device)
        scores_NK, tokens_ND, patch_scores_MK, patches_MD = self._taught(
            of_global.pixels_NCSS, everywhere_P2[None], of_global.attended_NP, of_global.hidden
        )
        scores_VBK = scores_NK.float().unflatten(0, (GLOBAL_VIEWS, -1))
        # A view without a valid patch counts nowhere: a tile without pixels, or one that stands in for none.
        seen_VB, is_seen_N = of_global.seen_WB, of_global.is_seen_WB.ravel()
        temperature = self.temperature(key)
        targets_VBK = self._targets(scores_VBK, temperature, seen_VB, self.model.centre_K)
        targets_VBK = targets_VBK * seen_VB[..., None]
        values = targets_VBK.flatten(0, 1), tokens_ND.float(), scores_NK.float()
        health = self.health_sums.of(*(rows_where(value_NX, is_seen_N) for value_NX in values))
        if patch_scores_MK is None:
            return DinoInputs(targets_VBK, sizes, health)
        patch_scores_MK, seen_M = patch_scores_MK.float(), seen_VB.new_ones(len(patch_scores_MK))
        targets_MK = self._targets(
            patch_scores_MK[None], temperature, seen_M[None], self.model.patch_centre_K
        )[0]
        patch_health = self.health_sums.of(targets_MK, patches_MD.float(), patch_scores_MK)
        return DinoInputs(targets_VBK, sizes, torch.cat([health, patch_health]), targets_MK)

    def _crops(
        self,
        pixels_NCSS: Tensor,
        valid_NP: Tensor,
        views: int,
        first: int,
        is_valid_NP: NDArray[np.bool_],
        fed: Fed,
        key: StepKey,
    ) -> Crops:
        """Describe the student's crops of one size, with coordinates at random scales."""
        encoder = self.model.student
        places_P2 = patch_places(encoder.grid(pixels_NCSS), pixels_NCSS.device)
        rescale = encoder.backbone.config.pos_embed_rescale
        count, maker, numbers = fed.batch.size, self.views, range(first, first + views)
        scales_N = torch.cat([maker.here(maker.scales(count, key, view, rescale), fed) for view in numbers])
        places_NP2 = scales_N[:, None, None] * places_P2
        factors_NL = hidden = None
        if self.options.drop_path:
            drawn = [maker.factors(count, key, view, self.skip_rates_L) for view in numbers]
            factors_NL = torch.cat([maker.here(factors_BL, fed) for factors_BL in drawn])
        if self.options.ibot:
            is_hidden_NP = np.zeros_like(is_valid_NP)
            if first == 0:
                is_hidden_NP = self._is_hidden(is_valid_NP, views, fed, key)
            hidden = Hidden.of(is_hidden_NP, valid_NP.device)
        return Crops(pixels_NCSS, places_NP2, valid_NP, is_valid_NP, first, views, factors_NL, hidden)

    def _is_hidden(
        self, is_valid_NP: NDArray[np.bool_], views: int, fed: Fed, key: StepKey
    ) -> NDArray[np.bool_]:
        """Choose the patches of global crops that the student does not see."""
        ranks, is_hidden = self.learning.ranks, []
        for view, is_valid_BP in enumerate(np.split(is_valid_NP, views)):
            drawn = draw_hiding(fed.batch.size, is_valid_BP.shape[1], self.options, key, view)
            noise_BP, share_B = (part_of(numbers, fed.batch, ranks) for numbers in drawn)
            is_hidden.append(hidden_patches(noise_BP, share_B, is_valid_BP))
        return np.concatenate(is_hidden)

    def _targets(self, scores_VBK: Tensor, temperature: float, seen_VB: Tensor, centre_K: Tensor) -> Tensor:
        """Return the teacher's targets_VBK, with the guard against collapse that was asked for."""
        options = self.options
        if options.centring == "sinkhorn":
            return balanced_targets(scores_VBK, temperature, seen_VB, self.learning.ranks.sum)
        if options.centring == "none":
            centre_K = torch.zeros_like(centre_K)
        return centred_targets(scores_VBK, centre_K, temperature)

    def known_sums(self, inputs: DinoInputs) -> PendingSum:
        """See Objective: all losses are means, and the inputs tell how many terms each has."""
        pairs = [count_pairs(inputs.targets_VBK, crops.seen_WB, crops.first) for crops in inputs.sizes]
        of_global, masked = inputs.sizes[0], torch.zeros_like(pairs[0])
        if of_global.hidden is not None:
            masked = torch.full_like(masked, crops_with(of_global.hidden))
        counts = torch.stack([torch.stack(pairs).sum(), masked, *of_global.seen_WB.sum(1).double()])
        coming = self.learning.ranks.begin_sum(counts)

        def known() -> Tensor:
            counts = coming()
            return self.layout.known(counts[0], counts[2:], counts[1])

        return known

    def sums(self, forward: Forward, inputs: DinoInputs) -> Tensor:
        """See Objective."""
        each = [self._sums_of(forward, inputs, crops) for crops in inputs.sizes]
        return torch.cat([torch.stack(each).sum(0), inputs.health])

    def _sums_of(self, forward: Forward, inputs: DinoInputs, crops: Crops) -> Tensor:
        """Compute the sums of crops of one size, without those of health."""
        options, is_global = self.options, crops.first == 0
        scores_NK, tokens_ND, patch_scores_MK = forward(
            crops.pixels_NCSS, crops.places_NP2, crops.attended_NP, crops.factors_NL, crops.hidden
        )
        scores_WBK, seen_WB = scores_NK.float().unflatten(0, (crops.views, -1)), crops.seen_WB
        entropies_2 = cross_entropy_sums(
            inputs.targets_VBK, scores_WBK, seen_WB, options.student_temperature, crops.first
        )
        parts = [entropies_2, agreement(inputs.targets_VBK, scores_WBK, seen_WB, crops.first)]
        if options.koleo:
            tokens_VBD, gather = tokens_ND.unflatten(0, (crops.views, -1)), self.learning.ranks.gathered
            none_2 = entropies_2.new_zeros(KOLEO_SUMS)
            parts.append(koleo_sums(tokens_VBD, crops.is_seen_WB, gather) if is_global else none_2)
        if inputs.patch_targets_MK is not None and crops.hidden is not None:
            targets_MK = inputs.patch_targets_MK if is_global else inputs.patch_targets_MK[:0]
            parts.append(patch_sums(targets_MK, patch_scores_MK, crops.hidden, options.student_temperature))
        return torch.cat(parts)

    def value(self, sums_K: Tensor, share_done: float) -> Tensor:
        """See Objective: the mean cross entropy over tiles and pairs of views, and what is added to it."""
        return self.layout.value(sums_K)

    def before_step(self, optimiser: Optimizer, share_done: float) -> None:
        """See Objective: change the weight decay; at first the head's last layer does not learn."""
        super().before_step(optimiser, share_done)
        if share_done * self.config.fit.epochs < self.options.freeze_last_layer:
            for head in (self.model.student_head, self.model.student_patch_head):
                if head is not None:
                    head.prototypes_KD.grad = None

    def after_step(self, sums_K: Tensor, share_done: float) -> None:
        """See Objective: move teacher and centre, and watch for a collapse."""
        options, model = self.options, self.model
        model.follow(cosine(options.teacher_momentum, 1.0, share_done))
        _, _, _, sums, patch_sums_K = self.layout.parts(sums_K)
        if options.centring == "mean":
            mean_K = self.health_sums.mean_scores(sums).float()
            model.centre_K.copy_(next_centre(model.centre_K, mean_K, options.centre_momentum))
            if options.ibot:
                mean_K = self.health_sums.mean_scores(patch_sums_K).float()
                centre_K = next_centre(model.patch_centre_K, mean_K, options.centre_momentum)
                hides_some = patch_sums_K[0] > 0  # a step may hide no patch
                model.patch_centre_K.copy_(torch.where(hides_some, centre_K, model.patch_centre_K))
        warning = self.watch.after_step(self.health_sums.health(sums, model.centre_K))
        if warning and self.learning.ranks.is_first:
            say(warning)

    def trained(self, sums_K: Tensor) -> Numbers:
        """See Objective: the signs of a collapse, over the epoch."""
        parts = self.layout.parts(sums_K)
        health = self.health_sums.health(parts.health, self.model.centre_K)
        _, _, agree, asked = parts.classes.tolist()
        rank = self.health_sums.effective_rank(parts.health)
        numbers = {**asdict(health), "effective_rank": rank, "agreement": agree / max(asked, 1)}
        if self.options.ibot:
            of_patches = asdict(self.health_sums.health(parts.patch_health, self.model.patch_centre_K))
            numbers |= {f"patch_{name}": number for name, number in of_patches.items()}
        return numbers | self.layout.losses(sums_K)

    def state(self) -> dict[str, Any]:
        """See Objective."""
        return {**super().state(), "watch": self.watch.state()}

    def restore(self, values: dict[str, Any]) -> None:
        """See Objective."""
        super().restore(values)
        self.watch.restore(values["watch"])


def agreement(targets_VBK: Tensor, scores_WBK: Tensor, seen_WB: Tensor, first: int) -> Tensor:
    """Count where the student's likeliest prototype is the teacher's for the other global view.

    Returns:
        how often it is, and how often that was asked, in float64.
    """
    counts_2 = scores_WBK.new_zeros(2, dtype=torch.float64)
    for place, scores_BK in enumerate(scores_WBK):
        if place + first < len(targets_VBK):
            other_BK = targets_VBK[len(targets_VBK) - 1 - place - first]
            known_B = seen_WB[place] & (other_BK.sum(-1) > 0)
            agree_B = known_B & (scores_BK.argmax(-1) == other_BK.argmax(-1))
            counts_2 = counts_2 + torch.stack([agree_B.sum(), known_B.sum()])
    return counts_2
