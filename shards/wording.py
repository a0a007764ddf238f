"""Numbers in words for people, in messages, tables and pages alike."""

from collections.abc import Mapping


def counted(count: int, thing: str) -> str:
    """Write how many things there are: 1 chip, 1,200 chips."""
    return f"{count:,} {thing}{'s' * (count != 1)}"


def said_splits(counts: Mapping[str, int]) -> str:
    """Write how many chips each split has: 80 train, 20 val, 12 buffer (left out, between the others)."""
    notes = {"buffer": " (left out, between the others)"}
    return ", ".join(f"{count:,} {split}{notes.get(split, '')}" for split, count in counts.items())


def number(value: float) -> str:
    """Write four digits, or all before the point: 0.01234, 12.34, 12,340."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
