"""What people see of workflows and runs. Strings and terminal output only."""
