"""`treeline inspect`: what a dataset holds, in words, as pictures, and as a page of both.

print(inspect(InspectConfig("chips")))     # writes chips-inspect/index.html and the pictures beside it
print(describe(open_dataset("chips")))     # the words alone
"""

import numpy as np
import pyarrow.compute as pc

from shards.commands.inspect_bands import BandRegion, regions_of
from shards.commands.inspect_folder import PAGE, default_folder
from shards.commands.inspect_page import Duplicate, Findings, chips_of, page_of
from shards.config import InspectConfig
from shards.draw.charts import bands_chart, label_chart, sample_picture, sources_chart
from shards.draw.chip_map import MapPanel, map_chart
from shards.errors import InputError
from shards.format.band_values import said_scaling
from shards.format.file_names import MIXED, home_name
from shards.format.manifest import COUNTS, SPLITS, STATISTICS, read_json
from shards.format.schema import Schema
from shards.format.statistics import Counts, Statistics, Summary
from shards.raster.filled import FILLED, LOOKED_AT, cure_again, filled_chips
from shards.raster.finding import recorded_findings
from shards.raster.height_check import NO_UNIT
from shards.raster.pixel_size import PixelSize
from shards.read.dataset import Dataset, open_dataset
from shards.storage.objects import (
    check_writable,
    exists,
    is_local,
    join,
    local_path,
    publish,
    remove_file,
)
from shards.wording import number, said_splits
from shards.write.leakage import first_crs, said_distances, said_scenes
from shards.write.places import Places, footprints, places_of
from shards.write.shard_places import are_home

FILES = {"chips": "chips.png", "map": "map.png", "bands": "bands.png", "label": "heights.png"}
FILES |= {"sources": "sources.png"}
"""File of each picture, below the folder."""
MOST_SOURCES = 20
"""Most sources in their picture."""


def inspect(config: InspectConfig, opened: Dataset | None = None) -> str:
    """Write the page and its pictures; return the page's facts as text.

    Args:
        config: the options.
        opened: the dataset, if it is open already.

    Raises:
        InputError: no dataset, no chips asked for, or a folder in the dataset or where none can be written.
        DatasetError: a file of the dataset, or a shard of the sampled chips, is damaged.
    """
    if config.chips < 1:
        raise InputError(f"--chips {config.chips}: give 1 or more")
    dataset = opened or open_dataset(config.data)
    url = config.out or default_folder(config.data)
    _refuse_inside(url, config.data)
    check_writable(url)
    findings = find_out(dataset)
    pictures = pictures_of(dataset, findings, config)
    for name, file in FILES.items():
        if name in pictures:
            publish(join(url, file), pictures[name])
        elif exists(join(url, file)):  # of an earlier state of the dataset
            remove_file(join(url, file))
    publish(join(url, PAGE), page_of(dataset, findings, pictures).encode())
    return f"{text_of(dataset, findings)}\n{'page':12}{join(url, PAGE)}"


def describe(dataset: Dataset) -> str:
    """Say counts, rejections, how the splits are separated, and statistics of the training split."""
    return text_of(dataset, find_out(dataset))


def find_out(dataset: Dataset) -> Findings:
    """Gather the facts about `dataset` from its manifest, its index and its statistics."""
    manifest, schema = dataset.manifest, dataset.schema
    counts = {split: manifest.samples(split) for split in SPLITS}
    named = said_splits({name: n for name, n in counts.items() if n or name in ("train", "val")})
    bands, rows, columns = schema.image_shape
    rejected = ", ".join(f"{count:,} {reason}" for reason, count in manifest.rejected.items())
    duplicates = _duplicates(dataset)
    places = places_of(dataset.index, schema)
    placed = int(places.known().sum())
    regions = _regions(dataset)
    facts = {
        "dataset": f"{dataset.url} (fingerprint {manifest.fingerprint})",
        "chips": f"{named}; {bands} bands of {rows} x {columns} pixels",
        "pixels": f"{schema.dtype}, {PixelSize.of_schema(schema)}, nodata {schema.nodata}",
        **_about_values(schema),
        "label": _about_label(dataset),
        "rejected": rejected or "none",
        "shards": _about_shards(dataset),
        "duplicates": _about_duplicates(duplicates),
        "positions": _about_positions(places, placed),
        "distances": said_distances(manifest, dataset.index),
        "scenes": said_scenes(manifest, dataset.index),
        **_about_findings(dataset),
    }
    url = manifest.url_of(dataset.url, STATISTICS)
    if statistics := read_json(url, manifest.files[STATISTICS]):
        _ = dataset.statistics  # all of it is read, and must be sound and of these bands
    return Findings(facts, statistics, duplicates, regions)


