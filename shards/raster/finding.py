"""Something about a raster that is not as it should be, its cure, and whether it is refused."""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from shards.errors import InputError
from shards.said import say
from shards.wording import Option, Words, in_python

OnMismatch = Literal["refuse", "note", "ignore"]
"""What to do about findings: refuse rasters with a gross one and note the others, note all, or none."""
FINDINGS_TAG = "TREELINE_FINDINGS"
"""Tag of a map whose scene has findings: their lines by code, as JSON."""
FINDINGS = "findings"
"""Key of the findings in a record of how a dataset was made: lines by code."""
NAMED = 3
"""Most rasters that the line of a finding names, where many have the same one."""


@dataclass(frozen=True)
class Finding:
    """One thing that the user should know about a raster."""

    code: str
    """Short name that never changes: "pixel size"."""
    line: str
    """Description of what was found, without the raster's name and the cure."""
    cure: str = ""
    """What to do; "" if nothing needs to be done."""
    is_gross: bool = False
    """Whether the raster is refused unless the user wants otherwise."""
    is_recorded: bool = True
    """Whether what is made of the raster says so in its tags, and not only the command."""

    @property
    def words(self) -> Words:
        """Words for what was found and what to do."""
        between = "" if not self.cure else " " if self.line.endswith("?") else "; "
        return Words(self.line, between, self.cure)

    def __str__(self) -> str:
        return str(self.words)


Found = Mapping[str, Sequence[Finding]]
"""Findings by the URL of their raster."""


def refusal(url: str, findings: Iterable[Finding], on_mismatch: OnMismatch) -> str:
    """Say in a line why a raster with these findings is refused; "" if it is not."""
    gross = [finding for finding in findings if finding.is_gross]
    if on_mismatch != "refuse" or not gross:
        return ""
    said = [part for finding in gross for part in ("; ", finding.words)][1:]
    return Words(f"{url}: ", *said, ", or give ", Option("on_mismatch", "note"))


def kind_of(findings: Iterable[Finding]) -> str:
    """Return what rasters that are refused alike have in common: codes and cures, whatever the numbers."""
    gross = (finding for finding in findings if finding.is_gross)
    return "; ".join(f"{finding.code}: {re.sub('[0-9.,]+', '#', finding.cure)}" for finding in gross)


def refuse_or_note(found: Found, on_mismatch: OnMismatch) -> list[str]:
    """Refuse rasters with gross findings, and say the others.

    Args:
        found: findings by the raster's URL.
        on_mismatch: what to do about them.

    Raises:
        InputError: a raster is refused.
    """
    refused = [reason for url, findings in found.items() if (reason := refusal(url, findings, on_mismatch))]
    if refused:
        others = len(refused) - 1
        said = "1 other raster is" if others == 1 else f"{others:,} other rasters are"
        raise InputError(Words(refused[0], f" ({said} refused as well)" * bool(others)))
    return noted([(url, finding) for url, findings in found.items() for finding in findings], on_mismatch)


def say_findings(
    found: Found, on_mismatch: OnMismatch, prefix: str = "treeline", names_arguments: bool = False
) -> None:
    """Refuse rasters with gross findings, and print the others, for Python with options as arguments.

    Raises:
        InputError: a raster is refused.
    """
    for line in refuse_or_note(found, on_mismatch):
        said = in_python(line) if names_arguments else line
        say(f"{prefix}: {said}", of="")


def findings_in(tags: Mapping[str, str]) -> list[Finding]:
    """Read the findings that a map's tags repeat, none of which is gross any more: the user has the map."""
    try:
        found = json.loads(tags.get(FINDINGS_TAG, "{}"))
    except ValueError:  # another program cut the tag off
        return []
    return [Finding(code, line) for code, line in found.items()]


def recorded_findings(made_by: Mapping[str, Any]) -> dict[str, list[str]]:
    """Return what was found when a dataset was made, and when chips were added to it: lines by code."""
    found: dict[str, dict[str, None]] = {}
    while made_by:
        for code, lines in made_by.get(FINDINGS, {}).items():
            found.setdefault(code, {}).update(dict.fromkeys(lines))
        made_by = made_by.get("before", {})
    return {code: list(lines) for code, lines in found.items()}


def findings_by_code(findings: Iterable[Finding]) -> dict[str, str]:
    """Return the lines by code of the findings that are recorded."""
    return {finding.code: finding.line for finding in findings if finding.is_recorded}


def findings_by_url(found: Mapping[str, Iterable[Finding]]) -> dict[str, dict[str, str]]:
    """Return the recorded lines by code, by URL of the rasters that have any."""
    return {url: lines for url, findings in found.items() if (lines := findings_by_code(findings))}


def noted_by_code(found: Found) -> dict[str, list[str]]:
    """Say all findings as `noted` does, by code."""
    by_code: dict[str, list[tuple[str, Finding]]] = {}
    for url, findings in found.items():
        for finding in findings:
            by_code.setdefault(finding.code, []).append((url, finding))
    return {code: noted(same, "note") for code, same in by_code.items()}


def noted(found: Iterable[tuple[str, Finding]], on_mismatch: OnMismatch) -> list[str]:
    """Say each finding in a line, with its raster, or with the number of rasters that have the same one.

    Args:
        found: URLs of rasters that are used, each with a finding.
        on_mismatch: "ignore" says nothing.
    """
    if on_mismatch == "ignore":
        return []
    same: dict[tuple[str, str], list[tuple[str, Finding]]] = {}
    for url, finding in found:
        same.setdefault((finding.code, finding.cure), []).append((url, finding))
    lines = list[str]()
    for rasters in same.values():
        url, finding = rasters[0]
        if len(rasters) <= NAMED and len({finding.line for _, finding in rasters}) == len(rasters):
            lines += [Words(f"{url}: ", finding.words) for url, finding in rasters]
        else:
            lines.append(Words(f"{len(rasters):,} rasters, such as {url}: ", finding.words))
    return lines
