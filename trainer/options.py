"""Options of training, one class for each part of the code that uses them.

A field is an option of `treeline train`: its text is the help of its flag. No torch here, since the command
line knows them.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import inf
from typing import Annotated, Any, ClassVar, Literal, get_args

import tyro

from shards.addresses import Address
from shards.errors import InputError
from shards.nested import Follows
from shards.roles import (
    Another,
    Before,
    Decided,
    Imports,
    In,
    MayChange,
    Nothing,
    OnlyWith,
    Place,
    Some,
    Usual,
    flag_of,
    own_path,
)
from trainer.devices.choice import OF_BF16, Precision, WantedPrecision

Mode = Literal["frozen", "last", "lora", "all"]
"""Ways to tune a backbone."""
DecoderKind = Literal["unet", "detail", "residual", "dpt", "linear"]
DecoderName = Annotated[
    str,
    Imports(),
    tyro.conf.arg(metavar="|".join((*get_args(DecoderKind), "package.module.Class"))),
]
"""Kind of decoder, or the import path of one of the user's own."""
Task = Literal["height", "tile-value", "tile-class", "pixel-class"]
"""What is learnt: heights of pixels, a number or a class for each tile, or a class for each pixel."""
HeadKind = Literal["class", "mean", "attention"]
OF_TILES: tuple[Task, ...] = ("tile-value", "tile-class")
"""Tasks with one label for a whole tile."""
OF_HEIGHTS = OnlyWith(task="height")
OF_PIXELS: tuple[Task, ...] = ("height", "pixel-class")
"""Tasks whose tokens a decoder turns into pixels."""
BACKBONE_LEARNS = OnlyWith(tune=("last", "lora", "all"))
PLATEAU = OnlyWith(schedule="plateau")
WITH_NORM = OnlyWith(decoder=Another(("dpt", "linear")), task=OF_PIXELS)


def refuse_out_of_range(options: Any, checks: Mapping[str, tuple[bool, str]]) -> None:
    """Refuse an option whose check failed.

    Raises:
        InputError: says which option, and what to choose.
    """
    for name, (is_good, instead) in checks.items():
        if not is_good:
            raise InputError(f"{flag_of(name)} {getattr(options, name)}: choose {instead}")


@dataclass(frozen=True)
class TaskOptions:
    """What is learnt, and from which labels."""

    task: Annotated[Task, Before("height"), Usual()] = "height"
    """Heights of pixels; the class at each pixel; or, for each tile, a number or a class of --label."""
    label: Annotated[str, Before(""), OnlyWith(task=(*OF_TILES, "pixel-class")), In.CHIPS, Usual()] = ""
    """Label that is learnt: of tiles a column of the index, such as tree_percent, where tiles without a value
    are left out; of pixels the dataset's own, which need not be given."""
    head: Annotated[HeadKind, Before("mean"), OnlyWith(task=OF_TILES)] = "mean"
    """What a linear layer computes the label from: the class token, the mean of the patches' tokens, or the
    class token's attention to the patches in all heads of the last block."""

    @property
    def is_of_tiles(self) -> bool:
        """Whether there is one label for a whole tile."""
        return self.task in OF_TILES


