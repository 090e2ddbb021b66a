"""`python -m gateway` is `holdfast`."""

from gateway.cli import main

if __name__ == "__main__":
    main()
