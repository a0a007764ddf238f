"""The options of `treeline inspect`, `convert` and `verify`, each with its unit and default."""

from dataclasses import dataclass
from typing import Annotated, Literal

import tyro


@dataclass(frozen=True)
class InspectConfig:
    """What a dataset holds: counts, rejections, statistics, and a picture of some chips."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """The dataset: a folder or s3://..."""
    out: str = ""
    """Where the picture is written; default: DATASET.png beside it, or here if it is remote."""
    chips: int = 12
    """Chips in the picture."""
    seed: int = 0
    """Of the choice of chips."""


@dataclass(frozen=True)
class ConvertConfig:
    """The same dataset in the other format: the same chips in the same order, nothing lost."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """The dataset: a folder or s3://..."""
    to: Literal["tar", "zarr"]
    """tar: equal rows, read fastest; zarr: compressed, read by any Zarr v3 library."""
    out: str
    """Where the new dataset is made: a folder or s3://..., without a dataset in it."""


@dataclass(frozen=True)
class VerifyConfig:
    """Read everything, and compare all that is there twice: exit code 1 and a list if anything is off."""

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATASET")]
    """The dataset: a folder or s3://..."""