@dataclass(frozen=True)
class ModelOptions:
    """Backbone and decoder."""

    bands: Annotated[tuple[str, ...], In.DATA, Usual()] = ("nir", "red", "green")
    """Bands that the backbone sees, in its order."""
    backbone: Annotated[str, Place(or_name=True, reserved=("tiny", "none")), Usual()] = "tiny"
    """"tiny" (random weights), a folder, a .pth file of Meta's, a model on the hub, a pre-training run, or
    none: the pixels alone, with --decoder unet."""
    backbone_weights: Annotated[Literal["teacher", "student", "random"] | None, Before(None)] = None
    """Weights of a pre-training run to start from; default: the teacher's where there is one. With "random",
    the run gives shape, bands and statistics alone, for comparison."""
    new_band_from: Annotated[
        Literal["red", "green", "blue", "mean"], OnlyWith(backbone=Another(("tiny", "none")))
    ] = "red"
    """Pretrained band whose patch weights start a band that the backbone does not know; or their mean."""
    tune: Annotated[Mode, OnlyWith(backbone=Another(("none",))), Usual()] = "all"
    """Part of the backbone that learns: nothing, last blocks, low-rank adapters in every block, or all."""
    tune_blocks: Annotated[int, OnlyWith(tune="last")] = 4
    """Blocks that learn with --tune last."""
    lora_rank: Annotated[int, OnlyWith(tune="lora")] = 8
    """Rank of the adapters with --tune lora."""
    decoder: Annotated[DecoderName, OnlyWith(task=OF_PIXELS), Usual()] = "detail"
    """Kind of decoder, which turns the backbone's tokens into pixels; dpt has heights alone. Or a class of
    your own (docs/own-parts.md)."""
    decoder_widths: Annotated[tuple[int, ...], OnlyWith(decoder=Another(("linear",)), task=OF_PIXELS)] = ()
    """Channels of the decoder's stages, from patches to pixels; default: the decoder's own."""
    norm: Annotated[Literal["batch", "group"], WITH_NORM] = "group"
    """Normalisation in the decoder; with "group" a chip's height does not depend on its batch."""
    dropout: Annotated[float, WITH_NORM] = 0.3
    """Share (0..1) of the decoder's channels that are dropped in training."""
    upsample: Annotated[Literal[1, 2, 4], OnlyWith(task=OF_PIXELS)] = 1
    """Factor by which the image is enlarged for the backbone, so that its patches cover fewer metres."""
    recompute_activations: Annotated[
        bool, MayChange(), BACKBONE_LEARNS, Follows("shard_model"), In.SPEED.late(1)
    ] = False
    """Whether to use activation checkpointing in the backbone: less memory, a third more arithmetic."""

    def __post_init__(self) -> None:
        """Refuse what is out of range; see OptimiserOptions."""
        refuse_out_of_range(self, {"dropout": (0 <= self.dropout < 1, "0 or more and below 1")})
        check_decoder(self.decoder)


def check_decoder(name: str) -> None:
    """Refuse a name that is neither a decoder's nor an import path; nothing is imported.

    Raises:
        InputError: says which names there are.
    """
    if name not in get_args(DecoderKind) and own_path(name) != name:
        raise InputError(
            f"--decoder {name}: no such decoder; choose one of {', '.join(get_args(DecoderKind))}, or name "
            "your own, package.module.Class"
        )


@dataclass(frozen=True)
class TokenOptions:
    """Store of a frozen backbone's tokens."""

    token_store: Annotated[str, Place(fills=True), OF_HEIGHTS] = ""
    """Folder or s3://... of a frozen backbone's tokens, computed once and read instead; default: none."""
    token_dtype: Annotated[Literal["bfloat16", "float16", "float32"], OnlyWith(token_store=Some())] = (
        "bfloat16"  # noqa: S105 - no password
    )
    """Data type of the stored tokens: 2, 2 or 4 bytes a number."""
    token_variants: Annotated[Literal[1, 8], OnlyWith(token_store=Some())] = 1
    """Copies of a training chip whose tokens are stored: 1, as it is, or 8, with all flips and turns."""


@dataclass(frozen=True)
class ObjectiveOptions:
    """Loss and baselines."""

    loss: Annotated[tuple[str, ...], Imports(), OF_HEIGHTS, Usual()] = ("asymmetric(factor=1.3)",)
    """Losses, each NAME[(key=value,...)][:WEIGHT][:END_WEIGHT][@FROM[..TO]]; see docs/training.md. NAME may
    be package.module.function, of your own (docs/own-parts.md)."""
    baseline_chips: Annotated[int, Follows("cache_gigabytes"), In.OPTIMISER.late(4)] = 20_000
    """Training chips to which the two baselines (mean or commonest class, regression) are fitted."""


