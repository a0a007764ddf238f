"""The options of `treeline pretrain` and `export`; named recipes that set many at once. No torch here.

Precedence: the defaults < --recipe < --config FILE < flags.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar, Literal

import tyro

from shards.roles import Another, Before, Decided, In, MayChange, Nothing, OnlyWith, Place, Some, Usual
from trainer.devices.choice import Wanted
from trainer.options import (
    FitOptions,
    KeepOptions,
    OptimiserOptions,
    refuse_out_of_range,
)
from trainer.run_config import ReadingOptions, RunConfig

DINO, MAE = OnlyWith(method="dino"), OnlyWith(method="mae")
TINY = OnlyWith(backbone="tiny")
WITH_LOCAL = OnlyWith(method="dino", local_crops=Some())
WITH_IBOT = OnlyWith(method="dino", ibot=Some())
WITH_PROBE = OnlyWith(probe=Some())


@dataclass(frozen=True)
class EncoderOptions:
    """Backbone."""

    bands: Annotated[tuple[str, ...], In.DATA, Usual()] = ()
    """Bands that the backbone sees, in its order; default: all of the dataset's."""
    backbone: Annotated[str, Place(or_name=True, reserved=("tiny",))] = "tiny"
    """"tiny" (random weights), a folder, a .pth file of Meta's, a model on the hub, or a pre-training run."""
    new_band_from: Annotated[
        Literal["red", "green", "blue", "mean"], OnlyWith(backbone=Another(("tiny",)))
    ] = "mean"
    """Pretrained band whose patch weights start a band that the backbone does not know; or their mean."""
    patch_size: Annotated[int, TINY, Usual()] = 16
    """Pixels along each side of a patch of the tiny backbone."""
    registers: Annotated[int, TINY] = 4
    """Register tokens of the tiny backbone."""
    width: Annotated[int, TINY, Usual()] = 192
    """Numbers in a token of the tiny backbone, which has six heads."""
    depth: Annotated[int, TINY, Usual()] = 4
    """Blocks of the tiny backbone."""
    recompute_activations: Annotated[bool, MayChange(), In.SPEED.late(2)] = False
    """Whether to use activation checkpointing in the backbone: less memory, a third more arithmetic."""

    def __post_init__(self) -> None:
        """Refuse what is out of range; see OptimiserOptions."""
        refuse_out_of_range(
            self,
            {
                "patch_size": (self.patch_size >= 2, "2 or more"),
                "registers": (self.registers >= 0, "0 or more"),
                "width": (self.width >= 24 and self.width % 24 == 0, "a multiple of 24 (six heads)"),
                "depth": (self.depth >= 1, "1 or more"),
            },
        )


