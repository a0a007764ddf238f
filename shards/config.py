"""The options of `treeline inspect`, each with its unit and default."""

from dataclasses import dataclass
from typing import Annotated

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
