"""Text of people, turned into HTML that holds nothing but text: summaries and docstrings."""

import re
from collections.abc import Callable, Container
from functools import cache

from markdown import Markdown  # type: ignore[import-untyped]  # it ships no types
from markupsafe import Markup, escape

from schema.records import KEY_PATTERN

NEEDLESS = {
    "preprocessors": ("html_block",),
    "parser.blockprocessors": ("reference", "hashheader", "setextheader", "hr"),
    "inlinePatterns": (
        "reference",
        "link",
        "image_link",
        "image_reference",
        "short_reference",
        "short_image_ref",
        "autolink",
        "automail",
        "html",
    ),
}
SECTION = re.compile(r"(Args|Arguments|Attributes|Returns|Raises|Yields|Shapes|Source|Example):\n")
ITEM = re.compile(r"^(?:\d+\.|[-*])\s+")
LEAD = re.compile(r"([A-Z][\w ]{1,40}):\s")
CODE = re.compile(r"(``?)(.+?)\1")
VALUE = re.compile(r"\b[a-z]+(?:_[a-z]+)+\b")
KEY = re.compile(rf"\b{KEY_PATTERN}\b")


@cache
def _markdown() -> Markdown:
    """Markdown without raw HTML, links or headings: paragraphs, emphasis, lists and code."""
    markdown = Markdown()
    for registry, names in NEEDLESS.items():
        holder = markdown.parser.blockprocessors if registry == "parser.blockprocessors" else getattr(markdown, registry)
        for name in names:
            holder.deregister(name)
    return markdown


def summary(text: str) -> Markup:
    """The summary of a paper: Markdown, but whatever could lead elsewhere stays text."""
    return Markup(_markdown().reset().convert(text))


def plain(text: str, limit: int = 200) -> str:
    """The first sentences of a summary, without markup, at most `limit` characters."""
    words = re.sub(r"[`*]", "", " ".join(text.split()))
    if len(words) <= limit:
        return words
    cut = words[:limit]
    end = cut.rfind(". ")
    return cut[: end + 1] if end > limit // 3 else cut[: cut.rfind(" ")] + " …"


def rule(text: str, address: Callable[[str], str | None]) -> Markup:
    """A tagging rule; a value that it names becomes a link."""
    parts = []
    position = 0
    for match in VALUE.finditer(text):
        if found := address(match[0]):
            parts += [escape(text[position : match.start()]), Markup('<a href="{}"><code>{}</code></a>').format(found, match[0])]
            position = match.end()
    return Markup("").join([*parts, escape(text[position:])])


class Docstrings:
    """Renders docstrings; a key of a known paper becomes a link."""

    def __init__(self, papers: Container[str], address: Callable[[str], str]) -> None:
        self._papers = papers
        self._address = address

    def inline(self, text: str) -> Markup:
        """One run of text: code between backticks, links on paper keys."""
        parts = []
        position = 0
        for match in CODE.finditer(text):
            parts += [self._linked(text[position : match.start()]), Markup("<code>{}</code>").format(match[2])]
            position = match.end()
        return Markup("").join([*parts, self._linked(text[position:])])

    def _linked(self, text: str) -> Markup:
        parts = []
        position = 0
        for match in KEY.finditer(text):
            if match[0] in self._papers:
                parts += [escape(text[position : match.start()]), Markup('<a href="{}">{}</a>').format(self._address(match[0]), match[0])]
                position = match.end()
        return Markup("").join([*parts, escape(text[position:])])

    def render(self, text: str) -> Markup:
        """A whole docstring: paragraphs with a lead-in in bold, lists, and the sections `Args`, `Returns`, `Raises` as definitions."""
        return Markup("\n").join(self._block(block) for block in re.split(r"\n\s*\n", text.strip()))

    def _block(self, block: str) -> Markup:
        lines = block.splitlines()
        if SECTION.match(block + "\n"):
            return self._section(lines[0].rstrip(":"), lines[1:])
        if any(ITEM.match(line) for line in lines):
            return self._list(lines)
        text = " ".join(line.strip() for line in lines)
        if lead := LEAD.match(text):
            rest = text[lead.end() :]
            return Markup("<p><strong>{}</strong> {}</p>").format(lead[1] + ".", self.inline(rest[:1].upper() + rest[1:]))
        return Markup("<p>{}</p>").format(self.inline(text))

    def _list(self, lines: list[str]) -> Markup:
        before: list[str] = []
        items: list[str] = []
        for line in lines:
            if ITEM.match(line):
                items.append(ITEM.sub("", line))
            elif items:
                items[-1] += " " + line.strip()
            else:
                before.append(line.strip())
        tag = Markup("ol" if re.match(r"\d", lines[len(before)]) else "ul")
        head = Markup("<p><strong>{}</strong></p>").format(" ".join(before).rstrip(":") + ".") if before else Markup("")
        body = Markup("").join(Markup("<li>{}</li>").format(self.inline(item)) for item in items)
        return head + Markup("<{0}>{1}</{0}>").format(tag, body)

    def _section(self, name: str, lines: list[str]) -> Markup:
        entries: list[str] = []
        indent = min((len(line) - len(line.lstrip()) for line in lines if line.strip()), default=0)
        for line in lines:
            if len(line) - len(line.lstrip()) <= indent or not entries:
                entries.append(line.strip())
            else:
                entries[-1] += " " + line.strip()
        # an entry without a name goes on with the one before; where none has a name they are plain paragraphs
        rows = Markup("")
        for entry in entries:
            term, colon, meaning = entry.partition(": ")
            if colon and " " not in term.replace(", ", ""):
                rows += Markup("<dt><code>{}</code></dt><dd>{}</dd>").format(term, self.inline(meaning))
            else:
                rows += Markup("<dd>{}</dd>" if rows else "<p>{}</p>").format(self.inline(entry))
        if "<dt>" not in rows:
            return Markup('<p class="section-name">{}</p>{}').format(name, Markup(str(rows).replace("dd>", "p>")))
        return Markup('<p class="section-name">{}</p><dl class="arguments">{}</dl>').format(name, rows)
