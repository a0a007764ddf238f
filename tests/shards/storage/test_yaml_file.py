"""Files of options are read within limits, and what is wrong with one is said in a line."""

import resource
from pathlib import Path

import pytest

from cluster.cli import parse
from shards.errors import InputError
from shards.storage.yaml_file import MOST_BYTES, MOST_VALUES, read_yaml
from trainer.run_folder.options_file import read_options

BOMB = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 10)
)
WRONG = {
    BOMB: "its aliases (*name) unfold into more than",
    "a: &a [*a]": "its aliases (*name) unfold into more than",
    "a: 1\na: 2": "a occurs twice",
    "a: [": "not a YAML or JSON file",
    "a: !!python/object/apply:os.system [id]": "not a YAML or JSON file",
    "a: 2026-13-45": "not a YAML or JSON file",
    "a: " + "[" * 5000: "nested too deeply",
    "a: b\xff": "not a YAML or JSON file",
    "a: b\x00": "not a YAML or JSON file",
    "#" * (MOST_BYTES + 1): "bytes, more than a file of options",
}


@pytest.mark.parametrize(("text", "why"), WRONG.items(), ids=[text[:12].strip() for text in WRONG])
def test_what_cannot_be_read_is_refused_at_once(text: str, why: str, tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_bytes(text.encode("latin-1"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for reader in (
        lambda: read_yaml(str(file)),
        lambda: read_options(str(file)),
        lambda: parse("inspect", ["--config", str(file)]),
        lambda: (
            parse("run", [str(file)])
            and __import__("cluster.steps.steps_file").steps.steps_file.read_steps(str(file))
        ),
    ):
        with pytest.raises(InputError) as refused:
            reader()
        said = str(refused.value)
        assert said.startswith(f"{file}: "), said
        assert why in said
        assert "\n" not in said
        assert len(said) < 1000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000, "kilobytes"


def test_aliases_that_stay_small_are_understood(tmp_path: Path) -> None:
    file = tmp_path / "steps.yaml"
    file.write_text(
        "base: &base {epochs: 3}\ntrain: {<<: *base, seed: 1}\nlist: &list [1, 2]\nagain: *list\n"
    )
    assert read_yaml(str(file)) == {
        "base": {"epochs": 3},
        "train": {"epochs": 3, "seed": 1},
        "list": [1, 2],
        "again": [1, 2],
    }


def test_a_long_list_is_no_attack(tmp_path: Path) -> None:
    file = tmp_path / "options.yaml"
    file.write_text("images: [" + ", ".join(["a.tif"] * 10_000) + "]")
    assert len(read_yaml(str(file))["images"]) == 10_000 < MOST_VALUES
