"""cortex-tui: the console, the command line and the supervisor of the gateway."""
