"""`treeline predict`: whole scenes -> maps. Finds out what is to be done, and has it done; no Ray here.

What is complete is kept: a block in the ledger, a map in its place. The same command does the rest.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Protocol

import shards
from inference.config import PredictConfig
from inference.ledger import JOURNAL, Ledger
from inference.method import Method
from inference.quick_look import write_quick_look
from inference.scene_list import map_name, scene_urls
from inference.scene_map import Failed, SceneMap, assemble, survey
from inference.stac import write_stac_item
from inference.tasks import Done, Task
from inference.windows import WindowGrid
from shards.errors import DatasetError, InputError
from shards.manifest import json_bytes, read_json
from shards.progress import Advance, progress
from shards.storage import (
    check_writable,
    exists,
    find_files,
    join,
    name_of,
    publish,
    remove_folder,
    remove_unfinished,
)
from trainer.checkpoint import Checkpoint, load_checkpoint

MADE_WITH = "predict.json"
MAP_SUFFIX = ".chm.tif"
ASSEMBLED_AT_ONCE = 2
"""Maps that are put together beside the prediction of others."""
MEGA = 1e6


class Engine(Protocol):
    """Does the work, here or on many machines."""

    def batch_size(self, method: Method) -> int:
        """How many windows at a time suit the machines that predict."""

    def blocks(self, tasks: list[Task], method: Method) -> Iterator[Done]:
        """Do the tasks, in any order."""


@dataclass
class Summary:
    """What came of a run."""

    maps: dict[str, str] = field(default_factory=dict)
    """The map's URL for each scene's, those that were there before among them."""
    before: int = 0
    """Maps that were there before."""
    failed: list[Failed] = field(default_factory=list)
    megapixels: float = 0.0
    """Predicted by this run."""
    seconds: float = 0.0
    share_read: float = 0.0
    """Seconds spent on reading, as a multiple of those on predicting."""
    share_waited: float = 0.0
    """Of the time of the processes that predict: spent waiting for pixels."""

    def __str__(self) -> str:
        made = len(self.maps) - self.before
        lines = [f"{made:,} maps made, {self.before:,} there before, {len(self.failed):,} scenes failed"]
        if self.megapixels:
            rate = self.megapixels / max(self.seconds, 1e-9)
            lines[0] += (
                f"; {self.megapixels:,.1f} megapixels in {self.seconds:,.0f} s ({rate:,.2f}/s); reading took "
                f"{self.share_read:.0%} of the seconds of predicting, {self.share_waited:.0%} went on waiting"
            )
        return "\n".join([*lines, *(f"failed: {failed.reason}" for failed in self.failed)])


def predict(config: PredictConfig, engine: Engine) -> Summary:
    """Make the map of every scene that has none yet.

    Raises:
        InputError: the checkpoint, an option or the output cannot be used, or no scene can be read at all.
    """
    checkpoint = load_checkpoint(config.checkpoint)
    method = method_of(config, checkpoint)
    if config.block < 1:
        raise InputError(f"--block {config.block}: give 1 or more")
    targets = _targets(config)
    check_writable(config.out)
    remove_unfinished(config.out)
    there = {name for name in find_files(config.out) if name.endswith(MAP_SUFFIX) and "/" not in name}
    made_with = _made_with(config, checkpoint, method, engine, targets, there)
    method = replace(method, batch_size=made_with["batch_size"])
    summary = Summary()
    if not config.overwrite:
        summary.maps = {scene: url for scene, url in targets.items() if name_of(url) in there}
        summary.before = len(summary.maps)
    wanted = {scene: url for scene, url in targets.items() if scene not in summary.maps}
    maps = list[SceneMap]()
    for looked in survey(wanted, checkpoint.regressor.schema, config.bands):
        if isinstance(looked, Failed):
            summary.failed.append(looked)
        else:
            maps.append(looked)
    if summary.failed and not maps and not summary.maps:
        raise InputError(summary.failed[0].reason)
    publish(join(config.out, MADE_WITH), json_bytes(made_with))
    if maps:
        tags = {f"TREELINE_{name.upper()}": str(value) for name, value in made_with.items()}
        _Making(config, method, maps, tags, summary).run(engine)
    if not summary.failed:
        remove_folder(join(config.out, JOURNAL))
    return summary


def method_of(config: PredictConfig, checkpoint: Checkpoint) -> Method:
    """How the options ask for heights to be computed."""
    grid = WindowGrid.with_overlap(config.window, config.overlap, checkpoint.regressor.patch_size)
    if config.batch_size < 0:
        raise InputError(f"--batch-size {config.batch_size}: give 1 or more, or 0 for as many as fit")
    return Method(
        grid,
        config.weights,
        config.batch_size or PredictConfig.batch_size,
        config.symmetries,
        config.spread,
        config.bf16,
    )


def _targets(config: PredictConfig) -> dict[str, str]:
    """The map's URL for each scene's."""
    urls = scene_urls(config.scenes, config.asset)
    if not urls:
        raise InputError("no scene given; name at least one")
    return {url: join(config.out, map_name(url)) for url in urls}


def _made_with(
    config: PredictConfig,
    checkpoint: Checkpoint,
    method: Method,
    engine: Engine,
    targets: dict[str, str],
    there: set[str],
) -> dict[str, Any]:
    """What the maps at --out are made with: nothing that pixels do not depend on.

    Raises:
        InputError: maps there are made with something else.
    """
    wanted: dict[str, Any] = {
        "version": shards.__version__,
        "checkpoint": checkpoint.fingerprint,
        "dataset": str(checkpoint.trained_on["fingerprint"]),
        "epoch": checkpoint.metrics["epoch"],
        "window": config.window,
        "overlap": config.overlap,
        **{name: value for name, value in asdict(method).items() if name != "grid"},
    }
    url = join(config.out, MADE_WITH)
    if exists(url):
        old = read_json(url)
        if not config.batch_size and "batch_size" in old:
            wanted["batch_size"] = old["batch_size"]
        differ = sorted(name for name in {**old, **wanted} if old.get(name) != wanted.get(name))
        others = there - {name_of(target) for target in targets.values()}
        if not differ:
            return wanted
        if not config.overwrite or others:
            what = f"{len(others):,} maps of other scenes" if config.overwrite else "maps"
            raise InputError(
                f"{config.out}: holds {what} made with another {', '.join(differ)}; choose another --out"
                + " or give --overwrite" * (not config.overwrite)
            )
        remove_folder(join(config.out, JOURNAL))
    elif there and not config.overwrite:
        raise InputError(
            f"{config.out}: holds {min(there)}, and nothing says what it is made with; choose another --out "
            "or give --overwrite"
        )
    if not config.batch_size:
        wanted["batch_size"] = engine.batch_size(method)
    return wanted


class _Making:
    """Maps in the making: blocks as they come, and each map when all of its blocks are there."""

    def __init__(
        self,
        config: PredictConfig,
        method: Method,
        maps: list[SceneMap],
        tags: dict[str, str],
        summary: Summary,
    ) -> None:
        self._config, self._method, self._tags, self._summary = config, method, tags, summary
        self._ledger = Ledger(config.out)
        self._maps = {scene_map.scene: scene_map for scene_map in maps}
        self._blocks = {scene_map.scene: scene_map.blocks(config.block) for scene_map in maps}
        self._missing: dict[str, int] = {}
        self._assembling: dict[str, Future[None]] = {}

    def run(self, engine: Engine) -> None:
        """Do what is missing."""
        done = {} if self._config.overwrite else self._ledger.done()
        tasks = [
            Task(scene, scene_map.name, block)
            for scene, scene_map in self._maps.items()
            for block in self._blocks[scene]
            if block not in done.get(scene_map.name, ())
        ]
        self._missing = dict.fromkeys(self._maps, 0)
        for task in tasks:
            self._missing[task.scene] += 1
        total = sum(scene_map.pixels for scene_map in self._maps.values())
        left = sum(len(task.block.rows) * len(task.block.columns) for task in tasks)
        start = time.perf_counter()
        try:
            with (
                ThreadPoolExecutor(ASSEMBLED_AT_ONCE) as threads,
                progress(f"predict {len(self._maps)} scenes", total, "pixels", total - left) as advance,
            ):
                for scene, missing in self._missing.items():
                    if not missing:
                        self._assembling[scene] = threads.submit(self._assemble, scene)
                self._follow(engine.blocks(tasks, self._method) if tasks else iter(()), threads, advance)
        except BaseException as error:
            error.add_note("what is complete is kept: the same command goes on from there")
            raise
        for scene, assembling in self._assembling.items():
            self._settle(scene, assembling)
        self._summary.seconds = time.perf_counter() - start

    def _follow(self, blocks: Iterator[Done], threads: ThreadPoolExecutor, advance: Advance) -> None:
        """Count what is done, and have maps put together."""
        failed: dict[str, str] = {}
        read = predicted = waited = 0.0
        for number, done in enumerate(blocks, 1):
            scene, block = done.task.scene, done.task.block
            size = len(block.rows) * len(block.columns)
            if done.error:
                failed.setdefault(scene, done.error)
            else:
                self._summary.megapixels += size / MEGA
                read, predicted = read + done.seconds_read, predicted + done.seconds_predicted
                waited += done.seconds_waited
            self._missing[scene] -= 1
            if not self._missing[scene] and scene not in failed:
                self._assembling[scene] = threads.submit(self._assemble, scene)
            complete = sum(future.done() for future in self._assembling.values())
            note = f"{number:,} blocks, {complete:,} maps complete"
            advance(size, note + f", {len(failed):,} failed" * bool(failed))
        self._summary.failed += [Failed(scene, reason) for scene, reason in failed.items()]
        self._summary.share_read = read / max(predicted, 1e-9)
        self._summary.share_waited = waited / max(waited + predicted, 1e-9)

    def _assemble(self, scene: str) -> None:
        scene_map = self._maps[scene]
        assemble(scene_map, self._blocks[scene], self._ledger, self._method, self._tags)
        if self._config.quick_look:
            write_quick_look(scene_map.url)
        if self._config.stac:
            write_stac_item(scene_map.url, self._config.quick_look)

    def _settle(self, scene: str, assembling: Future[None]) -> None:
        """A map is complete, or could not be put together."""
        try:
            assembling.result()
        except DatasetError as error:
            self._summary.failed.append(Failed(scene, str(error)))
        else:
            self._summary.maps[scene] = self._maps[scene].url
