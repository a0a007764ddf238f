"""The options of `treeline train`, `sweep`, `evaluate` and `import`; named recipes that set many at once.

Precedence: the defaults below < --recipe < --config FILE < flags.
"""

from dataclasses import dataclass, fields
from typing import Annotated, Any, Literal

import tyro

from shards.errors import InputError
from shards.read.read_options import ReadOptions
from shards.roles import Another, Before, Ending, MayChange, OnlyWith, OptionsFile, Place, Some
from trainer.options import AugmentOptions, FitOptions, OptimiserOptions

BACKBONE_LEARNS = OnlyWith(tune=("last", "lora", "all"))
PLATEAU = OnlyWith(schedule="plateau")
WITH_NORM = OnlyWith(decoder=("detail", "residual"))


@dataclass(frozen=True)
class TrainConfig:
    """A dataset -> a regressor."""

    data: Annotated[str, Place()]
    """The dataset: a folder or s3://..."""
    out: Annotated[str, Place(), MayChange()]
    """Where checkpoints (best, last), metrics.jsonl, config.yaml and TensorBoard's log are written."""
    recipe: Literal["treeline", "chmv2", "notebook", "tiny"] = "treeline"
    """Named set of options; what is given besides overrides it."""
    faithful: bool = False
    """With the recipe notebook: reproduce its faults as well, to measure them; see docs/training.md."""
    resume: Annotated[Literal["no", "auto"], MayChange()] = "no"
    """"auto": go on with the run at --out if there is one, of the same options; "no": refuse it."""
    workers: Annotated[int | str, MayChange()] = 0
    """Ray workers, N or MIN:MAX (as many as there is room for); 0: train in this process, without Ray."""
    seed: int = 0
    """Seed of weights, order and augmentation."""
    deterministic: bool = False
    """Use only algorithms that give the same bits in every run, also on a GPU, where they can be slower."""

    bands: tuple[str, ...] = ("nir", "red", "green")
    """Bands that the backbone sees, in its order."""
    backbone: Annotated[str, Place(or_name=True, reserved=("tiny",))] = "tiny"
    """"tiny" (random weights), a folder, a .pth file of Meta's, or a model on the Hugging Face hub."""
    new_band_from: Annotated[
        Literal["red", "green", "blue", "mean"], OnlyWith(backbone=Another(("tiny",)))
    ] = "red"
    """The pretrained band whose patch weights start a band that the backbone does not know, or their mean."""
    tune: Literal["frozen", "last", "lora", "all"] = "all"
    """What of the backbone learns: nothing, its last blocks, low-rank adapters in every block, or all."""
    tune_blocks: Annotated[int, OnlyWith(tune="last")] = 4
    """Blocks that learn with --tune last."""
    lora_rank: Annotated[int, OnlyWith(tune="lora")] = 8
    """Rank of the adapters with --tune lora."""
    token_store: Annotated[str, Place()] = ""
    """Folder or s3://... of a frozen backbone's tokens, computed once and read instead; default: none."""
    token_dtype: Annotated[Literal["bfloat16", "float16", "float32"], OnlyWith(token_store=Some())] = (
        "bfloat16"
    )
    """How the token store keeps numbers: in 2, 2 or 4 bytes."""
    token_variants: Annotated[Literal[1, 8], OnlyWith(token_store=Some())] = 1
    """Tokens that the token store keeps of a training chip: as it is, or also flipped and turned."""

    decoder: Literal["detail", "residual", "dpt", "linear"] = "detail"
    """What makes heights of the backbone's tokens."""
    decoder_widths: Annotated[tuple[int, ...], OnlyWith(decoder=("detail", "residual", "dpt"))] = ()
    """Channels of the decoder's stages, from patches to pixels; default: the decoder's own."""
    norm: Annotated[Literal["batch", "group"], WITH_NORM] = "group"
    """The decoder's normalisation; with "group" a chip's height does not depend on its batch."""
    dropout: Annotated[float, WITH_NORM] = 0.3
    """Share (0..1) of the decoder's channels dropped while training."""
    upsample: Literal[1, 2, 4] = 1
    """Factor by which the image is enlarged for the backbone, so that its patches cover fewer metres."""

    loss: tuple[str, ...] = ("asymmetric(factor=1.3)",)
    """One or more losses, each NAME[(key=value,...)][:WEIGHT][:END_WEIGHT][@FROM]; see docs/training.md."""
    flips: bool = True
    """Train on the eight flips and quarter turns of chips."""
    brightness: float = 0.0
    """Standard deviation of a factor by which each band of a chip is brightened, around 1."""
    band_dropout: float = 0.0
    """Share (0..1) of a chip's bands that are replaced by their mean."""

    learning_rate: float = OptimiserOptions.learning_rate
    """AdamW's for the decoder, at its highest."""
    output_rate_factor: float = OptimiserOptions.output_rate_factor
    """The output layer's learning rate as a multiple: it alone has to grow to the scale of metres."""
    backbone_rate_factor: Annotated[float, BACKBONE_LEARNS] = OptimiserOptions.backbone_rate_factor
    """The learning rate of the backbone's last block, where it learns, as a share of the decoder's."""
    layer_decay: Annotated[float, BACKBONE_LEARNS] = OptimiserOptions.layer_decay
    """Learning rate of each block of the backbone as a share (0..1) of the next one's; 1: all alike."""
    weight_decay: float = OptimiserOptions.weight_decay
    """AdamW's."""
    gradient_norm: float = 1.0
    """Gradients are scaled down to this norm."""
    schedule: Literal["cosine", "plateau", "constant"] = OptimiserOptions.schedule
    """"cosine": up, then down to 0; "plateau": halved when validation stalls."""
    warm_up: Annotated[float, OnlyWith(schedule=("cosine", "constant"))] = OptimiserOptions.warm_up
    """Share (0..1) of all steps in which the rate goes up; not for "plateau"."""
    plateau_patience: Annotated[int, PLATEAU] = OptimiserOptions.plateau_patience
    """Epochs without improvement before the learning rate is halved."""
    lowest_learning_rate: Annotated[float, PLATEAU] = OptimiserOptions.lowest_learning_rate
    """Where halving ends."""
    average: float = 0.0
    """Decay of an average of the weights, which is what is scored and saved, e.g. 0.999; 0: none."""

    epochs: int = 30
    """Passes through the training chips, at most."""
    stop_patience: int = 0
    """Stop after this many epochs without improvement; 0 disables."""
    batch_size: Annotated[int, OnlyWith(batch_per_worker=0)] = 16
    """Chips per step, over all workers together."""
    batch_per_worker: int = 0
    """Chips per step and worker (batch size = this times workers); 0: --batch-size counts."""
    accumulate: int = 1
    """Pieces in which each worker computes its part of a batch: less memory, a third more arithmetic."""
    bf16: bool = False
    """Compute in bfloat16 where that is safe; weights stay float32."""
    compile: Annotated[bool, MayChange()] = False
    """Compile backbone and decoder with torch.compile; the first steps take minutes."""
    shard_model: Annotated[bool, MayChange()] = False
    """Each worker keeps a part of all weights (FSDP2): for large backbones; no effect below two workers."""
    recompute_activations: Annotated[bool, BACKBONE_LEARNS] = False
    """Where the backbone learns: less memory, a third more arithmetic (activation checkpointing)."""
    on_nonfinite: Literal["stop", "skip"] = "stop"
    """Whether a step whose loss is not a number ends the run, or is left out and counted."""
    checkpoint_steps: Annotated[int, MayChange()] = 1000
    """Steps between two saved states, beside the one at the end of each epoch."""
    keep_best: Annotated[int, MayChange()] = 1
    """Checkpoints kept of the best epochs."""
    mlflow: Annotated[str, Place(), MayChange()] = ""
    """MLflow tracking server (http://...) or sqlite:///FILE for options and numbers, too; default: none."""

    where: str = ""
    """Train and validate on these chips only: an expression over the index, e.g. "source != 'AK_IFSAR'"."""
    val_where: Annotated[str | None, Before("")] = None
    """Validate on these chips instead: an expression, or "" for all; default: as --where."""
    limit: int | None = None
    """Train on this many chips only, and validate on all; a smaller choice is part of any larger one."""
    balance_heights: tuple[float, ...] = ()
    """Edges in metres of bins of the chips' maximum height that are met equally often; default: as stored."""
    on_bad_shard: Literal["stop", "skip"] = ReadOptions.on_bad_shard
    """Whether a shard that is damaged or cannot be read ends the run, or is left out and named."""
    cache: Annotated[str, Place(), MayChange()] = ""
    """Local folder that keeps what was fetched of a remote dataset; shared by the processes of a machine."""
    cache_gigabytes: Annotated[float, MayChange(), OnlyWith(cache=Some())] = ReadOptions.cache_bytes / 1e9
    """Size at which the cache drops what was used least recently."""
    baseline_chips: int = 20_000
    """Training chips to which the two baselines (mean, per-pixel linear regression) are fitted."""

    @property
    def worker_range(self) -> tuple[int, int]:
        """Fewest and most Ray workers.

        Raises:
            InputError: --workers is neither N nor MIN:MAX.
        """
        least, _, most = str(self.workers).partition(":")
        if not least.isdecimal() or not (most or least).isdecimal() or int(least) > int(most or least):
            raise InputError(f"--workers {self.workers}: give N, or MIN:MAX with MIN not above MAX")
        return int(least), int(most or least)

    @property
    def validated_where(self) -> str:
        """The expression that chooses the validation chips; "" for all."""
        return self.where if self.val_where is None else self.val_where

    @property
    def global_batch(self) -> int:
        """Chips per step over all workers."""
        return self.batch_per_worker * max(1, self.worker_range[1]) or self.batch_size

    @property
    def fit(self) -> FitOptions:
        """Options of the training loop."""
        return FitOptions(**{field.name: getattr(self, field.name) for field in fields(FitOptions)})

    @property
    def augment(self) -> AugmentOptions:
        """Options of augmentation."""
        return AugmentOptions(self.flips, self.brightness, self.band_dropout)

    def optimiser_options(self, steps_per_epoch: int) -> OptimiserOptions:
        """Return the options of the optimiser."""
        names = {field.name for field in fields(OptimiserOptions)} - {"total_steps", "decay_norms"}
        values = {name: getattr(self, name) for name in names}
        return OptimiserOptions(**values, total_steps=self.epochs * steps_per_epoch)


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