def _about_label(dataset: Dataset) -> str:
    """Name the label and its unit, and say where nobody stated that unit."""
    said = dataset.schema.label_and_unit or "none"
    is_taken = NO_UNIT in recorded_findings(dataset.manifest.made_by)
    return f"{said}, taken as metres: the rasters state no unit, see findings" if is_taken else said


def _about_findings(dataset: Dataset) -> dict[str, str]:
    """Say what was found when the dataset was made, and what fills its pixels, if anything."""
    recorded = recorded_findings(dataset.manifest.made_by)
    said = [line for lines in recorded.values() for line in lines]
    if FILLED in recorded:
        return {"findings": "; ".join(dict.fromkeys(said))}
    count = int(dataset.manifest.first_chip[-1])
    numbers = np.unique(np.linspace(0, count - 1, LOOKED_AT).astype(np.int64))[:count]
    images = dataset.gather(numbers).image_BCHW if count else ()
    if found := filled_chips(images, dataset.schema.nodata, cure_again):
        said.append(str(found))
    return {"findings": "; ".join(dict.fromkeys(said))} if said else {}


def _about_shards(dataset: Dataset) -> str:
    """Say how many shards there are, and how many lie where other readers do not expect their chips."""
    manifest = dataset.manifest
    said = f"{len(manifest.shards)}, {sum(shard.nbytes for shard in manifest.shards):,} bytes"
    homes = zip(manifest.shards, are_home(manifest, dataset.index["split"].to_pylist()), strict=True)
    is_mixed = [(shard.name != home_name(shard.name), is_home) for shard, is_home in homes]
    if lie_wrong := is_mixed.count((False, False)):
        said += (
            f"; {lie_wrong:,} of them with chips of other splits than their folder says: treeline split "
            f"{dataset.url} moves or, with --rewrite alone, rewrites them"
        )
    if mixed := sum(mixed for mixed, _ in is_mixed):
        said += f"; {mixed:,} of them in {MIXED}, with chips of several splits"
    return said


def _about_values(schema: Schema) -> dict[str, str]:
    """Say what the values of bands are, where they are not simply what is stored."""
    facts = {}
    if scaled := [band for band in schema.bands if schema.is_scaled(band)]:
        by_scaling: dict[str, list[str]] = {}
        for band in scaled:
            by_scaling.setdefault(said_scaling(schema, band), []).append(band)
        one = len(scaled) == len(schema.bands) and len(by_scaling) == 1
        said = "; ".join(by_scaling if one else (f"{said}: {' '.join(b)}" for said, b in by_scaling.items()))
        facts["values"] = f"stored * scale + offset, {said}"
    if schema.derived:
        facts["derived"] = ", ".join(map(str, schema.derived))
    return facts


def text_of(dataset: Dataset, findings: Findings) -> str:
    """Say the facts line by line, then the statistics of the training split as a table."""
    lines = [f"{subject:12}{said}" for subject, said in findings.facts.items()]
    if not findings.statistics:
        return "\n".join([*lines, f"{'statistics':12}none: no chip with pixels is in the training split"])
    schema, statistics = dataset.schema, Statistics.from_json(findings.statistics)
    rows: list[tuple[str, Summary, str]] = [
        (name, band, f"{number(band.clamp_min)}..{number(band.clamp_max)}")
        for name, band in statistics.bands.items()
    ]
    if statistics.height:
        rows.append((schema.label_and_unit, statistics.height, ""))
    width = max(12, *(len(name) + 1 for name, _, _ in rows))
    head = "".join(f"{name:>10}" for name in ("mean", "std", "min", "p50", "p90", "p99", "max"))
    lines.append(f"{'train':{width}}{head}  clamped to")
    for name, summary, clamp in rows:
        p = summary.percentiles
        values = (summary.mean, summary.std, summary.minimum, p["50"], p["90"], p["99"], summary.maximum)
        lines.append(f"{name:{width}}{''.join(f'{number(value):>10}' for value in values)}  {clamp}".rstrip())
    return "\n".join(lines)


