"""`treeline report`: one page about a run and its maps, from what train, evaluate and predict left.

print(report(ReportConfig("run", maps=("maps/*.tif",))))
"""

from collections.abc import Mapping
from dataclasses import dataclass

from markupsafe import Markup

from inference.config import ReportConfig, ViewConfig
from inference.report.left import Left, read_left
from inference.report.maps import beside_maps
from inference.report.page import page_of, verdict_of_run
from shards.next_step import ANY_DATASET, ANY_SCENE, next_step
from shards.read.label_to_learn import use_of_backbone
from shards.storage.objects import check_writable, join, publish

PAGE = "report.html"


@dataclass(frozen=True)
class Written:
    """A report that was written."""

    path: str
    left: Left
    """What it shows."""
    shown: Mapping[str, ViewConfig]
    """What is looked at with each map."""

    def __str__(self) -> str:
        """Say what is missing, where the page is, how good the run is, and what to do next."""
        return "\n".join(
            [*self.left.missing, self.path, verdict_of_run(self.left), _next(self.left, self.shown)]
        )


def report(config: ReportConfig) -> str:
    """Write the page of a run; return what to print.

    Raises:
        InputError: there is no run, or what is named is not there.
    """
    return str(write_page(config))


def write_page(config: ReportConfig, more: Mapping[str, Markup] | None = None, title: str = "") -> Written:
    """Write the page.

    Args:
        config: the options.
        more: further sections of the page.
        title: its heading; default: the run's name.

    Raises:
        InputError: there is no run, or what is named is not there.
    """
    left = read_left(config)
    path = config.out or join(config.run, PAGE)
    check_writable(path.rpartition("/")[0] or ".")
    shown = beside_maps(config, left.maps)
    publish(path, page_of(left, shown, more, title).encode())
    return Written(path, left, shown)


def _next(left: Left, beside: Mapping[str, ViewConfig]) -> str:
    """Name the command that goes on from here."""
    if left.is_pretraining:
        if left.dataset is None:
            out = f"{left.run.rstrip('/')}-trained"
            return next_step("train", "--data", ANY_DATASET, "--backbone", left.run, "--out", out)
        return next_step(*use_of_backbone(left.dataset.manifest, left.data, left.run))
    if not left.evaluation:
        return next_step(*left.evaluating())
    if not left.maps:
        return next_step("predict", ANY_SCENE, "--checkpoint", left.run, "--out", "maps")
    shown = beside[left.maps[0]]
    image = ("--image", shown.image) if shown.image else ()
    heights = ("--heights", *shown.heights) if shown.heights else ()
    return next_step("view", left.maps[0], *image, *heights)
