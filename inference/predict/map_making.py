"""Maps in the making: missing blocks, predicted in any order, and each map once all of its blocks are done.

A map is assembled while an engine predicts blocks of other scenes.
"""

import time
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace

from inference.maps.map_file import stop_writing
from inference.predict.block_tasks import BlockResult, BlockTask, MapJob
from inference.predict.engine import Engine
from inference.predict.map_folder import MapFolder
from inference.predict.map_part import kept_blocks
from inference.predict.scene_map import Failed, SceneMap, beside_map, write_beside
from inference.predict.summary import Summary
from inference.tiling.windows import Block
from shards.errors import InputError
from shards.progress import PIXELS, Advance, progress
from shards.said import say
from shards.storage.objects import name_of, remove_file
from shards.wording import counted

MEGA = 1e6


class MapMaking:
    """Maps of one run, from their missing blocks to the files beside them."""

    def __init__(self, job: MapJob, maps: list[SceneMap], folder: MapFolder, summary: Summary) -> None:
        self._job, self._summary, self._ledger = job, summary, job.ledger
        self._entries, self._files = folder.entries, folder.files
        self._maps = {scene_map.scene: self._keeping(scene_map) for scene_map in maps}
        self._missing: dict[str, int] = {}
        self._finishing: dict[str, Future[str]] = {}
        self._blocks = self._complete = 0
        self._failed: dict[str, str] = {}
        self._there: set[str] = set()
        # Names in the ledger share a stem if only the scene's version or the options differ.
        self._of_stem: dict[str, set[str]] = {}
        for name in self._entries.made | self._entries.blocks.keys():
            self._of_stem.setdefault(name.rpartition("-")[0], set()).add(name)

    def _keeping(self, scene_map: SceneMap) -> SceneMap:
        """Have a map take over the finished blocks of another cut."""
        done = self._entries.blocks.get(scene_map.name, set())
        side = 0 if scene_map.part else self._job.block_side
        return replace(scene_map, kept=kept_blocks(done, scene_map.grid, side))

    def refuse_maps_of_others(self) -> None:
        """Refuse to replace a map of another scene.

        Raises:
            InputError: --out holds a map of another scene under the name of one of ours.
        """
        begun = self._entries.blocks.keys() | self._entries.made
        for scene_map in self._maps.values():
            if name_of(scene_map.url) in self._files and scene_map.name not in begun:
                raise InputError(
                    f"{scene_map.url}: already exists, made from another {name_of(scene_map.scene)} or an "
                    "earlier version of it; choose another --out or give --overwrite"
                )

    def run(self, engine: Engine) -> None:
        """Predict the missing blocks, assemble their maps, and fill in the summary."""
        total = left = 0
        complete = list[SceneMap]()
        for scene, scene_map in self._maps.items():
            # A map of the whole scene has the part, and is not replaced by it.
            if self._entries.made & {scene_map.name, scene_map.made} and (
                name_of(scene_map.url) in self._files
            ):
                complete.append(scene_map)
                if scene_map.part and scene_map.name in self._entries.made:
                    say(f"{scene_map.url}: is the map of the whole scene already, and stays")
                continue
            sizes = [block.pixels for block in self._missing_blocks(scene_map)]
            self._missing[scene] = len(sizes)
            total += sum(block.pixels for block in scene_map.blocks(self._job.block_side))
            left += sum(sizes)
        start = time.perf_counter()
        threads = ThreadPoolExecutor(engine.maps_at_once)
        try:
            for scene_map in complete:
                self._finishing[scene_map.scene] = threads.submit(self._keep, scene_map)
            if self._missing:
                of_all = f"predict {counted(len(self._missing), 'scene')}", total, PIXELS, total - left
                with progress(*of_all) as advance:
                    for scene, missing in self._missing.items():
                        if not missing:
                            self._finishing[scene] = threads.submit(self._finish, scene, engine)
                    self._follow(engine, threads, advance)
                    self._settle(advance)
            self._settle()
        except BaseException as error:
            stop_writing()
            error.add_note("finished work is kept; the same command resumes from there")
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
        return (block for block in scene_map.blocks(self._job.block_side) if block not in done)

    def _tasks(self) -> Iterator[BlockTask]:
        """Make the tasks one by one, since 10,000 scenes have a million blocks."""
        for scene in [scene for scene, missing in self._missing.items() if missing]:
            scene_map = self._maps[scene]
            masks = scene_map.masks.to_json() if scene_map.masks else ""
            for block in self._missing_blocks(scene_map):
                yield BlockTask(scene, scene_map.version, scene_map.name, block, masks)

    def _follow(self, engine: Engine, threads: ThreadPoolExecutor, advance: Advance) -> None:
        """Count the blocks as they come, and have each map assembled after its last one."""
        start = time.perf_counter()
        read = predicted = waited = 0.0
        for done in engine.blocks(self._tasks(), self._job):
            self._blocks += 1
            scene, pixels = done.task.scene, done.task.block.pixels
            if done.error:
                self._failed.setdefault(scene, done.error)
            else:
                self._count_smaller(done)
                self._summary.megapixels += pixels * self._job.content.tile**2 / MEGA
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

    def _count_smaller(self, done: BlockResult) -> None:
        """Count a block that memory was too small for, and say so the first time."""
        wanted = self._job.options.batch_size
        if not 0 < done.batch_size < wanted:
            return
        self._summary.smaller += 1
        if self._summary.smaller == 1:
            say(
                f"{wanted} windows at a time do not fit into memory; such blocks are computed with "
                f"{done.batch_size}, and heights differ by 1e-5 m (docs/prediction.md)"
            )

    def _note(self) -> str:
        note = f"{self._blocks:,} blocks, {self._complete:,} of {len(self._missing):,} maps complete"
        return note + f", {len(self._failed):,} failed" * bool(self._failed)

    def _settle(self, advance: Advance | None = None) -> None:
        """Wait for all maps that are being assembled."""
        for scene in list(self._finishing):
            self._settle_one(scene)
            if advance:
                advance(0, self._note())

    def _settle_one(self, scene: str) -> None:
        """Note that a map is complete, or why it cannot be made."""
        if reason := self._finishing.pop(scene).result():
            self._failed[scene] = reason
        else:
            self._there.add(scene)
            self._complete += scene in self._missing

    def _keep(self, scene_map: SceneMap) -> str:
        """Write the files that are missing beside a complete map.

        Returns:
            Why they cannot be written; empty if they are.
        """
        is_whole = scene_map.name in self._entries.made
        if is_whole and scene_map.name in self._entries.blocks:  # a run was killed before it removed them
            self._ledger.finish(scene_map.name, set())
        return write_beside(scene_map.url, self._job, self._files)

    def _finish(self, scene: str, engine: Engine) -> str:
        """Have a map assembled.

        Returns:
            Why it cannot be; empty if it is.
        """
        scene_map = self._maps[scene]
        # The blocks of a part stay for the whole map, whose name in the ledger is theirs.
        others = self._of_stem.get(scene_map.stem, set()) - {scene_map.name, scene_map.made}
        self._ledger.replace(others)
        # A picture or item that is there may describe the map that this one replaces.
        for url in beside_map(scene_map.url):
            if name_of(url) in self._files:
                remove_file(url)
        if reason := engine.complete(scene_map, self._job):
            return reason
        self._ledger.finish(scene_map.made, others)
        return ""
