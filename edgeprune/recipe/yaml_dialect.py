"""YAML without its surprises, for reading recipes and for writing them."""

import re
from typing import Any

import yaml


class StrictLoader(yaml.SafeLoader):
    """YAML without its surprises: a key stands once, nothing refers to itself, and 1e-4 is a number."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        """As the safe loader, but the second of two equal keys is an error instead of the winner."""
        keys = [self.construct_object(key, deep=deep) for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands twice", node.value[index][0].start_mark
                )
        return super().construct_mapping(node, deep=deep)

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        """As the safe loader, but without aliases, which may contain themselves."""
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.composer.ComposerError(None, None, "an alias is not allowed here", mark)
        return super().compose_node(parent, index)


class StrictDumper(yaml.SafeDumper):
    """Quotes the text that ``StrictLoader`` would read as a number."""


for _way in (StrictLoader, StrictDumper):
    # YAML 1.1 wants a point and a sign ("1.0e-4"); everybody writes 1e-4, as YAML 1.2 and JSON do.
    _way.add_implicit_resolver(
        "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
    )
