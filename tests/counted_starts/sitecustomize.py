"""Counts the Pythons that a run of the tests starts: on PYTHONPATH, each runs this at its start."""

import os
import sys

if "PRS_MED_TEST_STARTS" in os.environ:
    with open(os.environ["PRS_MED_TEST_STARTS"], "a", encoding="utf-8") as starts:
        starts.write(f"afresh {' '.join(sys.orig_argv[1:])[:200]!r}\n")
