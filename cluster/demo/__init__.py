"""Run the whole job on a synthetic landscape.

run         treeline demo: one step after another
report      report.html, the page of a demo's results
sar         treeline demo --sar
sar_report  its report.html
steps       what both demos have in common
"""