def _duplicates(dataset: Dataset) -> list[Duplicate]:
    index = dataset.index
    copies = index.filter(pc.is_valid(index["duplicate_of"])).select(["key", "split", "duplicate_of"])
    twins = pc.index_in(copies["duplicate_of"], value_set=index["key"])
    twin_splits = index["split"].take(twins).to_pylist()
    return [
        Duplicate(row["key"], row["split"], row["duplicate_of"], twin_split or "")
        for row, twin_split in zip(copies.to_pylist(), twin_splits, strict=True)
    ]


def _about_duplicates(duplicates: list[Duplicate]) -> str:
    if not duplicates:
        return "none"
    across = sum(pair.split != pair.twin_split for pair in duplicates)
    said = f"{len(duplicates):,} with the same pixels as an earlier chip"
    return f"{said}, {across:,} of them as one of another split" if across else said


def _about_positions(places: Places, placed: int) -> str:
    if not placed:
        return "unknown, so there is no map"
    names = sorted({name for name in places.crs if name is not None})
    systems = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
    return f"known of {placed:,} chips, in {systems or 'an unknown CRS'}"


def _regions(dataset: Dataset) -> list[BandRegion]:
    """Return the regions with bands; [] where one cannot be placed, as the line on distances then says."""
    try:
        return regions_of(dataset)
    except InputError:
        return []


def pictures_of(dataset: Dataset, findings: Findings, config: InspectConfig) -> dict[str, bytes]:
    """Draw everything there is to draw: PNG files by name (FILES), one of them of sampled chips."""
    manifest, schema, index = dataset.manifest, dataset.schema, dataset.index
    statistics = findings.statistics
    pictures = {"chips": sample_picture(dataset, config.chips, config.seed, config.palette)}
    places = places_of(index, schema)
    if panels := [region.panel for region in findings.regions]:
        pictures["map"] = map_chart(panels, config.seed)
    elif places.known().any():
        crs = first_crs(places)
        try:
            centre_N2 = footprints(places, crs).centre_N2
        except InputError:  # there is no such CRS: the line on distances says so
            centre_N2, crs = np.stack([places.x_N, places.y_N], axis=1), ""
        pictures["map"] = map_chart([MapPanel(centre_N2, index["split"].to_pylist(), crs)], config.seed)
    sources = chips_of(index, "source")
    if len(sources) > 1:
        first = dict(list(sources.items())[:MOST_SOURCES])
        found = {name: source["height"] for name, source in statistics.get("sources", {}).items()}
        means = {name: float(height["mean"]) for name, height in found.items() if height}
        label = schema.label_and_unit if means else ""
        pictures["sources"] = sources_chart(first, means, label)
    if not statistics:
        return pictures
    counts = Counts.from_bytes(manifest.read(dataset.url, COUNTS))
    tally, summaries = counts.total(), Statistics.from_json(statistics)
    assert tally is not None, "there are statistics"
    pictures["bands"] = bands_chart(schema, summaries, tally)
    if summaries.height:
        pictures["label"] = label_chart(schema, summaries.height, tally.height, config.palette)
    return pictures


def _refuse_inside(url: str, data: str) -> None:
    """Refuse to write into a dataset.

    Raises:
        InputError: `url` is `data` or lies below it.
    """
    if is_local(url) and is_local(data):
        inside = local_path(url).resolve().is_relative_to(local_path(data).resolve())
    else:
        inside = f"{url.rstrip('/')}/".startswith(f"{data.rstrip('/')}/")
    if inside:
        raise InputError(f"--out {url}: lies in the dataset; choose another folder")
