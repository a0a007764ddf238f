"""The page of `treeline distances`: what was measured of each folder of embeddings, with its pictures."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from markupsafe import Markup

import shards
from inference.config import DistancesConfig
from inference.distances import figures
from inference.distances.layout import Layout
from inference.distances.measured import AS_THEY_ARE, VIEWS, Measured
from inference.distances.nearest import DistanceChecks
from inference.distances.ranks import RankCorrelation
from inference.distances.regions import Regions
from inference.distances.whitening import LEAST_DEVIATION, POINTS_PER_DIRECTION
from shards.draw.html import Cell, Numeral, figure, heading, page, sentence, table
from shards.wording import number


@dataclass(frozen=True, eq=False)
class Found:
    """Everything that is known of one folder."""

    regions: Regions
    measured: Measured
    compared: list[DistanceChecks]
    """Errors beside distances; [] without --errors."""
    layout: Layout

    @property
    def url(self) -> str:
        """The folder."""
        return self.regions.embeddings.url

    @property
    def are_apart(self) -> bool:
        """Whether every two regions are further apart than the halves of either."""
        view = self.measured.views[AS_THEY_ARE]
        within_R = view.within()
        one, other = np.triu_indices(len(within_R), 1)
        return bool((view.between() > np.maximum(within_R[one], within_R[other])).all())


def page_of(found: Sequence[Found], config: DistancesConfig) -> str:
    """Return the whole page."""
    sections = {"In short": _in_short(found)}
    for one in found:
        title = one.url if len(found) > 1 else "Regions"
        sections[title] = _distances(one) + _told_apart(one) + _plane(one, config) + _errors(one, config)
    sections["How this was measured"] = _how(found, config)
    return page(
        "Distances between regions",
        sections,
        footer=f"Written by treeline distances, version {shards.__version__}.",
    )


def _in_short(found: Sequence[Found]) -> Markup:
    head = [
        "embeddings",
        "tokens",
        "tiles",
        "between regions",
        "between halves of one",
        "told apart",
        "chance",
    ]
    rows: list[list[Cell]] = []
    compared = any(one.compared for one in found)
    for one in found:
        view, told = one.measured.views[AS_THEY_ARE], one.measured.told_apart[AS_THEY_ARE]
        row: list[Cell] = [one.url, one.regions.embeddings.tokens, len(one.regions.all_rows)]
        row += [_range(view.between()), _range(view.within())]
        row += [Numeral(f"{told.accuracy:.1%}"), Numeral(f"{told.chance:.1%}")]
        if compared:
            row.append(_rho(one.compared[0].correlations[AS_THEY_ARE]) if one.compared else None)
        rows.append(row)
    if compared:
        head.append("distance and error")
    said = [_separated(one, len(found) > 1) for one in found]
    note = (
        "Sliced Wasserstein distances of vectors as they are, least to greatest. Told apart: share of "
        "held-out tiles to which a linear classifier gives their own region."
    )
    if compared:
        kind = next(one.compared[0].kind for one in found if one.compared)
        note += f" Distance and error: rank correlation over pairs of regions ({kind})."
    return table(head, rows) + Markup().join(map(sentence, [*said, note]))


def _separated(one: Found, several: bool) -> str:
    """Say whether regions differ by more than samples of one do."""
    whose = f"{one.url}: " if several else ""
    if one.are_apart:
        return f"{whose}Every two regions lie further apart than the halves of either."
    return f"{whose}Some regions lie no further apart than halves of one region."


def _distances(one: Found) -> Markup:
    names, views = one.regions.names, one.measured.views
    head = ("regions", *(f"{view}: {what}" for view in views for what in ("SWD", "energy")))
    rows: list[list[Cell]] = []
    pairs = [(int(a), int(b)) for a, b in zip(*np.triu_indices(len(names), 1), strict=True)]
    for a, b in [*pairs, *((n, n) for n in range(len(names)))]:
        row: list[Cell] = [f"halves of {names[a]}" if a == b else f"{names[a]}, {names[b]}"]
        for view in views.values():
            row.append(Numeral(f"{number(view.sliced_RR[a, b])} ± {view.spread_RR[a, b]:.1g}"))
            row.append(Numeral(f"{view.energy_RR[a, b]:.3g}"))
        rows.append(row)
    drawn = figure(
        figures.matrices(one.regions, one.measured), "Sliced Wasserstein distance of each pair of regions"
    )
    about = (
        "Sliced Wasserstein distances (SWD); in bold on the diagonal those between two halves of a region. "
        "± is the standard deviation over seeds of the directions."
    )
    return heading("How far apart") + drawn + sentence(about) + table(head, rows)


def _told_apart(one: Found) -> Markup:
    told = one.measured.told_apart
    rows = [
        (name, Numeral(f"{of.accuracy:.1%}"), Numeral(f"{of.chance:.1%}"), of.tiles)
        for name, of in told.items()
    ]
    scores = table(("vectors", "accuracy", "chance", "held-out tiles"), rows)
    names = one.regions.names
    shares = [
        (name, *(Numeral(f"{share:.1%}") for share in told[AS_THEY_ARE].share_RR[place]))
        for place, name in enumerate(names)
    ]
    given = table(("tiles of", *(f"given {name}" for name in names)), shares)
    said = f"A ridge regression on indicators, {one.regions.held_out}; vectors as they are:"
    return heading("How well a linear classifier tells them apart") + scores + sentence(said) + given


def _plane(one: Found, config: DistancesConfig) -> Markup:
    error_N, name = None, ""
    if one.compared and one.compared[0].tiles:
        error_N, name = _error_of_drawn(one), f"error when trained elsewhere\n{one.compared[0].kind}"
    drawn = figures.planes(one.regions, one.layout, config.label, error_N, name)
    return heading(f"On a plane: {one.layout.name}") + figure(drawn, f"Tiles on a plane by {one.layout.name}")


def _error_of_drawn(one: Found) -> Any:
    """Return each drawn tile's error, averaged over the regions trained on; NaN where it is unknown."""
    total_N, count_N = np.zeros((2, len(one.regions.embeddings.vectors_ND)))
    for tiles in one.compared[0].tiles:
        np.add.at(total_N, tiles.rows_T, tiles.error_T)
        np.add.at(count_N, tiles.rows_T, 1)
    with np.errstate(invalid="ignore"):
        return (total_N / count_N)[one.regions.all_rows]


