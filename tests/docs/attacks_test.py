#!/usr/bin/env python3
"""Every test that docs/security.md names as showing an attack fail exists."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
page = (ROOT / "docs/security.md").read_text()
sources = "\n".join(path.read_text() for path in ROOT.glob("tests/**/*_test.cc"))
tests, scripts = re.findall(r"`([A-Z]\w+)\.([A-Z]\w+)`", page), re.findall(r"`(tests/[\w/]+\.py)`", page)
missing = [f"{suite}.{name}" for suite, name in tests if not re.search(rf"\bTEST(_F)?\({suite}, {name}\)", sources)]
missing += [script for script in scripts if not (ROOT / script).exists()]
print("\n".join(f"docs/security.md names {name}, which does not exist" for name in missing) or f"{len(tests) + len(scripts)} names, and all exist")
sys.exit(1 if missing or len(tests) < 20 else 0)
