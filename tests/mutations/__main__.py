"""`python -m tests.mutations [WORD ...]`: all mutations, or those whose name holds one of the words."""

from __future__ import annotations

import sys
from pathlib import Path

from tests.mutations.runner import Verdict, run
from tests.mutations.table import MUTATIONS


def main(words: list[str]) -> int:
    """Returns 0 if every defence is held, 1 if one is not, 2 if that could not be found out."""
    chosen = [one for one in MUTATIONS if not words or any(word in one.name for word in words)]
    try:
        results = run(chosen, Path(__file__).resolve().parent.parent.parent, lambda line: print(line, flush=True))
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 2
    return int(any(result.verdict is not Verdict.NOTICED for result in results))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
