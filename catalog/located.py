"""YAML whose every key and item knows its line, and models validated from it with their errors at these lines."""

import json
import re
from dataclasses import dataclass, field
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from catalog.problem import Problem, not_allowed
from schema.records import Measurement, ReferenceLink, Settings, Taxonomy

Place = tuple[str | int, ...]
"""Where in nested mappings and lists: `("taxonomy", "how", 0)`."""

FORMS = {
    "key": "family name, year or `undated`, and a word of the title, in ASCII lower case, as in lee2019snip",
    "builds_on": "keys, as in lee2019snip",
    "doi": "10.NNNN/suffix, without https://doi.org/",
    "arxiv": "2106.00001 or cs/0512001, without version",
    "openreview": "the id of the forum, letters, digits, - and _",
    "url": "http:// or https://",
    "code": "http:// or https://",
    "implementation": "folder.module",
    "year": "a year from 1940",
    "id": "lower case, digits and _",
}
"""What a field that has a form looks like."""

_PARTS: dict[str, type[BaseModel]] = {"taxonomy": Taxonomy, "settings": Settings, "references": ReferenceLink, "reported": Measurement}


@dataclass
class Located:
    """A mapping read from YAML.

    Attributes:
        path: of the file, relative to the root of the repository.
        values: as JSON would hold them.
        lines: place -> line, counted from 1.
        problems: what is wrong with the syntax, keys given twice included.
    """

    path: str
    values: dict[str, Any] = field(default_factory=dict)
    lines: dict[Place, int] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    def line(self, place: Place) -> int:
        """The line of a place, or of the nearest one around it."""
        while place not in self.lines and place:
            place = place[:-1]
        return self.lines.get(place, 1)


def parse(path: str, text: str, first_line: int = 1) -> Located:
    """Read a YAML mapping whose first line is `first_line` of the file."""
    located = Located(path)
    try:
        node = yaml.compose(text, Loader=yaml.CSafeLoader)
    except yaml.MarkedYAMLError as error:
        line = first_line + (error.problem_mark.line if error.problem_mark else 0)
        located.problems.append(Problem(path, line, f"this is no YAML ({error.problem or error.context}); allowed: field: value"))
        return located
    except (yaml.YAMLError, RecursionError) as error:
        located.problems.append(Problem(path, first_line, f"this is no YAML ({' '.join(str(error).split())}); allowed: field: value"))
        return located
    if not isinstance(node, yaml.MappingNode):
        located.problems.append(Problem(path, first_line, "this is no mapping; allowed: field: value"))
        return located
    located.values = _plain(node, (), first_line, located, yaml.CSafeLoader(""))
    return located


def _plain(node: yaml.Node, place: Place, first_line: int, located: Located, loader: yaml.CSafeLoader) -> Any:
    line = first_line + node.start_mark.line
    located.lines.setdefault(place, line)
    if isinstance(node, yaml.MappingNode):
        values: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key, line = str(key_node.value), first_line + key_node.start_mark.line
            if key in values:
                located.problems.append(Problem(located.path, line, f"`{key}` is given twice; allowed: once"))
                continue
            located.lines[(*place, key)] = line
            values[key] = _plain(value_node, (*place, key), first_line, located, loader)
        return values
    if isinstance(node, yaml.SequenceNode):
        return [_plain(item, (*place, position), first_line, located, loader) for position, item in enumerate(node.value)]
    try:
        value = loader.construct_object(node)
    except (yaml.YAMLError, ValueError):
        return str(node.value)
    return value if isinstance(value, str | int | float | bool | None) else str(node.value)


AnyModel = TypeVar("AnyModel", bound=BaseModel)


def validate(model: type[AnyModel], located: Located, place: Place = ()) -> AnyModel | None:
    """A strict model from the mapping (or what it holds at `place`); None, and problems added, if it does not fit."""
    values: Any = located.values
    for step in place:
        values = values[step]
    try:
        # by way of JSON: strict models take the text of a tag and a list only from there
        return model.model_validate_json(json.dumps(values))
    except ValidationError as invalid:
        for error in invalid.errors(include_url=False):
            located.problems.append(Problem(located.path, located.line((*place, *error["loc"])), _message(model, error)))
        return None


def _message(model: type[BaseModel], error: ErrorDetails) -> str:
    loc = tuple(step for step in error["loc"] if step != "[key]")
    names = [step for step in loc if isinstance(step, str)]
    name, value, context = names[-1] if names else "", error["input"], error.get("ctx", {})
    holder: type[BaseModel] = next((_PARTS[step] for step in reversed(names[:-1]) if step in _PARTS), model)
    match error["type"]:
        case "missing":
            return f"`{name}` is missing; allowed: {_form(name)}"
        case "extra_forbidden":
            return not_allowed("field", name, [field for field in holder.model_fields if field != "summary"])
        case "enum" | "literal_error":
            return not_allowed(name, str(value), re.findall(r"'([^']*)'", context["expected"]))
        case "value_error":
            return str(context["error"])
        case "string_too_short":
            return f"`{name}` is empty; allowed: text, or no such field"
        case "string_pattern_mismatch" | "greater_than_equal" | "less_than_equal":
            return f"`{value}` is no {name}; allowed: {_form(name)}"
        case _:
            shown = json.dumps(value, ensure_ascii=False)
            return f"`{name}`: {shown if len(shown) < 80 else shown[:77] + '...'} does not fit; allowed: {_expected(error['msg'])}"


def _form(name: str) -> str:
    return FORMS.get(name, "this field is required")


def _expected(message: str) -> str:
    return message.removeprefix("Input should be ").removeprefix("a valid ").replace("array", "list").replace("dictionary", "mapping")
