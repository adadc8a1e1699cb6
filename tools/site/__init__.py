"""The site generator: reads the catalog, writes Markdown pages and data files, and lets MkDocs render them."""

from tools.site.build import build

__all__ = ["build"]
