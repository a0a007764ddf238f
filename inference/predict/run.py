"""`treeline predict`: whole scenes -> maps. Finds out what is to be done, and has it done; no Ray here.

What is complete is kept: a block in the ledger, a map in its place. The same command does the rest.
"""

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import shards
from inference.config import PredictConfig
from inference.predict.block_tasks import BlockResult, BlockTask, MapJob
from inference.predict.ledger import JOURNAL, Ledger
from inference.predict.map_folder import (
    BATCH_SIZE,
    MADE_WITH,
    MapFolder,
    batch_size_to_keep,
    read_map_folder,
    refuse_maps_made_otherwise,
)
from inference.predict.map_options import MapOptions
from inference.predict.scene_map import Failed, SceneMap, beside_map, survey, write_beside
from inference.scenes.scene_list import map_name, scene_urls
from inference.tiling.windows import Block, WindowGrid
from shards.errors import InputError
from shards.format.manifest import json_bytes
from shards.progress import PIXELS, Advance, progress
from shards.raster.opening import bound_cache
from shards.roles import identity
from shards.storage.checksum import hexadecimal
from shards.storage.objects import (
    check_writable,
    join,
    name_of,
    publish,
    remove_file,
    remove_unfinished,
)
from shards.version import commit
from trainer.model.checkpoint import checkpoint_url, read_checkpoint_header

MEGA = 1e6


class Engine(Protocol):
    """The machinery that predicts, in this process or on many machines."""

    readers: int
    """Blocks that are read at a time, at most."""
    maps_at_once: int
    """Maps that are put together at a time, beside the prediction of others."""

    def batch_size(self, job: MapJob) -> int:
        """Find how many windows at a time suit the machines that predict."""

    def blocks(self, tasks: Iterable[BlockTask], job: MapJob) -> Iterator[BlockResult]:
        """Do the tasks, in any order."""

    def complete(self, scene_map: SceneMap, job: MapJob) -> str:
        """Put a map together, as `inference.predict.scene_map.complete` does; called from several threads."""


@dataclass
class Summary:
    """Outcome of a run."""

    maps: dict[str, str] = field(default_factory=dict)
    """URLs of the maps, by those of their scenes; maps that were there before are among them."""
    before: int = 0
    """Maps that were there before."""
    failed: list[Failed] = field(default_factory=list)
    megapixels: float = 0.0
    """Megapixels that this run predicted."""
    seconds: float = 0.0
    predicting_waited: float = 0.0
    """Share of their time that the processes that predict waited for pixels."""
    reading_waited: float = 0.0
    """Share of their time that the processes that read were held back while the others were busy."""

    def __str__(self) -> str:
        made = len(self.maps) - self.before
        lines = [f"{made:,} maps made, {self.before:,} there before, {len(self.failed):,} scenes failed"]
        if self.megapixels:
            rate = self.megapixels / max(self.seconds, 1e-9)
            lines[0] += (
                f"; {self.megapixels:,.1f} megapixels in {self.seconds:,.0f} s ({rate:,.2f}/s); "
                f"the regressor waited for pixels {self.predicting_waited:.0%} of its time, "
                f"readers for the regressor {self.reading_waited:.0%} of theirs"
            )
        return "\n".join([*lines, *(f"failed: {failed.reason}" for failed in self.failed)])


def predict(config: PredictConfig, engine: Engine) -> Summary:
    """Make the map of every scene that has none yet. Two runs must not write to one place at a time.

    Raises:
        InputError: the checkpoint, an option or the output cannot be used, or maps there are made otherwise.
    """
    for name, least in (("block", 1), ("workers", 0), ("gpus_per_worker", 0)):
        if getattr(config, name) < least:
            option = name.replace("_", "-")
            raise InputError(f"--{option} {getattr(config, name)}: give {least} or more")
    bound_cache()
    job, made_with = _job(config)
    targets = {url: join(config.out, map_name(url)) for url in scene_urls(config.scenes, config.asset)}
    check_writable(config.out)
    folder = read_map_folder(config.out)
    if not config.batch_size:
        made_with[BATCH_SIZE] = batch_size_to_keep(folder, made_with)
    refuse_maps_made_otherwise(folder, made_with, set(map(name_of, targets.values())), config.overwrite)
    remove_unfinished(config.out, below=False)
    remove_unfinished(join(config.out, JOURNAL))
    made_with[BATCH_SIZE] = made_with[BATCH_SIZE] or engine.batch_size(job)
    job = replace(job, options=replace(job.options, batch_size=made_with[BATCH_SIZE]))
    recorded = {"version": shards.__version__, "commit": commit(), **made_with}
    summary, maps = Summary(), list[SceneMap]()
    for looked in survey(targets, job, hexadecimal(json_bytes(identity(PredictConfig, recorded)))):
        if isinstance(looked, Failed):
            summary.failed.append(looked)
        else:
            maps.append(looked)
    if not maps:
        return summary
    tags = tuple((f"TREELINE_{name.upper()}", str(value)) for name, value in recorded.items())
    making = _Making(replace(job, tags=tags), maps, folder, summary)
    if not config.overwrite:
        making.refuse_maps_of_others()
    publish(join(config.out, MADE_WITH), json_bytes(recorded))
    making.run(engine)
    return summary


