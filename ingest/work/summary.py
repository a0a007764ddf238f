"""What an ingest says when it is done: a table of counts, and what its user should know besides."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

from ingest.work.plan import Plan
from shards.errors import one_line
from shards.format.histogram import HEIGHT
from shards.format.manifest import Manifest
from shards.read.dataset import Dataset
from shards.write.assembly import Assembly

TALLEST_M = 150.0
"""No tree is that high: the tallest that is known, a coast redwood, has 116 m (Guinness World Records)."""


@dataclass(frozen=True)
class Before:
    """What a dataset had that was added to: chips, and by reason those refused that were not tried again."""

    kept: int = 0
    refused: Counter[str] = field(default_factory=Counter)


def summary(plan: Plan, assembly: Assembly, manifest: Manifest, before: Before) -> list[str]:
    """Lines: what was read, refused by reason with the first of each, kept, what each split has now."""
    refused = assembly.rejected - before.refused
    kept = assembly.kept - before.kept
    rows = [(kept + refused.total(), "read", "")]
    rows += [
        (count, reason, f"first {one_line(assembly.first_rejected[reason])}")
        for reason, count in refused.most_common()
    ]
    rows += [(kept, "kept", "")]
    used_for_nothing = "in no split: too near to chips of another one, or across the border of two blocks"
    rows += [
        (count, split, used_for_nothing if split == "buffer" else "")
        for split, count in manifest.splits.items()
        if count
    ]
    notes = [
        (assembly.duplicates, "have the pixels of another chip: see duplicate_of in the index"),
        (plan.unparsed, "have a key that says nothing of sensor, day or source; see --key-pattern"),
        (plan.sceneless, "name no scene, so each was held out, or not, by its own key; see --key-pattern"),
        (plan.present, "were in the dataset before, and are left as they are"),
    ]
    rows += [(count, note, "") for count, note in notes if count]
    return [f"{count:>12,} {what:<24}{first}".rstrip() for count, what, first in rows]


def advice(plan: Plan, manifest: Manifest, out: str) -> Iterator[str]:
    """Lines on what may be otherwise in the dataset at `out` than its user thinks."""
    if plan.mixed:
        yield (
            "note: chips are held out one by one, also where others of their scene are trained on; "
            "--split-by scene or blocks holds out whole ones (treeline split does it later)"
        )
    schema = manifest.schema
    if (schema.label, schema.label_unit) == (HEIGHT, "m") and manifest.samples("train"):
        height = Dataset(out, manifest).statistics.height
        if height is not None and height.percentiles["99"] > TALLEST_M:
            yield f"note: one height in a hundred is above {TALLEST_M:g} m: are they metres?"
