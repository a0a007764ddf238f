"""Numbers in words for people, in messages, tables and pages alike."""


def counted(count: int, thing: str) -> str:
    """Write how many things there are: 1 chip, 1,200 chips."""
    return f"{count:,} {thing}{'s' * (count != 1)}"


def number(value: float) -> str:
    """Write four digits, or all before the point: 0.01234, 12.34, 12,340."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
