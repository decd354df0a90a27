"""How tests are shared out among processes, with `pytest -n 2`. What they share is in shared_fixtures.py."""

# The files that take longest come first, so that no process works on one of them while the other has ended.
LONGEST = (
    "backends_agree",
    "converters",
    "learn",
    "readme",
    "changes",
    "fast_paths",
    "families",
    "architecture",
    "training",
    "server",
    "cli",
    "model",
)


def pytest_configure(config):
    # The process that hands the tests out runs none: it is spared the import of a framework.
    if hasattr(config, "workerinput") or not config.getoption("numprocesses", None):
        config.pluginmanager.import_plugin("shared_fixtures")


def pytest_collection_modifyitems(items):
    order = {f"test_{name}.py": index for index, name in enumerate(LONGEST)}
    items.sort(key=lambda item: order.get(item.path.name, len(order)))
