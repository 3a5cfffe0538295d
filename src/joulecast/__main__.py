"""`python -m joulecast`: the same as the command `joulecast`."""

from .cli.main import main

if __name__ == "__main__":
    main()
