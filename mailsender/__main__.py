"""`python -m mailsender`: the same as the `mailsender` command."""

from mailsender.cli import main

if __name__ == "__main__":
    main()
