#!/usr/bin/env python3
"""Every reason that a person is given for a failure is in docs/troubleshooting.md or docs/rdma.md, by its own words.

Looked at are the texts that the tools, bfserver, and the parts of the shim and of the transports that begin a session give as
reasons. Not looked at: what failed system calls say (they name what was tried, and the system's own reason), and our own bugs
(kInternal). A text counts as explained if four of its words in a row (or all, if there are fewer) stand in a table's first column."""

import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
SOURCES = ["tools/*.cc", "server/daemon/*.cc", "server/main_bfserver.cc", "client/attach.cc", "transport/address.cc", "transport/tls.cc",
           "proto/control_channel.cc"]
PAGES = ["docs/troubleshooting.md", "docs/rdma.md"]
REASON = re.compile(r"StatusCode::k(?!Internal|Ok)\w+,|\bcomplain\(|\bwarning\(")
LITERAL = re.compile(r'"((?:[^"\\]|\\.)*)"')
IN_A_ROW = 4


def words_of(text):
    return re.findall(r"[a-z0-9]+(?:[-'._/][a-z0-9]+)*", re.sub(r"\{[^}]*\}|%\w+|\\n", " | ", text).lower())


def reasons(path):
    """Each reason's longest literal, and its line."""
    text = re.sub(r'^\s*//.*$', "", path.read_text(), flags=re.MULTILINE)
    for found in REASON.finditer(text):
        literals = LITERAL.findall(re.split(r";\s*\n", text[found.end():], maxsplit=1)[0])
        longest = max(literals, key=lambda literal: len(words_of(literal)), default="")
        if len(words_of(longest)) > 1:
            yield longest, text.count("\n", 0, found.start()) + 1


def explained():
    """The messages of the pages, as words."""
    for page in PAGES:
        for line in (ROOT / page).read_text().splitlines():
            if line.startswith("|"):
                for message in re.findall(r"`([^`]+)`", line.split(" | ")[0]):
                    yield " ".join(words_of(message))


def is_explained(literal, messages):
    words = words_of(literal)
    count = min(IN_A_ROW, len(words))
    rows = [" ".join(words[i:i + count]) for i in range(len(words) - count + 1)]
    return any(f" {row} " in f" {message} " for row in rows for message in messages)


def main():
    messages, checked, missing = list(explained()), 0, 0
    for path in sorted(path for pattern in SOURCES for path in ROOT.glob(pattern)):
        for literal, line in reasons(path):
            checked += 1
            if not is_explained(literal, messages):
                missing += 1
                print(f"{path.relative_to(ROOT)}:{line}: not in {' or '.join(PAGES)}: {literal}")
    print(f"{checked} reasons, {missing} of them not explained")
    return 1 if missing or checked < 100 else 0


if __name__ == "__main__":
    sys.exit(main())
