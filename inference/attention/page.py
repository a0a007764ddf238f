"""index.html: what was looked at, the pictures, and the numbers beside them."""

from collections.abc import Sequence
from typing import Any

from markupsafe import Markup

from inference.attention.comparison import BANDS, PATCHES, TRAINED, UNTRAINED
from shards.draw.html import Cell, Numeral, figure, heading, page, sentence, table

NAMES = {
    TRAINED: "heads of the checkpoint",
    UNTRAINED: "heads of an untrained backbone",
    BANDS: "bands, pixel by pixel",
    PATCHES: "bands, averaged over patches",
}
SHORT = {TRAINED: "checkpoint", UNTRAINED: "untrained", BANDS: "bands", PATCHES: "bands of patches"}
HEAD = ("found by", "best by IoU", "IoU", "chosen elsewhere", "best by AUC", "AUC", "chosen elsewhere")

_HOW = (
    "Attention is what the class token gives to each patch, without the class token itself and the "
    "registers, divided by its sum over the patches of the window. In the pictures 1 is what each patch has "
    "on average. "
    "Patches of which less than half is valid are white."
)
_NUMBERS = (
    "IoU is the best over all thresholds, above or below; AUC is 0.5 for chance, and counts whichever side "
    "the class lies on. The best of several heads or bands is optimistic, because it is chosen where it is "
    "measured."
)
_ELSEWHERE = (
    'Therefore "chosen elsewhere" has head, threshold and side chosen on one half of the {units} and '
    "measured on the other, both ways, and their mean."
)
_TOO_FEW = "There are too few tiles to choose on some and measure on others."


def attention_page(
    about: dict[str, Any], pictures: Sequence[tuple[str, bytes, str]], numbers: Sequence[dict[str, Any]]
) -> str:
    """Return the page.

    Args:
        about: settings and facts, as in attention.json.
        pictures: heading, PNG and description of each table of pictures.
        numbers: what was compared, by class.
    """
    sections: dict[str, Markup] = {"In short": _in_short(about)}
    for title, drawn, alt in pictures:
        sections[title] = figure(drawn, alt)
    if numbers:
        sections["Does attention find the classes?"] = _numbers(about, numbers)
    footer = f"Treeline {about['treeline']}, commit {about['commit']}"
    return page("Attention of the class token", sections, _HOW, footer)


def _in_short(about: dict[str, Any]) -> Markup:
    rows: list[Sequence[Cell]] = [
        ("checkpoint", f"{about['checkpoint']} ({about['weights']})"),
        ("bands", " ".join(about["bands"])),
        ("layer", f"{about['layer']} of {about['layers']}"),
        ("windows", f"{about['tile_size']} pixels a side, patches of {about['patch_size']}"),
        ("tiles", f"{len(about['tiles']):,}"),
        ("attention that patches have, by head", _shares(about["mass_on_patches"])),
        ("variance of tokens along the three components", _shares(about["components_explain"])),
    ]
    return table(("", ""), rows)


def _shares(shares: Sequence[float]) -> str:
    return ", ".join(f"{100 * share:.0f} %" for share in shares)


def _numbers(about: dict[str, Any], numbers: Sequence[dict[str, Any]]) -> Markup:
    units = about["halved"]
    pieces = [sentence(f"{_NUMBERS} {_ELSEWHERE.format(units=units) if units else _TOO_FEW}")]
    layers = f"layer {about['layer']}" if about["measured_layers"] == 1 else "all layers"
    pieces.append(sentence(f"Measured on {about['measured_windows']:,} windows, {layers}."))
    pieces.append(sentence("Best IoU / best AUC of each kind, chosen where they are measured:"))
    pieces.append(table(("", "share of pixels", *SHORT.values()), [_summary(found) for found in numbers]))
    for found in numbers:
        pieces.append(heading(f"{found['layer']}: {found['name']}"))
        pieces.append(sentence(f"{verdict(found)} {_share(found)}"))
        pieces.append(table(HEAD, [_row(kind, found[kind]) for kind in NAMES]))
    return Markup("").join(pieces)


def _summary(found: dict[str, Any]) -> list[Cell]:
    """Return the share of a class, and best IoU and AUC of each kind."""
    cells: list[Cell] = [f"{found['layer']}: {found['name']}", Numeral(f"{100 * found['share']:.3g} %")]
    for kind in SHORT:
        best = [
            found[kind]["each"][name][score] if (name := found[kind][f"best_{score}"]) else None
            for score in ("iou", "auc")
        ]
        cells.append(Numeral(" / ".join("-" if one is None else f"{one:.3f}" for one in best)))
    return cells


def _share(found: dict[str, Any]) -> str:
    return (
        f"{100 * found['share']:.3g} % of the pixels are of this class; to call every pixel so has an IoU of "
        f"{found['share']:.3g}."
    )


def verdict(found: dict[str, Any]) -> str:
    """Say in a sentence whether the checkpoint's attention finds a class better than what it should beat."""
    halved = found[TRAINED]["on_other_tiles"]["iou"] is not None
    scores = {kind: _score(found[kind], halved) for kind in NAMES}
    mine = scores.pop(TRAINED)
    if mine is None:
        return "It cannot be measured."
    beaten = [NAMES[kind] for kind, score in scores.items() if score is not None and mine > score]
    where = "on tiles where they were not chosen" if halved else "where they were chosen"
    if len(beaten) == len(scores):
        return f"Attention finds it better than all others (IoU {mine:.3f}, {where})."
    others = [
        f"{NAMES[kind]} {score:.3f}" for kind, score in scores.items() if score is not None and score >= mine
    ]
    return f"Attention does not find it better than: {', '.join(others)} (IoU {mine:.3f}, {where})."


def _score(found: dict[str, Any], halved: bool) -> float | None:
    if halved:
        iou: float | None = found["on_other_tiles"]["iou"]
        return iou
    return found["each"][found["best_iou"]]["iou"] if found["best_iou"] else None


def _row(kind: str, found: dict[str, Any]) -> list[Cell]:
    cells: list[Cell] = [NAMES[kind]]
    for score in ("iou", "auc"):
        best = found[f"best_{score}"]
        cells += [best, _written(found["each"][best][score] if best else None)]
        cells.append(_written(found["on_other_tiles"][score]))
    return cells


def _written(score: float | None) -> Cell:
    return None if score is None else Numeral(f"{score:.3f}")
