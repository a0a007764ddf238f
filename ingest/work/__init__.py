"""Run an ingest: plan, tasks, summary, here or on Ray.

run       an ingest from beginning to end
plan      which candidate goes to which shard
task      one task of a worker
summary   what an ingest says when it is done
on_ray    tasks on Ray
"""
