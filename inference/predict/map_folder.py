"""The folder at --out before a prediction starts, and whether its maps may go there.

Maps of one folder are made alike: predict.json says with what. An empty folder takes any.
"""

from dataclasses import dataclass
from typing import Any

from inference.config import PredictConfig
from inference.predict.ledger import Entries, Ledger
from inference.scenes.scene_list import MAP_ENDING
from shards.errors import InputError
from shards.format.manifest import read_json
from shards.roles import differing
from shards.storage.objects import exists, join, list_files

MADE_WITH = "predict.json"
BATCH_SIZE = "batch_size"


@dataclass(frozen=True)
class MapFolder:
    """Contents of --out."""

    url: str
    files: set[str]
    """Names of the files directly in it."""
    entries: Entries
    """Record of what is done of its maps."""
    made_with: dict[str, Any]
    """predict.json: what its maps are made with; empty where nothing says it."""

    @property
    def maps(self) -> set[str]:
        """Names of the files that are maps."""
        return {name for name in self.files if name.endswith(MAP_ENDING)}


def read_map_folder(url: str) -> MapFolder:
    """List the folder at `url`, which need not be there."""
    files = set(list_files(url, "")) if exists(url) else set()
    made_with = read_json(join(url, MADE_WITH)) if MADE_WITH in files else {}
    return MapFolder(url, files, Ledger(url).entries(), made_with)


def differences(there: dict[str, Any], asked: dict[str, Any]) -> list[str]:
    """Name what maps are made with in `there`, and would not be in `asked`."""
    return sorted(differing(PredictConfig, there, asked))


def batch_size_to_keep(folder: MapFolder, made_with: dict[str, Any]) -> int:
    """Return the batch size of the maps in `folder`, for a user who leaves it open.

    0 where they are made with anything else than `made_with`: with another regressor or window that size
    may not fit.
    """
    others = set(differences(folder.made_with, made_with)) - {BATCH_SIZE}
    return 0 if others else int(folder.made_with[BATCH_SIZE])


def refuse_maps_made_otherwise(
    folder: MapFolder, made_with: dict[str, Any], names: set[str], overwrite: bool
) -> None:
    """Refuse a folder whose maps are made with anything else than `made_with`.

    Args:
        folder: what is at --out.
        made_with: what maps are to be made with; a batch size of 0 may become any.
        names: file names of these maps.
        overwrite: whether they may take the place of those that are made otherwise.

    Raises:
        InputError: maps in the folder, or in the making there, are made otherwise.
    """
    remedy = "choose another --out" + " or give --overwrite" * (not overwrite)
    refused = folder.maps - names if overwrite else folder.maps
    if not folder.made_with:
        if refused:
            raise InputError(
                f"{folder.url}: holds {min(refused)}, and nothing says what it is made with; {remedy}"
            )
        return
    differ = differences(folder.made_with, made_with)
    if not made_with[BATCH_SIZE]:
        differ = [name for name in differ if name != BATCH_SIZE]
    if not differ:
        return
    what = ", ".join(
        f"{name} ({folder.made_with.get(name)} there, {made_with.get(name)} asked for)" for name in differ
    )
    if refused:
        whose = f"{len(refused):,} maps of other scenes" if overwrite else "maps"
        raise InputError(f"{folder.url}: holds {whose} made with another {what}; {remedy}")
    if not folder.maps and folder.entries.blocks and not overwrite:
        raise InputError(f"{folder.url}: maps are in the making there with another {what}; {remedy}")