def _job(config: PredictConfig) -> tuple[MapJob, dict[str, Any]]:
    """Set up the job, and say what its maps are made with: nothing that pixels do not depend on."""
    url = checkpoint_url(config.checkpoint)
    checkpoint = read_checkpoint_header(url)
    grid = WindowGrid.with_overlap(config.window, config.overlap, checkpoint.patch_size)
    if config.batch_size < 0:
        raise InputError(f"--batch-size {config.batch_size}: give 1 or more, or 0 for as many as fit")
    batch_size = config.batch_size or PredictConfig.batch_size
    options = MapOptions(grid, config.weights, batch_size, config.symmetries, config.spread, config.bf16)
    options.check_spread(checkpoint.has_spread)
    made_with = {
        "checkpoint": checkpoint.fingerprint,
        "dataset": str(checkpoint.trained_on["fingerprint"]),
        "epoch": checkpoint.metrics["epoch"],
        "bands": " ".join(config.bands),
        "window": config.window,
        "overlap": config.overlap,
        **{name: value for name, value in asdict(options).items() if name != "grid"},
    }
    job = MapJob(
        checkpoint=url,
        fingerprint=checkpoint.fingerprint,
        schema=checkpoint.schema,
        options=options,
        bands=config.bands,
        out=config.out,
        block=config.block,
        quick_look=config.quick_look,
        stac=config.stac,
    )
    return job, made_with


