"""Lets Liger's kernels run in Triton's interpreter: on PYTHONPATH, Python runs this as it starts.

The interpreter (``TRITON_INTERPRET=1``) needs no GPU, but lacks two things that they use: it leaves
floats that a kernel is given as they are, where compiled code has fp32 scalars, and it cannot call
functions of CUDA's libdevice.
"""

import numpy as np
import triton.language as tl
from triton.language.extra import libdevice
from triton.runtime import interpreter

convert = interpreter._implicit_cvt


def convert_floats_too(argument):
    if isinstance(argument, float):
        handle = interpreter.TensorHandle(np.array([argument], dtype=np.float32), tl.float32)
        return tl.tensor(handle, tl.float32)
    return convert(argument)


interpreter._implicit_cvt = convert_floats_too
libdevice.rsqrt = lambda x: 1.0 / tl.sqrt(x)
