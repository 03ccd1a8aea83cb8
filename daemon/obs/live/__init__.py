"""What the console is told: counted as it happens, put into rows when somebody looks."""
