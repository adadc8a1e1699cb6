"""The records of the atlas, and the way in and out: read and check the text files, store them in SQLite, query."""

from catalog.problem import CatalogError, InvalidCatalog, Problem, QueryError
from catalog.query import Catalog

__all__ = ["Catalog", "CatalogError", "InvalidCatalog", "Problem", "QueryError"]
