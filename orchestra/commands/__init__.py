"""What the command line's commands do; `orchestra.cli` reads the arguments."""
