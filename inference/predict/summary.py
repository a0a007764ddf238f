"""Summary of a prediction: what its command prints at the end."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from inference.predict.scene_map import Failed
from shards.progress import PIXELS, in_words
from shards.raster.finding import NAMED
from shards.wording import counted

SLOW, SLOW_SECONDS = 0.2, 10.0
"""Share (0..1) of the model's time, and seconds of a run, above which reading is called slow."""


@dataclass
class Summary:
    """Outcome of a run."""

    maps: dict[str, str] = field(default_factory=dict)
    """URL of each scene's map, by the scene's URL; includes maps that were there before."""
    before: int = 0
    """Number of maps that were there before."""
    failed: list[Failed] = field(default_factory=list)
    all_failed: str = ""
    """URL of the file that names them all, where lines name only the first of several alike."""
    noted: int = 0
    """Number of mapped scenes with findings, which were said when the work began."""
    differing: int = 0
    """Number of mapped scenes that differ from the training, and would be refused by default."""
    smaller: int = 0
    """Number of blocks that this run computed with fewer windows at a time, for want of memory."""
    megapixels: float = 0.0
    """Number of megapixels that this run predicted."""
    seconds: float = 0.0
    predicting_waited: float = 0.0
    """Share of their time that predictors waited for pixels."""
    reading_waited: float = 0.0
    """Share of their time that readers waited for busy predictors."""

    def __str__(self) -> str:
        made = len(self.maps) - self.before
        failed = counted(len(self.failed), "scene")
        lines = [f"{counted(made, 'map')} made, {self.before:,} there before, {failed} failed"]
        if self.megapixels:
            pixels = 1e6 * self.megapixels
            rate = pixels / max(self.seconds, 1e-9)
            lines[0] += f"; {in_words(pixels, PIXELS)} in {self.seconds:,.0f} s ({in_words(rate, PIXELS)}/s)"
        if self.predicting_waited > max(SLOW, self.reading_waited) and self.seconds > SLOW_SECONDS:
            lines.append(
                f"reading is slow: the model waited for pixels {self.predicting_waited:.0%} of its time; "
                "copy the scenes to a faster disk, or let several read at a time with --workers N"
            )
        if self.differing:
            scenes = "1 scene differs" if self.differing == 1 else f"{self.differing:,} scenes differ"
            lines.append(f"{scenes} from the training, as was said at the beginning and maps' tags say")
        if notes := self.noted - self.differing:
            lines.append(
                f"notes on {notes:,} scene{'s' * (notes > 1)}, said at the beginning, are in the maps' tags"
            )
        if self.smaller:
            lines.append(
                f"{self.smaller:,} blocks did not fit into memory and were computed with a smaller batch"
            )
        return "\n".join([*lines, *self._about_failed()])

    @property
    def failed_alike(self) -> dict[str, list[Failed]]:
        """Scenes that failed, by what is said of each but for its URL; of one kind, by that of the first."""
        of_kind = Counter(failed.kind for failed in self.failed if failed.kind)
        said_of_kind: dict[str, str] = {}
        alike: dict[str, list[Failed]] = {}
        for failed in self.failed:
            said = failed.reason.removeprefix(f"{failed.scene}: ")
            if of_kind[failed.kind] > NAMED:
                said = said_of_kind.setdefault(failed.kind, said)
            alike.setdefault(said, []).append(failed)
        return alike

    def _about_failed(self) -> Iterator[str]:
        for said, failed in self.failed_alike.items():
            if len(failed) == 1:
                yield f"failed: {failed[0].reason}"
            else:
                yield f"failed: {len(failed):,} scenes, such as {failed[0].scene}: {said}"
        if self.all_failed:
            yield f"all scenes that failed: {self.all_failed}"
