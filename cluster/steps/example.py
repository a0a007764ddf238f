"""The file of steps that `treeline run --example` prints."""

from cluster import cli

HEAD = """\
# From your own scenes to maps: change the two paths under "ingest scenes", then
#
#     treeline run steps.yaml
#
# The same command goes on where it was stopped. What is done, with the same options, is skipped.
# Options have the names that `treeline COMMAND --help-all` shows, with _ for -. Each step takes what an
# earlier one made: `treeline run steps.yaml --dry-run` prints the commands, with all places.

out: landscape # folder for everything that is made

steps:
  ingest scenes: # scenes and height rasters become a dataset, landscape/chips
    images: ["scenes/*.tif"] # satellite images
    heights: ["heights/*.tif"] # measured heights, in metres
    # ground: ["ground/*.tif"] # ground elevations, if the heights are those of surfaces

  inspect: # a page about the dataset, landscape/inspect/index.html

  # split: # hold out other chips than `ingest scenes` chose
  #   split_by: blocks
  #   block_size: 2000 # metres

  train: # a regressor, landscape/run
    epochs: 30
    # where: "height_max > 2"

  evaluate: # its scores on the chips that were held out, landscape/evaluation

  predict: # maps of the scenes above, landscape/maps
    # scenes: ["more-scenes/*.tif"] # or of others
    quick_look: true

  # evaluate maps: # a command may occur twice, under a name of your own
  #   command: evaluate
  #   heights: ["heights/*.tif"]

  mosaic: # one map of all, landscape/mosaic.tif
"""
REPORT = """
  report: # one page about all of it, landscape/report.html
"""


def example() -> str:
    """Return the example, with the steps that there are."""
    return HEAD + (REPORT if "report" in cli.COMMANDS else "")
