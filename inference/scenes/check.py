"""Whether a scene is what the training was."""

from inference.scenes.sample import overview_sample, windows_sample
from inference.scenes.scene import Scene
from inference.scenes.values import value_findings
from shards.errors import InputError
from shards.format.statistics import Statistics
from shards.raster.finding import Finding
from shards.raster.mask_band import NEEDED, mask_as_band


def findings_of(scene: Scene, statistics: Statistics) -> tuple[Finding, ...]:
    """Find what about an open scene does not fit the training.

    An overview may clear a scene. It accuses none, because it can be older than the pixels, and may mix
    missing pixels with others: what it shows is looked for again in the pixels themselves.

    Args:
        scene: the scene.
        statistics: statistics of the chips that the model was trained on.

    Raises:
        InputError: the scene's file is damaged.
    """
    if mask := mask_as_band(scene.named, scene.missing, NEEDED):
        return (*scene.findings, mask)  # a mask is unlike a band, which is nothing more to say
    try:
        sample = overview_sample(scene)
    except InputError:  # the pixels of its own resolution may be whole
        sample = None
    if sample and not value_findings(sample, scene.schema, statistics):
        return scene.findings
    return scene.findings + value_findings(windows_sample(scene), scene.schema, statistics)
