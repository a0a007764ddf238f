"""`treeline demo OUT --sar`: from radar tiles without labels to what pre-training gains, and where.

OUT/tiles                      tiles of four regions, split by bands of ground
OUT/pretrained                 a masked autoencoder, pre-trained on three of them
OUT/matrix                     trainings in each region from it and from scratch, tested in all
OUT/embeddings/before, after   class tokens of all tiles, before and after fine-tuning
OUT/distances                  how far the regions lie apart in them
OUT/attention                  where the class token looks
OUT/report.html
"""

from pathlib import Path

from cluster.config import DemoConfig
from cluster.demo.sar_report import write_sar_report
from cluster.demo.steps import Steps, empty_folder
from cluster.jobs.connection import connected
from inference.attention.run import attention
from inference.config import AttentionConfig, DistancesConfig, EmbedConfig
from inference.distances.page import Found
from inference.distances.run import found_distances
from inference.embed.in_process import InProcess
from inference.embed.run import embed
from ingest.config import SyntheticConfig
from ingest.synthetic.sar_regions import REGIONS
from ingest.synthetic.sar_source import LABEL, SarSource
from ingest.work.run import ingest
from trainer.chip_options import ChipOptions
from trainer.commands.matrix import PREDICTIONS, cells_here, check_matrix, matrix
from trainer.commands.train_on_ray import launch_pretraining
from trainer.config import TrainConfig
from trainer.devices.cards import chosen_here
from trainer.devices.choice_on_ray import chosen_on_ray
from trainer.matrix.plan import RUNS, check_choices
from trainer.matrix.regions import ALL
from trainer.matrix.results import Results
from trainer.matrix_config import MatrixConfig
from trainer.pretrain_config import RECIPES, PretrainConfig

UNSEEN = REGIONS[-1].name
"""Region that pre-training does not see."""
COLUMN, TARGET = "region", "tree_percent"
TILE_PX, PATCH_PX = 64, 16
TRAINING: dict[str, object] = {"epochs": 3, "epoch_steps": 20, "learning_rate": 1e-3}
"""Options of every training: the same number of steps at least, however few the labels."""
SHOWN = 6
"""Tiles whose attention is drawn."""


def run_sar_demo(config: DemoConfig) -> str:
    """Do everything; return the verdict and the path of the report.

    Raises:
        InputError: OUT is not an empty or new local folder.
    """
    out = empty_folder(config.out)
    steps = Steps()
    options = tiles_config(config, out)
    for limit in config.limit:
        ChipOptions(limit=limit)  # refuses what is neither a number nor a share
    check_choices(matrix_config(config, out))
    steps.do("tiles of radar images", lambda: ingest(SarSource(options), options))
    pretraining = pretrain_config(config, out)
    steps.do("pre-training without labels", lambda: launch_pretraining(pretraining))
    results = steps.do("matrix of trainings", lambda: _matrix(config, out))
    found = steps.do("embeddings and distances", lambda: _distances(results, out))
    looking = AttentionConfig(
        checkpoint=pretraining.out,
        out=str(out / "attention"),
        data=options.out,
        split="test",
        limit=SHOWN,
        classes=(LABEL,),
    )
    steps.do("attention", lambda: attention(looking))
    report = steps.do("report", lambda: write_sar_report(out, results, found, steps, (UNSEEN, TARGET)))
    return f"{results.table()}\n{steps.total:.0f} seconds in all; look at {report}"


def tiles_config(config: DemoConfig, out: Path) -> SyntheticConfig:
    """Return the options of the tiles: four regions, split by 40 bands of ground."""
    return SyntheticConfig(
        out=str(out / "tiles"),
        sar="seasonal",
        chips=config.tiles,
        chip_size=TILE_PX,
        seed=config.seed,
        pixel_classes=True,
        split_by="bands",
        split_bands=40,
        split_angle=("15",),
        shares=(0.6, 0.2, 0.2),
        region_column=COLUMN,
    )


def pretrain_config(config: DemoConfig, out: Path) -> PretrainConfig:
    """Return the options of pre-training."""
    recipe = {**RECIPES["mae-tiny"], "patch_size": PATCH_PX, "epochs": config.pretrain_epochs}
    return PretrainConfig.of(
        str(out / "tiles"),
        str(out / "pretrained"),
        recipe="mae-tiny",
        **recipe,
        where=f"{COLUMN} != '{UNSEEN}'",
        probe=TARGET,
        probe_epochs=max(1, config.pretrain_epochs // 5),
        seed=config.seed,
    )


def matrix_config(config: DemoConfig, out: Path) -> MatrixConfig:
    """Return the options of the matrix."""
    return MatrixConfig(
        data=(str(out / "tiles"),),
        out=str(out / "matrix"),
        init=(f"pretrained={out / 'pretrained'}", "scratch=random"),
        region_column=COLUMN,
        label=TARGET,
        tune=("all",),
        limit=config.limit,
        draws=2,
        workers=config.workers,
        device="cpu" if config.workers else "auto",  # there may be fewer GPUs than workers
        keep_checkpoints=True,
    )


def _matrix(config: DemoConfig, out: Path) -> Results:
    options = matrix_config(config, out)
    base = TrainConfig.of(options.data[0], options.out, **TRAINING)
    device = None if config.workers else chosen_here(options.device)
    plan, datasets = check_matrix(options, base, TRAINING, device)
    with connected(config.workers):
        if device is None:
            from trainer.commands.matrix_on_ray import cells_on_ray

            choice = chosen_on_ray(options.device, config.workers)
            return matrix(plan, datasets, cells_on_ray, choice.device)
        return matrix(plan, datasets, cells_here, device)


def _distances(results: Results, out: Path) -> list[Found]:
    """Embed all tiles before fine-tuning, and after it on all regions with the last share of --limit."""
    (tuned,) = (
        cell.name
        for cell in results.plan.cells
        if (cell.init, cell.trained_on, cell.draw) == ("pretrained", ALL, 0)
        and cell.limit == results.plan.config.limit[-1]
    )
    folders = []
    for name, checkpoint in (("before", out / "pretrained"), ("after", out / "matrix" / RUNS / tuned)):
        folders.append(str(out / "embeddings" / name))
        embedding = EmbedConfig(data=str(out / "tiles"), checkpoint=str(checkpoint), out=folders[-1])
        embed(embedding, InProcess(chosen_here(embedding.device)))
    return found_distances(
        DistancesConfig(
            embeddings=tuple(folders),
            out=str(out / "distances"),
            region_column=COLUMN,
            projections=1000,
            label=TARGET,
            errors=str(out / "matrix" / PREDICTIONS),
            tsne=False,
        )
    )
