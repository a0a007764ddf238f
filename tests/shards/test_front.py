"""Readers of datasets import from the package: every name is there, and is loaded only when asked for."""

import subprocess
import sys

import pytest

import shards


@pytest.mark.parametrize("name", shards.__all__)
def test_a_name_is_the_one_of_its_room(name: str) -> None:
    found = getattr(shards, name)
    assert found.__name__ == name
    assert found.__module__.startswith("shards.")


def test_another_name_is_refused() -> None:
    with pytest.raises(AttributeError, match="module 'shards' has no attribute 'nothing'"):
        shards.nothing  # noqa: B018


def test_the_package_alone_loads_nothing_heavy() -> None:
    heavy = "numpy", "pyarrow", "fsspec", "torch", "rasterio"
    code = f"import sys, shards; print(sorted(sys.modules.keys() & {set(heavy)!r}), shards.__version__)"
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == f"[] {shards.__version__}\n"
