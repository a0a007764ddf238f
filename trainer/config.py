"""The options of `treeline train`, `sweep`, `evaluate` and `import`; named recipes that set many at once.

Precedence: the defaults < --recipe < --config FILE < flags. What options mean stands in trainer.options.
"""

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import tyro

from shards.errors import InputError
from shards.nested import Follows, flat, options_of
from shards.own_parts import TrustOptions
from shards.raster.finding import OnMismatch
from shards.raster.height_unit import HeightUnit
from shards.roles import (
    Before,
    Ending,
    Imports,
    In,
    MayChange,
    OnlyWith,
    OptionsFile,
    Place,
    Some,
    Usual,
    flag_of,
)
from trainer.chip_options import AugmentOptions, ChipOptions
from trainer.devices.choice import Precision, Wanted
from trainer.options import (
    FitOptions,
    KeepOptions,
    ModelOptions,
    ObjectiveOptions,
    OptimiserOptions,
    TaskOptions,
    TokenOptions,
)
from trainer.run_config import ReadingOptions, RunConfig


@dataclass(frozen=True)
class TrainConfig(RunConfig):
    """Train a regressor on a dataset."""

    data: Annotated[str, Place()]
    """Dataset: a folder or s3://..."""
    out: Annotated[str, Place(), MayChange()]
    """Folder or s3://... for checkpoints (best, last), metrics.jsonl, config.yaml and TensorBoard's log."""
    recipe: Annotated[Literal["treeline", "chmv2", "notebook", "tiny"], In.MODEL, Usual()] = "treeline"
    """Named set of options; options that are given override it."""
    faithful: Annotated[bool, OnlyWith(task="height"), In.MODEL] = False
    """Whether the recipe notebook reproduces its faults as well, to measure them; see docs/training.md."""
    resume: Annotated[Literal["no", "auto"], MayChange(), In.OUTPUT, Usual()] = "no"
    """"auto": resume the run at --out if there is one, with the same options; "no": refuse it."""
    workers: Annotated[int | str, MayChange(), In.SPEED, Usual()] = 0
    """Number of Ray workers, N or MIN:MAX (as many as there is room for); 0: this process, without Ray."""
    device: Annotated[Wanted, MayChange(), Before("auto"), In.SPEED, Usual()] = "auto"
    """Device: GPUs where there are any (auto), only GPUs (gpu), or CPUs (cpu)."""
    target: Annotated[TaskOptions, In.TASK] = field(default_factory=TaskOptions)
    model: Annotated[ModelOptions, In.MODEL] = field(default_factory=ModelOptions)
    tokens: Annotated[TokenOptions, Follows("lora_rank"), In.SPEED.late(2)] = field(
        default_factory=TokenOptions
    )
    objective: Annotated[ObjectiveOptions, In.OPTIMISER.late(3)] = field(default_factory=ObjectiveOptions)
    augment: Annotated[AugmentOptions, In.AUGMENTATION] = field(default_factory=AugmentOptions)
    optimiser: Annotated[OptimiserOptions, In.OPTIMISER.late(1)] = field(default_factory=OptimiserOptions)
    fit: Annotated[FitOptions, In.OPTIMISER] = field(default_factory=FitOptions)
    keep: Annotated[KeepOptions, In.OUTPUT] = field(default_factory=KeepOptions)
    chips: Annotated[ChipOptions, In.DATA] = field(default_factory=ChipOptions)
    reading: Annotated[ReadingOptions, In.SPEED.late(2)] = field(default_factory=ReadingOptions)


