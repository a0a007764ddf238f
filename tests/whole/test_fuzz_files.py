"""Files damaged at random, and every command that reads them: nothing silent, nothing raw, nothing endless.

`make test` draws damages for some seconds from a fixed seed. `make fuzz SECONDS=3600` goes on for as long as
it is given, from another seed each time, and adds what it finds to fuzz_cases.jsonl, to be run ever after.
"""

import functools
import hashlib
import itertools
import json
import operator
import os
import random
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
from damages import JSON, WRONG, Damage, do, drawn, fields_of
from in_process import treeline
from make_sound import make_all
from sound_things import THINGS, Reader, Thing, copied

CASES = Path(__file__).with_name("fuzz_cases.jsonl")
SECONDS = float(os.environ.get("TREELINE_FUZZ_SECONDS", "45"))
SEED = int(os.environ.get("TREELINE_FUZZ_SEED", "0"))
LONGEST = 30
"""Seconds that a command may take."""
AT_ONCE, SLOW_EVERY = 3, 10
"""Commands that a damage is shown to, and damages of which one is shown to a slow command instead."""
RAW = re.compile(r"treeline: failed: (?!DatasetError|DatasetChangedError|OSError)")
"""How a line begins that Python wrote and nobody thought of."""

TIMES = re.compile(r"[\d.,]+ (s|pixels/s|megapixels/s)\b")
"""What differs each time in a command's output."""


@contextmanager
def limited() -> Iterator[None]:
    def too_long(*_: object) -> None:
        raise TimeoutError(f"more than {LONGEST} s")

    before = signal.signal(signal.SIGALRM, too_long)
    signal.alarm(LONGEST)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


class Said(NamedTuple):
    """What a command said, and what it wrote."""

    code: int
    out: str
    errors: str
    made: dict[str, str]
    """Digests of files that it wrote or changed."""


class Bench:
    """Sound things, and what each command says of them."""

    def __init__(self, folder: Path) -> None:
        self.sound, self.work = make_all(folder / "sound"), folder / "work" / "here"
        self.work.parent.mkdir()
        self.said = {
            (thing.name, reader): self._said(thing, reader)
            for thing in THINGS
            for reader in (*thing.readers, *thing.slow)
        }
        self.before = _digests(self.sound)

    def _said(self, thing: Thing, reader: Reader) -> Said:
        copied(self.sound, self.work, thing)
        said = self.run(thing, reader)
        assert said.code == 0, (reader, said.errors)
        return said

    def run(self, thing: Thing, reader: Reader) -> Said:
        """Run a command in the folder of work."""
        before = self._written(thing)
        command = [word.replace("{out}", "made") for word in reader]
        with limited():
            done = treeline(*command, folder=self.work)
        made = {name: data for name, data in self._written(thing).items() if before.get(name) != data}
        return Said(done.returncode, TIMES.sub("", done.stdout), done.stderr, made)

    def _written(self, thing: Thing) -> dict[str, str]:
        """Digests of files in folders that a command may write to."""
        patterns = [f"{name}/**/*" for name in (thing.name, *thing.beside, "made*")]
        return {
            name: digest
            for pattern in (*patterns, "made*")
            for name, digest in _digests(self.work, pattern).items()
            if "/tensorboard/" not in name  # it notes the time
        }

    def troubles(self, thing: Thing, damage: Damage, readers: tuple[Reader, ...]) -> list[str]:
        """Damage a copy of a thing; return what is wrong with how these readers take it."""
        found = []
        for reader in readers:
            copied(self.sound, self.work, thing)
            do(self.work / thing.name, damage)
            damaged = _digest(self.work / thing.name / damage.file)
            what = f"{thing.name} {json.dumps(damage)}: {' '.join(reader)}"
            try:
                said = self.run(thing, reader)
            except TimeoutError as error:
                found.append(f"{what}: {error}")
                continue
            if said.code not in (0, 1, 2) or "Traceback" in said.errors or RAW.search(said.errors):
                found.append(f"{what}: {said.errors.strip().splitlines()[-1:]}")
            here = {name for name in os.listdir(self.work) if not name.startswith("made")}
            if here != set(os.listdir(self.sound)) or len(os.listdir(self.work.parent)) > 1:
                found.append(f"{what}: wrote elsewhere")
            sound = self.said[thing.name, reader]
            # No other result is a file that was made again as it was before, or the damaged one, moved.
            made = dict(said.made.items() - self.before.items())
            moved = {name for name, data in made.items() if data == damaged}
            is_same = said.out == sound.out and _without(made, moved) == _without(sound.made, moved)
            may_differ = thing.is_foreign or (damage.kind == "field" and damage.detail[2])
            is_named = Path(damage.file).name in said.out + said.errors
            if said.code == 0 and not may_differ and not is_same and not is_named:
                found.append(f"{what}: another result, and nothing names the file")
        return found


