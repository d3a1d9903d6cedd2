"""How the framework programs report, as programs/cases.h does: one line `case NAME: VALUES` for each check. Values are given
bit for bit: floats as hex, arrays as shape, type and a hash of their bytes. A check that is not what arithmetic says fails
an assertion, and is told as FAILED; one that cannot be tried here is told as skipped."""

import faulthandler
import hashlib
import traceback

faulthandler.enable()
faulthandler.dump_traceback_later(100, repeat=True)  # a program that hangs says where, before the runner ends it


class Skip(Exception):
    """Why a case cannot be tried."""


def said(kind, shape, data):
    return f"{kind}[{'x'.join(map(str, shape))}] {hashlib.sha256(data).hexdigest()[:16]}"


def words(value):
    if isinstance(value, (list, tuple)):
        return " ".join(words(item) for item in value)
    if isinstance(value, float):
        return value.hex()
    if isinstance(value, (bool, int, str)) or value is None:
        return str(value)
    if hasattr(value, "detach"):  # a tensor of PyTorch; NumPy knows no bfloat16
        import torch

        value = value.detach().cpu().resolve_conj().contiguous()
        plain = torch.view_as_real(value) if value.is_complex() else value
        return said(str(value.dtype).removeprefix("torch."), value.shape, plain.reshape(-1).view(torch.uint8).numpy().tobytes())
    if hasattr(value, "get"):  # an array of CuPy
        value = value.get()
    import numpy

    value = numpy.asarray(value)
    return said(value.dtype, value.shape, value.tobytes())


def case(name):
    """Runs the function below it at once; what it returns are the values."""

    def run(body):
        try:
            told = words(body()) or "done"
        except Skip as reason:
            told = f"skipped: {reason}"
        except Exception as error:
            traceback.print_exc()
            told = f"FAILED {type(error).__name__}: {str(error).strip().splitlines()[0][:200] if str(error).strip() else ''}"
        print(f"case {name}: {told}", flush=True)
        return body

    return run


def close(got, wanted, tolerance=1e-3):
    """Asserts that two arrays on the CPU agree but for rounding."""
    import numpy

    got, wanted = numpy.asarray(got), numpy.asarray(wanted)
    assert got.shape == wanted.shape, f"shape {got.shape} instead of {wanted.shape}"
    assert numpy.allclose(got, wanted, rtol=tolerance, atol=tolerance), f"differs by up to {numpy.abs(got - wanted).max()}"
