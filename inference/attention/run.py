"""`treeline attention`: where the class token looks, as rasters, pictures and numbers.

what is to be looked at              inference.attention.plan
rasters or chips                     inference.attention.tiles
-> windows, tokens and attention     inference.attention.windows
-> GeoTIFFs on the tiles' grids      inference.attention.patch_maps
-> pictures beside other layers      inference.attention.gallery
-> numbers beside the pictures       inference.attention.comparison
"""

import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import numpy as np

from inference.attention.comparison import TRAINED, Sample, compared, targets_of
from inference.attention.components import COUNT, Components, Moments
from inference.attention.gallery import Gallery, TileView
from inference.attention.page import attention_page
from inference.attention.plan import Work, check_options, prepared, untrained
from inference.attention.sampling import Sampling, head_name
from inference.attention.tiles import Tile
from inference.attention.windows import Cut, Seen, some_of
from inference.config import AttentionConfig
from shards.errors import InputError
from shards.format.manifest import read_json, write_json
from shards.format.path_names import check_name
from shards.progress import Advance, progress
from shards.raster.finding import findings_by_url
from shards.raster.opening import bound_cache
from shards.storage.inside import check_inside
from shards.storage.json_marks import Checked
from shards.storage.objects import (
    check_writable,
    exists,
    find_files,
    join,
    missing_folders,
    publish_folder,
    remove_file,
    remove_new_folders,
)
from shards.storage.typed_json import typed_as
from shards.version import made_by_code
from trainer.devices.precision import predicting
from trainer.model.frozen_backbone import placed_on

NUMBERS = "attention.json"
"""File with settings and numbers; written last."""
PAGE = "index.html"
MOST_FITTED = 1024
"""Most windows from whose tokens components are computed."""


def attention(config: AttentionConfig) -> str:
    """Draw and measure attention, and return one line that sums it up.

    Raises:
        InputError: an option, the checkpoint, a tile or a raster cannot be used, or no patch is valid.
    """
    check_options(config)
    check_writable(config.out)
    if exists(join(config.out, NUMBERS)) and not config.overwrite:
        raise InputError(f"{config.out}: has attention of another call; give another --out, or --overwrite")
    bound_cache()
    work = prepared(config)
    fitted, measured = some_of(work.cuts, MOST_FITTED), work.measured_cuts
    with tempfile.TemporaryDirectory(prefix="treeline-") as folder:
        count = len(work.cuts) + len(fitted) + len(measured)
        with predicting(config.precision), progress("attention", count, "windows") as advance:
            components = _components(work, fitted, advance)
            sampling = Sampling(
                work.looking.tiles, work.measured, work.encoder.bands, work.encoder.patch_size
            )
            gallery, facts = _looked_at(work, components, sampling, Path(folder), advance)
            numbers = _numbers(work, sampling, measured, advance)
        about = {**_settings(work), **facts, "components_explain": components.explained_3.tolist()}
        about |= {"halved": _halved(sampling, numbers), "measured_windows": sampling.windows}
        if recorded := findings_by_url(work.findings):
            about["findings"] = recorded
        about |= {"measured_layers": len(work.measured_layers), **made_by_code()}
        with progress("draw", len(gallery.views), "tiles") as advance:
            for view, picture in zip(gallery.views, gallery.of_tiles(), strict=True):
                (Path(folder) / f"{view.tile.name}.png").write_bytes(picture)
                advance(1)
        page = attention_page(about, gallery.tables(), numbers)
        (Path(folder) / PAGE).write_text(page)
        _publish(config.out, Path(folder), {**about, "classes": numbers})
    count = len(work.looking.tiles)
    tiles = "1 tile" if count == 1 else f"{count:,} tiles"
    return f"{config.out}: attention of {tiles} in layer {work.layer}; see {PAGE}"


def _components(work: Work, cuts: list[Cut], advance: Advance) -> Components:
    """Compute the components of the tokens of all patches that are attended to.

    Raises:
        InputError: there is no such patch.
    """
    moments, count = Moments(work.encoder.width), 0
    for seen in work.looking.seen(work.encoder, cuts, (), advance):
        moments.add(seen.tokens_ND[seen.attended_N])
        count += int(seen.attended_N.sum())
    if not count:
        named = work.config.data or " ".join(work.config.tiles)
        raise InputError(f"{named}: no patch is valid in at least half of its pixels; give other tiles")
    return moments.components()


