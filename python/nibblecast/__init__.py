"""The nibblecast program from Python: every function runs one of its commands and returns what it prints with --json.

    import nibblecast
    nibblecast.quantize("DeepSeek-V4-Flash", "OUT", calib="texts.jsonl", progress=print)

Arguments and meanings are the program's (`nibblecast COMMAND --help`, docs/cli.md); there is no logic here. A keyword
is an option: text_size=8 is --text-size 8, True gives a flag, a list repeats the option, False and None leave it out.
`progress` is called about once a second. A command that fails raises NibblecastError.
"""

from nibblecast._commands import (
    calibrate,
    compare,
    convert,
    dequantize,
    doctor,
    evaluate,
    inspect,
    plan,
    quantize,
    report,
    resume,
    status,
    synth,
    verify,
)
from nibblecast._program import NibblecastError, Option, Progress, Reply, program, run

__all__ = [
    "NibblecastError",
    "Option",
    "Progress",
    "Reply",
    "calibrate",
    "compare",
    "convert",
    "dequantize",
    "doctor",
    "evaluate",
    "inspect",
    "plan",
    "program",
    "quantize",
    "report",
    "resume",
    "run",
    "status",
    "synth",
    "verify",
]
