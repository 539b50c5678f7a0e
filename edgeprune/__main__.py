"""``python -m edgeprune`` is the same command as ``edgeprune``."""

from edgeprune.cli import main

if __name__ == "__main__":
    main()