RECIPES: dict[str, dict[str, Any]] = {
    "treeline": {},
    "chmv2": {
        "backbone": "",
        "tune": "frozen",
        "balance_heights": (0.0, 1.0, 5.0, 10.0, 15.0, 20.0, 25.0, 30.0, 35.0, 40.0, 96.0),
        "decoder": "dpt",
        "loss": ("silog:1:0@0..0.3", "charbonnier:0:1@0..0.3", "patch_gradient:0:0.075@0.05..0.5"),
        "dropout": 0.0,
        "learning_rate": 1e-4,
        "output_rate_factor": 1.0,
        "weight_decay": 1e-3,
        "warm_up": 0.06,
    },
    "tiny": {"decoder": "residual", "dropout": 0.0, "loss": ("squared",), "output_rate_factor": 10.0},
    "notebook": {
        "decoder": "residual",
        "backbone": "facebook/dinov3-vitl16-pretrain-sat493m",
        "tune": "frozen",
        "decoder_widths": (512, 256, 128, 64),
        "norm": "batch",
        "dropout": 0.2,
        "flips": False,
        "loss": ("asymmetric(factor=3)",),
        "learning_rate": 5e-5,
        "output_rate_factor": 1.0,
        "weight_decay": 1e-3,
        "schedule": "plateau",
        "epochs": 100,
        "stop_patience": 10,
        "batch_per_worker": 16,
    },
}
"""Differences from the defaults, which are `treeline`: what measured best here (docs/training.md).

`chmv2`: a decoder on a frozen backbone as for CHMv2 (arXiv:2603.06382, sections 2.5 and 2.6); the user names
the backbone. There 10 % of chips are below 1 m and 20 % above 35 m: ten bins of heights, met equally often,
give these shares, and level the heights between. `notebook`: how regressors were trained so far, without its
faults. `tiny`: the residual decoder, small, for comparison.
"""
RECIPES_BEFORE: dict[str, dict[str, Any]] = {
    "chmv2": {
        "backbone": "tiny",
        "tune": "all",
        "balance_heights": (),
        "weight_decay": OptimiserOptions.weight_decay,
        "warm_up": OptimiserOptions.warm_up,
    }
}
"""Values that recipes had before they changed: a run that began with them continues with them."""


ON_CHIPS = OnlyWith(checkpoint=Some())


@dataclass(frozen=True)
class EvaluateConfig(TrustOptions):
    """Score a model on the chips of a dataset, beside simple baselines.

    Or score maps where height rasters cover them: with --maps and --heights.
    """

    checkpoint: Annotated[str, Place(), In.MODEL] = ""
    """A checkpoint's folder, or a training run's (its best checkpoint is taken)."""
    data: Annotated[str, Place(), In.DATA] = ""
    """Dataset: a folder or s3://..."""
    split: Annotated[Literal["train", "val", "test", "buffer", "all"], ON_CHIPS, In.DATA.late(1)] = "val"
    """Split whose chips are scored."""
    out: Annotated[str, Place(), In.OUTPUT] = ""
    """Folder for scores, a picture and a row for each chip or tile (docs/report.md); default: only print."""
    batch_size: Annotated[int, ON_CHIPS, In.SPEED] = 64
    """Chips at a time."""
    precision: Annotated[Precision, ON_CHIPS, In.SPEED.late(1)] = "float32"
    """Numbers to compute with: float32; tf32 in matrix products; bf16 or fp16 where that is safe."""
    device: Annotated[Wanted, MayChange(), ON_CHIPS, In.SPEED] = "auto"
    """Device: GPUs where there are any (auto), only GPUs (gpu), or CPUs (cpu)."""
    where: Annotated[str, ON_CHIPS, In.DATA.late(2)] = ""
    """Chips to score, as an expression over the index: "sensor == 'WV03'"; default: all of the split."""
    limit: Annotated[int | None, ON_CHIPS, In.DATA.late(2)] = None
    """Number of chips to score; default: all."""
    reading: Annotated[ReadingOptions, In.SPEED.late(2)] = field(default_factory=ReadingOptions)
    maps: Annotated[tuple[str, ...], Place(), tyro.conf.arg(metavar="MAP..."), In.DATA.late(2)] = ()
    """Canopy height maps instead, as treeline predict writes them: paths, globs or s3://..."""
    heights: Annotated[tuple[str, ...], Place(), tyro.conf.arg(metavar="RASTER..."), In.DATA] = ()
    """With --maps: height rasters (with --ground: surface elevations), in any CRS and pixel size."""
    ground: Annotated[tuple[str, ...], Place(), tyro.conf.arg(metavar="RASTER..."), In.DATA] = ()
    """With --maps: ground elevations, subtracted from the surface elevations."""
    height_unit: Annotated[HeightUnit | None, In.DATA.late(1)] = None
    """With --maps: unit of --heights and --ground where the rasters state none: m, dm, cm or ft."""
    height_band: Annotated[int | None, In.DATA.late(1)] = None
    """With --maps: number of the band of these rasters, from 1, that is taken; default: they have one."""
    on_mismatch: Annotated[OnMismatch, In.DATA.late(1)] = "refuse"
    """With --maps: rasters whose values are no heights, such as surface elevations: refuse the gross ones and
    note the others, note all, or ignore them."""

    @property
    def scores_maps(self) -> bool:
        """Whether maps are scored, and not a regressor on chips.

        Raises:
            InputError: the options are those of neither, or of both.
        """
        options = options_of(type(self))
        given = {name for name, value in flat(self).items() if value != options[name].default} - {"out"}
        of_maps = given & {"maps", "heights", "ground", "height_unit", "height_band", "on_mismatch"}
        if not of_maps and {"checkpoint", "data"} <= given:
            return False
        if of_maps == given and {"maps", "heights"} <= given:
            return True
        names = " ".join(map(flag_of, sorted(given))) or "none of them"
        raise InputError(
            "give --checkpoint and --data to score a regressor on chips, or --maps and --heights (and "
            f"--ground) to score maps, and no options of the other; given: {names}"
        )


