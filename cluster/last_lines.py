"""The last lines of commands: is the result good, and which command comes next, with the user's own paths.

trainer.commands.last_lines has the last lines of `train`, `pretrain`, `sweep` and `evaluate`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from cluster.cli import COMMANDS
from shards.format.manifest import SPLITS
from shards.next_step import ANY_DATASET, ANY_SCENE, NEXT, next_step
from shards.read.dataset import Dataset, open_dataset
from shards.read.label_to_learn import label_options
from shards.storage.objects import join
from shards.write.leakage import are_neighbours_shared
from shards.write.split_advice import split_advice

if TYPE_CHECKING:
    from inference.config import AttentionConfig, DistancesConfig, EmbedConfig, PredictConfig
    from trainer.config import EvaluateConfig, ImportConfig
    from trainer.matrix_config import MatrixConfig
    from trainer.pretrain_config import ExportConfig

ANY_HEIGHTS = "HEIGHTS..."
"""Stands for height rasters that nobody has named yet."""
MOST_NAMED = 4
"""Most maps that a command names one by one; of more, it has a pattern."""
REGION_COLUMNS = ("region", "source", "sensor")
"""Columns of an index that may name regions, the likeliest first."""
FEWEST_TILES = 8
"""Fewest tiles of a region that distances can be measured of."""


_SHOWS_NEXT = ContextVar("shows_next", default=True)


@contextmanager
def without_next() -> Iterator[None]:
    """Leave the lines out that name the next command: a run has its own next step."""
    before = _SHOWS_NEXT.set(False)
    try:
        yield
    finally:
        _SHOWS_NEXT.reset(before)


def to_print(text: str) -> str:
    """Return the lines of a text that are to be printed."""
    lines = text.splitlines()
    return "\n".join(line for line in lines if _SHOWS_NEXT.get() or not line.startswith(NEXT))


def after_ingest(url: str) -> list[str]:
    """Name the command that shows the new dataset."""
    return [next_step("inspect", url)]


def after_labels(url: str, column: str, is_number: bool) -> list[str]:
    """Name the command that learns a new label."""
    task = "tile-value" if is_number else "tile-class"
    words = ("train", "--data", url, "--task", task, "--label", column)
    return [next_step(*words, "--out", beside(url, "run"))]


def ready_to_train(url: str) -> list[str]:
    """Say whether a dataset is ready to train on, and name the training, or the split that it needs first."""
    return readiness(open_dataset(url))


def after_verify(url: str, problems: Sequence[str]) -> list[str]:
    """Say what to do with damaged files, or name the command that shows a dataset that is whole."""
    if not problems:
        return [next_step("inspect", url)]
    count = f"{len(problems):,} problem" + "s" * (len(problems) != 1)
    return [f"{url}: {count}: copy these files again from where they are whole, or make them anew"]


def after_convert(url: str) -> list[str]:
    """Name the command that checks the new dataset."""
    return [next_step("verify", url)]


def after_prediction(config: "PredictConfig", maps: Sequence[str]) -> list[str]:
    """Name the commands that show maps, and that merge them where they overlap or else score them."""
    if not maps:
        return []
    from inference.mosaic.overlap import are_height_maps, do_overlap

    named = list(maps) if len(maps) <= MOST_NAMED else [f"{config.out.rstrip('/')}/*.chm.tif"]
    shown = offered("view", maps[0])
    if not are_height_maps(maps):
        return shown
    if do_overlap(maps):
        return [*shown, next_step("mosaic", *named, "--out", f"{config.out.rstrip('/')}-mosaic.tif")]
    return [*shown, next_step("evaluate", "--maps", *named, "--heights", ANY_HEIGHTS)]


def after_mosaic(out: str) -> list[str]:
    """Name the commands that show a mosaic and score it."""
    return [*offered("view", out), next_step("evaluate", "--maps", out, "--heights", ANY_HEIGHTS)]


def after_scores(config: "EvaluateConfig") -> list[str]:
    """Name the command that makes a page of a run whose scores were written."""
    if not config.out:
        return []
    from trainer.score.evaluation import FOLDER

    is_beside = config.out.rstrip("/") == join(config.checkpoint, FOLDER)
    return offered("report", config.checkpoint, *(() if is_beside else ("--evaluation", config.out)))


def after_embedding(config: "EmbedConfig") -> list[str]:
    """Name the command that measures distances of regions, if the tiles have some."""
    is_all = config.data and config.split == "all" and not config.where and config.limit is None
    if config.tokens == "patches" or not is_all:
        return []
    index = open_dataset(config.data).index
    for column in REGION_COLUMNS:
        counts = Counter(index[column].to_pylist() if column in index.column_names else ())
        del counts[None]
        if len(counts) > 1 and min(counts.values()) >= FEWEST_TILES:
            asked = () if column == REGION_COLUMNS[0] else ("--region-column", column)
            return [next_step("distances", config.out, *asked, "--out", beside(config.out, "distances"))]
    return []


def after_distances(config: "DistancesConfig") -> list[str]:
    """Name the command that draws where the backbone of the first embeddings looks."""
    from inference.embed.embeddings import read_about

    about = read_about(config.embeddings[0])
    data = about["data"]
    tiles = ("--data", data) if isinstance(data, str) else tuple(data)
    return [
        next_step(
            "attention", *tiles, "--checkpoint", about["checkpoint"], "--out", beside(config.out, "attention")
        )
    ]


def after_attention(config: "AttentionConfig") -> list[str]:
    """Name the command that describes the same tiles by vectors."""
    tiles = (config.data,) if config.data else ("--scenes", *config.tiles)
    return [
        next_step(
            "embed", *tiles, "--checkpoint", config.checkpoint, "--out", beside(config.out, "embeddings")
        )
    ]


def after_matrix(config: "MatrixConfig") -> list[str]:
    """Name the command that embeds the regions, to compare errors with distances, if a run was compared."""
    runs = [run for _, _, run in (init.partition("=") for init in config.init) if run != "random"]
    if not runs or not config.region_column:
        return []
    return [
        next_step("embed", config.data[0], "--checkpoint", runs[0], "--out", beside(config.out, "embeddings"))
    ]


def after_export(config: "ExportConfig", is_backbone: bool) -> list[str]:
    """Name the command that uses an exported checkpoint."""
    if config.to == "transformers":
        return []
    if not is_backbone:
        return [next_step("predict", ANY_SCENE, "--checkpoint", config.out, "--out", "maps")]
    return [
        next_step(
            "train", "--data", ANY_DATASET, "--backbone", config.out, "--out", beside(config.out, "run")
        )
    ]


def after_import(config: "ImportConfig") -> list[str]:
    """Name the command that scores an imported regressor."""
    return [next_step("evaluate", "--checkpoint", config.out, "--data", config.data)]


def readiness(dataset: Dataset) -> list[str]:
    """Say whether a dataset is ready to train on, and name the command that comes next.

    Returns:
        a line that says it and the line of the command.
    """
    manifest, url = dataset.manifest, dataset.url
    train, held_out = (manifest.samples(split) for split in SPLITS[:2])
    learns = label_options(manifest)
    if learns is None:
        words = ("pretrain", "--data", url, "--out", beside(url, "backbone"))
        return ["no labels: ready to pre-train a backbone", next_step(*words)]
    advised = split_advice(manifest, dataset.index)
    if not train or not held_out:
        lacks = "left to train on" if not train else "held out to score a training with"
        split = next_step("split", url, *(advised or ("--split-by", "key")))
        return [f"not ready: no chip is {lacks}", split]
    if advised:
        return [
            "not ready: held-out chips lie beside trained ones or show their scenes, so that scores would "
            "be too good",
            next_step("split", url, *advised),
        ]
    if are_neighbours_shared(url, manifest):
        said = "ready to train, but held-out chips lie beside trained ones, so that scores will be too good"
    else:
        said = "ready to train"
    return [
        f"{said}: {train:,} chips to learn from, {held_out:,} to score with",
        next_step("train", "--data", url, *learns, "--out", beside(url, "run")),
    ]


def beside(url: str, what: str) -> str:
    """Return a place beside `url`, with its name and `what`."""
    return f"{url.rstrip('/')}-{what}"


def offered(command: str, *words: str) -> list[str]:
    """Return the command's line, if the command exists."""
    return [next_step(command, *words)] if command in COMMANDS else []
