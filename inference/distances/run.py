"""`treeline distances`: how far regions lie apart in embeddings, as numbers and as a page.

embeddings                     inference.embed.embeddings.read_embeddings
-> tiles of each region        inference.distances.regions.regions_of
-> distances, a classifier     inference.distances.measured.measure
-> beside errors               inference.distances.nearest.compare
-> distances.json, index.html  inference.distances.page.page_of
"""

from dataclasses import asdict
from typing import Any

import numpy as np
import pyarrow as pa

from inference.config import DistancesConfig
from inference.distances.errors import Errors, read_errors
from inference.distances.layout import NEEDS, can_tsne, laid_out
from inference.distances.measured import AS_THEY_ARE, VIEWS, measure
from inference.distances.nearest import check_errors, compare
from inference.distances.page import Found, page_of
from inference.distances.regions import LEAST_TILES, Regions, regions_of
from inference.distances.sliced import AT_ONCE
from inference.embed.embeddings import Embeddings, read_embeddings
from shards.errors import InputError
from shards.format.sealed import json_bytes
from shards.progress import Advance, progress
from shards.roles import flag_of
from shards.said import say
from shards.storage.objects import check_writable, join, publish
from shards.version import made_by_code

NUMBERS, PAGE = "distances.json", "index.html"
PASSES = 2
"""Times that each folder's tiles are projected: as they are, and whitened."""


def distances(config: DistancesConfig) -> str:
    """Measure, write both files, and return the numbers in words; see `found_distances`."""
    return "\n".join([*map(said, found_distances(config)), f"page: {join(config.out, PAGE)}"])


def found_distances(config: DistancesConfig) -> list[Found]:
    """Measure, write both files, and return what was found of each folder.

    Raises:
        InputError: an option, the embeddings, the errors or --out cannot be used.
        DatasetError: a file of the embeddings is damaged.
    """
    _check(config)
    errors = read_errors(config.errors) if config.errors else None
    every = [read_embeddings(url) for url in config.embeddings]
    _refuse_mixture(every)
    regions = [regions_of(embeddings, config) for embeddings in every]
    if errors is not None:
        for of in regions:
            check_errors(errors, of)
    if config.label:
        for embeddings in every:
            _check_label(config.label, embeddings)
    check_writable(config.out)
    by_tsne = config.tsne and can_tsne()
    if config.tsne and not by_tsne:
        say(NEEDS)
    units = -(-config.projections // AT_ONCE) * AT_ONCE
    with progress("distances", units * config.draws * PASSES * len(every), "projections") as advance:
        found = [_found(of, errors, config, by_tsne, advance) for of in regions]
    page = page_of(found, config).encode()
    publish(join(config.out, PAGE), page)
    publish(join(config.out, NUMBERS), json_bytes(_numbers(found, config)))
    return found


def _found(
    regions: Regions, errors: Errors | None, config: DistancesConfig, by_tsne: bool, advance: Advance
) -> Found:
    measured = measure(regions, config, advance)
    compared = compare(errors, regions, measured, config) if errors else []
    advance(0, "layout")
    layout = laid_out(np.concatenate(regions.clouds()), by_tsne, config.seed)
    return Found(regions, measured, compared, layout)


def _check(config: DistancesConfig) -> None:
    if not config.embeddings:
        raise InputError("give one or more folders that treeline embed wrote")
    if len(set(config.embeddings)) < len(config.embeddings):
        raise InputError("the same embeddings are named twice; name each folder once")
    least = {"tiles": LEAST_TILES, "projections": 1, "draws": 1, "seed": 0, "neighbours": 1}
    for name, least_value in least.items():
        if getattr(config, name) < least_value:
            raise InputError(f"{flag_of(name)} {getattr(config, name)}: give {least_value} or more")


def _refuse_mixture(every: list[Embeddings]) -> None:
    """Refuse tokens of different kinds, and those of patches, of which a tile has many."""
    for embeddings in every:
        if embeddings.tokens == "patches":
            raise InputError(
                f"{embeddings.url}: holds patches, and distances compare tiles; embed with --tokens class or "
                "mean"
            )
        if embeddings.tokens != every[0].tokens:
            raise InputError(
                f"{embeddings.url}: holds {embeddings.tokens} tokens, but {every[0].url} holds "
                f"{every[0].tokens} tokens; give embeddings of one kind"
            )


def _check_label(label: str, embeddings: Embeddings) -> None:
    columns = embeddings.columns.schema
    numbers = [
        field.name
        for field in columns
        if pa.types.is_floating(field.type)
        or pa.types.is_integer(field.type)
        or pa.types.is_boolean(field.type)
    ]
    if label not in numbers:
        raise InputError(
            f"--label {label}: {embeddings.url} has no such column of numbers; it has {', '.join(numbers)}"
        )


def _numbers(found: list[Found], config: DistancesConfig) -> dict[str, Any]:
    """Return the contents of distances.json."""
    options = {name: value for name, value in asdict(config).items() if name != "out"}
    return {**made_by_code(), "options": options, "views": VIEWS, "embeddings": list(map(_numbers_of, found))}


def _numbers_of(one: Found) -> dict[str, Any]:
    regions, measured, about = one.regions, one.measured, one.regions.embeddings.about
    sliced_RR = measured.views[AS_THEY_ARE].sliced_RR
    return {
        "embeddings": one.url,
        "made_with": regions.embeddings.made_with,
        "checkpoint": about["checkpoint"],
        "regions": {
            name: {"tiles": count, "used": len(rows)}
            for name, count, rows in zip(regions.names, regions.counts, regions.rows, strict=True)
        },
        "tiles_without_region": regions.without,
        "distances": {name: view.to_json(regions.names) for name, view in measured.views.items()},
        "whitened_directions": measured.directions,
        "every_pair_further_apart_than_halves": one.are_apart,
        "told_apart": {name: told.to_json() for name, told in measured.told_apart.items()},
        "held_out": regions.held_out,
        "errors": [compared.to_json(regions.names, sliced_RR) for compared in one.compared],
    }


def said(one: Found) -> str:
    """Sum up a folder's distances in a few lines."""
    view, told = one.measured.views[AS_THEY_ARE], one.measured.told_apart[AS_THEY_ARE]
    between, within = view.between(), view.within()
    apart = (
        "every two regions differ by more than halves of one"
        if one.are_apart
        else "some regions differ by no more than halves of one"
    )
    line = (
        f"{one.url}: {apart} (sliced Wasserstein distance {between.min():.3g} to {between.max():.3g} between "
        f"regions, {within.min():.3g} to {within.max():.3g} between halves of one); a linear classifier "
        f"names the region of {told.accuracy:.1%} of tiles, by chance {told.chance:.0%}"
    )
    for compared in one.compared:
        found = compared.correlations[AS_THEY_ARE]
        line += f"\n  {compared.kind}: rank correlation of distance and error "
        line += f"{found.rho:.2f} over {found.pairs} pairs, p {found.p:.2g}" if found else "is not defined"
    return line
