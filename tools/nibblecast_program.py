"""The program, as the tools run it. Standard library only."""
import subprocess

UNSUPPORTED = 4  # its exit code for a family that it does not know


class NotSupported(Exception):
    pass


def run(program, *arguments):
    command = [program, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode == UNSUPPORTED:
        raise NotSupported
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command)}\n{done.stdout}{done.stderr}")
    return done.stdout
