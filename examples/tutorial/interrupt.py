"""Run a program, and interrupt it once it has written a text so many times.

    python interrupt.py TIMES TEXT ARGUMENTS-OF-PYTHON...

What stockroom.py says as it hangs would else be followed by what Ctrl-C makes of it.
"""

import signal
import subprocess
import sys

times, text, *arguments = sys.argv[1:]
program = subprocess.Popen(
    [sys.executable, *arguments],
    stdout=subprocess.PIPE,
    stderr=subprocess.STDOUT,
    text=True,
)
seen = 0
for line in program.stdout:
    print(line, end="")
    seen += text in line
    if seen == int(times):
        break
program.send_signal(signal.SIGINT)
program.communicate()
