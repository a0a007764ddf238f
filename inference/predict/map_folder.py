"""The folder at --out before a prediction starts, and whether its maps may go there.

All maps of a folder are made with the same regressor and options, named in predict.json.
"""

from dataclasses import dataclass
from typing import Any

from inference.config import PredictConfig
from inference.predict.ledger import Entries, Ledger
from inference.scenes.scene_list import MAP_ENDINGS
from shards.errors import InputError
from shards.format.manifest import read_json
from shards.roles import differing, renewed
from shards.storage.objects import exists, join, list_files, name_of
from shards.storage.typed_json import shown

MADE_WITH = "predict.json"
BATCH_SIZE = "batch_size"


@dataclass(frozen=True)
class MapFolder:
    """Contents of --out."""

    url: str
    files: set[str]
    """Names of the files directly in it."""
    entries: Entries
    """Finished blocks and maps."""
    made_with: dict[str, Any]
    """Contents of predict.json: what the maps are made with; empty if there is no such file."""

    def has(self, names: set[str], url: str) -> bool:
        """Tell whether the map at `url` is complete, under one of these names in the ledger."""
        return bool(self.entries.made & names) and name_of(url) in self.files

    @property
    def maps(self) -> set[str]:
        """Names of the files that are maps."""
        return {name for name in self.files if name.endswith(MAP_ENDINGS)}


def read_map_folder(url: str) -> MapFolder:
    """List the folder at `url`, which may not exist yet."""
    files = set(list_files(url, "")) if exists(url) else set()
    made_with = renewed(PredictConfig, read_json(join(url, MADE_WITH))) if MADE_WITH in files else {}
    return MapFolder(url, files, Ledger(url).entries(), made_with)


def differences(there: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """List the names whose values differ between `there` and `asked`."""
    return sorted(differing(PredictConfig, there, asked))


def batch_size_to_keep(folder: MapFolder, made_with: dict[str, Any]) -> int:
    """Return the batch size of the maps in `folder`, for a user who asked for any that fits.

    It is 0 if they differ from `made_with` in anything else, because with another regressor or window that
    size may not fit.
    """
    others = set(differences(folder.made_with, made_with)) - {BATCH_SIZE}
    if others:
        return 0
    kept = folder.made_with[BATCH_SIZE]
    if not isinstance(kept, int):
        raise InputError(
            f"{join(folder.url, MADE_WITH)}: {BATCH_SIZE} is {shown(kept)}, not a number; choose "
            "another --out"
        )
    return kept


def refuse_maps_made_otherwise(
    folder: MapFolder, made_with: dict[str, Any], names: set[str], overwrite: bool
) -> None:
    """Refuse a folder whose maps are made with anything other than `made_with`.

    Args:
        folder: contents of --out.
        made_with: what the new maps are to be made with; a batch size of 0 may become any.
        names: file names of the new maps.
        overwrite: whether the new maps may replace maps that were made otherwise.

    Raises:
        InputError: the folder has maps, complete or in the making, that are made otherwise.
    """
    remedy = "choose another --out" + " or give --overwrite" * (not overwrite)
    refused = folder.maps - names if overwrite else folder.maps
    if not folder.made_with:
        if refused:
            raise InputError(
                f"{folder.url}: holds {min(refused)}, but no {MADE_WITH} says what it is made with; {remedy}"
            )
        return
    differ = differences(folder.made_with, made_with)
    if not made_with[BATCH_SIZE]:
        differ = [name for name in differ if name != BATCH_SIZE]
    if not differ:
        return
    what = ", ".join(_said(name, folder.made_with.get(name), made_with.get(name)) for name in differ)
    if refused:
        whose = f"{len(refused):,} maps of other scenes" if overwrite else "maps"
        raise InputError(f"{folder.url}: holds {whose} made with {what}; {remedy}")
    if not folder.maps and folder.entries.blocks and not overwrite:
        raise InputError(f"{folder.url}: holds unfinished maps made with {what}; {remedy}")


def _said(name: str, there: Any, asked: Any) -> str:
    """Say that an option differs: another block (512 there, 1024 asked for)."""
    another = "other" if name.endswith("s") else "another"
    there, asked = ("none" if value == "" else value for value in (there, asked))
    return f"{another} {name} ({there} there, {asked} asked for)"
