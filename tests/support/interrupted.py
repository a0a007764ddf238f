"""`treeline ingest` in a process that is ready to be killed at any moment of its work.

python interrupted.py pairs OPTIONS...: imports everything, says "ready", waits for a line, then works.
"""

import sys
from pathlib import Path

# Before folders of tests, which are called like packages.
sys.path.insert(0, str(Path(__file__).parents[2]))

# Imported before the clock starts, so that the moment falls into the work.
from cluster.cli import main  # noqa: E402

if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    sys.argv.insert(1, "ingest")
    main()
