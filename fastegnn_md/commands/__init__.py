"""One module per command of ``fastegnn-md``; heavy imports happen when a command runs, so that ``--help`` is quick."""