def _errors(one: Found, config: DistancesConfig) -> Markup:
    if not one.compared:
        return Markup()
    drawn = figure(
        figures.of_regions(one.regions, one.measured, one.compared),
        "RMSE of each pair of regions against their distance",
    )
    rows: list[list[Cell]] = []
    for of in one.compared:
        rows += [[of.kind, view, *_row(found)] for view, found in of.correlations.items()]
    head = ("training", "vectors", "pairs", "rank correlation", "95 % of permuted", "p", "permutations")
    count = len(one.regions.names)
    about = (
        "Spearman's rank correlation over ordered pairs of different regions. Pairs share regions and are "
        "not independent, so p and the range are those of permuted regions: in 95 % of the permutations, "
        "where distance tells nothing, the correlation lies in that range. It is no interval around the "
        "correlation that was found: a few regions do not give one."
    )
    least = next((f.p for of in one.compared for f in of.correlations.values() if f and f.is_exact), None)
    if least is not None:
        about += f" With {count} regions no p can be below {1 / _permutations(one):.2g}."
    pairs = heading("Error beside distance") + drawn + table(head, rows) + sentence(about)
    return pairs + _errors_of_tiles(one, config)


def _permutations(one: Found) -> int:
    return max(f.permutations for of in one.compared for f in of.correlations.values() if f)


def _row(found: RankCorrelation | None) -> list[Cell]:
    if found is None:
        return [None, "none: all distances or errors are equal", None, None, None]
    tried = f"{'all ' if found.is_exact else ''}{found.permutations:,}"
    middle = Numeral(f"{found.low:.2f} to {found.high:.2f}")
    return [found.pairs, Numeral(f"{found.rho:.2f}"), middle, Numeral(f"{found.p:.2g}"), Numeral(tried)]


def _errors_of_tiles(one: Found, config: DistancesConfig) -> Markup:
    if not any(of.tiles for of in one.compared):
        return Markup()
    drawn = figure(
        figures.of_tiles(one.regions, one.compared, config.neighbours),
        "Error of each tile against its distance to the nearest source tiles",
    )
    rows: list[list[Cell]] = [
        [
            of.kind,
            tiles.trained_on,
            tiles.tested_on,
            len(tiles.rows_T),
            float(tiles.distance_T.mean()),
            float(np.sqrt((tiles.error_T**2).mean())),
            None if tiles.rho is None else Numeral(f"{tiles.rho:.2f}"),
        ]
        for of in one.compared
        for tiles in of.tiles
    ]
    head = ("training", "trained on", "tested on", "tiles", "mean distance", "RMSE", "rank correlation")
    learned = "train" in one.regions.column("split").to_pylist()
    which = "training tiles" if learned else "embedded tiles (no training tile was embedded)"
    about = (
        f"Distance: mean distance of a tile's vector, as it is, to those of the {config.neighbours} nearest "
        f"{which} of the region trained on. The correlation is over tiles; neighbouring tiles err "
        "alike, so it has no interval here."
    )
    return heading("Errors of tiles") + drawn + table(head, rows) + sentence(about)


def _how(found: Sequence[Found], config: DistancesConfig) -> Markup:
    first = found[0].measured
    said = [
        f"At most {config.tiles:,} tiles of a region, drawn with seed {config.seed}, for every number and "
        "picture. Halves of a region are drawn at random, anew for each seed of the directions. They have "
        "half as many tiles, and so lie a little further apart by chance than whole regions would.",
        f"Sliced Wasserstein: W2 along {config.projections:,} random directions, {config.draws} times; the "
        "root of the mean square, as in POT with p = 2. Samples of different sizes are compared by their "
        "quantiles.",
        "Energy distance: 2 E|X - Y| - E|X - X'| - E|Y - Y'| over pairs of different tiles, so without bias: "
        "it can be below 0 where nothing differs.",
        *(f"{name.capitalize()}: {what}." for name, what in VIEWS.items()),
        f"Whitening keeps directions with at least {LEAST_DEVIATION:g} of the largest deviation, and at most "
        f"one for every {POINTS_PER_DIRECTION} tiles: here {first.directions}. A linear classifier has "
        "nothing to tell regions by in centred vectors, so there is none of them.",
    ]
    rows: list[list[Cell]] = []
    for one in found:
        about = one.regions.embeddings.about
        counts = ", ".join(f"{n} {c:,}" for n, c in zip(one.regions.names, one.regions.counts, strict=True))
        without = f"; {one.regions.without:,} without a region" if one.regions.without else ""
        checkpoint = f"{about['checkpoint']} ({about['weights']}, {about['checkpoint_fingerprint']})"
        rows.append([one.url, checkpoint, f"{counts}{without}"])
    return Markup().join(map(sentence, said)) + table(("embeddings", "checkpoint", "tiles"), rows)


def _range(values: Any) -> Cell:
    return Numeral(f"{number(float(values.min()))} to {number(float(values.max()))}")


def _rho(found: RankCorrelation | None) -> Cell:
    return Numeral(f"{found.rho:.2f} (p {found.p:.2g})") if found else None
