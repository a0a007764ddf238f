"""`treeline predict`: maps of whole scenes, of canopy height, of classes of pixels or of labels of tiles.

scenes                            inference.scenes.scene_list.find_scenes
-> what is at --out               inference.predict.map_folder.read_map_folder
-> maps to make, scenes checked   inference.predict.scene_map.survey
-> their missing blocks, maps     inference.predict.map_making.MapMaking
-> made here or on Ray            inference.predict.engine.Engine

The ledger keeps finished blocks, and finished maps stay: the same command resumes a stopped run.
"""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import shards
from inference.config import PredictConfig
from inference.predict.block_tasks import MapJob
from inference.predict.engine import Engine
from inference.predict.ledger import JOURNAL
from inference.predict.map_content import refuse_without_effect
from inference.predict.map_folder import (
    BATCH_SIZE,
    MADE_WITH,
    MapFolder,
    batch_size_to_keep,
    read_map_folder,
    refuse_maps_made_otherwise,
)
from inference.predict.map_header import read_map_header
from inference.predict.map_making import MapMaking
from inference.predict.map_options import BATCH_ON_CPU, MapOptions
from inference.predict.map_part import WantedPart
from inference.predict.scene_map import Failed, Outside, SceneMap, Targets, survey, without_use
from inference.predict.summary import Summary
from inference.scenes.area import read_area
from inference.scenes.masks import Masks
from inference.scenes.scene_list import SHOWN, find_scenes, map_name
from inference.tiling.windows import WindowGrid
from shards.errors import InputError
from shards.format.manifest import write_json
from shards.format.sealed import json_bytes
from shards.format.statistics import Statistics
from shards.raster.finding import noted
from shards.raster.opening import bound_cache
from shards.roles import flag_of, identity
from shards.said import say
from shards.storage.checksum import hexadecimal
from shards.storage.objects import join, name_of, publish, remove_unfinished
from shards.storage.one_writer import one_writer
from shards.version import commit
from shards.wording import in_python
from trainer.model.checkpoint import checkpoint_url
from trainer.score.epochs import numbering_of

FAILED = "failed.json"
"""File at --out with the reason of each scene that has no map, where several failed alike."""


def predict(
    config: PredictConfig, engine: Engine | Callable[[], Engine], names_arguments: bool = False
) -> Summary:
    """Make the map of every scene that has none yet. Only one run writes to a folder at a time.

    Args:
        config: the options.
        engine: what predicts, or a function that starts it, called once nothing is wrong with the options.
        names_arguments: whether notes name options as arguments, for Python.

    Raises:
        InputError: the checkpoint, an option or --out cannot be used, or maps at --out were made otherwise.
    """
    for name, least in (("block", 1), ("workers", 0), ("gpus_per_worker", 0)):
        if getattr(config, name) < least:
            raise InputError(f"{flag_of(name)} {getattr(config, name)}: give {least} or more")
    bound_cache()
    job, made_with, statistics = _job(config)
    scenes = find_scenes(config.scenes, config.asset)
    if scenes.remark:
        say(scenes.remark)
    targets = Targets(
        {url: join(config.out, map_name(url, job.content.ending)) for url in scenes.urls},
        statistics,
        Masks(config.mask, scenes.urls, config.mask_drop) if config.mask else None,
        WantedPart(config.bounds, read_area(config.area) if config.area else None),
    )
    if targets.masks:
        made_with["mask_drop"] = " ".join(map(str, sorted(set(config.mask_drop))))
    with one_writer(config.out):
        folder = read_map_folder(config.out)
        if not config.batch_size:
            made_with[BATCH_SIZE] = batch_size_to_keep(folder, made_with)
        names = set(map(name_of, targets.urls.values()))
        refuse_maps_made_otherwise(folder, made_with, names, config.overwrite)
        if unusable := without_use(targets, job):
            summary = Summary(failed=unusable)
        else:
            engine = engine() if callable(engine) else engine
            job = replace(job, device=engine.device)
            summary = _predict(config, job, made_with, targets, folder, engine, names_arguments)
        if len(summary.failed_alike) < len(summary.failed):
            summary.all_failed = join(config.out, FAILED)
            reasons = {failed.scene: failed.reason for failed in summary.failed}
            publish(summary.all_failed, json_bytes(reasons))
        return summary


