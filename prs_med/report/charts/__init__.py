"""Charts as SVG inside a page: no script, colours from the page's style sheet, a text alternative
for each."""
