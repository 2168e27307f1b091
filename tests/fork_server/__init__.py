"""Python programs that start in milliseconds: a server imports the libraries once and forks.

``programs.py`` is what tests use. It names a ``python``, and ``deepspeed`` and ``torchrun`` beside
it, that take what the real ones take. ``client.py`` is what they are: it hands its arguments,
environment, folder and streams to ``server.py``, which forks a process that runs the program, and
the client ends as that process does. Programs that these start with ``sys.executable`` start in the
same way, so that a launcher and all that it starts are the real code in real processes.

What is not as in a start from nothing, and belongs into tests that start for real: the time that
imports take, signals that come meanwhile, who the parent of a process is, and stopping a process.
"""
