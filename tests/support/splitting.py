"""`treeline split` in processes that can be killed at any moment of their work.

python splitting.py: imports everything, says "ready", then forks a process for each line of options, which it
says the number of; an empty line ends it.
"""

import os
import shlex
import sys

import shards.commands.resplit  # noqa: F401 - imported before the clock starts
from cluster.cli import run

if __name__ == "__main__":
    print("ready", flush=True)
    while options := shlex.split(sys.stdin.readline()):
        process = os.fork()
        if not process:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            os._exit(run(["split", *options]))
        print(process, flush=True)
        os.waitpid(process, 0)
        print("ended", flush=True)
