"""Programs beside Python that some tests run: a person may lack them, continuous integration must not."""

import os
import shutil

import pytest

# Every service sets it, and `.ci/run` installs all of them: there, a missing one fails its tests.
IN_CI = bool(os.environ.get("CI"))


def needs(program: str, *, package: str) -> pytest.MarkDecorator:
    """Leave a test out where a program is missing; never in continuous integration."""
    missing = shutil.which(program) is None
    return pytest.mark.skipif(missing and not IN_CI, reason=f"{program} is not installed (Debian: {package})")