def _looked_at(
    work: Work, components: Components, sampling: Sampling, folder: Path, advance: Advance
) -> tuple[Gallery, dict[str, Any]]:
    """Look at all windows, tile by tile; write each tile's rasters, and return its pictures and facts."""
    measured = set(work.measured_cuts)
    gallery = Gallery(work.beside, work.encoder.bands)
    mass: list[Any] = []
    described = []
    for tile, of_tile in _by_tile(work, advance):
        view = TileView.empty(tile, work.encoder.patch_size, work.heads, len(work.encoder.bands))
        for seen in of_tile:
            view.put(seen, work.layer, components.of(seen.tokens_ND))
            if seen.attended_N.any():
                mass.append(seen.mass[work.layer])
            if seen.cut in measured:
                sampling.add(seen)
        gallery.add(view)
        described.append({"name": tile.name, "source": tile.source, **view.facts()})
        _write_rasters(work, view, folder)
    return gallery, {"tiles": described, "mass_on_patches": np.mean(mass, 0).tolist()}


def _by_tile(work: Work, advance: Advance) -> Iterator[tuple[Tile, Iterator[Seen]]]:
    """Yield each tile with its windows."""
    tiles = work.looking.tiles
    seen = work.looking.seen(work.encoder, work.cuts, work.measured_layers, advance)
    counts = np.bincount([cut.tile for cut in work.cuts], minlength=len(tiles))
    for tile, count in zip(tiles, counts.tolist(), strict=True):
        yield tile, (next(seen) for _ in range(count))


def _write_rasters(work: Work, view: TileView, folder: Path) -> None:
    tags = {
        f"TREELINE_{name.upper()}": str(value)
        for name, value in {
            **made_by_code(),
            "checkpoint": work.config.checkpoint,
            "checkpoint_fingerprint": work.loaded.fingerprint,
            "weights": work.loaded.name,
            "precision": work.computed_in,
        }.items()
    }
    name = view.tile.name
    heads = tuple(head_name(work.layer, head + 1) for head in range(work.heads))
    meaning = "share of the class token's attention to the patches of a window; their sum is 1"
    more = {"TREELINE_LAYER": str(work.layer), "TREELINE_VALUE": meaning}
    view.share.write(str(folder / f"{name}.attention.tif"), heads, tags | more)
    names = tuple(f"component {number + 1}" for number in range(COUNT))
    view.components.write(str(folder / f"{name}.components.tif"), names, tags)


def _numbers(work: Work, sampling: Sampling, cuts: list[Cut], advance: Advance) -> list[dict[str, Any]]:
    """Measure how well attention finds each class."""
    if not cuts:
        return []
    # Before the second pass, which is in vain where classes cannot be used.
    names = {one.name: one.class_names for one in work.measured}
    targets = targets_of(sampling.layers, work.config.classes, names, work.above)
    device = next(work.encoder.backbone.parameters()).device
    other = placed_on(untrained(work.encoder, work.config.seed), work.config.precision, device)
    for seen in work.looking.seen(other, cuts, work.measured_layers, advance):
        sampling.add_untrained(seen)
    sample: Sample = sampling.sample()
    return [compared(sample, target, work.config.seed) for target in targets]


def _halved(sampling: Sampling, numbers: list[dict[str, Any]]) -> str:
    """Name what was halved; "" if there was too little."""
    if not any(found[TRAINED]["on_other_tiles"]["iou"] is not None for found in numbers):
        return ""
    return "tiles" if sampling.by_tile else "windows"


def _settings(work: Work) -> dict[str, Any]:
    config, encoder = work.config, work.encoder
    return {
        "checkpoint": config.checkpoint,
        "checkpoint_fingerprint": work.loaded.fingerprint,
        "weights": work.loaded.name,
        "trained_on": work.loaded.trained_on,
        "data": config.data,
        "bands": list(encoder.bands),
        "layer": work.layer,
        "layers": work.depth,
        "heads": work.heads,
        "renormalised": True,
        "patch_size": encoder.patch_size,
        "tile_size": work.looking.size,
        "beside": list(config.beside),
        "precision": work.computed_in,
        "seed": config.seed,
    }


def _publish(out: str, folder: Path, about: dict[str, Any]) -> None:
    """Publish all files, attention.json last; those of an earlier call go first."""
    if exists(join(out, NUMBERS)):
        stored, where = read_json(join(out, NUMBERS)), f"{join(out, NUMBERS)}: files"
        before = typed_as(stored.get("files", []), list[Annotated[str, Checked(check_name)]], where)
        check_inside(out, *before)
        remove_file(join(out, NUMBERS))
        for name in before:
            remove_file(join(out, name))
    files = find_files(str(folder))
    new_folders = missing_folders(out)
    try:
        publish_folder(out, str(folder))
        write_json(join(out, NUMBERS), {**about, "files": files})
    except BaseException:
        remove_new_folders(new_folders)
        raise
