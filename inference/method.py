"""How heights are computed: all that a map depends on besides its scene and the regressor."""

from dataclasses import dataclass

from inference.config import PredictConfig, Weighting
from inference.geotiff import HEIGHT, SPREAD, MapBand
from inference.windows import WindowGrid
from shards.errors import InputError

SYMMETRIES = (1, 8)


@dataclass(frozen=True)
class Method:
    """Options of a map's pixels; the same give the same."""

    grid: WindowGrid
    weighting: Weighting = PredictConfig.weights
    batch_size: int = PredictConfig.batch_size
    symmetries: int = PredictConfig.symmetries
    """Each window is predicted in so many flips and turns (1 or 8), and their mean is taken."""
    spread: bool = PredictConfig.spread
    """Whether the map has a second band: how far apart the predictions of a pixel are."""
    bf16: bool = PredictConfig.bf16

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