def _predict(
    config: PredictConfig,
    job: MapJob,
    made_with: dict[str, Any],
    targets: Targets,
    folder: MapFolder,
    engine: Engine,
    names_arguments: bool,
) -> Summary:
    """Make the maps in a folder that only this process writes."""
    remove_unfinished(config.out, below=False)
    remove_unfinished(join(config.out, JOURNAL))
    made_with[BATCH_SIZE] = made_with[BATCH_SIZE] or engine.batch_size(job)
    job = replace(job, options=replace(job.options, batch_size=made_with[BATCH_SIZE]))
    recorded = {"version": shards.__version__, "commit": commit(), **made_with}
    summary, maps, outside = Summary(), list[SceneMap](), list[Outside]()
    digits = hexadecimal(json_bytes(identity(PredictConfig, recorded)))
    for looked in survey(targets, job, digits, folder, config.on_mismatch):
        if isinstance(looked, Failed):
            summary.failed.append(looked)
        elif isinstance(looked, Outside):
            outside.append(looked)
        else:
            maps.append(looked)
    if outside:
        _say_outside(outside, targets, none_left=not (maps or summary.failed))
    _say_findings(maps, config, summary, names_arguments)
    if not maps:
        return summary
    asked = engine.computes(config.precision)
    told = {**recorded, "precision": asked.precision}
    tags = tuple((f"TREELINE_{name.upper()}", str(value)) for name, value in told.items())
    making = MapMaking(replace(job, tags=tags), maps, folder, summary)
    if not config.overwrite:
        making.refuse_maps_of_others()
    asked.say()
    # The option stays as it was given, so that the same command goes on.
    write_json(join(config.out, MADE_WITH), {**recorded, "computed_in": asked.precision})
    making.run(engine)
    return summary


def _say_findings(
    maps: list[SceneMap], config: PredictConfig, summary: Summary, names_arguments: bool
) -> None:
    """Say how the scenes to be mapped differ from the training, before the work begins."""
    found = [(scene_map.scene, finding) for scene_map in maps for finding in scene_map.findings]
    lines = noted(found, config.on_mismatch)
    for line in lines:
        say(in_python(line) if names_arguments else line)
    if lines:
        recorded = [(scene, finding) for scene, finding in found if finding.is_recorded]
        summary.noted = len({scene for scene, _ in recorded})
        summary.differing = len({scene for scene, finding in recorded if finding.is_gross})


def _say_outside(outside: list[Outside], targets: Targets, none_left: bool) -> None:
    """Name the scenes of which nothing is wanted.

    Raises:
        InputError: these are all.
    """
    first, count = outside[0], len(targets.urls)
    if none_left:
        raise InputError(
            f"{targets.wanted}: touches none of {count:,} scenes; {name_of(first.scene)} spans {first.where}"
        )
    shown = ", ".join(name_of(one.scene) for one in outside[:SHOWN]) + ", ..." * (len(outside) > SHOWN)
    say(f"{targets.wanted}: touches {count - len(outside):,} of {count:,} scenes; left out: {shown}")


def _job(config: PredictConfig) -> tuple[MapJob, dict[str, Any], Statistics]:
    """Set up the job, and name what its maps are made with: only what their pixels depend on.

    Returns:
        The job, what the maps are made with, and the statistics of the training.
    """
    url = checkpoint_url(config.checkpoint)
    checkpoint = read_map_header(url, config.trust)
    content = checkpoint.content
    refuse_without_effect(config, content)
    if content.kind == "tiles":
        grid = WindowGrid(content.tile, content.tile)
    else:
        grid = WindowGrid.with_overlap(config.window, config.overlap, checkpoint.patch_size)
    if config.batch_size < 0:
        raise InputError(f"--batch-size {config.batch_size}: give 1 or more, or 0 for what suits the device")
    batch_size = config.batch_size or BATCH_ON_CPU
    options = MapOptions(grid, config.weights, batch_size, config.symmetries, config.spread, config.precision)
    options.check_spread(checkpoint.has_spread)
    made_with = {
        "checkpoint": checkpoint.fingerprint,
        "dataset": str(checkpoint.trained_on["fingerprint"]),
        **numbering_of(checkpoint.metrics),
        "bands": " ".join(config.bands),
        **({} if config.nodata is None else {"nodata": config.nodata}),
        "window": config.window,
        "overlap": config.overlap,
        **{name: value for name, value in asdict(options).items() if name != "grid"},
    }
    job = MapJob(
        checkpoint=url,
        fingerprint=checkpoint.fingerprint,
        schema=checkpoint.schema,
        options=options,
        content=content,
        bands=config.bands,
        nodata=config.nodata,
        out=config.out,
        block=config.block,
        palette=config.palette,
        quick_look=config.quick_look,
        stac=config.stac,
        trust=config.trust,
    )
    return job, made_with, checkpoint.statistics


def map_job(config: PredictConfig) -> MapJob:
    """Set up the job of a prediction whose pixels do not come from scenes.

    Raises:
        InputError: the checkpoint or an option cannot be used.
    """
    if config.block < 1:
        raise InputError(f"--block {config.block}: give 1 or more")
    return _job(config)[0]
