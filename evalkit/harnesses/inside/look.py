"""What a Python has: whether a module is there, and the versions of all packages."""

import importlib.metadata
import importlib.util
import re


def main(arguments):
    """`{"module": NAME or null}` -> `{"has_module": bool, "versions": {normalised name: version}}`."""
    module = arguments["module"]
    found = importlib.metadata.distributions()
    return {
        "has_module": module is None or importlib.util.find_spec(module) is not None,
        "versions": {re.sub(r"[-_.]+", "-", each.name).lower(): each.version for each in found},
    }
