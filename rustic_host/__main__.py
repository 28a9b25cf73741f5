"""``python -m rustic_host`` is the command."""

from rustic_host.cli.main import main

if __name__ == "__main__":
    main()