@dataclass(frozen=True)
class EvaluateConfig:
    """How good a regressor is on chips, beside the training mean and a per-pixel linear regression.

    Or how good maps are, where height rasters cover them: with --maps and --heights.
    """

    checkpoint: Annotated[str, Place()] = ""
    """A checkpoint's folder, or a training run's (its best checkpoint is taken)."""
    data: Annotated[str, Place()] = ""
    """The dataset: a folder or s3://..."""
    split: Literal["train", "val", "test", "buffer", "all"] = "val"
    """Split whose chips are scored."""
    out: Annotated[str, Place()] = ""
    """Folder for evaluation.json and evaluation.png; default: only print."""
    batch_size: int = 64
    """Chips at a time."""
    where: str = ""
    """Evaluate these chips only: an expression over the index, e.g. "sensor == 'WV03'"."""
    limit: int | None = None
    """Evaluate this many chips only."""
    on_bad_shard: Literal["stop", "skip"] = ReadOptions.on_bad_shard
    """Whether a shard that is damaged or cannot be read ends the run, or is left out and named."""
    cache: Annotated[str, Place()] = ""
    """Local folder that keeps what was fetched of a remote dataset; shared by the processes of a machine."""
    cache_gigabytes: Annotated[float, OnlyWith(cache=Some())] = TrainConfig.cache_gigabytes
    """Size at which the cache drops what was used least recently."""
    maps: Annotated[tuple[str, ...], Place(), tyro.conf.arg(metavar="MAP...")] = ()
    """Canopy height maps instead, as treeline predict writes them: paths, globs or s3://..."""
    heights: Annotated[tuple[str, ...], Place(), tyro.conf.arg(metavar="RASTER...")] = ()
    """With --maps: height rasters in metres (with --ground: surface elevations), any CRS and pixel size."""
    ground: Annotated[tuple[str, ...], Place(), tyro.conf.arg(metavar="RASTER...")] = ()
    """With --maps: ground elevations in metres; height = --heights minus these."""

    @property
    def scores_maps(self) -> bool:
        """Whether maps are scored, and not a regressor on chips.

        Raises:
            InputError: the options are those of neither, or of both.
        """
        given = {field.name for field in fields(self) if getattr(self, field.name) != field.default} - {"out"}
        of_maps = given & {"maps", "heights", "ground"}
        if not of_maps and {"checkpoint", "data"} <= given:
            return False
        if of_maps == given and {"maps", "heights"} <= given:
            return True
        names = " ".join(f"--{name.replace('_', '-')}" for name in sorted(given)) or "none of them"
        raise InputError(
            "give --checkpoint and --data to score a regressor on chips, or --maps and --heights (and "
            f"--ground) to score maps, and no options of the other; given: {names}"
        )


