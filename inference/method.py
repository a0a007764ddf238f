"""How heights are computed: all that a map depends on besides its scene and the regressor."""

from dataclasses import dataclass

from inference.config import Weighting
from inference.geotiff import HEIGHT, SPREAD, MapBand
from inference.windows import WindowGrid
from shards.errors import InputError

SYMMETRIES = (1, 8)


@dataclass(frozen=True)
class MapOptions:
    """Options of a map's pixels; the same give the same."""

    grid: WindowGrid
    weighting: Weighting = "triangle"
    batch_size: int = 32
    symmetries: int = 1
    """Each window is predicted in so many flips and turns (1 or 8), and their mean is taken."""
    spread: bool = False
    """Whether the map has a second band: how far apart the predictions of a pixel are."""
    bf16: bool = False

    def __post_init__(self) -> None:
        """Raises InputError: an option is out of range."""
        if self.batch_size < 1 or self.batch_size & (self.batch_size - 1):
            # Of 6 windows the last one's heights can have other bits than of the first: what does not fill a
            # vector of the processor is computed by other instructions.
            raise InputError(f"--batch-size {self.batch_size}: give a power of 2: 1, 2, 4, 8, 16, 32, ...")
        if self.symmetries not in SYMMETRIES:
            raise InputError(f"--symmetries {self.symmetries}: give 1 or 8")

    @property
    def bands(self) -> tuple[MapBand, ...]:
        """Of the map."""
        return (HEIGHT, SPREAD) if self.spread else (HEIGHT,)
