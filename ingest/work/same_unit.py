"""Whether heights that are added to a dataset are read in the unit of those there."""

from collections.abc import Mapping, Sequence
from typing import Any

from ingest.config import IngestConfig
from shards.errors import InputError
from shards.format.manifest import Manifest
from shards.raster.finding import FINDINGS, Found, noted_by_code
from shards.raster.gdal_advice import state_unit
from shards.raster.height_check import CONVERTED, NO_UNIT, UNIT

STATED = "state it in the new rasters ({command}) and leave out --height-unit"


def refuse_other_unit(config: IngestConfig, base: Manifest, found: Found) -> None:
    """Refuse to add heights in a unit that somebody says, or nobody, where those there are in another.

    Rasters that state their unit may be of any, because that is certain.

    Args:
        config: options of the ingest that adds.
        base: the dataset there.
        found: what was found about the new rasters.

    Raises:
        InputError: names both units, and what to do.
    """
    there, said = _unit_there(base.made_by), getattr(config, "height_unit", None)
    if not there:
        return
    unit, how = there
    if said and said != unit:
        raise InputError(
            f"{config.out}: its heights {how}, and --height-unit {said} is for the new ones alone; if all "
            f"are in {said}, ingest all again with --height-unit {said} and another --out; if only the new "
            f"ones are, {STATED.format(command=state_unit(said))}"
        )
    if not said and unit != "m" and _are_taken_as_metres(noted_by_code(found)):
        raise InputError(
            f"{config.out}: its heights {how}, and the new ones would be taken as metres; give --height-unit "
            f"{unit}, or, if they are metres, {STATED.format(command=state_unit('m'))}"
        )


def _unit_there(made_by: dict[str, Any]) -> tuple[str, str] | None:
    """Return the unit in which heights without one were read, and how; None if all rasters state theirs."""
    while made_by:
        options = made_by.get("config", {})
        if unit := options.get("height_unit"):
            return unit, f"were read with --height-unit {unit}"
        is_older = bool(options.get("heights")) and "ground" in options and "height_unit" not in options
        if is_older or _are_taken_as_metres(made_by.get(FINDINGS, {})):
            return "m", "were taken as metres, since nobody said their unit"
        made_by = made_by.get("before", {})
    return None


def _are_taken_as_metres(found: Mapping[str, Sequence[str]]) -> bool:
    return bool(found.get(NO_UNIT)) or any(CONVERTED not in line for line in found.get(UNIT, ()))