@dataclass(frozen=True)
class ViewOptions:
    """Views of a tile: crops, and changes of their pixels."""

    global_scale: Annotated[tuple[float, float], DINO] = (0.4, 1.0)
    """Smallest and largest share of a tile's area in a global crop, which student and teacher see."""
    local_scale: Annotated[tuple[float, float], WITH_LOCAL] = (0.05, 0.4)
    """Smallest and largest share of a tile's area in a local crop, which only the student sees."""
    global_size: Annotated[int, DINO] = 0
    """Pixels along each side of a global crop, a multiple of the patch size; 0: as the tile."""
    local_size: Annotated[int, WITH_LOCAL] = 0
    """Pixels along each side of a local crop; 0: half of a global crop's, in whole patches."""
    local_crops: Annotated[int, DINO] = 4
    """Local crops of each tile; the global ones are always two."""
    crop_scale: Annotated[tuple[float, float], MAE] = (0.2, 1.0)
    """Smallest and largest share of a tile's area in its only crop, which is enlarged to the tile's size."""
    flip: Annotated[bool, In.AUGMENTATION.late(1)] = True
    """Whether to flip crops from left to right at random."""
    vertical_flip: Annotated[bool, In.AUGMENTATION.late(1)] = False
    """Whether to flip crops upside down at random. A radar looks sideways: layover then points elsewhere."""
    quarter_turns: Annotated[bool, In.AUGMENTATION.late(1)] = False
    """Whether to turn crops by a quarter at random. See --vertical-flip."""
    speckle_looks: Annotated[int, In.AUGMENTATION.late(1)] = 0
    """Looks of the speckle (gamma noise on intensity) with which each crop is multiplied; 0: none."""
    brightness: Annotated[float, In.AUGMENTATION] = 0.0
    """Standard deviation, in the bands' unit (decibels), of a random number added to each band of a crop."""
    band_dropout: Annotated[float, In.AUGMENTATION] = 0.0
    """Share (0..1) of a crop's bands that are replaced by their mean."""
    group_dropout: Annotated[float, OnlyWith(band_groups=Some()), In.AUGMENTATION] = 0.0
    """Share (0..1) of a crop's groups of bands, such as seasons, that are replaced by their mean."""
    band_groups: Annotated[tuple[str, ...], In.AUGMENTATION] = ()
    """Groups of bands, each a wildcard over names, for example "*_summer"; --group-dropout, --mask-groups."""

    def __post_init__(self) -> None:
        """Refuse what is out of range; see OptimiserOptions."""
        checks = {
            name: (0 < low <= high <= 1, "two shares above 0 and at most 1, the lower one first")
            for name, (low, high) in (
                ("global_scale", self.global_scale),
                ("local_scale", self.local_scale),
                ("crop_scale", self.crop_scale),
            )
        }
        refuse_out_of_range(
            self,
            {
                **checks,
                "global_size": (self.global_size >= 0, "0 or more"),
                "local_size": (self.local_size >= 0, "0 or more"),
                "local_crops": (self.local_crops >= 0, "0 or more"),
                "speckle_looks": (self.speckle_looks >= 0, "0 or more"),
                "brightness": (0 <= self.brightness < float("inf"), "0 or more"),
                "band_dropout": (0 <= self.band_dropout < 1, "0 or more and below 1"),
                "group_dropout": (0 <= self.group_dropout < 1, "0 or more and below 1"),
            },
        )


