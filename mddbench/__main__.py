"""The command, for `python -m mddbench`."""

from mddbench.cli.main import main

if __name__ == "__main__":
    main()
