"""`make zoo` runs these tests; they need libraries that are not installed for the others."""

import os

if not os.environ.get("DCNIFY_ZOO"):
    collect_ignore_glob = ["test_*.py"]
