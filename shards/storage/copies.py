"""Second places of objects within their storage, without their bytes passing through this process."""

import os
import shutil

import fsspec

from shards.storage.objects import is_local, local_path, staged


def copy_object(source: str, target: str) -> None:
    """Give the object at `source` a second place at `target`, whole or not at all, in the same storage.

    A local file gets a second name, or is copied where the file system has no hard links; a remote object is
    copied by its server.
    """
    if not is_local(source):
        filesystem, path = fsspec.core.url_to_fs(source)
        filesystem.cp_file(path, fsspec.core.url_to_fs(target)[1])
        return
    file = local_path(source).resolve()  # a second name of a relative link would lead elsewhere
    with staged(target) as second:
        try:
            os.link(file, second)
        except FileNotFoundError:
            raise
        except OSError:  # no hard links there, no more of them for this file, or another file system
            shutil.copyfile(file, second)
