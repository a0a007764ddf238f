"""Own decoders of checkpoints: their code is imported only where the user names it."""

from typing import Any

from shards.errors import InputError
from shards.format.manifest import understood
from shards.own_parts import imported, note_changes, version_of
from shards.roles import OWN_PARTS


def check_trust(url: str, config: dict[str, Any], trust: str) -> None:
    """Refuse the checkpoint at `url` if its decoder is the user's own and not the one that the user names.

    Nothing is imported before that.

    Args:
        url: the checkpoint, for messages.
        config: its config.json.
        trust: import path that the user names; "" for none.

    Raises:
        InputError: says which decoder it has, and what to do.
    """
    with understood(url, "copy the checkpoint again, or take another"):
        kind = str(config.get("decoder", {}).get("kind", "none"))
        before = dict(config["trained_on"])
    if "." not in kind:
        if trust:
            raise InputError(
                f"--trust {trust}: {url} has no decoder of your own (its decoder: {kind}); leave it out"
            )
        return
    if trust != kind:
        other = f", not --trust {trust}" if trust else ""
        raise InputError(
            f"{url}: its decoder is {kind}, which is no part of Treeline; if you trust that code, give "
            f"--trust {kind}{other}"
        )
    imported("--trust", kind)
    note_changes(before, {OWN_PARTS: {kind: version_of(kind)}}, url)