WEIGHT_FILES = (".pth", ".pt", ".safetensors")
"""Endings of files with weights; another name is a folder's or the hub's."""


@dataclass(frozen=True)
class ImportConfig:
    """A regressor made elsewhere (the notebook's, Meta's CHMv2) -> a checkpoint."""

    weights: Annotated[str, Place(or_name=True), tyro.conf.Positional, tyro.conf.arg(metavar="WEIGHTS")]
    """best_dinov3_*.pth or .safetensors (a path or s3://...), or a folder or hub name of a CHMv2."""
    data: Annotated[str, Place()]
    """The dataset whose statistics normalise the regressor's input: a folder or s3://..."""
    out: Annotated[str, Place()]
    """Folder of the checkpoint; nothing may be there yet."""
    bands: tuple[str, ...] = TrainConfig.bands
    """Bands that the regressor was trained on, in its order."""
    heads: Annotated[int, OnlyWith(weights=Ending(WEIGHT_FILES))] = 0
    """Attention heads of the backbone, which .pth does not tell; 0: as published for tokens so wide."""
    new_band_from: Annotated[
        Literal["red", "green", "blue", "mean"], OnlyWith(weights=Ending(WEIGHT_FILES, wanted=False))
    ] = TrainConfig.new_band_from
    """The band whose patch weights start a band that CHMv2 does not know, or their mean."""


