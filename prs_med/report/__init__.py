"""Pages that show results: evaluations, comparisons of evaluations, and training runs.

They are made from plain data and pictures, need neither a model nor a GPU, and are single files
that open in a browser without a network.
"""
