"""`treeline ingest` in a process that is ready to be killed at any moment of its work.

python interrupted.py pairs OPTIONS...: imports everything, says "ready", waits for a line, then works.
"""

import sys

# Imported before the clock starts, so that the moment falls into the work.
import ingest.files.pairs_source
import ingest.synthetic.synthetic_source
import ingest.work.run  # noqa: F401
from cluster.cli import main

if __name__ == "__main__":
    print("ready", flush=True)
    sys.stdin.readline()
    sys.argv.insert(1, "ingest")
    main()
