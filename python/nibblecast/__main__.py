"""`python -m nibblecast`, and the command `nibblecast`: becomes the program."""

import os
import sys
from typing import NoReturn

from nibblecast._program import program


def main() -> NoReturn:
    path = program()
    os.execv(path, [path, *sys.argv[1:]])


if __name__ == "__main__":
    main()
