from tests.garden import garden  # noqa: F401