class _Making:
    """Maps in the making: blocks as they come, and each map when all of its blocks are there."""

    def __init__(self, job: MapJob, maps: list[SceneMap], folder: MapFolder, summary: Summary) -> None:
        self._job, self._summary, self._ledger = job, summary, Ledger(job.out)
        self._maps = {scene_map.scene: scene_map for scene_map in maps}
        self._entries, self._files = folder.entries, folder.files
        self._missing: dict[str, int] = {}
        self._finishing: dict[str, Future[str]] = {}
        self._blocks = self._complete = 0
        self._failed: dict[str, str] = {}
        self._there: set[str] = set()
        # What stands before the digits is the same of another version of a scene, or of one made otherwise.
        self._of_stem: dict[str, set[str]] = {}
        for name in self._entries.made | self._entries.blocks.keys():
            self._of_stem.setdefault(name.rpartition("-")[0], set()).add(name)

    def refuse_maps_of_others(self) -> None:
        """Refuse to replace a map of another scene.

        Raises:
            InputError: it has the name of one of ours.
        """
        begun = self._entries.blocks.keys() | self._entries.made
        for scene_map in self._maps.values():
            if name_of(scene_map.url) in self._files and scene_map.name not in begun:
                raise InputError(
                    f"{scene_map.url}: is there already, of another {name_of(scene_map.scene)}, or of "
                    "one that was written again since; choose another --out or give --overwrite"
                )

    def run(self, engine: Engine) -> None:
        """Do what is missing."""
        total = left = 0
        complete = list[SceneMap]()
        for scene, scene_map in self._maps.items():
            if scene_map.name in self._entries.made and name_of(scene_map.url) in self._files:
                complete.append(scene_map)
                continue
            sizes = [block.pixels for block in self._missing_blocks(scene_map)]
            self._missing[scene] = len(sizes)
            total, left = total + scene_map.pixels, left + sum(sizes)
        start = time.perf_counter()
        threads = ThreadPoolExecutor(engine.maps_at_once)
        try:
            for scene_map in complete:
                self._finishing[scene_map.scene] = threads.submit(self._keep, scene_map)
            if self._missing:
                of_all = f"predict {len(self._missing):,} scenes", total, PIXELS, total - left
                with progress(*of_all) as advance:
                    for scene, missing in self._missing.items():
                        if not missing:
                            self._finishing[scene] = threads.submit(self._finish, scene, engine)
                    self._follow(engine, threads, advance)
                    self._settle(advance)
            self._settle()
        except BaseException as error:
            error.add_note("what is complete is kept: the same command goes on from there")
            raise
        finally:
            threads.shutdown(cancel_futures=True)
        self._summary.failed += [Failed(scene, reason) for scene, reason in self._failed.items()]
        self._summary.maps = {
            scene: scene_map.url for scene, scene_map in self._maps.items() if scene in self._there
        }
        self._summary.before = sum(scene_map.scene in self._there for scene_map in complete)
        self._summary.seconds = time.perf_counter() - start

    def _missing_blocks(self, scene_map: SceneMap) -> Iterator[Block]:
        done = self._entries.blocks.get(scene_map.name, set())
        return (block for block in scene_map.blocks(self._job.block) if block not in done)

    def _tasks(self) -> Iterator[BlockTask]:
        """Make the tasks one by one: 10,000 scenes have a million blocks."""
        for scene in [scene for scene, missing in self._missing.items() if missing]:
            scene_map = self._maps[scene]
            for block in self._missing_blocks(scene_map):
                yield BlockTask(scene, scene_map.version, scene_map.name, block)

    def _follow(self, engine: Engine, threads: ThreadPoolExecutor, advance: Advance) -> None:
        """Count what is done, and have maps put together."""
        start = time.perf_counter()
        read = predicted = waited = 0.0
        for done in engine.blocks(self._tasks(), self._job):
            self._blocks += 1
            scene, pixels = done.task.scene, done.task.block.pixels
            if done.error:
                self._failed.setdefault(scene, done.error)
            else:
                self._summary.megapixels += pixels / MEGA
                read, predicted = read + done.seconds_read, predicted + done.seconds_predicted
                waited += done.seconds_waited
            self._missing[scene] -= 1
            if not self._missing[scene] and scene not in self._failed:
                self._finishing[scene] = threads.submit(self._finish, scene, engine)
            for finished in [scene for scene, finishing in self._finishing.items() if finishing.done()]:
                self._settle_one(finished)
            advance(pixels, self._note())
        self._summary.predicting_waited = waited / max(waited + predicted, 1e-9)
        if self._blocks:
            of_readers = engine.readers * (time.perf_counter() - start)
            self._summary.reading_waited = max(0.0, 1 - read / of_readers)

    def _note(self) -> str:
        note = f"{self._blocks:,} blocks, {self._complete:,} of {len(self._missing):,} maps complete"
        return note + f", {len(self._failed):,} failed" * bool(self._failed)

    def _settle(self, advance: Advance | None = None) -> None:
        """Wait for all maps that are being put together."""
        for scene in list(self._finishing):
            self._settle_one(scene)
            if advance:
                advance(0, self._note())

    def _settle_one(self, scene: str) -> None:
        """Note that a map is complete, or cannot be."""
        if reason := self._finishing.pop(scene).result():
            self._failed[scene] = reason
        else:
            self._there.add(scene)
            self._complete += scene in self._missing

    def _keep(self, scene_map: SceneMap) -> str:
        """Write what is wanted beside a map that is there, and missing; return why it cannot be."""
        if scene_map.name in self._entries.blocks:  # killed before they went
            self._ledger.finish(scene_map.name, set())
        return write_beside(scene_map.url, self._job, self._files)

    def _finish(self, scene: str, engine: Engine) -> str:
        """Have a map put together; return why it cannot be."""
        scene_map = self._maps[scene]
        others = self._of_stem.get(scene_map.stem, set()) - {scene_map.name}
        self._ledger.replace(others)
        # They belong to the map that is there, if it is another one.
        for url in beside_map(scene_map.url):
            if name_of(url) in self._files:
                remove_file(url)
        if reason := engine.complete(scene_map, self._job):
            return reason
        self._ledger.finish(scene_map.name, others)
        return ""
