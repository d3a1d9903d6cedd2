"""enter.py PID COMMAND...: runs the command in the network namespace of process PID."""

import ctypes
import os
import sys

CLONE_NEWNET = 0x40000000
namespace = os.open(f"/proc/{sys.argv[1]}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
libc = ctypes.CDLL(None, use_errno=True)
if libc.setns(namespace, CLONE_NEWNET) != 0:
    sys.exit(f"enter: {os.strerror(ctypes.get_errno())}")
os.execvp(sys.argv[2], sys.argv[2:])
