"""`python -m onlyforward` is the command line."""

from onlyforward.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
