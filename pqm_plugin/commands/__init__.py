"""The command `pqm`: a personal model from a float one to a pack; one file a subcommand."""
