"""The formulas of the taxonomy's terms, from `site_src/formulas.yaml`, as MathML: a browser draws it without any script."""

from functools import cached_property
from pathlib import Path
from typing import Self

import yaml
from latex2mathml.converter import convert
from markupsafe import Markup
from pydantic import ValidationError, model_validator

from schema.records import Key, Model, Text
from schema.terms import FACETS

FILE = Path(__file__).parents[2] / "site_src" / "formulas.yaml"


class Formula(Model):
    """What a term means in letters.

    Attributes:
        axis, value: the term, as in `schema.terms.FACETS`.
        latex: the formula.
        where: what its letters mean.
        source: key of a paper that has it so, and whose own algorithm is implemented.
    """

    axis: Text
    value: Text
    latex: Text
    where: Text
    source: Key

    @model_validator(mode="after")
    def _stands_in_the_taxonomy(self) -> Self:
        for given, allowed, what in ((self.axis, list(FACETS), "axis"), (self.value, list(FACETS.get(self.axis, ())), "value")):
            if given not in allowed:
                raise ValueError(f"unknown {what} `{given}`; allowed: {', '.join(allowed)}")
        return self

    @cached_property
    def mathml(self) -> Markup:
        """The formula as a block of MathML."""
        return Markup(convert(self.latex, display="block"))


def read(path: Path = FILE) -> dict[tuple[str, str], Formula]:
    """(axis, value) -> its formula.

    Raises:
        ValueError: an entry is wrong, or a term stands there twice; names the file, the entry and what is allowed.
    """
    found: dict[tuple[str, str], Formula] = {}
    for number, entry in enumerate(yaml.safe_load(path.read_text(encoding="utf-8")), start=1):
        place = f"{path}, entry {number}"
        try:
            formula = Formula.model_validate(entry)
        except ValidationError as error:
            problems = "; ".join(f"{'.'.join(map(str, problem['loc'])) or 'entry'}: {problem['msg']}" for problem in error.errors())
            raise ValueError(f"{place}: {problems}") from None
        term = (formula.axis, formula.value)
        if term in found:
            raise ValueError(f"{place}: {term[0]} {term[1]} stands there twice; one formula per term is allowed")
        found[term] = formula
    return found
