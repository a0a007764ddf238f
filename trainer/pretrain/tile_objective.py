"""The part that the objectives of both methods share: weight decay, the probe, checkpoints."""

from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.optim import Optimizer
from transformers import DINOv3ViTModel

from shards.read.order import Chips
from trainer.data.feed import Fed, RowReader
from trainer.data.step_inputs import is_whole_batch
from trainer.devices.transfer import to_device
from trainer.fit.learning import Learning
from trainer.fit.objective import Forward, Numbers, Panel
from trainer.fit.optimiser import NO_DECAY
from trainer.fit.scoring import Sums
from trainer.model.encoder import Encoder, band_features
from trainer.model.pretrained import Pretrained, backbone_weights
from trainer.pretrain.dino import Dino
from trainer.pretrain.distillation import cosine
from trainer.pretrain.masked import Masked
from trainer.pretrain.probe import Probe
from trainer.pretrain_config import PretrainConfig
from trainer.score.epochs import FIRST, epoch_of


class TileObjective:
    """Part of an objective that does not depend on the method."""

    learns_from = "tiles"
    """See Objective."""
    settles_at_once = False
    """See Objective."""

    def __init__(
        self, model: Masked | Dino, encoder: Encoder, learning: Learning, config: PretrainConfig
    ) -> None:
        """Args:
        model: the model in training, not wrapped.
        encoder: its part that is kept, and whose tokens are probed.
        learning: the tiles (to validate on: those of the probe), and the ranks that share them.
        config: all options.
        """
        self.model, self.encoder, self.learning, self.config = model, encoder, learning, config
        self.probe: Probe | None = None
        if config.probing.probe:
            self.probe = Probe(learning.dataset, learning.val_chips, config.probing.probe)
        self.before: Numbers | None = None
        """Probe of the untrained backbone, known from the first measurement on."""
        # On the device also where the model is sharded, which then goes there later.
        self._untrained: Encoder | None = (
            deepcopy(encoder).to(learning.ranks.device).eval() if self.probe else None
        )

    def prepare(self) -> None:
        """See Objective; there is nothing to fit."""

    def row_reader(self, of_epoch: tuple[int, int] | None) -> RowReader | None:
        """See Objective; there is nothing."""
        return None

    def before_step(self, optimiser: Optimizer, share_done: float) -> None:
        """See Objective: change the weight decay."""
        rates = self.config.rates
        if rates.last_weight_decay is not None:
            decay = cosine(rates.weight_decay, rates.last_weight_decay, share_done)
            for group in optimiser.param_groups:
                if not group["name"].endswith(NO_DECAY):
                    group["weight_decay"] = decay

    def after_step(self, sums_K: Tensor, share_done: float) -> None:
        """See Objective; there is nothing to do."""

    def scores_after(self, epoch: int) -> bool:
        """See Objective: every few epochs, and after the last one."""
        return (epoch + 1) % self.config.probing.probe_epochs == 0 or epoch + 1 == self.config.fit.epochs

    def score_sums(self, forward: Forward, fed: Fed) -> Sums:
        """See Objective: what the probe is fitted on, each tile in the row that belongs to it."""
        assert self.probe is not None, "there are tiles to score on only with a probe"
        pixels_BCHW, valid_BHW = self.encoder.normalise(fed.image_BCHW)
        is_whole = is_whole_batch(fed.batch, self.learning.dataset)
        kinds = [self.model.summaries(pixels_BCHW, valid_BHW, is_whole)]
        if self._untrained is not None:  # what does not change is measured once
            kinds.append(band_features(pixels_BCHW, valid_BHW))
            kinds.append(self._untrained.summaries(pixels_BCHW, valid_BHW, is_whole))
        rows = np.searchsorted(self.learning.val_chips, fed.batch.chips)
        rows_B, sums = to_device(rows, pixels_BCHW.device), []
        for features_BF in kinds:
            all_NF = torch.zeros(
                self.learning.val_chips.size, features_BF.shape[1], device=pixels_BCHW.device
            )
            if not fed.batch.stands_in:
                all_NF.index_copy_(0, rows_B, features_BF.float())
            sums.append(all_NF)
        return tuple(sums)

    def scored(self, sums: Sums, share_done: float) -> Numbers:
        """See Objective."""
        assert self.probe is not None, "there are tiles to score on only with a probe"
        numbers = self.probe.scored(sums[0].numpy(), "probe")
        if self.before is None:
            self.before = self.probe.scored(sums[1].numpy(), "bands", with_neighbours=False)
            self.before |= self.probe.scored(sums[2].numpy(), "untrained")
        self._untrained = None
        return {**numbers, **self.before}

    def standing(self, record: dict[str, Any]) -> float:
        """See Objective: the probe's error where it was measured; without a probe the last epoch is best."""
        if self.probe is None:
            return -float(epoch_of(record) - FIRST)
        return float(record.get(f"val_{self.probe.decides}", float("inf")))

    def summary(self, record: dict[str, Any]) -> str:
        """See Objective."""
        text = f"loss {record['loss']:.4g}"
        if self.probe is None or f"val_{self.probe.decides}" not in record:
            return text
        name = self.probe.decides.removeprefix("probe_")
        kinds = (f"{kind} {record[f'val_{kind}_{name}']:.3g}" for kind in ("probe", "untrained", "bands"))
        return f"{text}; {name} of {self.probe.label}: {', '.join(kinds)}"

    def panel(self, chips: Chips) -> Panel | None:
        """See Objective; there is none."""
        return None

    def gather(self) -> None:
        """See Objective."""
        backbone_weights(self._backbones(), keep=False)

    def state(self) -> dict[str, Any]:
        """See Objective."""
        return {"before": self.before}

    def restore(self, values: dict[str, Any]) -> None:
        """See Objective."""
        self.before = values["before"]
        if self.before is not None:
            self._untrained = None

    def encoders(self) -> dict[str, Encoder]:
        """Return the encoders that a checkpoint holds, the one that is used first."""
        return {"student": self.encoder}

    def checkpoint(self, record: dict[str, Any], trained_on: dict[str, Any]) -> dict[str, bytes]:
        """See Objective."""
        encoder = self.encoder
        return Pretrained(
            self.config.method,
            encoder.schema,
            encoder.bands,
            encoder.statistics,
            self._backbones(),
            trained_on,
            record,
        ).files()

    def _backbones(self) -> dict[str, DINOv3ViTModel]:
        return {name: one.backbone for name, one in self.encoders().items()}