def _without(made: dict[str, str], names: set[str]) -> dict[str, str]:
    return {name: data for name, data in made.items() if name not in names}


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _digests(folder: Path, pattern: str = "**/*") -> dict[str, str]:
    return {
        str(path.relative_to(folder)): _digest(path)
        for path in sorted(folder.glob(pattern))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Bench:
    return Bench(tmp_path_factory.mktemp("fuzz"))


def cases() -> list[tuple[str, Damage]]:
    lines = CASES.read_text().splitlines() if CASES.exists() else []
    return [(name, Damage(*damage[:2], tuple(damage[2]))) for name, damage in map(json.loads, lines)]


# Outside tests this warning is ignored.
NO_PLACE = pytest.mark.filterwarnings("ignore::rasterio.errors.NotGeoreferencedWarning")


@NO_PLACE
@pytest.mark.slow
def test_what_was_found_once_stays_mended(bench: Bench) -> None:
    things = {thing.name: thing for thing in THINGS}
    assert not [
        line
        for name, damage in cases()
        for line in bench.troubles(things[name], damage, (*things[name].readers, *things[name].slow))
    ]


@pytest.mark.slow
def test_fields_of_each_json_file_take_each_wrong_value(bench: Bench, tmp_path: Path) -> None:
    """Twenty fields of each file, evenly spread: what damages do is under test, not who reads them."""
    files = [path for path in bench.sound.rglob("*") if path.name.endswith(JSON)]
    assert len(files) > 20
    for file in files:
        fields = fields_of(json.loads(file.read_text()))
        spread = itertools.islice(fields.values(), 0, None, max(1, len(fields) // 20))
        for (path, *_), number in itertools.product(spread, range(len(WRONG))):
            (tmp_path / file.name).write_bytes(file.read_bytes())
            do(tmp_path, Damage(file.name, "field", (path, number, False)))
            value = functools.reduce(operator.getitem, path, json.loads((tmp_path / file.name).read_text()))
            assert repr(value) == repr(WRONG[number])


def test_damages_reach_each_field_with_each_value(tmp_path: Path) -> None:
    values = {"many": [{"x": number} for number in range(500)], "one": 1}
    (tmp_path / "a.json").write_text(json.dumps(values))
    generator = random.Random(0)
    drawn_fields = [one for one in (drawn(tmp_path, generator) for _ in range(2000)) if one.kind == "field"]
    assert {one.detail[1:] for one in drawn_fields if one.detail[0] == ["one"]} == set(
        itertools.product(range(len(WRONG)), (False, True))
    )
    assert {one.detail[0][-1] for one in drawn_fields if one.detail[0][0] == "many"} >= {"many", "x"}


@NO_PLACE
@pytest.mark.slow
def test_damages_drawn_at_random_are_named(bench: Bench) -> None:
    generator, end, counts = random.Random(SEED), time.monotonic() + SECONDS, Counter[str]()
    found: list[str] = []
    while time.monotonic() < end:
        thing = generator.choice(THINGS)
        damage = drawn(bench.sound / thing.name, generator)
        counts[damage.kind] += 1
        readers = tuple(generator.sample(thing.readers, min(AT_ONCE, len(thing.readers))))
        if thing.slow and generator.random() < 1 / SLOW_EVERY:
            readers = (generator.choice(thing.slow),)
        if troubles := bench.troubles(thing, damage, readers):
            found += troubles
            if "TREELINE_FUZZ_SECONDS" in os.environ:
                with CASES.open("a") as file:
                    file.write(json.dumps([thing.name, list(damage)]) + "\n")
    print(f"{counts.total():,} damages ({dict(counts)}), {len(found)} troubles")
    assert counts.total() > 3
    assert not found, "\n".join(found)
    assert _digests(bench.sound) == bench.before, "what a damaged thing stands beside is not written to"
