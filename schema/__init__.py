"""What a record of the atlas is: terms, records and tables. No input, no output."""

APPLICATION_ID = 0x41544C53
"""`ATLS` in ASCII, in the header of the catalog's SQLite file."""

SCHEMA_VERSION = 2
"""Raised with every change of the tables; a file of another version is refused."""
