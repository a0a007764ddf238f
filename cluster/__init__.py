"""Where it runs: the command line, the Ray connection, job submission, and the demo that joins all stages.

Start at `cli`: each command names the options and the function that it stands for.
"""
