"""The JSON Schema of a scenario, with the options of every plugin, for editors and other tools.

Draft-07, because yaml-language-server (VS Code, Neovim, ...) supports no later one; pydantic writes 2020-12.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from harness.model.reading import OptionModels
from harness.model.scenario import SCHEMA, Scenario

DRAFT = "http://json-schema.org/draft-07/schema#"
Names = Mapping[Any, str]  # of each model's definition
_REFERENCE = "#/definitions/{model}"


def scenario_schema(backends: OptionModels, workloads: OptionModels) -> dict[str, Any]:
    """Return the schema. A plugin that cannot be loaded here is accepted with any options."""
    models: list[type[BaseModel]] = [Scenario]
    models += [model for group in (backends, workloads) for model in group.values() if model is not None]
    references, document = models_json_schema(
        [(model, "validation") for model in dict.fromkeys(models)], ref_template=_REFERENCE
    )
    definitions = document["$defs"]
    names: Names = {model: reference["$ref"].rpartition("/")[2] for (model, _), reference in references.items()}
    for name, selector, models_of in (("Runtime", "backend", backends), ("Workload", "kind", workloads)):
        own = definitions[name]["properties"]
        definitions[name] = _choice(selector, own, models_of, definitions, names)
    top = definitions.pop(names[Scenario])
    top["required"] = [key for key in top["required"] if key != "control"]
    top["properties"]["schema"]["pattern"] = rf"^{re.escape(SCHEMA)}(\.\d+)?$"
    top["properties"]["runtimes"]["additionalProperties"] = False
    used = _reachable(top, definitions)
    document = {"$schema": DRAFT, **top, "definitions": {key: definitions[key] for key in sorted(used)}}
    rewritten: dict[str, Any] = _draft07(document)
    return rewritten


def _choice(
    selector: str, own: Mapping[str, Any], models: OptionModels, definitions: Mapping[str, Any], names: Names
) -> dict[str, Any]:
    """Return `oneOf`: for each plugin the selector's name with the options of that plugin beside it.

    Other keys of the definition that has the selector stand beside them for every plugin.
    """
    beside = {key: value for key, value in own.items() if key not in {selector, "options"}}
    return {"type": "object", "required": [selector], "oneOf": [
        _one(selector, name, beside, definitions[names[model]] if model else {"additionalProperties": True})
        for name, model in models.items()
    ]}  # fmt: skip


def _one(selector: str, name: str, beside: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    properties = {selector: {"const": name}, **beside, **options.get("properties", {})}
    return {
        "title": name,
        "type": "object",
        "properties": properties,
        "required": [selector, *options.get("required", [])],
        "additionalProperties": options.get("additionalProperties", False),
    }


def _reachable(node: Any, definitions: Mapping[str, Any], found: set[str] | None = None) -> set[str]:
    """Return the names of all definitions that a node refers to, directly or through others."""
    found = set() if found is None else found
    if isinstance(node, dict):
        name = str(node.get("$ref", "")).rpartition("/")[2]
        if name and name not in found:
            found.add(name)
            _reachable(definitions[name], definitions, found)
    for child in node.values() if isinstance(node, dict) else node if isinstance(node, list) else ():
        _reachable(child, definitions, found)
    return found


def _draft07(node: Any) -> Any:
    """Rewrite what draft-07 says in other words: siblings of `$ref` (which it ignores) and tuples."""
    if isinstance(node, list):
        return [_draft07(child) for child in node]
    if not isinstance(node, dict):
        return node
    node = {key: _draft07(child) for key, child in node.items()}
    if "prefixItems" in node:
        node["items"] = node.pop("prefixItems")
    if "$ref" in node and len(node) > 1:
        return {"allOf": [{"$ref": node.pop("$ref")}], **node}
    return node
