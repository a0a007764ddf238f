"""Look at maps in a browser.

description  what the script in the page is told about layers and their place
page         the page around maps: style, script, policy
panel        maps in a page of their own or in a report, without a server
"""
