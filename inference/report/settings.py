"""Options of a run that differ from defaults, and the versions of what made it, its scores and its maps."""

from collections.abc import Mapping
from dataclasses import MISSING
from typing import Any

from markupsafe import Markup

import shards
from inference.report.left import Left
from shards.draw.html import table
from shards.format.manifest import read_json, understood
from shards.nested import options_of
from shards.roles import flag_of
from shards.storage.objects import exists, join
from trainer import config as training
from trainer import pretrain_config as pretraining
from trainer.weights.run_checkpoints import COMPLETE, DAMAGED


def differing_options(left: Left) -> list[tuple[str, str, str]]:
    """Return the options that differ from their defaults: flag, value, default.

    The values of the run's recipe count as defaults; the recipe itself is always there.
    """
    recipes: Mapping[str, Mapping[str, Any]] = (
        pretraining.RECIPES if left.is_pretraining else training.RECIPES
    )
    recipe = recipes.get(str(left.options.get("recipe", "")), {})
    known = options_of(left.kind)
    found = []
    for name, value in left.options.items():
        default = recipe.get(name, known[name].default if name in known else MISSING)
        if default is MISSING:
            found.append((flag_of(name), _said(value), ""))
        elif _plain(value) != _plain(default) and name != "recipe":
            found.append((flag_of(name), _said(value), _said(default)))
        elif name == "recipe":
            found.append((flag_of(name), _said(value), _said(known[name].default)))
    return found


def versions(left: Left) -> Markup:
    """Lay out which version of the code made what."""
    rows = []
    if left.checkpoints:
        url = left.checkpoints.url_of_best()
        if exists(join(url, COMPLETE)):
            with understood(join(url, COMPLETE), DAMAGED):
                made = read_json(join(url, COMPLETE)).get("trained_on", {})
                rows.append(("best checkpoint", url, *_version(made)))
    if left.evaluation:
        rows.append(("scores", left.folder, *_version(left.evaluation)))
    if left.dataset:
        rows.append(("chips", left.data, *_version(left.dataset.manifest.made_by)))
    rows.append(("this page", "", shards.__version__, ""))
    return table(("", "place", "version", "commit"), rows)


def _version(made: Mapping[str, Any]) -> tuple[str, str]:
    """Return version and commit of the code that made something; "" for what is not known."""
    version, commit = (str(made.get(name) or "") for name in ("treeline", "commit"))
    return version, commit


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _said(value: Any) -> str:
    """Write a value as on the command line."""
    if value is None or value == "" or value == [] or value == ():
        return "none"
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