@dataclass(frozen=True)
class DinoOptions:
    """Self-distillation (DINO, Caron et al. 2021, arXiv:2104.14294)."""

    prototypes: Annotated[int, DINO] = 1024
    """Outputs of the head, over which student and teacher are compared."""
    head_width: Annotated[int, DINO] = 512
    """Width of the head's two hidden layers."""
    bottleneck: Annotated[int, DINO] = 256
    """Width of the head before its last layer."""
    freeze_last_layer: Annotated[float, DINO] = 1.0
    """Epochs at the beginning in which the head's last layer does not learn."""
    student_temperature: Annotated[float, DINO] = 0.1
    """Temperature of the student's softmax."""
    teacher_temperature: Annotated[float, DINO] = 0.04
    """Temperature of the teacher's softmax; lower than the student's, so that it is sharper."""
    warm_up_temperature: Annotated[float, OnlyWith(method="dino", temperature_warm_up=Some())] = 0.04
    """Temperature of the teacher at the beginning."""
    temperature_warm_up: Annotated[float, DINO] = 0.0
    """Epochs in which the teacher's temperature goes from --warm-up-temperature to --teacher-temperature."""
    centring: Annotated[Literal["mean", "sinkhorn", "none"], DINO] = "mean"
    """Guard against collapse: subtract the running mean, balance each batch (Sinkhorn-Knopp), or none."""
    centre_momentum: Annotated[float, OnlyWith(method="dino", centring="mean")] = 0.9
    """Share (0..1) of the running mean that a step keeps."""
    teacher_momentum: Annotated[float, DINO] = 0.98
    """Share (0..1) of the teacher's weights that a step keeps, at first; it rises to 1."""
    drop_path: Annotated[float, DINO, Before(0.0)] = 0.0
    """Share (0..1) of views that skip the student's last block; earlier blocks are skipped more rarely. In
    other views, what a block adds is divided by the share of them."""
    koleo: Annotated[float, DINO, Before(0.0)] = 0.0
    """Weight of a loss that spreads a batch's class tokens (KoLeo); 0: none."""
    ibot: Annotated[float, DINO, Before(0.0)] = 0.0
    """Weight of a loss of patches that the teacher sees and the student does not (iBOT); 0: none."""
    ibot_tiles: Annotated[float, WITH_IBOT, Before(0.5)] = 0.5
    """Share (0..1) of a batch's tiles whose global crops have hidden patches, rounded up."""
    ibot_mask: Annotated[tuple[float, float], WITH_IBOT, Before((0.1, 0.5))] = (0.1, 0.5)
    """Smallest and largest share (0..1) of such a crop's valid patches that are hidden from the student."""

    def __post_init__(self) -> None:
        """Refuse what is out of range; see OptimiserOptions."""
        refuse_out_of_range(
            self,
            {
                "teacher_temperature": (
                    0 < self.teacher_temperature < self.student_temperature,
                    f"above 0 and below the student's, {self.student_temperature}",
                ),
                "warm_up_temperature": (
                    0 < self.warm_up_temperature < self.student_temperature,
                    f"above 0 and below the student's, {self.student_temperature}",
                ),
                "student_temperature": (self.student_temperature > 0, "above 0"),
                "prototypes": (self.prototypes >= 2, "2 or more"),
                "head_width": (self.head_width >= 1, "1 or more"),
                "bottleneck": (self.bottleneck >= 1, "1 or more"),
                "freeze_last_layer": (self.freeze_last_layer >= 0, "0 or more"),
                "temperature_warm_up": (self.temperature_warm_up >= 0, "0 or more"),
                "centre_momentum": (0 <= self.centre_momentum < 1, "0 or more and below 1"),
                "teacher_momentum": (0 <= self.teacher_momentum < 1, "0 or more and below 1"),
                "drop_path": (0 <= self.drop_path < 1, "0 or more and below 1"),
                "koleo": (0 <= self.koleo < float("inf"), "0 or more"),
                "ibot": (0 <= self.ibot < float("inf"), "0 or more"),
                "ibot_tiles": (0 < self.ibot_tiles <= 1, "above 0 and at most 1"),
                "ibot_mask": (
                    0 < self.ibot_mask[0] <= self.ibot_mask[1] < 1,
                    "two shares above 0 and below 1, the lower one first",
                ),
            },
        )


@dataclass(frozen=True)
class MaskOptions:
    """Masked autoencoder (MAE, He et al. 2021, arXiv:2111.06377)."""

    mask_ratio: Annotated[float, MAE] = 0.75
    """Share (0..1) of a tile's patches that the encoder does not see."""
    target: Annotated[Literal["patch", "plain"], MAE] = "patch"
    """Values to restore: each patch less its mean and divided by its deviation, or the pixels themselves."""
    decoder_width: Annotated[int, MAE, Before(192)] = 0
    """Width of the decoder; 0: half of the backbone's, in whole multiples of 24."""
    decoder_depth: Annotated[int, MAE] = 2
    """Blocks of the decoder."""
    mask_groups: Annotated[float, OnlyWith(method="mae", band_groups=Some())] = 0.0
    """Share (0..1) of a tile's --band-groups that are hidden everywhere, and are to be restored as well."""

    def __post_init__(self) -> None:
        """Refuse what is out of range; see OptimiserOptions."""
        refuse_out_of_range(
            self,
            {
                "mask_ratio": (0 < self.mask_ratio < 1, "above 0 and below 1"),
                "decoder_width": (
                    self.decoder_width >= 0 and self.decoder_width % 24 == 0,
                    "a multiple of 24 (six heads), or 0",
                ),
                "decoder_depth": (self.decoder_depth >= 1, "1 or more"),
                "mask_groups": (0 <= self.mask_groups < 1, "0 or more and below 1"),
            },
        )