@dataclass(frozen=True)
class OptimiserOptions:
    """Learning rates, weight decay and how they change."""

    optimiser: Annotated[Literal["adamw", "muon"], Before("adamw")] = "adamw"
    """AdamW for all weights; or Muon for matrices and convolutions' kernels but the output layer's and the
    embeddings', and AdamW for the others."""
    learning_rate: Annotated[float, Usual()] = 3e-3
    """Peak learning rate of AdamW for the decoder, or for the output layer of a tile task."""
    muon_rate: Annotated[float, Before(0.02), OnlyWith(optimiser="muon")] = 0.02
    """Peak learning rate of Muon for the decoder; it rises and falls with AdamW's, and a backbone has the
    same share of both."""
    output_rate_factor: Annotated[float, OnlyWith(task=OF_PIXELS), In.OPTIMISER.late(2)] = 1.0
    """Learning rate of the output layer as a multiple: it alone has to grow to the scale of metres."""
    backbone_rate_factor: Annotated[float, BACKBONE_LEARNS, In.OPTIMISER.late(2)] = 0.1
    """Learning rate of the backbone's last block, where it learns, as a share of the decoder's."""
    layer_decay: Annotated[float, BACKBONE_LEARNS, In.OPTIMISER.late(2)] = 1.0
    """Learning rate of each block of the backbone as a share (0..1) of the next one's; 1: all alike."""
    weight_decay: float = 1e-2
    """Weight decay of AdamW: a step takes this times the learning rate from each weight."""
    schedule: Literal["cosine", "plateau", "constant"] = "cosine"
    """"cosine": up, then down to 0; "constant": up, then level; "plateau": halved when validation stalls."""
    warm_up: Annotated[float, OnlyWith(schedule=("cosine", "constant"))] = 0.05
    """Share (0..1) of all steps in which the learning rate goes up, one step at least."""
    plateau_patience: Annotated[int, PLATEAU, In.OPTIMISER.late(3)] = 3
    """Epochs without improvement that are tolerated; the next one halves the learning rate."""
    lowest_learning_rate: Annotated[float, PLATEAU, In.OPTIMISER.late(3)] = 1e-6
    """Learning rate of the decoder below which it is not halved; the others keep their proportion to it."""

    def __post_init__(self) -> None:
        """Refuse what is out of range.

        Raises:
            InputError: says which option, and what to choose.
        """
        refuse_out_of_range(
            self,
            {
                "learning_rate": (0 < self.learning_rate < inf, "above 0"),
                "optimiser": (self.optimiser in ("adamw", "muon"), "adamw or muon"),
                "muon_rate": (0 < self.muon_rate < inf, "above 0"),
                "output_rate_factor": (0 < self.output_rate_factor < inf, "above 0"),
                "backbone_rate_factor": (0 < self.backbone_rate_factor < inf, "above 0"),
                "layer_decay": (0 < self.layer_decay <= 1, "above 0 and at most 1"),
                "weight_decay": (0 <= self.weight_decay < inf, "0 or more"),
                "schedule": (
                    self.schedule in ("cosine", "plateau", "constant"),
                    "cosine, plateau or constant",
                ),
                "warm_up": (0 <= self.warm_up < 1, "0 or more and below 1"),
                "plateau_patience": (self.plateau_patience >= 0, "0 or more"),
                "lowest_learning_rate": (
                    self.schedule != "plateau" or 0 <= self.lowest_learning_rate <= self.learning_rate,
                    f"0 or more and at most the learning rate, {self.learning_rate}",
                ),
            },
        )


