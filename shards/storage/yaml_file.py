"""Reading of YAML (and so JSON) files within limits: a short file can unfold without end."""

from collections.abc import Hashable
from typing import Any

import yaml

from shards.errors import InputError, one_line
from shards.storage.objects import read_bytes, size_of

MOST_BYTES = 4 * 2**20
"""Bytes of a file, at most; options that name ten thousand scenes take less than one megabyte."""
MOST_VALUES = 200_000
"""Values of a file, at most, after each alias (*name) is replaced by what it stands for."""


def read_yaml(url: str) -> Any:
    """Read the YAML file at `url`, in which no entry occurs twice in one place.

    Raises:
        InputError: there is no such file, it is not YAML, or too large to be a file of options.
    """
    if size_of(url) > MOST_BYTES:
        raise InputError(f"{url}: has {size_of(url):,} bytes, more than a file of options; give another")
    data = read_bytes(url)
    try:
        loader = _Once(data)
        node = loader.get_single_node()
        if node is None:
            return None
        if _values(node, {}) > MOST_VALUES:
            raise InputError(
                f"{url}: its aliases (*name) unfold into more than {MOST_VALUES:,} values; write what they "
                "stand for"
            )
        return loader.construct_document(node)
    except RecursionError as error:
        raise InputError(f"{url}: not a file of options (it is nested too deeply)") from error
    except (yaml.YAMLError, ValueError) as error:  # a UnicodeDecodeError, or a date that is none
        raise InputError(f"{url}: not a YAML or JSON file ({one_line(error)})") from error


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """Count the values that a node unfolds into; one that holds itself has too many."""
    if id(node) not in known:
        known[id(node)] = MOST_VALUES + 1
        inner = node.value if isinstance(node, yaml.CollectionNode) else []
        pairs = [one for pair in inner for one in pair] if isinstance(node, yaml.MappingNode) else inner
        known[id(node)] = 1 + sum(_values(one, known) for one in pairs)
    return known[id(node)]


class _Once(yaml.SafeLoader):
    """Loader that refuses what occurs twice: the first would be lost."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        """Make a mapping, as the loader does."""
        names = set[str]()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode):
                if key.value in names:
                    raise yaml.constructor.ConstructorError(
                        None, None, f"{key.value} occurs twice; give one another name", key.start_mark
                    )
                names.add(key.value)
        return super().construct_mapping(node, deep)