@dataclass(frozen=True)
class RateOptions:
    """Learning rates and weight decay, and how they change."""

    learning_rate: Annotated[float, Usual()] = 1e-3
    """Peak learning rate of AdamW; it goes up, then down to 0 along a cosine."""
    layer_decay: Annotated[float, In.OPTIMISER.late(2)] = 1.0
    """Learning rate of each block of the backbone as a share (0..1) of the next one's; 1: all alike."""
    weight_decay: float = 0.04
    """Weight decay of AdamW at the beginning; biases, norms and tokens have none."""
    last_weight_decay: Annotated[float | None, In.OPTIMISER.late(2)] = None
    """Weight decay at the end, reached along a cosine; default: as at the beginning."""
    warm_up: float = 0.1
    """Share (0..1) of all steps in which the learning rate goes up, one step at least."""

    def __post_init__(self) -> None:
        """Refuse what is out of range; see OptimiserOptions."""
        self.optimiser  # noqa: B018  checks the others
        last = self.last_weight_decay
        refuse_out_of_range(
            self, {"last_weight_decay": (last is None or 0 <= last < float("inf"), "0 or more")}
        )

    @property
    def optimiser(self) -> OptimiserOptions:
        """The same, as the loop takes them."""
        return OptimiserOptions(
            learning_rate=self.learning_rate,
            backbone_rate_factor=1.0,
            layer_decay=self.layer_decay,
            weight_decay=self.weight_decay,
            warm_up=self.warm_up,
        )


@dataclass(frozen=True)
class TileOptions:
    """Choice of tiles."""

    where: Annotated[str, Usual()] = ""
    """Tiles to learn from, an expression over the index: "region != 'europe'"; default: all."""
    limit: int | None = None
    """Number of tiles to learn from. A smaller choice is part of any larger one."""


@dataclass(frozen=True)
class ProbeOptions:
    """Measurement of what the tokens tell about a label, which is never learnt from."""

    probe: Annotated[str, Usual()] = ""
    """Column of the index to predict from the tokens: numbers, or classes (text or whole numbers)."""
    probe_epochs: Annotated[int, WITH_PROBE] = 1
    """Epochs from one measurement to the next; the last epoch always has one."""
    probe_tiles: Annotated[int, WITH_PROBE] = 1000
    """Labelled tiles to fit on, of the training split, and as many to score on, of the validation split."""

    def __post_init__(self) -> None:
        """Refuse what is out of range; see OptimiserOptions."""
        refuse_out_of_range(
            self,
            {
                "probe_epochs": (self.probe_epochs >= 1, "1 or more"),
                "probe_tiles": (self.probe_tiles >= 4, "4 or more"),
            },
        )


@dataclass(frozen=True)
class PretrainFitOptions(FitOptions):
    """The training loop."""

    epochs: Annotated[int, OnlyWith(minutes=Nothing()), Usual()] = 100
    """Number of passes through the tiles."""
    batch_size: Annotated[int | None, OnlyWith(batch_per_worker=0), Decided(), Usual()] = None
    """Tiles per step, over all workers; default: 64 on a CPU, more on GPUs (docs/gpu.md), and written to the
    run's config.yaml."""
    stop_on_collapse: Annotated[bool, MayChange(), DINO, In.OPTIMISER.late(5)] = False
    """Whether to end the run when the tokens collapse, instead of warning once."""
    batch_on_cpu: ClassVar[int] = 64
    """Tiles per step where nothing says how many."""