WEIGHT_FILES = (".pth", ".pt", ".safetensors")
"""Endings of files with weights; another name is a folder's or the hub's."""


@dataclass(frozen=True)
class ImportConfig:
    """Make a checkpoint of a regressor trained elsewhere: the notebook's, or Meta's CHMv2."""

    weights: Annotated[str, Place(or_name=True), tyro.conf.Positional, tyro.conf.arg(metavar="WEIGHTS")]
    """best_dinov3_*.pth or .safetensors (a path or s3://...), or a folder or hub name of a CHMv2."""
    data: Annotated[str, Place()]
    """Dataset whose statistics normalise the regressor's input: a folder or s3://..."""
    out: Annotated[str, Place()]
    """Folder of the checkpoint; nothing may be there yet."""
    bands: Annotated[tuple[str, ...], In.DATA] = ModelOptions.bands
    """Bands that the regressor was trained on, in its order."""
    heads: Annotated[int, OnlyWith(weights=Ending(WEIGHT_FILES))] = 0
    """Attention heads of the backbone, which a .pth file does not tell; 0: as published for its width."""
    new_band_from: Annotated[
        Literal["red", "green", "blue", "mean"],
        OnlyWith(weights=Ending(WEIGHT_FILES, wanted=False)),
        In.MODEL,
    ] = ModelOptions.new_band_from
    """Band whose patch weights start a band that CHMv2 does not know; or their mean."""


@dataclass(frozen=True)
class SweepConfig:
    """Search briefly for the learning rate, loss and decoder that suit a dataset."""

    data: Annotated[str, Place()]
    """Dataset: a folder or s3://..."""
    out: Annotated[str, Place()]
    """Folder or s3://... for the trials, sweep.json and best.yaml; no sweep may be there yet."""
    train_config: Annotated[str, OptionsFile(TrainConfig)] = ""
    """YAML or JSON file with the other options of treeline train; default: its defaults."""
    trials: int = 12
    """Number of trainings with options drawn at random."""
    learning_rate: Annotated[tuple[float, float], In.OPTIMISER.late(1)] = (1e-4, 1e-2)
    """Lowest and highest learning rate; draws are even on a logarithmic scale."""
    loss_choices: Annotated[tuple[str, ...], Imports()] = ("squared", "asymmetric(factor=1.3)")
    """Losses to draw from, each as for treeline train --loss; several words of one: in one pair of quotes."""
    decoder_choices: Annotated[tuple[str, ...], Imports()] = ("detail", "residual")
    """Decoders to draw from."""
    limit: Annotated[int | None, In.DATA] = 10_000
    """Chips that each trial trains on; all are scored on all validation chips."""
    epochs: Annotated[int, In.OPTIMISER] = 5
    """Largest number of passes through them."""
    workers: Annotated[int, In.SPEED] = 0
    """Trials at a time on Ray, where those that fall behind are stopped; 0: one by one here, to the end."""
    precision: Annotated[Precision | None, In.SPEED.late(1)] = None
    """Numbers to compute with, as for treeline train; default: what --train-config says, or float32."""
    device: Annotated[Wanted, In.SPEED] = "auto"
    """Device: GPUs where there are any (auto), only GPUs (gpu), or CPUs (cpu)."""
    seed: Annotated[int, In.OPTIMISER.late(1)] = 0
    """Seed of the options that are drawn."""
