"""parity_test.py LIBRARY EXPORTS [STUB]: the library's dynamic symbols are exactly the driver's names.

STUB is the toolkit's libcuda.so, compared too where it exists."""
import os
import subprocess
import sys


def exports(path):
    text = subprocess.run(["nm", "-D", "--defined-only", path], check=True, capture_output=True, text=True).stdout
    return {line.split()[-1].split("@")[0] for line in text.splitlines()}


library, listed = sys.argv[1], set(open(sys.argv[2]).read().split())
problems = []
ours = exports(library)
for title, names in (("lacks", listed - ours), ("must not export", ours - listed)):
    if names:
        problems.append(f"{library} {title}: {' '.join(sorted(names))}")
if len(sys.argv) > 3 and os.path.exists(sys.argv[3]):
    missing = exports(sys.argv[3]) - listed
    if missing:
        problems.append(f"the toolkit's stub exports names that exports-580.txt lacks: {' '.join(sorted(missing))}")
else:
    print("the toolkit's stub is not here: compared with exports-580.txt only")
if problems:
    sys.exit("\n".join(problems))
print(f"{library}: {len(ours)} symbols, all of them the driver's")
