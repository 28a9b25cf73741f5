"""The ``rustic-host`` command, one file a subcommand: parse, call, print. Import the modules, not this package."""
