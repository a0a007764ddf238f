"""The README's table names the rooms there are, and its walks name what exists."""

import re
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()
PACKAGES = ("shards", "ingest", "trainer", "inference", "cluster")
PLACE = re.compile(r"((?:shards|ingest|trainer|inference|cluster)(?:\.\w+)+)$")
CLASS = re.compile(r"\b[A-Z][a-z]\w+\b")
BORROWED = {"Tensor"}
"""Types in the walks that are a library's."""


def walk(title: str) -> list[str]:
    """Lines of the walk below this heading."""
    text = README.partition(f"## {title}\n")[2].partition("\n## ")[0]
    block = re.search(r"```\n(.*?)```", text, re.DOTALL)
    assert block
    return [line for line in block[1].splitlines() if line]


SOURCES = "".join(path.read_text() for package in PACKAGES for path in (ROOT / package).rglob("*.py"))
WALKS = [*walk("One chip walks"), *walk("One scene walks")]


@pytest.mark.parametrize("line", WALKS, ids=lambda line: line.partition("  ")[0])
def test_a_step_of_a_walk_is_where_the_readme_says(line: str) -> None:
    """The place at its end can be imported, and the types that go in and come out are ours."""
    place = PLACE.search(line)
    assert place, "ends with no place"
    module, names = place[1], []
    while not (ROOT / f"{module.replace('.', '/')}.py").exists():
        module, _, name = module.rpartition(".")
        assert module, f"no module of {place[1]}"
        names.insert(0, name)
    found: Any = import_module(module)
    for name in names:
        found = getattr(found, name)
    before = line[: place.start()]
    assert "->" in before, "does not say what goes in and what comes out"
    for kind in CLASS.findall(before.partition("  ")[2]):
        assert kind in BORROWED or re.search(rf"^(class {kind}\b|{kind} = )", SOURCES, re.M), (
            f"no class {kind}"
        )


def test_the_table_names_every_room_and_no_other() -> None:
    table = README.partition("## Where things are\n")[2].partition("\n## ")[0]
    cells = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    named = {name for cell in cells for name in re.findall(r"`(\w+/\w+)`", cell)}
    rooms = {
        f"{package}/{path.parent.name}"
        for package in PACKAGES
        for path in (ROOT / package).glob("*/__init__.py")
    }
    assert named == rooms