@dataclass(frozen=True)
class SweepConfig:
    """A short search: which learning rate, loss and decoder suit this dataset."""

    data: Annotated[str, Place()]
    """The dataset: a folder or s3://..."""
    out: Annotated[str, Place()]
    """Folder or s3://... for the trials, sweep.json and best.yaml; no sweep may be there yet."""
    train_config: Annotated[str, OptionsFile(TrainConfig)] = ""
    """YAML or JSON file of options of treeline train, the same in every trial; default: its defaults."""
    trials: int = 12
    """Trainings with options drawn at random."""
    learning_rate: tuple[float, float] = (1e-4, 1e-2)
    """Lowest and highest; drawn evenly on a logarithmic scale."""
    loss_choices: tuple[str, ...] = ("squared", "asymmetric(factor=1.3)")
    """Losses to draw from, each as for treeline train --loss; several words of one: in one pair of quotes."""
    decoder_choices: tuple[Literal["detail", "residual", "dpt", "linear"], ...] = ("detail", "residual")
    """Decoders to draw from."""
    limit: int | None = 10_000
    """Chips that each trial trains on; all are scored on all validation chips."""
    epochs: int = 5
    """Passes through them, at most."""
    workers: int = 0
    """Trials at a time, on Ray, where those that fall behind are stopped; 0: one by one, here, to the end."""
    seed: int = 0
    """Seed of the options that are drawn."""


def read_options(config: TrainConfig | EvaluateConfig) -> ReadOptions:
    """How the dataset is read."""
    cache_bytes = round(config.cache_gigabytes * 1e9)
    return ReadOptions(on_bad_shard=config.on_bad_shard, cache=config.cache, cache_bytes=cache_bytes)
