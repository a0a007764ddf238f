"""The README's Python runs as it stands there, and its list of modules is the modules there are."""

import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def test_the_examples_run(pairs_dataset: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "chips").symlink_to(pairs_dataset.url)
    monkeypatch.chdir(tmp_path)
    examples = re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    assert examples
    for example in examples:
        names: dict[str, Any] = {}
        exec(example, names)
        assert names["saved"]["epoch"] == 0
        assert names["saved"]["seen"] == len(names["chips"]) > 0


def test_every_module_is_in_the_list() -> None:
    listed = set(re.findall(r"`((?:shards|ingest|trainer|inference|cluster)/\w+\.py)`", README))
    packages = ("shards", "ingest", "trainer", "inference", "cluster")
    there = {
        f"{path.parent.name}/{path.name}" for package in packages for path in (ROOT / package).glob("*.py")
    }
    assert listed == {name for name in there if not name.endswith("__init__.py")}
