"""Settings for LLVM's `lit`, which is optional here: pytest runs the same tests."""

import os
import sys

import lit.formats

config.name = "stepwell"  # noqa: F821
config.test_format = lit.formats.ShTest()  # noqa: F821
config.suffixes = [".ir"]  # noqa: F821
config.excludes = ["inputs"]  # noqa: F821
config.test_source_root = os.path.dirname(__file__)  # noqa: F821
source = os.path.join(config.test_source_root, "..", "..", "src")  # noqa: F821
config.environment["PYTHONPATH"] = os.path.abspath(source)  # noqa: F821
config.environment["STEPWELL_CRASH_REPRODUCER"] = "off"  # noqa: F821
run = f"{sys.executable} -m "
config.substitutions = [  # noqa: F821
    (r"(?<![\w%/.-])%?stepwell-opt\b", f"{run}stepwell.tools.stepwell_opt"),
    (r"(?<![\w%/.-])%?stepwell-translate\b", f"{run}stepwell.tools.stepwell_translate"),
    (r"(?<![\w/.-])filecheck\b", f"{run}filecheck"),
]
