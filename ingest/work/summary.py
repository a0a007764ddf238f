"""Lines that an ingest prints when it is done: a table of counts, and notes on what looks wrong."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from ingest.chips.check import (
    INCOMPLETE,
    NO_DATE,
    NO_HEIGHT,
    NO_KEY,
    NO_MASK,
    NOT_IN_TIME,
    OUT_OF_SEASON,
    TOO_LOW,
    UNKNOWN_CLASS,
)
from ingest.work.plan import IngestPlan
from shards.errors import InputError, one_line
from shards.format.histogram import CM_PER_M, HEIGHT, HIGHEST_CENTIMETRES
from shards.format.manifest import SPLITS, Manifest
from shards.raster.filled import FILLED
from shards.raster.finding import FINDINGS
from shards.raster.height_check import NO_UNIT, TALLEST_M
from shards.raster.height_unit import FOOT_M
from shards.read.dataset import Dataset
from shards.write.assembly import Assembly
from shards.write.leakage import are_neighbours_shared, leakage

DECIDED_BY = {
    INCOMPLETE: "--min-valid",
    NO_HEIGHT: "--min-height",
    TOO_LOW: "--min-height",
    UNKNOWN_CLASS: "--class-names",
    OUT_OF_SEASON: "--months",
    NO_DATE: "--key-pattern",
    NOT_IN_TIME: "--max-days",
    NO_MASK: "--mask",
    NO_KEY: "--image-name",
}
"""Option that decides whether a chip is rejected, by the reason."""
MOST_COUNTED_M = HIGHEST_CENTIMETRES / CM_PER_M
"""Height from which on statistics count all as one: 328 m, which no tree and hardly a building reaches."""


@dataclass(frozen=True)
class CountsBefore:
    """Counts of a dataset before chips were added to it."""

    kept: int = 0
    """Number of its chips."""
    refused: Counter[str] = field(default_factory=Counter)
    """Numbers of chips refused before and not tried again, by reason."""


def said_reason(reason: str) -> str:
    """Name the reason of rejected chips, and the option that decides."""
    return f"{reason} ({DECIDED_BY[reason]})" if reason in DECIDED_BY else reason


def summary(plan: IngestPlan, assembly: Assembly, manifest: Manifest, before: CountsBefore) -> list[str]:
    """List the chips read, refused (by reason, with each reason's first) and kept, and the splits' sizes."""
    refused = assembly.rejected - before.refused
    kept = assembly.kept - before.kept
    rows = [(kept + refused.total(), "read", "")]
    rows += [
        (count, said_reason(reason), f"first {one_line(assembly.first_rejected[reason])}")
        for reason, count in refused.most_common()
    ]
    rows += [(kept, "kept", "")]
    left_out = "left out: too near to chips of another split, or across the border of two blocks"
    rows += [
        (count, split, left_out if split == "buffer" else "")
        for split, count in manifest.splits.items()
        if count
    ]
    notes = [
        (assembly.duplicates, "have the pixels of another chip: see duplicate_of in the index"),
        (plan.unparsed, "have a key that names no sensor, day or source; see --key-pattern"),
        (plan.sceneless, "name no scene, so each was assigned to a split by its own key; see --key-pattern"),
        (plan.present, "were in the dataset before and stay as they are"),
    ]
    rows += [(count, note, "") for count, note in notes if count]
    width = max([24, *(len(what) + 2 for _, what, about in rows if about)])
    return [f"{count:>12,} {what:<{width}}{about}".rstrip() for count, what, about in rows]


def advice(plan: IngestPlan, manifest: Manifest, out: str) -> Iterator[str]:
    """Yield notes on what the user may not expect in the dataset at `out`."""
    if plan.mixed:
        yield (
            "note: chips are held out one by one, so that held-out and trained chips can be of one scene; "
            "--split-by scene or blocks holds out whole scenes or blocks (treeline split can do it later)"
        )
    if plan.choice:
        yield plan.choice
    schema = manifest.schema
    are_shared = are_neighbours_shared(out, manifest)
    if are_shared is not None:
        said = "note: neighbours" if are_shared else "no neighbours"
        yield f"{said} of held-out chips are trained on: {leakage(out, manifest)}"
    if schema.label:
        for split, share in zip(SPLITS, plan.rule.shares, strict=False):
            if share and not manifest.samples(split):
                yield (
                    f"note: {split} has no chip, although --shares gives it {share:g}: all chips that it was "
                    f"to have were refused; treeline split {out} splits those that are left"
                )
    if (schema.label, schema.label_unit) == (HEIGHT, "m") and manifest.samples("train"):
        try:
            height = Dataset(out, manifest).statistics.height
        except InputError as error:  # every training pixel misses a band or its label
            yield f"note: {error}"
            return
        if height is not None and height.percentiles["99"] > TALLEST_M:
            yield f"note: one height in a hundred is above {TALLEST_M:g} m: are they metres?"
        elif height is not None and height.maximum >= MOST_COUNTED_M:
            yield (
                f"note: some heights are above {MOST_COUNTED_M:.0f} m: do they mean no data that no raster "
                f"declares? --where 'height_max < {MOST_COUNTED_M:.0f}' leaves such chips out"
            )


def said_again(out: str, manifest: Manifest) -> list[str]:
    """List findings that may make the dataset wrong once more, for the end of a long ingest."""
    found = manifest.made_by.get(FINDINGS, {})
    lines = [f"note: {line}" for line in found.get(FILLED, ())]
    if not (taken := found.get(NO_UNIT)):
        return lines
    try:
        height = Dataset(out, manifest).statistics.height if manifest.samples("train") else None
    except InputError:  # every training pixel misses a band or its label, which `advice` says
        height = None
    if height is None:
        return [*lines, *(f"note: {line}" for line in taken)]
    metres = height.percentiles["99"]
    return [
        *lines,
        f"note: heights are taken as metres, since no raster says; one in 100 is above {metres:.3g} m, and "
        f"if they are feet, above {metres * FOOT_M:.3g} m: then ingest again with --height-unit ft and "
        "another --out",
    ]
