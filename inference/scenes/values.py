"""Whether a scene's values are those of the training: its nodata, its unit, the order of its bands.

findings = value_findings(sample, schema, statistics)

The training is known by the percentiles of each band (`shards.format.statistics`). They say nothing of how
bands go together, so a mistake is told by what an honest scene does not do. Cloud, snow, haze, season, sun
and water move the bands unlike each other; a factor moves all of them alike. Haze adds light, which changes
medians and leaves spreads; exchanged bands exchange both. docs/prediction.md states the rules.
"""

from dataclasses import replace

from inference.scenes.band_order import exchanged
from inference.scenes.compared import LEAST_PIXELS, compared
from inference.scenes.sample import Sample
from inference.scenes.units import beyond, factor, power, stretched
from shards.format.schema import Schema
from shards.format.statistics import Statistics
from shards.raster.filled import filled_file
from shards.raster.finding import Finding

RULES = (stretched, power, factor, exchanged, beyond)
"""Rules on what values are, in the order in which one explains what the next would be misled by."""


def value_findings(sample: Sample, schema: Schema, statistics: Statistics) -> tuple[Finding, ...]:
    """Compare sampled pixels with the training's percentiles; the worst finding about values comes alone.

    Args:
        sample: the scene's pixels.
        schema: the schema of the chips that the model was trained on.
        statistics: statistics of those chips; what they lack is not checked.
    """
    if sample.stored_BN.shape[1] < LEAST_PIXELS:
        return ()
    filled = filled_file(sample.spread, sample.edges)
    found, stored_BN = list[Finding](), sample.stored_BN
    if filled:
        found.append(filled[1])
        if filled[1].is_gross:
            return tuple(found)
        stored_BN = stored_BN[:, (stored_BN != filled[0]).any(0)]
    bands = compared(stored_BN, sample.names, schema, statistics)
    if bands is not None:
        bands = replace(bands, are_bytes=sample.are_bytes)
        for rule in RULES:
            if finding := rule(bands):
                found.append(finding)
                break
    return tuple(found)
