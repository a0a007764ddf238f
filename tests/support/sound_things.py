"""Sound things of each kind that Treeline leaves or is given, and the commands that read them.

A command's output on sound things is what it must say again, or else name what is damaged.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

Reader = tuple[str, ...]
"""A command, word by word, in the folder of all things. {out} is a new place."""


def words(text: str) -> Reader:
    return tuple(text.split())


class Thing(NamedTuple):
    """One kind of thing, in a folder of its own below the folder of all."""

    name: str
    """Name of its folder."""
    readers: tuple[Reader, ...]
    """Commands that read it."""
    slow: tuple[Reader, ...] = ()
    """Commands that take a second or more: every tenth damage is shown to them."""
    is_foreign: bool = False
    """Whether nothing in it has a checksum, so that another content is another input."""
    beside: tuple[str, ...] = ()
    """Names of other things that its readers write to."""


SMALL = "--recipe tiny --batch-size 8 --decoder-widths 32 16 16 16 --epochs 1 --bands nir red green"
TRAIN = f"train --data chips --backbone backbone {SMALL}"
FROZEN = f"{TRAIN} --tune frozen --no-flips"
INGEST = (
    "ingest pairs --images pairs/images --heights pairs/heights --table pairs/table.csv --chip-size 32 "
    "--shard-chips 1 --shares 1"
)
HEIGHTS = "ingest scenes --images rasters/scene.tif --heights rasters/heights.tif --chip-size 32 --shares 1"
OLD_TRAIN = (
    "train --data begun/chips --backbone begun/backbone --tune frozen --decoder linear --epochs 2 "
    "--batch-size 4 --checkpoint-steps 1 --deterministic"
)
PRETRAIN = "pretrain --data chips --recipe mae-tiny --width 24 --depth 1 --batch-size 8"
LABEL = "ingest labels chips --raster cover/cover.tif --as cover --mean"
REGIONS = "--region-column source --projections 64 --draws 2 --no-tsne"

THINGS = (
    Thing(
        "chips",
        (
            words("verify chips"),
            words("convert chips --to zarr --out {out}"),
            words("evaluate --checkpoint run --data chips --split val"),
            words("embed chips --checkpoint pretrained --out {out}"),
            words("attention --data chips --checkpoint pretrained --limit 2 --out {out}"),
            words("split chips --split-by scene --shares 0.5 0.5"),
            words(LABEL),
        ),
        (words("inspect chips --chips 2 --out {out}"), words(f"{TRAIN} --out {{out}}")),
    ),
    Thing(
        "zarr",
        (
            words("verify zarr"),
            words("convert zarr --to tar --out {out}"),
            words("split zarr --split-by scene"),
        ),
        (words("inspect zarr --chips 2 --out {out}"),),
    ),
    Thing(
        "run",
        (
            words("verify run"),
            words("evaluate --checkpoint run --data chips --split val"),
            words("predict scene.tif --checkpoint run --out {out} --on-mismatch ignore"),
            words("embed --scenes scene.tif --checkpoint run --out {out} --on-mismatch ignore"),
            words("attention scene.tif --checkpoint run --out {out} --on-mismatch ignore"),
            words("export run --out {out}"),
            words(f"{TRAIN.replace('--epochs 1', '--epochs 2')} --out run --resume auto"),
        ),
        (words("report run --data chips --out {out}.html"),),
    ),
    Thing(
        "pretrained",
        (
            words("verify pretrained"),
            words("embed chips --checkpoint pretrained --out {out}"),
            words("attention --data chips --checkpoint pretrained --limit 2 --out {out}"),
            words("export pretrained --to transformers --out {out}"),
            words(f"{PRETRAIN} --epochs 2 --out pretrained --resume auto"),
            words("train --data chips --backbone pretrained --decoder linear --epochs 1 --out {out}"),
        ),
        (words("report pretrained --out {out}.html"),),
    ),
    Thing(
        "maps",
        (
            words("verify maps"),
            words("predict scene.tif --checkpoint run --out maps --on-mismatch ignore --stac"),
            words("mosaic maps/*.tif --out {out}.tif"),
            words("mosaic maps/scene.chm.json --out {out}.tif"),
            words("evaluate --maps maps/scene.chm.tif --heights rasters/heights.tif --out {out}"),
        ),
        (words("report run --data chips --maps maps/*.tif --heights rasters/heights.tif --out {out}.html"),),
    ),
    Thing(
        "embedded",
        (words("verify embedded"), words("embed chips --checkpoint pretrained --out embedded")),
        (words(f"distances embedded {REGIONS} --out {{out}}"),),
    ),
    Thing("tokens", (words("verify tokens"), words(f"{FROZEN} --token-store tokens --out {{out}}"))),
    Thing("cover", (words(LABEL),), beside=("chips",), is_foreign=True),
    Thing(
        "rasters",
        (
            words(f"{HEIGHTS} --out {{out}}"),
            words("predict rasters/scene.tif --checkpoint run --out {out} --on-mismatch note"),
            words("embed --scenes rasters/scene.tif --checkpoint run --out {out}"),
            words("attention rasters/scene.tif --checkpoint run --out {out}"),
            words("evaluate --maps maps/scene.chm.tif --heights rasters/heights.tif --out {out}"),
        ),
        is_foreign=True,
    ),
    Thing(
        "lists",
        (
            words("predict lists/scenes.csv --checkpoint run --out {out} --on-mismatch ignore"),
            words("predict lists/scenes.txt --checkpoint run --out {out} --on-mismatch ignore"),
            words("predict lists/item.json --checkpoint run --out {out} --on-mismatch ignore"),
            words("predict scene.tif --area lists/area.geojson --checkpoint run --out {out}"),
            words("predict --config lists/predict.yaml --out {out}"),
            words("run lists/steps.yaml --dry-run"),
        ),
        is_foreign=True,
    ),
    Thing("pairs", (words(f"{INGEST} --out {{out}}"),), is_foreign=True),
    Thing("half", (words(f"{INGEST} --out half"),)),
    Thing("tars", (words("ingest tars tars"),), is_foreign=True),
    Thing(
        "begun",
        (
            words(
                "predict begun/scene_0.tif begun/scene_1.tif --checkpoint begun/checkpoint --block 32 "
                "--batch-size 4 --out begun/maps-half"
            ),
        ),
        (words(f"{OLD_TRAIN} --out begun/run-half --resume auto"),),
        is_foreign=True,
    ),
    Thing("backbone", (words(f"{TRAIN} --out {{out}}"),), is_foreign=True),
    Thing(
        "parquet",
        (
            words(
                "ingest huggingface parquet/chips.parquet --bands blue green red nir --chip-size 32 "
                "--shares 1 --out {out}"
            ),
        ),
        is_foreign=True,
    ),
)


def copied(sound: Path, folder: Path, thing: Thing) -> None:
    """Copy a thing anew, with what its readers write to, and link the others, which stay sound."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path in sound.iterdir():
        if path.name == thing.name or path.name in thing.beside:
            shutil.copytree(path, folder / path.name)
        else:
            (folder / path.name).symlink_to(path)
