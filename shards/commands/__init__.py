"""Run the commands on datasets.

inspect        treeline inspect
inspect_page   its page
resplit        treeline split
verify         treeline verify
convert        treeline convert
"""