@dataclass(frozen=True)
class PretrainConfig(RunConfig):
    """Pre-train a backbone on tiles without labels."""

    data: Annotated[str, Place()]
    """Dataset: a folder or s3://..."""
    out: Annotated[str, Place(), MayChange()]
    """Folder or s3://... for checkpoints (best, last), metrics.jsonl, config.yaml and TensorBoard's log."""
    recipe: Annotated[
        Literal["mae", "dino", "mae-tiny", "dino-tiny", "paper-gssic", "paper-s1grd"], In.MODEL, Usual()
    ] = "mae"
    """Named set of options; options that are given override it."""
    method: Annotated[Literal["dino", "mae"], In.TASK, Usual()] = "mae"
    """Self-distillation (dino) or masked autoencoder (mae); a recipe sets it."""
    resume: Annotated[Literal["no", "auto"], MayChange(), In.OUTPUT, Usual()] = "no"
    """"auto": resume the run at --out if there is one, with the same options; "no": refuse it."""
    workers: Annotated[int | str, MayChange(), In.SPEED, Usual()] = 0
    """Number of Ray workers, N or MIN:MAX (as many as there is room for); 0: this process, without Ray."""
    device: Annotated[Wanted, MayChange(), Before("auto"), In.SPEED, Usual()] = "auto"
    """Device: GPUs where there are any (auto), only GPUs (gpu), or CPUs (cpu)."""
    encoder: Annotated[EncoderOptions, In.MODEL] = field(default_factory=EncoderOptions)
    views: Annotated[ViewOptions, In.VIEWS] = field(default_factory=ViewOptions)
    dino: Annotated[DinoOptions, In.DISTILLATION] = field(default_factory=DinoOptions)
    mask: Annotated[MaskOptions, In.MASKING] = field(default_factory=MaskOptions)
    rates: Annotated[RateOptions, In.OPTIMISER.late(1)] = field(default_factory=RateOptions)
    fit: Annotated[PretrainFitOptions, In.OPTIMISER] = field(default_factory=PretrainFitOptions)
    probing: Annotated[ProbeOptions, In.PROBE] = field(default_factory=ProbeOptions)
    keep: Annotated[KeepOptions, In.OUTPUT] = field(default_factory=KeepOptions)
    tiles: Annotated[TileOptions, In.DATA] = field(default_factory=TileOptions)
    reading: Annotated[ReadingOptions, In.SPEED.late(2)] = field(default_factory=ReadingOptions)


@dataclass(frozen=True)
class ExportConfig:
    """Write a checkpoint to a folder of its own, whole, or a pre-trained backbone for transformers."""

    run: Annotated[str, Place(), tyro.conf.Positional, tyro.conf.arg(metavar="RUN")]
    """Run of treeline pretrain or train (its best checkpoint; RUN/last: the last one), or a checkpoint."""
    out: Annotated[str, Place()]
    """Folder or s3://... to write; nothing may be there yet."""
    to: Literal["transformers", "checkpoint"] = "checkpoint"
    """checkpoint: all its files; transformers: a pre-trained backbone, for DINOv3ViTModel.from_pretrained."""
    backbone_weights: Annotated[Literal["teacher", "student"] | None, In.MODEL] = None
    """Weights to take; default: all for a checkpoint, else the teacher's where there is one."""


FACEBOOK_DINO: Mapping[str, Any] = {
    "method": "dino",
    "prototypes": 65_536,
    "head_width": 2048,
    "bottleneck": 256,
    "local_crops": 8,
    "teacher_momentum": 0.996,
    "temperature_warm_up": 0.0,
    "weight_decay": 0.04,
    "last_weight_decay": 0.4,
    "warm_up": 0.1,
    "gradient_norm": 3.0,
    "epochs": 100,
}
"""Defaults of facebookresearch/dino (main, 2021-2023) for what the paper on SAR does not say."""
RECIPES: dict[str, Mapping[str, Any]] = {
    "mae": {},
    "mae-tiny": {"patch_size": 8, "decoder_width": 96, "decoder_depth": 1, "epochs": 10},
    "dino": {"method": "dino"},
    "dino-tiny": {"method": "dino", "prototypes": 256, "head_width": 256, "bottleneck": 64, "epochs": 10},
    "paper-gssic": {
        **FACEBOOK_DINO,
        "learning_rate": 1e-5,
        "student_temperature": 0.1,
        "teacher_temperature": 0.04,
        "warm_up_temperature": 0.04,
        "temperature_warm_up": 10.0,
        "centre_momentum": 0.9,
    },
    "paper-s1grd": {
        **FACEBOOK_DINO,
        "learning_rate": 1e-6,
        "student_temperature": 0.03,
        "teacher_temperature": 0.001,
        "warm_up_temperature": 0.01,
        "temperature_warm_up": 5.0,
        "centre_momentum": 0.99,
    },
}
"""Differences from the defaults, which are `mae`.

`paper-...`: Table 1 of Martinez-Ferrer et al. 2023 (DINO on Sentinel-1), for seasonal coherence (gssic) and
backscatter (s1grd); its backbone is a ViT-B, here the one that --backbone names.
"""
