"""``python -m specml``."""

from specml.cli import main

if __name__ == "__main__":
    main()