@dataclass(frozen=True)
class FitOptions:
    """The training loop."""

    seed: Annotated[int, Follows("workers"), In.OPTIMISER.late(5), Usual()] = 0
    """Seed of weights, order and augmentation."""
    deterministic: Annotated[bool, Follows("seed"), In.SPEED.late(4)] = False
    """Whether to use only algorithms that give the same bits in every run; on a GPU they can be slower."""
    gradient_norm: Annotated[float, Follows("weight_decay"), In.OPTIMISER.late(4)] = 1.0
    """Largest norm of the gradients; larger ones are scaled down to it."""
    average: Annotated[float, In.OPTIMISER.late(4)] = 0.0
    """Decay of the average of the weights, and of batch norm's running statistics, that is scored and saved,
    for example 0.999; 0: no average."""
    epochs: Annotated[int, OnlyWith(minutes=Nothing()), Usual()] = 30
    """Largest number of passes through the training chips."""
    minutes: Annotated[float, Before(0.0), In.OPTIMISER.late(1)] = 0.0
    """Minutes that training takes, instead of --epochs: its speed is measured in the first steps, and the
    number of steps that fill the time is written to the run's config.yaml; 0: --epochs holds."""
    steps: Annotated[
        int | None, OnlyWith(minutes=Nothing()), Before(None), Decided(), In.OPTIMISER.late(4)
    ] = None
    """Steps after which training ends, also within an epoch; default: --epochs or --minutes decides."""
    stop_patience: Annotated[int, In.OPTIMISER.late(1)] = 0
    """Number of epochs without improvement after which training stops; 0 disables."""
    batch_size: Annotated[int | None, OnlyWith(batch_per_worker=0), Decided(), Usual()] = None
    """Chips per step, over all workers; default: 16 on a CPU, more on GPUs (docs/gpu.md), and written to the
    run's config.yaml."""
    batch_per_worker: Annotated[int, In.SPEED.late(1)] = 0
    """Chips per step and worker, so that the batch size is this times the workers; 0: --batch-size holds."""
    accumulate: Annotated[int, MayChange(), In.SPEED.late(1)] = 1
    """Pieces in which a batch is computed: less memory, and with the loss silog a third more arithmetic;
    batch norm normalises each piece by itself."""
    precision: Annotated[WantedPrecision, OF_BF16, Decided("auto"), In.SPEED, Usual()] = "float32"
    """Numbers to compute with: float32; tf32 in matrix products; bf16 or fp16 where that is safe; weights
    stay float32. With auto bf16 where the device has it in hardware, else float32; the run keeps it."""
    compile: Annotated[bool, MayChange(), In.SPEED.late(1)] = False
    """Whether to compile backbone and decoder with torch.compile; the first steps take minutes."""
    shard_model: Annotated[bool, MayChange(), In.SPEED.late(1)] = False
    """Whether each worker keeps a part of all weights (FSDP2), for large backbones; needs two workers."""
    on_nonfinite: Annotated[Literal["stop", "skip"], MayChange(), In.OPTIMISER.late(5)] = "stop"
    """Response to a step whose loss is not a number: end the run, or leave the step out and count it."""

    batch_on_cpu: ClassVar[int] = 16
    """Chips per step where nothing says how many."""

    @property
    def computed_in(self) -> Precision:
        """Precision, float32 where nothing decided it."""
        return "float32" if self.precision == "auto" else self.precision

    def __post_init__(self) -> None:
        """Refuse what is out of range; see OptimiserOptions."""
        refuse_out_of_range(
            self,
            {
                "gradient_norm": (self.gradient_norm > 0, "above 0"),
                "minutes": (0 <= self.minutes < inf, "0 or more"),
                "steps": (self.steps is None or self.steps >= 1, "1 or more"),
                "stop_patience": (self.stop_patience >= 0, "0 or more"),
            },
        )


def check_counts(global_batch: int, fit: FitOptions) -> None:
    """Refuse a run without a chip, an epoch or a piece of a batch.

    Raises:
        InputError: says which option, and what to give.
    """
    for option, value, least in (
        ("--batch-size", global_batch, 1),
        ("--epochs", fit.epochs, 1),
        ("--accumulate", fit.accumulate, 1),
        ("--seed", fit.seed, 0),
    ):
        if value < least:
            raise InputError(f"{option} {value}: give {least} or more")


@dataclass(frozen=True)
class KeepOptions:
    """Checkpoints, states and logs that a run keeps."""

    checkpoint_steps: Annotated[int, MayChange()] = 1000
    """Steps from one saved state to the next; the end of an epoch always saves one."""
    keep_best: Annotated[int, MayChange()] = 1
    """Number of the best epochs whose checkpoints are kept."""
    mlflow: Annotated[str, Place(), Address("mlflow"), MayChange()] = ""
    """MLflow tracking server (http://...) or sqlite:///FILE that gets options and numbers; default: none."""

    def __post_init__(self) -> None:
        """Refuse what is out of range; see OptimiserOptions."""
        refuse_out_of_range(
            self,
            {
                "checkpoint_steps": (self.checkpoint_steps >= 1, "1 or more"),
                "keep_best": (self.keep_best >= 1, "1 or more"),
            },
        )
