"""Files stay inside the folder that a command was told to write."""

from shards.errors import InputError
from shards.storage.objects import is_local, local_path


def check_inside(url: str, *names: str) -> None:
    """Refuse names below `url` whose way leads through a link to a folder elsewhere.

    `url` itself may be a link: the user named it. A link at the very end is no way: writing replaces it.
    Storage that is not local has no links.

    Raises:
        InputError: names the link.
    """
    if not is_local(url):
        return
    root = local_path(url)
    for folders in {tuple(name.split("/")[:-1]) for name in names}:
        place = root
        for folder in folders:
            place = place / folder
            if place.is_symlink() and not place.resolve().is_relative_to(root.resolve()):
                raise InputError(
                    f"{place}: is a link that leads out of {url}, where nothing is written or removed; "
                    "put a folder in its place"
                )
