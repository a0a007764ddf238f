"""The folder of a run: checkpoints, state, logs.

run_files        names of the files of a run; their removal
run_writer       the callback that writes a run's folder
state_callback   the callback that saves states, on every rank
state            collecting and restoring all that a run needs to resume
state_parts      that state on storage, in parts
last_state       the state that a run has left when its numbers are none any more
background       writing in the background of training
epoch_rate       one line on an epoch's speed
metrics_file     metrics.jsonl: a line an epoch
verdict_file     validation.json: the best checkpoint beside the baselines
verdict_writer   writes it
options_file     config.yaml: the resolved options
mlflow_log       numbers and options for MLflow
"""
