"""The programs in ``launch/``: each module has a ``main(argv)`` that returns the exit status.

Importing one costs little: its libraries are imported once the settings have been read.
"""
