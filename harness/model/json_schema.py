"""The JSON Schema of a scenario, with the options of every plugin, for editors and other tools.

Draft-07, because yaml-language-server (VS Code, Neovim, ...) supports no later one; pydantic writes 2020-12.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel
from pydantic.json_schema import models_json_schema

from harness.model import matrix
from harness.model.checking import Known, OptionModels
from harness.model.scenario import SCHEMA, Scenario, StudyScenario

DRAFT = "http://json-schema.org/draft-07/schema#"
Names = Mapping[Any, str]  # of each model's definition
_REFERENCE = "#/definitions/{model}"


def scenario_schema(known: Known) -> dict[str, Any]:
    """Return the schema. A plugin that cannot be loaded here is accepted with any options."""
    groups = (known.backends, known.workloads, known.studies, known.study_arms)
    models: list[type[BaseModel]] = [Scenario, StudyScenario]
    models += [model for group in groups for model in group.values() if model is not None]
    references, document = models_json_schema(
        [(model, "validation") for model in dict.fromkeys(models)], ref_template=_REFERENCE
    )
    definitions = document["$defs"]
    names: Names = {model: reference["$ref"].rpartition("/")[2] for (model, _), reference in references.items()}
    for name, selector, models_of in (("Runtime", "backend", known.backends), ("Workload", "kind", known.workloads)):
        own = definitions[name]["properties"]
        definitions[name] = _choice(selector, own, models_of, definitions, names)
    for model in (Scenario, StudyScenario):
        _top(definitions[names[model]], model.ARMS)
    study = names[StudyScenario]
    definitions[study] = _study_choice(definitions[study], known, definitions, names)
    top = {
        "type": "object",
        "if": {"required": ["study"]},
        "then": {"$ref": _REFERENCE.format(model=study)},
        "else": {"$ref": _REFERENCE.format(model=names[Scenario])},
    }
    used = _reachable(top, definitions)
    document = {"$schema": DRAFT, **top, "definitions": {key: definitions[key] for key in sorted(used)}}
    rewritten: dict[str, Any] = _draft07(document)
    return rewritten


def _top(definition: dict[str, Any], arms: str) -> None:
    """Say of a whole scenario what pydantic does not: its version, names of arms, that `control` has a default."""
    definition["required"] = [key for key in definition["required"] if key != "control"]
    definition["properties"]["schema"]["pattern"] = rf"^{re.escape(SCHEMA)}(\.\d+)?$"
    definition["properties"][arms]["additionalProperties"] = False
    definition["properties"][matrix.KEY] = {
        "type": "object",
        "description": "values for dotted keys (limits.memory); each combination is a run of its own",
        "minProperties": 1,
        "additionalProperties": {"type": "array", "minItems": 1, "uniqueItems": True},
    }
    if "density" in definition["properties"]:  # which has its own metrics
        definition["required"] = [key for key in definition["required"] if key != "metrics"]
        definition["oneOf"] = [{"required": ["metrics"]}, {"required": ["density"]}]


def _study_choice(own: Mapping[str, Any], known: Known, definitions: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """Return `oneOf`: a whole scenario for each kind of study, for its kind says what its arms may hold."""
    kinds = []
    for kind, model in known.studies.items():
        options = definitions[names[model]] if model else {"additionalProperties": True}
        arm = known.study_arms.get(kind)
        arms = {
            **own["properties"]["arms"],
            "patternProperties": {
                pattern: {"$ref": _REFERENCE.format(model=names[arm])} if arm else {"type": "object"}
                for pattern in own["properties"]["arms"]["patternProperties"]
            },
        }
        properties = {**own["properties"], "study": _one("kind", kind, {}, options), "arms": arms}
        kinds.append({**own, "title": kind, "properties": properties})
    return {"type": "object", "oneOf": kinds} if kinds else dict(own)


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
