from tests.garden import garden  # noqa: F401 (a fixture: pytest finds it by name)
