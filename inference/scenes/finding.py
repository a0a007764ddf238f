"""Something about a scene that does not fit the training, and its cure."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from inference.config import OnMismatch
from shards.errors import InputError

FINDINGS_TAG = "TREELINE_FINDINGS"
"""Tag of a map whose scene has findings: their lines by code, as JSON."""
NAMED = 3
"""Most scenes that the line of a finding names, where many have the same one."""


@dataclass(frozen=True)
class Finding:
    """A difference between a scene and the training that its user should know."""

    code: str
    """Short name that never changes, for tags and STAC items."""
    line: str
    """What was found and what it looks like, without the scene's name and the cure."""
    cure: str = ""
    """What to do about it; "" if there is nothing to do."""
    is_gross: bool = False
    """Whether the scene is refused unless the user wants otherwise."""

    def __str__(self) -> str:
        return f"{self.line}; {self.cure}" if self.cure else self.line


def refusal(url: str, findings: Iterable[Finding], on_mismatch: OnMismatch) -> str:
    """Say in a line why a scene with these findings is refused; "" if it is not."""
    gross = [finding for finding in findings if finding.is_gross]
    if on_mismatch != "refuse" or not gross:
        return ""
    said = "; ".join(map(str, gross))
    return f"{url}: {said}, or give --on-mismatch note"


def refuse_or_note(found: Mapping[str, Sequence[Finding]], on_mismatch: OnMismatch) -> list[str]:
    """Refuse scenes with gross findings, and say the others.

    Args:
        found: findings by the scene's URL.
        on_mismatch: what to do about them.

    Raises:
        InputError: a scene is refused.
    """
    refused = [reason for url, findings in found.items() if (reason := refusal(url, findings, on_mismatch))]
    if refused:
        others = len(refused) - 1
        raise InputError(refused[0] + f" ({others:,} other scenes are refused as well)" * bool(others))
    return noted([(url, finding) for url, findings in found.items() for finding in findings], on_mismatch)


def findings_json(findings: Iterable[Finding]) -> str:
    """Write findings as short JSON for a tag: lines by code."""
    return json.dumps(findings_by_code(findings))


def findings_by_code(findings: Iterable[Finding]) -> dict[str, str]:
    """Return the findings' lines by code."""
    return {finding.code: finding.line for finding in findings}


def noted(found: Iterable[tuple[str, Finding]], on_mismatch: OnMismatch) -> list[str]:
    """Say each finding in a line, with its scene, or with the number of scenes that have the same one.

    Args:
        found: URLs of scenes that are used, each with a finding.
        on_mismatch: "ignore" says nothing.
    """
    if on_mismatch == "ignore":
        return []
    same: dict[tuple[str, str], list[tuple[str, Finding]]] = {}
    for url, finding in found:
        same.setdefault((finding.code, finding.cure), []).append((url, finding))
    lines = []
    for scenes in same.values():
        url, finding = scenes[0]
        if len(scenes) <= NAMED:
            lines += [f"{url}: {finding}" for url, finding in scenes]
        else:
            lines.append(f"{len(scenes):,} scenes, such as {url}: {finding}")
    return lines
