"""A writer that is killed at the n-th call that changes the disk, for every n; each try in a process of its own.

The tries are forked from one process, so that libraries are imported once.
"""

import os
import subprocess
import sys
from pathlib import Path

PRELUDE = '''
import os, shutil, signal, sys
from pathlib import Path

CALLS = ("mkdir", "rename", "replace", "fsync", "unlink", "rmdir", "link", "open", "close")
here = Path(sys.argv[1])

def bomb(n):
    left = [n]
    def wrap(call):
        def counted(*arguments, **named):
            left[0] -= 1
            if left[0] < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return call(*arguments, **named)
        return counted
    for name in CALLS:
        setattr(os, name, wrap(getattr(os, name)))

def killed_everywhere(work, check, before=lambda: None, most=400):
    """`work` in a child that dies at its n-th call, then `check(n, whether it ended by itself)` in this process."""
    for n in range(most):
        before()
        pid = os.fork()
        if not pid:
            try:
                bomb(n)
                work()
            except BaseException:
                import traceback
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        assert code in (0, -signal.SIGKILL), code
        check(n, code == 0)
        if code == 0:
            return n
    raise AssertionError(f"not done after {most} calls")
'''


def run_tries(script: str, folder: Path, timeout: float = 120) -> str:
    """Run `script` after PRELUDE, `here` is the folder; gives what it prints."""
    done = subprocess.run([sys.executable, "-c", PRELUDE + script, str(folder)], capture_output=True, text=True,
                          timeout=timeout, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout
