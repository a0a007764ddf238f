"""`treeline run STEPS.yaml`: the commands that one file of steps names, one after another.

run          the steps that are to be run, each by its command's own function
steps_file   the file, read and checked as a whole
chain        what each command makes, and which later options take it
decision     whether a step is skipped, run, or made anew
places       places that steps read and fill
own_files    which files at a place are the step's own, so that no others are removed
content      what lies at a place, so that a change is noticed
records      what is kept about finished steps
command_line a step as a command to paste
example      the file that --example prints
"""
