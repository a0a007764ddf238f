"""Sound things of each kind that Treeline leaves, and the commands that read them.

A dataset of tars and one of Zarr, a run with its state and evaluation, and a folder of maps: small, and made
once. A command's output on sound things is what it must say again, or else name what is damaged.
"""

import shutil
from pathlib import Path
from typing import NamedTuple

from in_process import treeline
from regressors import BANDS, local_backbone, odd_scene, small_config, write_dataset, write_scene

from trainer.commands.train import train
from trainer.devices.ranks import Ranks


class Thing(NamedTuple):
    """One kind of thing, in a folder of its own below the folder of all."""

    name: str
    """Name of its folder."""
    readers: tuple[tuple[str, ...], ...]
    """Commands that read it, in the folder of all. {out} is a new folder."""


THINGS = (
    Thing(
        "chips",
        (
            ("verify", "chips"),
            ("inspect", "chips", "--out", "{out}"),
            ("convert", "chips", "--to", "zarr", "--out", "{out}"),
            ("evaluate", "--checkpoint", "run", "--data", "chips", "--split", "val"),
        ),
    ),
    Thing("zarr", (("verify", "zarr"), ("convert", "zarr", "--to", "tar", "--out", "{out}"))),
    Thing(
        "run",
        (
            ("verify", "run"),
            ("evaluate", "--checkpoint", "run", "--data", "chips", "--split", "val"),
            ("predict", "scene.tif", "--checkpoint", "run", "--out", "{out}", "--on-mismatch", "ignore"),
            ("report", "run", "--data", "chips", "--out", "{out}"),
        ),
    ),
    Thing(
        "maps",
        (
            ("verify", "maps"),
            ("predict", "scene.tif", "--checkpoint", "run", "--out", "maps", "--on-mismatch", "ignore"),
            ("mosaic", "maps/*.tif", "--out", "{out}"),
        ),
    ),
)


def make_all(folder: Path) -> Path:
    """Make one of each in `folder`."""
    dataset = write_dataset(folder / "chips", 16, val_share=0.4)
    backbone = local_backbone(folder / "backbone")
    train(small_config(dataset, backbone, str(folder / "run"), bands=BANDS, epochs=1), Ranks())
    write_scene(folder / "scene.tif", odd_scene(40, 40))
    for command in (
        ("convert", "chips", "--to", "zarr", "--out", "zarr"),
        ("evaluate", "--checkpoint", "run", "--data", "chips", "--split", "val", "--out", "run/evaluation"),
        ("predict", "scene.tif", "--checkpoint", "run", "--out", "maps", "--on-mismatch", "ignore"),
    ):
        done = treeline(*command, folder=folder)
        assert done.returncode == 0, (command, done.stderr)
    return folder


def copied(sound: Path, folder: Path, name: str) -> None:
    """Copy the thing called `name` anew, and link the others, which stay sound."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    for path in sound.iterdir():
        if path.name == name:
            shutil.copytree(path, folder / path.name)
        else:
            (folder / path.name).symlink_to(path)
